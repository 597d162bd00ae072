"""Wrappers that bring any picture to 64x64 bytes and any action to [-1, 1] or a choice."""

from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from envs.conformance import checked_reward, in_a_line

SIZE = 64
FRAMES = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
"""What every environment of ours shows."""
MOST_ACTIONS = 65_536
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
        raise ValueError(f"action space must be Box (n,) or Discrete, got {in_a_line(space)}")
    if not 1 <= size <= MOST_ACTIONS:
        raise ValueError(f"action space must have from 1 to {MOST_ACTIONS} actions, got {in_a_line(space)}")
    return kind, size


def shrink(picture: np.ndarray, crop_bottom: int = 0) -> np.ndarray:
    """A picture (H, W, 3) of bytes as 64x64, every pixel the mean of the area it covers.

    Args:
        picture: bytes; without a channel axis, or with one channel, it is grey; a fourth channel is left out.
        crop_bottom: rows to cut off first.
    """
    if picture.ndim == 2:
        picture = picture[..., None]
    picture = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[..., :3]
    if crop_bottom:
        picture = picture[:-crop_bottom]
    if picture.shape[:2] == (SIZE, SIZE):
        return np.array(picture, np.uint8)
    smaller = picture.shape[0] >= SIZE and picture.shape[1] >= SIZE
    return cv2.resize(
        np.ascontiguousarray(picture), (SIZE, SIZE), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    )


def as_picture(what: str, picture: Any) -> np.ndarray:
    """A picture (H, W), or (H, W, 1, 3 or 4), of bytes; four channels are RGBA, and all of it must be opaque.

    Args:
        what: where the picture comes from, for the message.
        picture: what came.

    Raises:
        ValueError: it is none, and what to do about it.
    """
    cure = "it must be an array (H, W, 3) of bytes"
    if picture is None or isinstance(picture, list):
        raise ValueError(f"{what} gave {'None' if picture is None else 'a list'}: {cure}")
    if not isinstance(picture, np.ndarray):
        raise ValueError(f"{what} gave {type(picture).__name__}: {cure}")
    if picture.dtype != np.uint8:
        raise ValueError(f"{what} gave {picture.dtype} numbers: {cure}, from 0 to 255")
    shape = picture.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))) or 0 in shape:
        channels_first = len(shape) == 3 and shape[0] in (1, 3, 4)
        more = ", channels last: np.moveaxis(picture, 0, -1)" if channels_first else ""
        raise ValueError(f"{what} gave an array of shape {shape}: {cure}{more}")
    if len(shape) == 3 and shape[2] == 4 and not (picture[..., 3] == OPAQUE).all():
        raise ValueError(
            f"{what} gave an array of shape {shape} that is no RGBA picture (its fourth channel is not {OPAQUE} "
            "everywhere): if it is a stack of grey frames, observe RGB or a single frame instead"
        )
    return picture


class Adapted:
    """Marks environments that show our frames and take our actions."""


class Shrunk(Adapted, gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Frames of an environment that observes pictures."""

    def __init__(self, env: gymnasium.Env[Any, Any], crop_bottom: int = 0) -> None:
        RecordConstructorArgs.__init__(self, crop_bottom=crop_bottom)
        super().__init__(env)
        self.observation_space, self.crop_bottom = FRAMES, crop_bottom

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Shrink."""
        return shrink(as_picture("the environment", observation), self.crop_bottom)


class Rendered(Adapted, gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Frames of an environment that does not observe pictures, but renders them."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.observation_space = FRAMES

    def observation(self, observation: Any) -> np.ndarray:
        """Render and shrink; what the environment itself observes is left out."""
        return shrink(as_picture("render()", self.env.render()))


class Repeated(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Each action is held for ``times`` frames, and their rewards add up."""

    def __init__(self, env: gymnasium.Env[Any, Any], times: int) -> None:
        RecordConstructorArgs.__init__(self, times=times)
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step until the end of the episode, ``times`` frames at most."""
        total = 0.0
        for _ in range(self.times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += checked_reward(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class Normalised(gymnasium.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Box actions in [-1, 1], mapped in a straight line to the environment's bounds."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"action space must be Box of floats or Discrete, got {in_a_line(space)}")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(f"a Box of actions must have finite bounds, got {in_a_line(space)}")
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.shape, self.kind = space.shape, space.dtype
        self.action_space = spaces.Box(-1, 1, (int(np.prod(space.shape)),), np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """Map to the environment's bounds."""
        share = (np.clip(np.asarray(action, np.float64), -1, 1).reshape(self.shape) + 1) / 2
        return (self.low + share * (self.high - self.low)).astype(self.kind)


class FromZero(gymnasium.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Choices counted from zero."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.action_space
        assert isinstance(space, spaces.Discrete)
        self.first = int(space.start)
        self.action_space = spaces.Discrete(int(space.n))

    def action(self, action: Any) -> int:
        """Count from the environment's own first choice."""
        return int(action) + self.first
