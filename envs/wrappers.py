"""Wrappers that bring any picture to 64x64 bytes and any action to [-1, 1] or a choice."""

from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from envs.env_checker import summarize_space, validate_reward

FRAME_SIZE = 64
FRAME_SPACE = spaces.Box(0, 255, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
"""What every environment of ours shows."""
MAX_ACTIONS = 65_536
"""Numbers of a Box, or choices: no store has more."""
OPAQUE = 255
"""Alpha of a pixel that hides what is behind it."""


def action_kind(space: gymnasium.Space[Any]) -> tuple[str, int]:
    """("box", numbers) or ("discrete", choices).

    Raises:
        ValueError: any other space, or a Box of more than one axis; or there are no actions, or too many.
    """
    if isinstance(space, spaces.Discrete):
        kind, size = "discrete", int(space.n)
    elif isinstance(space, spaces.Box) and len(space.shape) == 1:
        kind, size = "box", int(space.shape[0])
    else:
        raise ValueError(f"action space must be Box (n,) or Discrete, got {summarize_space(space)}")
    if not 1 <= size <= MAX_ACTIONS:
        raise ValueError(f"action space must have from 1 to {MAX_ACTIONS} actions, got {summarize_space(space)}")
    return kind, size


def resize_frame(image: np.ndarray, crop_bottom: int = 0) -> np.ndarray:
    """A picture (H, W, 3) of bytes as 64x64, every pixel the mean of the area it covers.

    Args:
        image: bytes; without a channel axis, or with one channel, it is grey; a fourth channel is left out.
        crop_bottom: rows to cut off first.
    """
    if image.ndim == 2:
        image = image[..., None]
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
    if crop_bottom:
        image = image[:-crop_bottom]
    if image.shape[:2] == (FRAME_SIZE, FRAME_SIZE):
        return np.array(image, np.uint8)
    downscale = image.shape[0] >= FRAME_SIZE and image.shape[1] >= FRAME_SIZE
    return cv2.resize(
        np.ascontiguousarray(image),
        (FRAME_SIZE, FRAME_SIZE),
        interpolation=cv2.INTER_AREA if downscale else cv2.INTER_LINEAR,
    )


def validate_image(what: str, image: Any) -> np.ndarray:
    """A picture (H, W), or (H, W, 1, 3 or 4), of bytes; four channels are RGBA, and all of it must be opaque.

    Args:
        what: where the picture comes from, for the message.
        image: what came.

    Raises:
        ValueError: it is none, and what to do about it.
    """
    cure = "it must be an array (H, W, 3) of bytes"
    if image is None or isinstance(image, list):
        raise ValueError(f"{what} gave {'None' if image is None else 'a list'}: {cure}")
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{what} gave {type(image).__name__}: {cure}")
    if image.dtype != np.uint8:
        raise ValueError(f"{what} gave {image.dtype} numbers: {cure}, from 0 to 255")
    shape = image.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))) or 0 in shape:
        channels_first = len(shape) == 3 and shape[0] in (1, 3, 4)
        more = ", channels last: np.moveaxis(picture, 0, -1)" if channels_first else ""
        raise ValueError(f"{what} gave an array of shape {shape}: {cure}{more}")
    if len(shape) == 3 and shape[2] == 4 and not (image[..., 3] == OPAQUE).all():
        raise ValueError(
            f"{what} gave an array of shape {shape} that is no RGBA picture (its fourth channel is not {OPAQUE} "
            "everywhere): if it is a stack of grey frames, observe RGB or a single frame instead"
        )
    return image


class PixelEnv:
    """Marks environments that show our frames and take our actions."""


class ResizeFrame(PixelEnv, gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Frames of an environment that observes pictures."""

    def __init__(self, env: gymnasium.Env[Any, Any], crop_bottom: int = 0) -> None:
        RecordConstructorArgs.__init__(self, crop_bottom=crop_bottom)
        super().__init__(env)
        self.observation_space, self.crop_bottom = FRAME_SPACE, crop_bottom

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Shrink."""
        return resize_frame(validate_image("the environment", observation), self.crop_bottom)


class RenderFrame(PixelEnv, gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Frames of an environment that does not observe pictures, but renders them."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.observation_space = FRAME_SPACE

    def observation(self, observation: Any) -> np.ndarray:
        """Render and shrink; what the environment itself observes is left out."""
        return resize_frame(validate_image("render()", self.env.render()))


class ActionRepeat(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Each action is held for ``action_repeat`` frames, and their rewards add up."""

    def __init__(self, env: gymnasium.Env[Any, Any], action_repeat: int) -> None:
        RecordConstructorArgs.__init__(self, action_repeat=action_repeat)
        super().__init__(env)
        self.action_repeat = action_repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step until the end of the episode, ``action_repeat`` frames at most."""
        total = 0.0
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += validate_reward(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class RescaleBoxAction(gymnasium.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Box actions in [-1, 1], mapped in a straight line to the environment's bounds."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"action space must be Box of floats or Discrete, got {summarize_space(space)}")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(f"a Box of actions must have finite bounds, got {summarize_space(space)}")
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.shape, self.dtype = space.shape, space.dtype
        self.action_space = spaces.Box(-1, 1, (int(np.prod(space.shape)),), np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """Map to the environment's bounds."""
        fraction = (np.clip(np.asarray(action, np.float64), -1, 1).reshape(self.shape) + 1) / 2
        return (self.low + fraction * (self.high - self.low)).astype(self.dtype)


class ZeroBasedDiscrete(gymnasium.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Choices counted from zero."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.action_space
        assert isinstance(space, spaces.Discrete)
        self.start = int(space.start)
        self.action_space = spaces.Discrete(int(space.n))

    def action(self, action: Any) -> int:
        """Count from the environment's own first choice."""
        return int(action) + self.start
