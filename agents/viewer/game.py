"""Speed and action names of the real game, for the page. Start reading at `game_facts`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium

from worldmodel.envs.registration import MARIO_ID, frames_per_step

FPS = 30.0
"""Frames per second of a game without ``render_fps``."""
ATARI_FPS, MARIO_FPS = 60.0, 60.0


class Game(NamedTuple):
    """Speed and action names of a game."""

    speed: float
    """Steps per second at the game's normal speed."""
    meanings: tuple[str, ...] = ()
    """Names of discrete actions; empty if the game does not name them."""


def game_facts(id: str, options: dict[str, Any], make: Callable[[], gymnasium.Env[Any, Any]] | None) -> Game:
    """Return the speed and the action names of a game.

    The environment is made once and closed. Super Mario Bros is not made, because it starts slowly; its speed is a constant.

    Args:
        id: Id of the environment.
        options: Arguments of `envs.make`.
        make: Factory of the environment. None: the default speed without action names.

    Raises:
        ValueError: The environment cannot be made.
    """
    times = frames_per_step(id, options.get("action_repeat"))
    if MARIO_ID.fullmatch(id):
        return Game(MARIO_FPS / times)
    if make is None:
        return Game(FPS / times)
    env = make()
    try:
        frames = env.metadata.get("render_fps")
        speed = float(frames) if isinstance(frames, int | float) and frames > 0 else FPS
        skipped = env.spec.kwargs.get("frameskip") if env.spec else None
        if isinstance(skipped, int) and skipped > 0:  # Atari: render_fps ignores the frame skip
            speed = ATARI_FPS / skipped
        named = getattr(env.unwrapped, "get_action_meanings", None)
        return Game(speed / times, tuple(map(str, named())) if callable(named) else ())
    finally:
        env.close()
