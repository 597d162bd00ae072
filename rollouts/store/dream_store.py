"""Write dreams in the format of real episodes, so that they can be read with `rollouts.Store`.

Start reading at `write_dreams`.
"""

import os

import numpy as np
import torch

from worldmodel import WorldModel
from worldmodel.io.files import fingerprint, locked, write_bytes, write_json
from worldmodel.io.paths import folder_path
from worldmodel.rollouts.dream import Dreams
from worldmodel.rollouts.episode import FRAME, Episode
from worldmodel.rollouts.store.shards import FORMAT, shard_bytes
from worldmodel.rollouts.store.store import Store

DREAM_ENV_ID = "worldmodel.envs:worldmodel/Dream-v0"
"""Environment id in the metadata of a store of dreams."""
EPISODES_PER_SHARD = 10
"""Number of dreams of a shard, and the maximum number decoded at once."""


def write_dreams(dreams: Dreams, world: WorldModel, out: str | os.PathLike[str]) -> Store:
    """Write dreams into a new store, with frames or vectors decoded by the VAE.

    Args:
        dreams: Result of `rollouts.dream` with ``keep=("latents", "actions", "rewards")``.
        world: World model of the dreams.
        out: Path of the store; a new or empty folder.

    Raises:
        ValueError: ``dreams`` lacks latents, actions or rewards, or the folder is not empty.
    """
    folder = folder_path(out, "out")
    if dreams.latents is None or dreams.actions is None or dreams.rewards is None:
        raise ValueError('dreams must hold latents, actions and rewards: use keep=("latents", "actions", "rewards")')
    if folder.exists() and any(child.name != ".lock" for child in folder.iterdir()):
        raise ValueError(f"{folder} is not empty: use another folder")
    shape = dreams.lengths.shape
    settings = {
        "format": FORMAT,
        "env": DREAM_ENV_ID,
        "env_options": {"world": fingerprint(world)},
        "discrete": world.discrete,
        "action_dim": world.action_dim,
        "policy": f"{shape[0]} controllers, {shape[1]} dreams each",
        "seed": 0,
        "max_steps": dreams.actions.shape[2],
        "episodes_per_shard": EPISODES_PER_SHARD,
    }
    settings |= {} if world.observation_shape == FRAME else {"observation_shape": list(world.observation_shape)}
    indices = list(np.ndindex(*shape))
    with locked(folder):
        for first in range(0, len(indices), EPISODES_PER_SHARD):
            episodes = [
                _episode(dreams, world, *index).at(first + number)
                for number, index in enumerate(indices[first : first + EPISODES_PER_SHARD])
            ]
            write_bytes(folder / "shards" / f"{first:06d}.h5", shard_bytes(episodes))
        write_json(folder / "metadata.json", settings)  # last, so that a folder with metadata is complete
    return Store(folder)


def _episode(dreams: Dreams, world: WorldModel, controller: int, number: int) -> Episode:
    """Return one dream as an episode."""
    assert dreams.latents is not None and dreams.actions is not None and dreams.rewards is not None
    steps = int(dreams.lengths[controller, number])
    actions = dreams.actions[controller, number, :steps]
    terminated = bool(dreams.terminated[controller, number])
    latents = torch.from_numpy(dreams.latents[controller, number, : steps + 1]).to(world.device)
    return Episode(
        frames=world.decode(latents),
        actions=actions.argmax(axis=-1).astype(np.int64) if world.discrete else actions.astype(np.float32),
        rewards=dreams.rewards[controller, number, :steps].astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
    )
