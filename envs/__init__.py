"""Environments with 64x64 frames: CarRacing, Super Mario Bros, Take Cover, any Gymnasium id with pixels, and dreams.

Start reading at `make`.
"""

import gymnasium

from worldmodel.envs.registration import make
from worldmodel.envs.wrappers import action_kind

__all__ = ["DreamEnv", "DreamVectorEnv", "action_kind", "make"]

gymnasium.register(
    "worldmodel/FastCarRacing-v3",
    entry_point="worldmodel.envs.car_racing.fast_env:FastCarRacing",
    max_episode_steps=1000,  # as CarRacing-v3
    reward_threshold=900,
)
gymnasium.register("worldmodel/Dream-v0", entry_point="worldmodel.envs.dream_env:DreamEnv")
gymnasium.register(
    "worldmodel/SuperMarioBros-v0", entry_point="worldmodel.envs.mario.env:SuperMarioBros", nondeterministic=False
)
gymnasium.register("worldmodel/DoomTakeCover-v0", entry_point="worldmodel.envs.doom:DoomTakeCover")


def __getattr__(name: str) -> object:
    """Import the dream environments, and torch with them, on first use."""
    if name in ("DreamEnv", "DreamVectorEnv"):
        from worldmodel.envs import dream_env

        return getattr(dream_env, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
