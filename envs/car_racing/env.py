"""CarRacing as in World Models: Gymnasium's CarRacing-v3 with the published crop and action mapping.

Start reading at `CarRacing`.
"""

import os
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from worldmodel.envs.wrappers import StandardEnv, frame_space, rescale_actions, resize_frame

FRAME_ROWS = 96
"""Number of rows, and of columns, of the official frame."""
HUD_ROWS = 12
"""Number of rows of the official frame that the bar with speed and score (HUD) covers."""


class CarRacing(StandardEnv, gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The official game with the observations and actions of World Models.

    Frames: the lower 12 of 96 rows are cropped (unless ``show_hud``), and the rest is area-resized to 64x64. Actions in
    [-1, 1]: steer = a0, gas = (a1 + 1) / 2, brake = clip(a2, 0, 1); or the official five actions with ``continuous=False``.
    With ``action_repeat`` above 1 each step advances the game by this number of frames and draws only the last one. Physics,
    rewards and drawn frames equal those of the official environment.

    Args:
        env: Gymnasium's game.
        action_repeat: Number of game frames per step.
        show_hud: Whether to keep the lower 12 rows, which show speed, wheels, steering and rotation. True: the whole
            official frame, as other agents observe it. False: the part that World Models observes.
        frame_size: Height and width of the frames in pixels: 64, 96 or 128.

    Raises:
        ValueError: ``show_hud`` is not a bool, or ``frame_size`` is another number.

    References:
        Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 3).
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], action_repeat: int = 1, show_hud: bool = False, frame_size: int = 64
    ) -> None:
        if not isinstance(show_hud, bool):
            raise ValueError(f"show_hud must be true or false, got {show_hud!r}")
        RecordConstructorArgs.__init__(self, action_repeat=action_repeat, show_hud=show_hud, frame_size=frame_size)
        super().__init__(env)
        self.action_repeat, self.frame_size = action_repeat, frame_size
        self.observation_space = frame_space(1, frame_size)
        self.continuous = isinstance(env.action_space, spaces.Box)
        if self.continuous:
            self.action_space = spaces.Box(-1, 1, (3,), np.float32)
        game: Any = env.unwrapped
        self._game = game
        self._original_render: Callable[[str], Any] = self._game._render
        self._show_hud = show_hud
        self._crop_bottom = 0 if show_hud or getattr(game, "crop", False) else HUD_ROWS
        self._skip_render = False
        self._game._render = self._render

    def _render(self, mode: str) -> Any:
        """Draw a frame, unless it is a skipped frame of a step."""
        return None if self._skip_render and mode == "state_pixels" else self._original_render(mode)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode on a new track."""
        frame, info = self.env.reset(seed=seed, options=options)
        return resize_frame(frame, self._crop_bottom, self.frame_size), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance the game by ``action_repeat`` frames with one action."""
        game_action = self._game_action(action)
        total_reward = 0.0
        for remaining in reversed(range(self.action_repeat)):
            self._skip_render = remaining > 0
            frame, reward, terminated, truncated, info = self.env.step(game_action)
            total_reward += float(reward)
            if terminated or truncated:
                break
        if self._skip_render:  # the episode ended before the step's last frame
            self._skip_render = False
            frame = self._original_render("state_pixels")
        return resize_frame(frame, self._crop_bottom, self.frame_size), total_reward, terminated, truncated, info

    def close(self) -> None:
        """Close the game and free its memory."""
        self.env.close()
        destroy_bodies(self._game)

    def standard_actions(self, actions: np.ndarray) -> np.ndarray:
        """Map actions (T, 3) of the official game (steer, gas, brake) to [-1, 1]; discrete ones stay."""
        if not self.continuous:
            return actions
        steer, gas, brake = rescale_actions(actions, np.array([-1, 0, 0]), np.ones(3)).T
        return np.stack([steer, gas, (brake + 1) / 2], axis=1)

    def standard_frame(self, image: np.ndarray) -> np.ndarray:
        """Crop a frame (96, 96, 3) of the official game as ``show_hud`` says, and resize it; others are resized.

        Raises:
            ValueError: Frames of this environment, which are cropped, have the same size.
        """
        official = image.shape[:2] == (FRAME_ROWS, FRAME_ROWS)
        if official and self.frame_size == FRAME_ROWS and not self._show_hud:
            raise ValueError(
                f"frames {image.shape} may be cropped or not: import them with another frame_size, or show_hud"
            )
        return resize_frame(image, HUD_ROWS if official and not self._show_hud else 0, self.frame_size)

    def _game_action(self, action: Any) -> Any:
        if not self.continuous:
            return int(action)
        steer, gas, brake = np.clip(np.asarray(action, np.float64), -1, 1)
        return np.array([steer, (gas + 1) / 2, max(brake, 0.0)])


def destroy_bodies(game: Any) -> None:
    """Break the references that keep a closed game in memory: Box2D's bodies, and the cycle of its contact listener."""
    game._destroy()
    game.car = None
    game.world.contactListener = game.world.contactListener_bug_workaround = game.contactListener_keepref = None


def make_car_racing(
    action_repeat: int = 1, fast: bool = False, show_hud: bool = False, frame_size: int = 64, **options: Any
) -> CarRacing:
    """Make CarRacing-v3 with its time limit of 1,000 frames.

    Args:
        action_repeat: Number of game frames per step.
        fast: Whether to draw the frames with `envs.car_racing.fast_env` (same game).
        show_hud: As in `CarRacing`.
        frame_size: As in `CarRacing`.
        options: Further arguments of `gymnasium.make`.

    Raises:
        ValueError: Box2D is missing, or an option is unknown or has an invalid value.
    """
    if "crop" in options:
        raise ValueError("CarRacing takes no option crop: use show_hud")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    frame_space(1, frame_size)  # raises if the size is not supported
    drawn: dict[str, Any] = {"frame_size": frame_size, "crop": not show_hud}
    id, size = ("worldmodel/FastCarRacing-v3", drawn) if fast else ("CarRacing-v3", {})
    try:
        game = gymnasium.make(id, **{"render_mode": "rgb_array", "disable_env_checker": True, **size, **options})
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"CarRacing needs another package: {error}") from None
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(f"CarRacing cannot be made with {options}: {error}") from None
    return CarRacing(game, action_repeat, show_hud, frame_size)
