"""CarRacing as World Models drives it: Gymnasium's own CarRacing-v3 with the published crop and action map."""

import os
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from envs.wrappers import FRAME_SPACE, PixelEnv, resize_frame

HUD_ROWS = 12
"""Rows of the 96x96 picture that the bar with speed and score covers."""


class CarRacing(PixelEnv, gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The official game, seen and driven as by World Models.

    Frames: the lower 12 of 96 rows cut off (unless ``show_hud``), area-resized to 64x64. Actions in [-1, 1]: steer = a0,
    gas = (a1 + 1) / 2, brake = clip(a2, 0, 1); or the official five choices with ``continuous=False``. With
    ``action_repeat`` above 1 the game advances by as many of its frames in each step, and draws only the last of them:
    physics, rewards and the pictures that are shown are those of the official environment.

    Args:
        env: Gymnasium's game.
        action_repeat: frames of the game in each step.
        show_hud: keep the lower 12 rows, in which speed, wheels, steering and turning are shown: the whole official
            picture, as other agents see it, instead of the part that World Models sees.

    References:
        Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 3).
    """

    def __init__(self, env: gymnasium.Env[Any, Any], action_repeat: int = 1, show_hud: bool = False) -> None:
        if not isinstance(show_hud, bool):
            raise ValueError(f"show_hud must be true or false, got {show_hud!r}")
        RecordConstructorArgs.__init__(self, action_repeat=action_repeat, show_hud=show_hud)
        super().__init__(env)
        self.action_repeat, self.observation_space = action_repeat, FRAME_SPACE
        self.continuous = isinstance(env.action_space, spaces.Box)
        if self.continuous:
            self.action_space = spaces.Box(-1, 1, (3,), np.float32)
        game: Any = env.unwrapped
        self._game = game
        self._original_render: Callable[[str], Any] = self._game._render
        self._crop_bottom = 0 if show_hud or env.observation_space.shape == FRAME_SPACE.shape else HUD_ROWS
        self._skip_render = False
        self._game._render = self._render

    def _render(self, mode: str) -> Any:
        """Draw, except where a step's inner frames ask for a picture that nobody will see."""
        return None if self._skip_render and mode == "state_pixels" else self._original_render(mode)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new track."""
        frame, info = self.env.reset(seed=seed, options=options)
        return resize_frame(frame, self._crop_bottom), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Drive on for ``action_repeat`` frames."""
        game_action = self._game_action(action)
        total = 0.0
        for left in reversed(range(self.action_repeat)):
            self._skip_render = left > 0
            frame, reward, terminated, truncated, info = self.env.step(game_action)
            total += float(reward)
            if terminated or truncated:
                break
        if self._skip_render:  # the episode ended before the last frame
            self._skip_render = False
            frame = self._original_render("state_pixels")
        return resize_frame(frame, self._crop_bottom), total, terminated, truncated, info

    def close(self) -> None:
        """Close, and give all memory back."""
        self.env.close()
        destroy_bodies(self._game)

    def _game_action(self, action: Any) -> Any:
        if not self.continuous:
            return int(action)
        steer, gas, brake = np.clip(np.asarray(action, np.float64), -1, 1)
        return np.array([steer, (gas + 1) / 2, max(brake, 0.0)])


def destroy_bodies(game: Any) -> None:
    """Let go of what keeps a closed game in memory: Box2D's bodies, and the cycle through its contact listener."""
    game._destroy()
    game.car = None
    game.world.contactListener = game.world.contactListener_bug_workaround = game.contactListener_keepref = None


def make_car_racing(action_repeat: int = 1, fast: bool = False, show_hud: bool = False, **options: Any) -> CarRacing:
    """CarRacing-v3 with its time limit of 1,000 frames; ``fast`` draws the same game another way.

    Raises:
        ValueError: Box2D is missing, or an option is unknown or no such value.
    """
    if "crop" in options:
        raise ValueError("CarRacing cannot be made with crop: show_hud says what is seen")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    id, size = ("FastCarRacing-v3", {"frame_size": 64, "crop": not show_hud}) if fast else ("CarRacing-v3", {})
    try:
        game = gymnasium.make(id, **{"render_mode": "rgb_array", "disable_env_checker": True, **size, **options})
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"CarRacing needs another package: {error}") from None
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(f"CarRacing cannot be made with {options}: {error}") from None
    return CarRacing(game, action_repeat, show_hud)
