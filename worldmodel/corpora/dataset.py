"""What a corpus is: three parts that training can draw from, the unit of its likelihood, and the way back to data.

Start reading at `Corpus`; `worldmodel.corpora.registry` makes one from a folder.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from worldmodel.batches import Data, EventBatch
from worldmodel.rng import Stream


@runtime_checkable
class Split(Data, Protocol):
    """Training, held-out or test data of a corpus: `worldmodel.batches.Data` of `EventBatch`, with a size."""

    def __len__(self) -> int:
        """How many sequences."""
        ...

    @property
    def file_indices(self) -> np.ndarray:
        """Of each sequence, in the order of `batches`, the number of its recording or image."""
        ...

    def describe(self) -> dict[str, Any]:
        """Counts, for a report."""
        ...


@runtime_checkable
class Normalizer(Protocol):
    """How data become events, and events data."""

    def to_data(self, events: Float[Tensor, "batch time event"]) -> Shaped[Tensor, "batch *data"]:
        """The way back."""
        ...

    def describe(self) -> dict[str, Any]:
        """Constants, for a report."""
        ...


@dataclass(frozen=True)
class Splits:
    """Training and validation data that were split before: `worldmodel.fit` gets these two, whatever share it asks for.

    Args:
        training: what to learn from.
        validation: what tells when it was learned best.
    """

    training: Data
    validation: Data

    @property
    def identity(self) -> str:
        """What both are."""
        return f"{self.training.identity}; held out: {self.validation.identity}"

    def split(self, fraction: float, seed: int) -> tuple[Data, Data]:
        """The two parts as they are; ``fraction`` and ``seed`` say nothing here."""
        return self.training, self.validation

    def batch(self, size: int, rng: np.random.Generator) -> EventBatch:
        """A random batch of the training part."""
        return self.training.batch(size, rng)

    def batches(self, size: int) -> Iterator[EventBatch]:
        """All of the training part once."""
        return self.training.batches(size)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Speech or images as sequences of events, in three parts (`worldmodel.corpora.open_corpus`).

    Args:
        name: "timit", "mnist", ...
        kind: "speech" or "image".
        event: D, the size of an event.
        dimensions: numbers in a sequence, T x D; None where sequences differ in length.
        unit: what a likelihood of this corpus is counted in.
        protocol: how it was cut and split, in words, with the paper.
        train: what to learn from; `parts` adds the held-out part for `worldmodel.fit`.
        held_out: cut out of the training data, to choose weights and settings by.
        test: for the number that is reported.
        scale: how data became events.
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
        """Training data for `worldmodel.fit`, with the corpus's own held-out part."""
        return Splits(self.train, self.held_out)

    def to_data(self, events: Float[Tensor, "batch time event"]) -> Shaped[Tensor, "batch *data"]:
        """Events, read or sampled from a model, as data.

        Args:
            events: (B, T, D).

        Returns:
            Speech: samples (B, T x D), single precision, full scale from -1 to 1, not clipped.
            Images: bytes (B, H, W), or (B, H, W, 3) in colour.

        Raises:
            ValueError: the events are not of this corpus's shape.
        """
        if events.ndim != 3 or events.shape[2] != self.event_dim:
            raise ValueError(f"events must have shape (batch, time, {self.event_dim}), got {tuple(events.shape)}")
        return self.normalizer.to_data(events)

    def bits(self, log_likelihood: Float[Tensor, "*batch"], dimensions: int | None = None) -> Float[Tensor, "*batch"]:
        """Nats of whole sequences as bits a dimension: -log p / (dimensions ln 2); less is better.

        Args:
            log_likelihood: log p(events) + ``log_jacobian`` of each sequence (`worldmodel.batches.EventBatch`).
            dimensions: numbers in a sequence; None: the corpus's own.

        Raises:
            ValueError: sequences differ in length, and ``dimensions`` is not given.
        """
        dimensions = self.dimensions if dimensions is None else dimensions
        if dimensions is None or dimensions < 1:
            raise ValueError(f"dimensions must be at least 1, and given where lengths differ; got {dimensions}")
        return -log_likelihood / (dimensions * math.log(2))

    def describe(self) -> dict[str, Any]:
        """Everything that a reported number needs beside it; plain values, ready for JSON."""
        parts = {"train": self.train, "held_out": self.held_out, "test": self.test}
        return {
            "corpus": self.name,
            "kind": self.kind,
            "event": self.event_dim,
            "dimensions": self.dimensions,
            "unit": self.unit,
            "protocol": self.protocol,
            "scale": self.normalizer.describe(),
            "parts": {name: part.describe() | {"identity": part.identity} for name, part in parts.items()},
        }


def random_split(names: Iterable[str], fractions: Sequence[float], seed: int) -> list[set[str]]:
    """Cut names into random disjoint sets, those of ``fractions`` first and what is left last: at least one in each.

    The order of ``names`` does not matter.

    Raises:
        ValueError: a fraction is not between 0 and 1, or there are fewer names than sets.
    """
    names = sorted(set(names))
    if not all(0 < fraction < 1 for fraction in fractions):
        raise ValueError(f"held_out must be between 0 and 1, got {', '.join(map(str, fractions))}")
    if len(names) <= len(fractions):
        raise ValueError(f"a split into {len(fractions) + 1} needs at least as many to split, got {len(names)}")
    order = [names[place] for place in np.random.default_rng([seed, Stream.SPLIT]).permutation(len(names))]
    cut: list[set[str]] = []
    for number, fraction in enumerate(fractions):
        left = len(order) - (len(fractions) - number)  # one for each set that comes after
        count = min(max(round(fraction * len(names)), 1), left)
        cut.append(set(order[:count]))
        order = order[count:]
    return [*cut, set(order)]


def digest(words: Iterable[str | bytes]) -> str:
    """Eight hex digits that change whenever ``words`` do."""
    found = hashlib.sha256()
    for word in words:
        found.update(word.encode("utf-8", "surrogateescape") if isinstance(word, str) else word)
        found.update(b"\n")
    return found.hexdigest()[:8]
