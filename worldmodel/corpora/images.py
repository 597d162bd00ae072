"""Images as sequences: rows from top to bottom are the time, the pixels of a row the event; or pixel by pixel.

Images of 256 levels are made continuous by uniform dequantisation: x = pixel + u, u ~ U(0, 1), so that a density of x can
be compared with, and bounds, a probability of pixels. Events are x / 256, or, with ``logit``, logit(a + (1 - 2 a) x / 256).
What that does to a density stands in every batch's ``log_jacobian``; with it the unit is

    bits a dimension = -(log p(events) + log|d events / d x|) / (T D ln 2),

in which a uniform density over the 256 levels has 8.

References:
    A note on the evaluation of generative models, Theis, van den Oord, Bethge, 2015, https://arxiv.org/abs/1511.01844
    (uniform dequantisation, and the bound); Flow-based Recurrent Mixture Density Network (FRMDN), Razavi, Hosseini,
    Behzad, 2020, https://arxiv.org/abs/2008.02144 (rows as events)
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
NOISE_LEVELS = 2**15
"""u is one of so many midpoints, (k + 1/2) / 2^15: what single precision holds exactly beside a pixel up to 255."""
ALPHA = 0.05
"""Keeps the logit finite: alpha of RealNVP, arXiv 1605.08803, here at both ends as in MAF, arXiv 1705.07057."""
VAL_FRACTION = 0.1
"""The last images of the training files, in the files' order: 6,000 of MNIST, 5,000 of CIFAR-10."""
UNIT = "bits a dimension, 256 levels, uniform dequantisation"


class Dequantisation(NamedTuple):
    """How bytes become events, and events bytes.

    Example:
        >>> scale = Dequantisation(height=1, width=2, channels=1)
        >>> batch = scale.events(np.array([[[[0], [255]]]], np.uint8), np.zeros((1, 1, 2, 1)))
        >>> scale.to_data(batch.event).tolist()
        [[[0, 255]]]
        >>> round(-float(batch.log_jacobian[0]) / (2 * math.log(2)), 4)  # bits a dimension of a uniform density
        8.0
    """

    height: int
    width: int
    channels: int
    logit: bool = False
    pixelwise: bool = False

    @property
    def event_dim(self) -> int:
        """D: numbers in a row, or in a pixel."""
        return self.channels if self.pixelwise else self.width * self.channels

    @property
    def dimensions(self) -> int:
        """T x D: numbers in an image."""
        return self.height * self.width * self.channels

    def events(self, pixels: np.ndarray, noise: np.ndarray) -> EventBatch:
        """Bytes (B, H, W, C), with noise (B, H, W, C) of whole numbers below `NOISE_LEVELS`, as sequences."""
        x = (pixels + (noise + 0.5) / NOISE_LEVELS) / LEVELS
        log_jacobian = np.full(len(x), -self.dimensions * math.log(LEVELS))
        if self.logit:
            inside = ALPHA + (1 - 2 * ALPHA) * x
            x = np.log(inside) - np.log1p(-inside)
            slope = math.log(1 - 2 * ALPHA) - np.log(inside) - np.log1p(-inside)  # log dy / d(x / 256)
            log_jacobian += slope.reshape(len(x), -1).sum(axis=1)
        event = torch.from_numpy(x.astype(np.float32).reshape(len(x), -1, self.event_dim))
        jacobian = torch.from_numpy(log_jacobian.astype(np.float32))
        return EventBatch(event, torch.ones(event.shape[:2]), jacobian)

    def to_data(self, events: Float[Tensor, "batch time event"]) -> UInt8[Tensor, "batch *picture"]:
        """Events as bytes: the level that they lie in, or the nearest one."""
        if events.shape[1] * events.shape[2] != self.dimensions:
            wanted = (self.dimensions // self.event_dim, self.event_dim)
            raise ValueError(f"events must have shape (batch, {wanted[0]}, {wanted[1]}), got {tuple(events.shape)}")
        x = events.detach().double()
        if self.logit:
            x = (x.sigmoid() - ALPHA) / (1 - 2 * ALPHA)
        pixels = (x * LEVELS).floor().nan_to_num(0.0).clamp(0, LEVELS - 1).to(torch.uint8)
        picture = (self.height, self.width, self.channels)
        return pixels.reshape(len(events), *(picture[:2] if self.channels == 1 else picture))

    def describe(self) -> dict[str, Any]:
        """The numbers, for a report."""
        alpha = {"alpha": ALPHA} if self.logit else {}
        return {**self._asdict(), **alpha, "levels": LEVELS, "uniform_bits": math.log2(LEVELS)}


class Images:
    """Images as sequences (batch, rows, pixels of a row); they are kept as bytes, and become floats batch by batch.

    Args:
        label: which corpus and part, in a few words.
        pixels: bytes (N, H, W, C).
        normalizer: how they become events.
        chosen: which of them, in rising order; None: all.
    """

    def __init__(
        self, label: str, pixels: np.ndarray, normalizer: Dequantisation, chosen: np.ndarray | None = None
    ) -> None:
        self.label, self.pixels, self.normalizer = label, pixels, normalizer
        self.chosen = np.arange(len(pixels)) if chosen is None else chosen
        self._identity = ""

    def __len__(self) -> int:
        """How many images."""
        return len(self.chosen)

    @property
    def identity(self) -> str:
        """Which images, and how they become events."""
        if not self._identity:
            blocks = (self.pixels[self.chosen[first : first + 1_000]].tobytes() for first in range(0, len(self), 1_000))
            how = f"{'pixels' if self.normalizer.pixelwise else 'rows'}, {'logit' if self.normalizer.logit else 'no logit'}"
            self._identity = f"{self.label}: {len(self)} images ({digest(blocks)}), {how}"
        return self._identity

    def split(self, fraction: float, seed: int) -> tuple["Images", "Images"]:
        """Training and held-out images."""
        held_out, training = random_split((f"{index:012d}" for index in self.chosen), [fraction], seed)
        return self._of("training", training), self._of("held out", held_out)

    def batch(self, size: int, rng: np.random.Generator) -> EventBatch:
        """Random images with random noise."""
        pixels = self.pixels[self.chosen[rng.integers(len(self), size=size)]]
        return self.normalizer.events(pixels, rng.integers(NOISE_LEVELS, size=pixels.shape))

    @property
    def file_indices(self) -> np.ndarray:
        """Every image is a sequence of its own."""
        return np.arange(len(self))

    def batches(self, size: int) -> Iterator[EventBatch]:
        """All images once, in a fixed random order; each has a noise of its own, whatever the size of the batches."""
        order = np.random.default_rng(0).permutation(self.chosen)
        for number in range(0, len(order), size):
            picked = order[number : number + size]
            noise = [_noise(int(index), self.pixels.shape[1:]) for index in picked]
            yield self.normalizer.events(self.pixels[picked], np.stack(noise))

    def describe(self) -> dict[str, Any]:
        """Counts, for a report."""
        return {"sequences": len(self), "images": len(self)}

    def _of(self, label: str, names: set[str]) -> "Images":
        return Images(f"{self.label}, {label}", self.pixels, self.normalizer, np.array(sorted(map(int, names))))


def mnist(folder: Path, *, logit: bool = False, pixelwise: bool = False) -> Corpus | None:
    """MNIST, Fashion-MNIST, or other grey images in IDX files of the same names; labels are not read.

    Args:
        folder: holds train-images-idx3-ubyte and t10k-images-idx3-ubyte, gzipped or not.
        logit: whether events are logits.
        pixelwise: pixel by pixel (D = 1) instead of row by row.

    Returns:
        The corpus, or None where a file is not there.

    Raises:
        ValueError: a file is damaged.
    """
    return _corpus("mnist", mnist_images(folder), logit, pixelwise)


def cifar10(folder: Path, *, logit: bool = False, pixelwise: bool = False) -> Corpus | None:
    """CIFAR-10, binary or Python edition; labels are not read.

    Args:
        folder: holds data_batch_1 to data_batch_5 and test_batch, all with .bin or all without.
        logit: whether events are logits.
        pixelwise: pixel by pixel (D = 3) instead of row by row (D = 96: red, green, blue of a pixel side by side).

    Returns:
        The corpus, or None where a file is not there.

    Raises:
        ValueError: a file is damaged.
    """
    return _corpus("cifar10", cifar10_images(folder), logit, pixelwise)


def _corpus(name: str, images: tuple[np.ndarray, np.ndarray] | None, logit: bool, pixelwise: bool) -> Corpus | None:
    if images is None:
        return None
    pixels, test = images
    if len(pixels) < 2:
        raise ValueError(f"{name} must hold at least 2 training images, one of them held out, got {len(pixels)}")
    height, width, channels = map(int, pixels.shape[1:])
    scale = Dequantisation(height, width, channels, logit, pixelwise)
    kept = len(pixels) - max(round(VAL_FRACTION * len(pixels)), 1)
    order = "pixel by pixel" if pixelwise else "row by row"
    events = f"logits (alpha {ALPHA}) of x / 256" if logit else "x / 256"
    protocol = (
        f"the last {len(pixels) - kept} of {len(pixels)} training images held out, the {len(test)} test images for the "
        f"test; {order}, events are {events} with x = pixel + U(0, 1) (arXiv 1511.01844, 2008.02144)"
    )
    parts = (
        Images(f"{name}, training", pixels, scale, np.arange(kept)),
        Images(f"{name}, held out", pixels, scale, np.arange(kept, len(pixels))),
        Images(f"{name}, test", test, scale),
    )
    return Corpus(name, "image", scale.event_dim, scale.dimensions, UNIT, protocol, *parts, scale)


def _noise(index: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([1, index]).integers(NOISE_LEVELS, size=shape)
