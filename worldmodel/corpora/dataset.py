"""A corpus: its three parts, the unit of its likelihood, and the conversion of events to data.

Start reading at `Corpus`. `worldmodel.corpora.registry` opens the corpus in a folder.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from worldmodel.batches import Data, Splits
from worldmodel.rng import Stream


@runtime_checkable
class Split(Data, Protocol):
    """Training, held-out or test part of a corpus: `worldmodel.batches.Data` of `EventBatch` with a known size."""

    def __len__(self) -> int:
        """Return the number of sequences."""
        ...

    @property
    def file_indices(self) -> np.ndarray:
        """Index of the recording or image of each sequence, in the order of `batches`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return counts for a report."""
        ...


@runtime_checkable
class Normalizer(Protocol):
    """Conversion between data and events."""

    def to_data(self, events: Float[Tensor, "batch time event"]) -> Shaped[Tensor, "batch *data"]:
        """Convert events to data."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the constants for a report."""
        ...


@dataclass(frozen=True, eq=False)
class Corpus:
    """Speech or images as sequences of events, in three parts (`worldmodel.corpora.open_corpus`).

    Args:
        name: Name of the corpus, such as "timit" or "mnist".
        kind: Kind of the data: "speech" or "image".
        event_dim: Size D of an event.
        dimensions: Number T x D of values in a sequence; None if sequences differ in length.
        unit: Unit of a likelihood of this corpus.
        protocol: Description of the segmentation and the split, with the papers.
        train: Training part; `splits` adds the held-out part for `worldmodel.fit`.
        held_out: Part of the training data for the choice of weights and settings.
        test: Part for the reported numbers.
        normalizer: Conversion between data and events.
    """

    name: str
    kind: str
    event_dim: int
    dimensions: int | None
    unit: str
    protocol: str
    train: Split
    held_out: Split
    test: Split
    normalizer: Normalizer

    @property
    def splits(self) -> Splits:
        """Training data and the corpus's own held-out part, for `worldmodel.fit`."""
        return Splits(self.train, self.held_out)

    def to_data(self, events: Float[Tensor, "batch time event"]) -> Shaped[Tensor, "batch *data"]:
        """Convert events, read or sampled from a model, to data.

        Args:
            events: Events (B, T, D).

        Returns:
            Speech: samples (B, T x D), float32, full scale from -1 to 1, not clipped.
            Images: bytes (B, H, W), or (B, H, W, 3) in color.

        Raises:
            ValueError: the shape of the events does not match the corpus.
        """
        if events.ndim != 3 or events.shape[2] != self.event_dim:
            raise ValueError(f"events must have shape (batch, time, {self.event_dim}), got {tuple(events.shape)}")
        return self.normalizer.to_data(events)

    def bits(self, log_likelihood: Float[Tensor, "*batch"], dimensions: int | None = None) -> Float[Tensor, "*batch"]:
        """Convert nats of whole sequences to bits per dimension: -log p / (dimensions ln 2); lower is better.

        Args:
            log_likelihood: log p(events) + ``log_jacobian`` of each sequence (`worldmodel.batches.EventBatch`).
            dimensions: Number of values in a sequence. None: that of the corpus.

        Raises:
            ValueError: ``dimensions`` is below 1, or missing although sequences differ in length.
        """
        dimensions = self.dimensions if dimensions is None else dimensions
        if dimensions is None or dimensions < 1:
            raise ValueError(
                f"dimensions must be at least 1, and not None if sequences differ in length, got {dimensions}"
            )
        return -log_likelihood / (dimensions * math.log(2))

    def describe(self) -> dict[str, Any]:
        """Return the facts that a report needs beside a number, as plain values for JSON."""
        parts = {"train": self.train, "held_out": self.held_out, "test": self.test}
        return {
            "corpus": self.name,
            "kind": self.kind,
            "event_dim": self.event_dim,
            "dimensions": self.dimensions,
            "unit": self.unit,
            "protocol": self.protocol,
            "scale": self.normalizer.describe(),
            "parts": {name: part.describe() | {"identity": part.identity} for name, part in parts.items()},
        }


def random_split(names: Iterable[str], fractions: Sequence[float], seed: int) -> list[set[str]]:
    """Split names into random disjoint sets of at least one name each: one for each fraction, and the rest.

    The order of ``names`` does not matter.

    Args:
        names: Names to split; duplicates count once.
        fractions: Fraction of the names for each set but the last.
        seed: Random seed.

    Returns:
        The sets, those of ``fractions`` first.

    Raises:
        ValueError: a fraction is not between 0 and 1, or there are fewer names than sets.
    """
    names = sorted(set(names))
    if not all(0 < fraction < 1 for fraction in fractions):
        raise ValueError(f"held_out must be between 0 and 1, got {', '.join(map(str, fractions))}")
    if len(names) <= len(fractions):
        raise ValueError(
            f"a split into {len(fractions) + 1} parts needs at least {len(fractions) + 1} items, got {len(names)}"
        )
    order = [names[index] for index in np.random.default_rng([seed, Stream.SPLIT]).permutation(len(names))]
    sets: list[set[str]] = []
    for number, fraction in enumerate(fractions):
        maximum = len(order) - (len(fractions) - number)  # leaves one name for each later set
        count = min(max(round(fraction * len(names)), 1), maximum)
        sets.append(set(order[:count]))
        order = order[count:]
    return [*sets, set(order)]


def digest(words: Iterable[str | bytes]) -> str:
    """Return eight hex digits of a hash of ``words``."""
    checksum = hashlib.sha256()
    for word in words:
        checksum.update(word.encode("utf-8", "surrogateescape") if isinstance(word, str) else word)
        checksum.update(b"\n")
    return checksum.hexdigest()[:8]
