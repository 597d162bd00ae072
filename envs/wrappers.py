"""Wrappers that resize frames to 64x64 and map actions to [-1, 1] or Discrete from 0 on.

Start reading at `action_kind` and `resize_frame`. Gymnasium's wrappers differ: `ResizeObservation` averages areas also where it
enlarges and keeps grey images grey; `AddRenderObservation` starts an episode when it is made; `RescaleAction` rounds in single
precision and does not clip; `RepeatAction` needs Gymnasium 1.3. Their errors do not say what to change in an environment.
"""

from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from worldmodel.envs.env_checker import summarize_space, validate_reward
from worldmodel.envs.images import FRAME_SIZES, OPAQUE, ImageFormat, find_image, is_image_space

FRAME_SIZE = 64
FRAME_SPACE = spaces.Box(0, 255, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
"""Space of frames."""
MAX_ACTIONS = 65_536
"""Maximum size of a Box action, and maximum number of discrete actions; the limit of `rollouts.Store`."""
MAX_NUMBERS = 4_096
"""Maximum size of a vector."""
MAX_WIDTH = 2.0**53
"""Maximum width of the bounds of a Box action."""


def frame_space(frame_stack: int = 1, frame_size: int = FRAME_SIZE) -> spaces.Box:
    """Return the space of frames (frame_size, frame_size, 3 frame_stack).

    Raises:
        ValueError: ``frame_size`` is none of `FRAME_SIZES`.
    """
    if type(frame_size) is not int or frame_size not in FRAME_SIZES:
        raise ValueError(f"frame_size must be one of {', '.join(map(str, FRAME_SIZES))}, got {frame_size!r}")
    return spaces.Box(0, 255, (frame_size, frame_size, 3 * frame_stack), np.uint8)


def action_kind(space: gymnasium.Space[Any]) -> tuple[str, int]:
    """Return ("box", size of an action) or ("discrete", number of actions).

    Raises:
        ValueError: The space is of another kind, has more than one axis, or has no action or too many.
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


def resize_frame(image: np.ndarray, crop_bottom: int = 0, size: int = FRAME_SIZE) -> np.ndarray:
    """Resize an image (H, W, C) uint8 to 64x64 or another size; a pixel of a smaller side is the mean of what it covers.

    Args:
        image: uint8. Without a channel axis, or with one channel, it is grey; a fourth channel is dropped. C may be a larger
            multiple of 3 (a stack of frames).
        crop_bottom: Number of rows to crop first.
        size: Height and width of the result in pixels.
    """
    if image.ndim == 2:
        image = image[..., None]
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., : image.shape[2] // 3 * 3]
    if crop_bottom:
        image = image[:-crop_bottom]
    if image.shape[:2] == (size, size):
        return np.array(image, np.uint8)
    if image.shape[2] > 3:  # cv2 takes the mean of an area of up to four channels
        frames = [resize_frame(image[..., start : start + 3], 0, size) for start in range(0, image.shape[2], 3)]
        return np.concatenate(frames, axis=2)
    image = np.ascontiguousarray(image)
    smaller = (min(image.shape[1], size), min(image.shape[0], size))
    if smaller != image.shape[1::-1]:
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    return image if smaller == (size, size) else cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def validate_image(what: str, image: Any) -> np.ndarray:
    """Check that an image is uint8 (H, W), or (H, W, C) with 1, 3 or 4 channels; RGBA images must be opaque.

    Args:
        what: Source of the image, for the message.
        image: Value to check.

    Raises:
        ValueError: It is not an image; the message says how to fix it.
    """
    hint = "it must be an array (H, W, 3) of bytes"
    if image is None or isinstance(image, list):
        raise ValueError(f"{what} gave {'None' if image is None else 'a list'}: {hint}")
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{what} gave {type(image).__name__}: {hint}")
    if image.dtype != np.uint8:
        raise ValueError(f"{what} gave {image.dtype} numbers: {hint}, from 0 to 255")
    shape = image.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))) or 0 in shape:
        channels_first = len(shape) == 3 and shape[0] in (1, 3, 4)
        channel_hint = ", channels last: np.moveaxis(image, 0, -1)" if channels_first else ""
        raise ValueError(f"{what} gave an array of shape {shape}: {hint}{channel_hint}")
    if len(shape) == 3 and shape[2] == 4 and not (image[..., 3] == OPAQUE).all():
        raise ValueError(
            f"{what} gave an array of shape {shape} that is not an RGBA image (its fourth channel is not {OPAQUE} "
            "everywhere): if it is a stack of grey frames, observe RGB or a single frame instead"
        )
    return image


def rescale_actions(actions: np.ndarray, low: np.ndarray, high: np.ndarray, whole: bool = False) -> np.ndarray:
    """Map actions (T, ...) linearly from finite bounds to (T, n) float32 in [-1, 1].

    Each of ``whole`` numbers maps to the middle of its share of [-1, 1] (`RescaleBoxAction`).

    Raises:
        ValueError: The actions have another size, or one is out of bounds.
    """
    values, low, high = (np.asarray(numbers, np.float64) for numbers in (actions, low, high))
    size = int(np.prod(low.shape))
    if values.size != len(values) * size:
        raise ValueError(f"actions must have shape (T, {size}), got {values.shape}")
    values, low, high = values.reshape(len(values), size), low.reshape(size), high.reshape(size)
    slack = 0 if whole else 1e-3 * (high - low)  # half precision
    if not ((values >= low - slack) & (values <= high + slack)).all():
        bounds = f"from {low.tolist()} to {high.tolist()}"
        raise ValueError(
            f"actions must be {bounds}, got {values.min(axis=0).tolist()} to {values.max(axis=0).tolist()}"
        )
    if whole:
        low, high = low - 0.5, high + 0.5
    if not ((low == -1) & (high == 1)).all():
        values = 2 * (values - low) / np.where(high > low, high - low, 1) - 1
    return values.clip(-1, 1).astype(np.float32)


class StandardEnv:
    """Marks environments with 64x64 frames or vectors, and standard actions."""


def is_vector_space(space: gymnasium.Space[Any]) -> bool:
    """Whether a space is float32 (n,)."""
    return isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype == np.float32


def why_not_vector(space: gymnasium.Space[Any]) -> str:
    """Return why observations of a space are no vector; empty if they are."""
    if is_image_space(space):
        return 'it observes images: use observation="pixels"'
    try:
        size = spaces.flatdim(space)
    except (NotImplementedError, ValueError, TypeError):  # the size varies, or the kind of space is unknown
        return f"it observes {summarize_space(space)}, which has no fixed amount of numbers"
    if not 1 <= size <= MAX_NUMBERS:
        cure = ': use observation="pixels"' if size else ""
        return f"it observes {size:,} numbers, a vector may have from 1 to {MAX_NUMBERS:,}{cure}"
    return ""


class VectorObservation(StandardEnv, gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Observes one vector of numbers, float32 (n,).

    Raises:
        ValueError: The observations have no fixed amount of numbers, or too many.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if reason := why_not_vector(env.observation_space):
            raise ValueError(reason)
        self.space, size = env.observation_space, spaces.flatdim(env.observation_space)
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """Flatten an observation; its numbers must be finite in single precision."""
        if isinstance(self.space, spaces.Box):  # of any dtype
            vector = np.array(observation, np.float32).reshape(-1)  # a copy: an environment may reuse its array
        else:
            vector = np.array(spaces.flatten(self.space, observation), np.float32)
        if vector.shape != self.observation_space.shape or not np.isfinite(vector).all():
            expected = f"{self.observation_space.shape} finite numbers as in {summarize_space(self.space)}"
            raise ValueError(f"observation must be {expected}, got {vector.shape}: {str(vector)[:40]}")
        return vector


class ResizeFrame(StandardEnv, gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Observes resized frames: the image observations of an environment, or what it renders.

    Args:
        env: Environment.
        image_key: Entry of a Dict with the images. None: the only one with images.
        frame_stack: Number of frames that an image holds.
        frame_size: Height and width of the resized frames in pixels.

    Raises:
        ValueError: An argument does not fit the observation space, or ``frame_size`` is none of `FRAME_SIZES`.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        image_key: str | None = None,
        frame_stack: int = 1,
        frame_size: int = FRAME_SIZE,
    ) -> None:
        RecordConstructorArgs.__init__(self, image_key=image_key, frame_stack=frame_stack, frame_size=frame_size)
        super().__init__(env)
        self._key: str | None = None
        self._format: ImageFormat | None = None
        if found := find_image(env.observation_space, image_key, frame_stack):
            self._key, self._format = found
        self.observation_space, self._size = frame_space(frame_stack, frame_size), frame_size

    @property
    def source(self) -> str:
        """Description of what the frames show, for people."""
        if self._format is None:
            return "rendered images"
        if self._key is None:
            return f"observations {self._format}"
        space: Any = self.env.observation_space
        others = ", ".join(repr(name) for name in space.spaces if name != self._key)
        return f"{self._key!r} of the observations {self._format}{f'; without {others}' if others else ''}"

    def observation(self, observation: Any) -> np.ndarray:
        """Resize the observation, or drop it and render."""
        if self._format is None:
            return resize_frame(validate_image("render()", self.env.render()), size=self._size)
        image = observation if self._key is None else observation[self._key]
        return resize_frame(self._format.to_frames(image), size=self._size)


class ActionRepeat(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Repeats each action for ``action_repeat`` frames, and sums their rewards."""

    def __init__(self, env: gymnasium.Env[Any, Any], action_repeat: int) -> None:
        RecordConstructorArgs.__init__(self, action_repeat=action_repeat)
        super().__init__(env)
        self.action_repeat = action_repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step until the end of the episode, at most ``action_repeat`` frames."""
        total_reward = 0.0
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total_reward += validate_reward(reward)
            if terminated or truncated:
                break
        return observation, total_reward, terminated, truncated, info


class RescaleBoxAction(gymnasium.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Maps Box actions in [-1, 1] linearly to the environment's bounds; of whole numbers each has an equal share.

    Raises:
        ValueError: The bounds are not finite.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.action_space
        assert isinstance(space, spaces.Box)
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.shape, self.dtype, self.whole = space.shape, space.dtype, space.dtype.kind in "biu"
        if not (space.is_bounded() and (self.high - self.low <= MAX_WIDTH).all()):
            cure = "wrap it in gymnasium.wrappers.RescaleAction or TransformAction"
            raise ValueError(f"a Box of actions must have finite bounds, got {summarize_space(space)}: {cure}")
        self.action_space = spaces.Box(-1, 1, (int(np.prod(space.shape)),), np.float32)

    def standard_actions(self, actions: np.ndarray) -> np.ndarray:
        """Map actions (T, ...) within the environment's bounds to (T, n) in [-1, 1]."""
        return rescale_actions(actions, self.low, self.high, self.whole)

    def action(self, action: np.ndarray) -> np.ndarray:
        """Map an action to the environment's bounds."""
        fraction = (np.clip(np.asarray(action, np.float64), -1, 1).reshape(self.shape) + 1) / 2
        width = self.high - self.low
        if self.whole:
            return (self.low + np.floor(fraction * (width + 1)).clip(max=width)).astype(self.dtype)
        return (self.low + fraction * width).astype(self.dtype)


class ZeroBasedDiscrete(gymnasium.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Maps Discrete actions from zero on to those of the environment."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.action_space
        assert isinstance(space, spaces.Discrete)
        self.start = int(space.start)
        self.action_space = spaces.Discrete(int(space.n))

    def standard_actions(self, actions: np.ndarray) -> np.ndarray:
        """Subtract the environment's first action number."""
        return actions.astype(np.int64) - self.start

    def action(self, action: Any) -> int:
        """Add the environment's first action number."""
        return int(action) + self.start
