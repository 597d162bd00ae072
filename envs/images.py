"""Image observations of any layout and type as frames of bytes, by the shape, dtype and bounds of their space.

Start reading at `ImageFormat.of`. Numbers never decide, so a dark or a blank frame is not read in another way.
"""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

MIN_IMAGE_SIDE = 16
"""Minimum height and width of an image in pixels; a smaller array is not an image."""
MIN_IMAGE_HIGH = 128
"""Minimum upper bound of a uint8 image; uint8 arrays with a lower bound hold other quantities."""
MAX_FRAME_STACK = 16
"""Maximum number of frames of an observation."""
FRAME_SIZES = (64, 96, 128)
"""Heights and widths of frames in pixels."""
CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}
OPAQUE = 255
"""Alpha of an opaque pixel."""


class ImageFormat(NamedTuple):
    """Layout and range of the images of a space.

    A layout has H and W for height and width, C for channels, and K for the frames of a stack, the newest last.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    low: float
    high: float
    layout: str
    """HW, HWC, CHW, KHW, HWK, KHWC or KCHW; the channels of K frames of several channels are one axis in HWC and CHW."""
    frame_stack: int = 1

    @classmethod
    def of(cls, space: spaces.Space[Any], frame_stack: int = 1) -> "ImageFormat | None":
        """Return the format of the images of a space; None if it has none. `why_not` has the reason."""
        if not isinstance(space, spaces.Box) or why_not(space, frame_stack):
            return None
        low, high = (0.0, 255.0) if space.dtype == np.uint8 else (float(space.low.min()), float(space.high.max()))
        return cls(space.shape, space.dtype, low, high, _layout(space.shape, frame_stack), frame_stack)

    def to_frames(self, image: Any) -> np.ndarray:
        """Convert an image to bytes (H, W, 3 frame_stack): grey becomes RGB, alpha is dropped, bounds become 0 and 255.

        Raises:
            ValueError: It has another shape or dtype than its space, is outside of its bounds, or is not opaque.
        """
        kinds = "f" if self.dtype.kind == "f" else ""
        if (
            not isinstance(image, np.ndarray)
            or image.shape != self.shape
            or image.dtype.kind not in kinds + self.dtype.kind
        ):
            raise ValueError(f"observation must be {self.shape} {self.dtype} as in its space, got {_about(image)}")
        if image.dtype != np.uint8 or (self.low, self.high) != (0, 255):
            slack = 1e-3 * (self.high - self.low)
            if not ((image >= self.low - slack) & (image <= self.high + slack)).all():
                found = f"{image.min():g} to {image.max():g}"
                raise ValueError(f"observation must be from {self.low:g} to {self.high:g} as in its space, got {found}")
            scaled = (image.astype(np.float64) - self.low) * (255 / (self.high - self.low))
            image = np.rint(scaled).clip(0, 255).astype(np.uint8)
        return self._arrange(image)

    def _arrange(self, image: np.ndarray) -> np.ndarray:
        """Return bytes of this format as (H, W, 3 frame_stack)."""
        stack = image
        if self.layout in ("CHW", "KHWC"):
            stack = np.moveaxis(image, 0, -1 if self.layout == "CHW" else 2)
        elif self.layout == "KCHW":
            stack = np.moveaxis(image, (0, 1), (2, 3))
        frames = stack.reshape(*(image.shape if self.layout == "HW" else stack.shape[:2]), self.frame_stack, -1)
        if frames.shape[3] == 4 and not (frames[..., 3] == OPAQUE).all():
            raise ValueError(
                f"observation {self.shape} is not an RGBA image (its fourth channel is not opaque everywhere): if it holds "
                "4 grey frames, set the option frame_stack to 4"
            )
        frames = np.repeat(frames, 3, axis=3) if frames.shape[3] == 1 else frames[..., :3]
        return frames.reshape(*frames.shape[:2], -1)

    def __str__(self) -> str:
        """Return a description for people."""
        colours = CHANNELS[int(np.prod(self.shape)) // self.frame_stack // self._pixels]
        kind = colours if self.frame_stack == 1 else f"{self.frame_stack} {colours} frames"
        mapped = "" if self.dtype == np.uint8 else f", {self.low:g} to {self.high:g} become 0 to 255"
        return f"{self.shape} {self.dtype}, {kind}{mapped}"

    @property
    def _pixels(self) -> int:
        height = self.layout.index("H")
        return self.shape[height] * self.shape[height + 1]


def _layout(shape: tuple[int, ...], frame_stack: int) -> str:
    """Return the layout of images; empty if the shape is none of images."""
    channels = (1, 3, 4) if frame_stack == 1 else (frame_stack, 3 * frame_stack)
    large = [size >= MIN_IMAGE_SIDE for size in shape]
    if len(shape) == 2 and frame_stack == 1 and all(large):
        return "HW"
    if len(shape) == 3 and shape[2] in channels and all(large[:2]):
        return "HWC"
    if len(shape) == 3 and shape[0] in channels and all(large[1:]):
        return "CHW"
    if len(shape) == 4 and shape[0] == frame_stack:
        if shape[3] in (1, 3) and all(large[1:3]):
            return "KHWC"
        if shape[1] in (1, 3) and all(large[2:]):
            return "KCHW"
    return ""


def is_frame_shape(shape: tuple[int, ...]) -> bool:
    """Whether a shape is that of frames: (S, S, 3 frame_stack) with S in `FRAME_SIZES`."""
    channels = range(3, 3 * MAX_FRAME_STACK + 1, 3)
    return len(shape) == 3 and shape[0] == shape[1] and shape[0] in FRAME_SIZES and shape[2] in channels


def is_image_space(space: spaces.Space[Any]) -> bool:
    """Whether a space has single images."""
    return ImageFormat.of(space) is not None


def why_not(space: spaces.Space[Any], frame_stack: int = 1) -> str:
    """Return why a space has no images, with the cure where it nearly has; empty if it has."""
    if not isinstance(space, spaces.Box):
        return "images must be a Box"
    if not _layout(space.shape, frame_stack):
        if frame_stack > 1:
            return f"with frame_stack = {frame_stack}, images must be (H, W, C) or (C, H, W) of {frame_stack} frames"
        stack = len(space.shape) in (3, 4) and sorted(space.shape)[-2] >= MIN_IMAGE_SIDE
        hint = ", or the option frame_stack must be its number of frames" if stack else ""
        return f"images must have 1, 3 or 4 channels and at least {MIN_IMAGE_SIDE}x{MIN_IMAGE_SIDE} pixels{hint}"
    if space.dtype == np.uint8:
        return "" if space.high.max() >= MIN_IMAGE_HIGH else "images of bytes must have a bound of 255"
    with np.errstate(all="ignore"):
        scale = 255 / (np.float64(space.high.max()) - np.float64(space.low.min()))
    if not (np.isfinite([space.low, space.high]).all() and 0 < scale < np.inf):
        return "images must have finite bounds, such as 0 and 1: gymnasium.wrappers.TransformObservation"
    return "" if space.dtype.kind in "fiu" else f"images must be numbers, got {space.dtype}"


def find_image(
    space: spaces.Space[Any], image_key: str | None = None, frame_stack: int = 1
) -> tuple[str | None, ImageFormat] | None:
    """Find the images of an observation space.

    Args:
        space: Observation space.
        image_key: Entry of a Dict. None: the only one with images.
        frame_stack: Number of frames that an image holds.

    Returns:
        The entry of a Dict (None if it is none), and its format; None if the space has no images.

    Raises:
        ValueError: A Dict has several entries with images, or an argument does not fit the space.
    """
    if type(frame_stack) is not int or not 1 <= frame_stack <= MAX_FRAME_STACK:
        raise ValueError(f"frame_stack must be a whole number from 1 to {MAX_FRAME_STACK}, got {frame_stack!r}")
    if not isinstance(space, spaces.Dict):
        if image_key is not None:
            raise ValueError(f"image_key must be left out: the observation is no Dict, got {image_key!r}")
        image = ImageFormat.of(space, frame_stack)
        if image is None and frame_stack > 1:
            raise ValueError(f"{why_not(space, frame_stack)}, got observations {space.shape}")
        return None if image is None else (None, image)
    keys = ", ".join(map(repr, space.spaces))
    if image_key is not None:
        if image_key not in space.spaces:
            raise ValueError(f"image_key must be one of {keys}, got {image_key!r}")
        if (image := ImageFormat.of(space[image_key], frame_stack)) is None:
            raise ValueError(f"image_key {image_key!r}: {why_not(space[image_key], frame_stack)}")
        return image_key, image
    images = {name: image for name, part in space.items() if (image := ImageFormat.of(part, frame_stack))}
    if len(images) > 1:
        raise ValueError(f"the option image_key must be one of {', '.join(map(repr, images))}: all have images")
    if not images and frame_stack > 1:
        raise ValueError(f"frame_stack = {frame_stack} fits no entry of the observation: {keys}")
    return next(iter(images.items()), None)


def _about(value: Any) -> str:
    return f"an array {value.shape} {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
