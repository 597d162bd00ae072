"""Images as sequences: an event is a row, from top to bottom, or a pixel.

Uniform dequantization makes images of 256 levels continuous: x = pixel + u, u ~ U(0, 1). A density of x is then comparable with
a probability of pixels, and bounds it. Events are x / 256, or, with ``logit``, logit(a + (1 - 2 a) x / 256). Every batch has
the log-Jacobian of this conversion in ``log_jacobian``. With it the unit is

    bits per dimension = -(log p(events) + log|d events / d x|) / (T D ln 2),

in which a uniform density over the 256 levels has 8. Start reading at `Dequantisation` and `Images`.

References:
    A note on the evaluation of generative models, Theis, van den Oord, Bethge, 2015, https://arxiv.org/abs/1511.01844
    (uniform dequantization, and the bound); Flow-based Recurrent Mixture Density Network (FRMDN), Razavi, Hosseini,
    Behzad, 2020, https://arxiv.org/abs/2008.02144 (rows as events).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from worldmodel.batches import EventBatch
from worldmodel.corpora.dataset import Corpus, digest, random_split
from worldmodel.corpora.image_files import cifar10_images, mnist_images

LEVELS = 256
"""Number of levels of a pixel."""
NOISE_LEVELS = 2**15
"""Number of values of u, the midpoints (k + 1/2) / 2^15: single precision represents them exactly beside a pixel up to 255."""
ALPHA = 0.05
"""Constant a that keeps the logit finite: alpha of RealNVP, arXiv 1605.08803, here at both ends as in MAF, arXiv 1705.07057."""
VAL_FRACTION = 0.1
"""Fraction of the training images that is held out, the last in the files' order: 6,000 of MNIST, 5,000 of CIFAR-10."""
UNIT = "bits a dimension, 256 levels, uniform dequantisation"
"""Unit of the likelihood."""


class Dequantisation(NamedTuple):
    """Conversion between bytes and events.

    Args:
        height: Height of an image, in pixels.
        width: Width of an image, in pixels.
        channels: Number of channels.
        logit: Whether events are logits.
        pixelwise: Whether an event is a pixel instead of a row.

    Example:
        >>> scale = Dequantisation(height=1, width=2, channels=1)
        >>> batch = scale.events(np.array([[[[0], [255]]]], np.uint8), np.zeros((1, 1, 2, 1)))
        >>> scale.to_data(batch.event).tolist()
        [[[0, 255]]]
        >>> round(-float(batch.log_jacobian[0]) / (2 * math.log(2)), 4)  # bits per dimension of a uniform density
        8.0
    """

    height: int
    width: int
    channels: int
    logit: bool = False
    pixelwise: bool = False

    @property
    def event_dim(self) -> int:
        """Size D of an event: number of values in a row or in a pixel."""
        return self.channels if self.pixelwise else self.width * self.channels

    @property
    def dimensions(self) -> int:
        """Number T x D of values in an image."""
        return self.height * self.width * self.channels

    def events(self, pixels: np.ndarray, noise: np.ndarray) -> EventBatch:
        """Convert bytes (B, H, W, C) to sequences; ``noise`` (B, H, W, C) holds integers below `NOISE_LEVELS`."""
        x = (pixels + (noise + 0.5) / NOISE_LEVELS) / LEVELS
        log_jacobian = np.full(len(x), -self.dimensions * math.log(LEVELS))
        if self.logit:
            squeezed = ALPHA + (1 - 2 * ALPHA) * x
            x = np.log(squeezed) - np.log1p(-squeezed)
            log_slope = math.log(1 - 2 * ALPHA) - np.log(squeezed) - np.log1p(-squeezed)  # log d event / d(x / 256)
            log_jacobian += log_slope.reshape(len(x), -1).sum(axis=1)
        event = torch.from_numpy(x.astype(np.float32).reshape(len(x), -1, self.event_dim))
        jacobian = torch.from_numpy(log_jacobian.astype(np.float32))
        return EventBatch(event, torch.ones(event.shape[:2]), jacobian)

    def to_data(self, events: Float[Tensor, "batch time event"]) -> UInt8[Tensor, "batch *picture"]:
        """Convert events to bytes (B, H, W) or (B, H, W, 3): the level of each value, or the nearest level."""
        if events.shape[1] * events.shape[2] != self.dimensions:
            time = self.dimensions // self.event_dim
            raise ValueError(f"events must have shape (batch, {time}, {self.event_dim}), got {tuple(events.shape)}")
        x = events.detach().double()
        if self.logit:
            x = (x.sigmoid() - ALPHA) / (1 - 2 * ALPHA)
        pixels = (x * LEVELS).floor().nan_to_num(0.0).clamp(0, LEVELS - 1).to(torch.uint8)
        picture = (self.height, self.width, self.channels)
        return pixels.reshape(len(events), *(picture[:2] if self.channels == 1 else picture))

    def describe(self) -> dict[str, Any]:
        """Return the constants for a report."""
        alpha = {"alpha": ALPHA} if self.logit else {}
        return {**self._asdict(), **alpha, "levels": LEVELS, "uniform_bits": math.log2(LEVELS)}


class Images:
    """Images as sequences (batch, time, event); memory holds bytes, and batches hold floats.

    Args:
        label: Name of the corpus and the part.
        pixels: Bytes (N, H, W, C).
        normalizer: Conversion between bytes and events.
        chosen: Indices of the images of this part, in increasing order. None: all.
    """

    def __init__(
        self, label: str, pixels: np.ndarray, normalizer: Dequantisation, chosen: np.ndarray | None = None
    ) -> None:
        self.label, self.pixels, self.normalizer = label, pixels, normalizer
        self.chosen = np.arange(len(pixels)) if chosen is None else chosen
        self._identity = ""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.chosen)

    @property
    def identity(self) -> str:
        """Identity of the images and of their conversion to events."""
        if not self._identity:
            blocks = (self.pixels[self.chosen[first : first + 1_000]].tobytes() for first in range(0, len(self), 1_000))
            events = "pixels" if self.normalizer.pixelwise else "rows"
            logit = "logit" if self.normalizer.logit else "no logit"
            self._identity = f"{self.label}: {len(self)} images ({digest(blocks)}), {events}, {logit}"
        return self._identity

    def split(self, fraction: float, seed: int) -> tuple["Images", "Images"]:
        """Split at random into training images and the held-out ``fraction``."""
        held_out, training = random_split((f"{index:012d}" for index in self.chosen), [fraction], seed)
        return self._subset("training", training), self._subset("held out", held_out)

    def batch(self, size: int, rng: np.random.Generator) -> EventBatch:
        """Draw random images with random noise."""
        pixels = self.pixels[self.chosen[rng.integers(len(self), size=size)]]
        return self.normalizer.events(pixels, rng.integers(NOISE_LEVELS, size=pixels.shape))

    @property
    def file_indices(self) -> np.ndarray:
        """Index of the image of each sequence: every image is one sequence."""
        return np.arange(len(self))

    def batches(self, size: int) -> Iterator[EventBatch]:
        """Iterate once over all images in a fixed random order; the noise does not depend on the batch size."""
        order = np.random.default_rng(0).permutation(self.chosen)
        for number in range(0, len(order), size):
            indices = order[number : number + size]
            noise = [_noise(int(index), self.pixels.shape[1:]) for index in indices]
            yield self.normalizer.events(self.pixels[indices], np.stack(noise))

    def describe(self) -> dict[str, Any]:
        """Return counts for a report."""
        return {"sequences": len(self), "images": len(self)}

    def _subset(self, label: str, names: set[str]) -> "Images":
        """Return the part with the images of these names."""
        return Images(f"{self.label}, {label}", self.pixels, self.normalizer, np.array(sorted(map(int, names))))


def mnist(folder: Path, *, logit: bool = False, pixelwise: bool = False) -> Corpus | None:
    """Open MNIST, Fashion-MNIST, or other grayscale images in IDX files of the same names, without the labels.

    Args:
        folder: Path of the folder with train-images-idx3-ubyte and t10k-images-idx3-ubyte, gzipped or not.
        logit: Whether events are logits.
        pixelwise: Whether an event is a pixel (D = 1) instead of a row.

    Returns:
        The corpus, or None if a file is missing.

    Raises:
        ValueError: a file is damaged.
    """
    return _corpus("mnist", mnist_images(folder), logit, pixelwise)


def cifar10(folder: Path, *, logit: bool = False, pixelwise: bool = False) -> Corpus | None:
    """Open CIFAR-10, binary or Python edition, without the labels.

    Args:
        folder: Path of the folder with data_batch_1 to data_batch_5 and test_batch, all with .bin or all without.
        logit: Whether events are logits.
        pixelwise: Whether an event is a pixel (D = 3) instead of a row (D = 96: red, green, blue of a pixel side by side).

    Returns:
        The corpus, or None if a file is missing.

    Raises:
        ValueError: a file is damaged.
    """
    return _corpus("cifar10", cifar10_images(folder), logit, pixelwise)


def _corpus(name: str, images: tuple[np.ndarray, np.ndarray] | None, logit: bool, pixelwise: bool) -> Corpus | None:
    """Return the corpus of training images, of which the last are held out, and test images; None without images."""
    if images is None:
        return None
    pixels, test = images
    if len(pixels) < 2:
        raise ValueError(f"{name} must have at least 2 training images, of which one is held out, got {len(pixels)}")
    height, width, channels = map(int, pixels.shape[1:])
    scale = Dequantisation(height, width, channels, logit, pixelwise)
    num_training = len(pixels) - max(round(VAL_FRACTION * len(pixels)), 1)
    order = "pixel by pixel" if pixelwise else "row by row"
    events = f"logits (alpha {ALPHA}) of x / 256" if logit else "x / 256"
    protocol = (
        f"the last {len(pixels) - num_training} of {len(pixels)} training images held out, the {len(test)} test images "
        f"for the test; {order}, events are {events} with x = pixel + U(0, 1) (arXiv 1511.01844, 2008.02144)"
    )
    parts = (
        Images(f"{name}, training", pixels, scale, np.arange(num_training)),
        Images(f"{name}, held out", pixels, scale, np.arange(num_training, len(pixels))),
        Images(f"{name}, test", test, scale),
    )
    return Corpus(name, "image", scale.event_dim, scale.dimensions, UNIT, protocol, *parts, scale)


def _noise(index: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the fixed noise of an image: integers below `NOISE_LEVELS`."""
    return np.random.default_rng([1, index]).integers(NOISE_LEVELS, size=shape)
