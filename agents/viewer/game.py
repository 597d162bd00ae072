"""What the page has to know of the real game: how long a step lasts, and what its actions are called."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium

from envs.registration import MARIO_ID, frames_per_step

FPS = 30.0
"""Frames a second of a game that does not say."""
ATARI_FPS, MARIO_FPS = 60.0, 60.0


class Game(NamedTuple):
    """A game's facts."""

    speed: float
    """Steps a second, where the game runs as its makers meant."""
    meanings: tuple[str, ...] = ()
    """Names of discrete actions; none, where the game has none."""


def game_of(id: str, options: dict[str, Any], make: Callable[[], gymnasium.Env[Any, Any]] | None) -> Game:
    """Ask the game, which is made for it once; Super Mario Bros, which takes long to start, is known.

    Raises:
        ValueError: the game cannot be made.
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
        if isinstance(skipped, int) and skipped > 0:  # of Atari, whose render_fps knows nothing of it
            speed = ATARI_FPS / skipped
        named = getattr(env.unwrapped, "get_action_meanings", None)
        return Game(speed / times, tuple(map(str, named())) if callable(named) else ())
    finally:
        env.close()
