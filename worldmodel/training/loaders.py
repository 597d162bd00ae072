"""torch's datasets and loaders as sources of batches; start reading at `as_data`."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, default_collate

from worldmodel.batches import Data
from worldmodel.rng import Stream, seeded


def as_data(data: Data | Dataset[Any] | DataLoader[Any]) -> Data:
    """Return a source of batches; torch's datasets and loaders are wrapped.

    Raises:
        ValueError: ``data`` is none of them, or has no length.
    """
    if isinstance(data, DataLoader):
        return LoaderData(data)
    if callable(getattr(data, "batches", None)):
        return data  # type: ignore[return-value]
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return DatasetData(data)
    raise ValueError(
        f"data must be batches.Data, a torch dataset with a length, or a DataLoader, got {type(data).__name__}"
    )


def training_batches(data: Data, size: int, seed: int, start: int) -> Iterator[Any]:
    """Yield the training batches from update ``start`` on, which depend on the seed and the update alone."""
    if isinstance(data, LoaderData):
        yield from data.passes(seed, start)
    for update in itertools.count(start):
        yield data.batch(size, np.random.default_rng([seed, update]))


def _identity(dataset: Any) -> str:
    """Return the identity that a dataset names, else its type and its length."""
    return str(getattr(dataset, "identity", "")) or f"{type(dataset).__name__} of {len(dataset)} examples"


class DatasetData:
    """A map-style torch dataset, or some of its examples.

    A batch is ``default_collate`` of examples. Their random transforms must draw from torch's generator.

    Args:
        dataset: Dataset with a length. A training resumes if its ``identity`` is the same; without one, its type and length.
        indices: Indices of the examples. None: all.
    """

    def __init__(self, dataset: Any, indices: np.ndarray | None = None) -> None:
        self.dataset, self.indices = dataset, np.arange(len(dataset)) if indices is None else indices
        self.identity = _identity(dataset)

    def split(self, fraction: float, seed: int) -> tuple["DatasetData", "DatasetData"]:
        """Split by examples.

        Raises:
            ValueError: there are fewer than two examples.
        """
        if (count := len(self.indices)) < 2:
            raise ValueError(f"data must have at least 2 examples, got {count}")
        order = np.random.default_rng([seed, Stream.SPLIT]).permutation(self.indices)
        held_out = min(max(round(fraction * count), 1), count - 1)
        return DatasetData(self.dataset, order[held_out:]), DatasetData(self.dataset, np.sort(order[:held_out]))

    def batch(self, size: int, rng: np.random.Generator) -> Any:
        """Draw random examples, with replacement."""
        return self._collate(rng.choice(self.indices, size), rng)

    def batches(self, size: int) -> Iterator[Any]:
        """Iterate once over all examples in order."""
        rng = np.random.default_rng(0)
        for first in range(0, len(self.indices), size):
            yield self._collate(self.indices[first : first + size], rng)

    def _collate(self, indices: np.ndarray, rng: np.random.Generator) -> Any:
        with seeded(int(rng.integers(2**63))):
            return default_collate([self.dataset[int(index)] for index in indices])


@dataclass(frozen=True)
class LoaderData:
    """A torch `DataLoader`: its own batches, in its own order, pass after pass.

    Before each batch torch's global generator, and the loader's at the start of a pass, get a seed that depends on the seed of
    the training and the position. Shuffling, transforms and workers that draw from them repeat their numbers, so that a
    resumed training takes the same steps; it draws the earlier batches of its pass again, and drops them. Samplers with another
    source of random numbers go on with other batches.

    Args:
        loader: Loader with a length.
    """

    loader: DataLoader[Any]

    @property
    def identity(self) -> str:
        """Identity of the dataset, and the number of batches."""
        length = len(self)  # first: an IterableDataset has none
        return f"{_identity(self.loader.dataset)} in {length} batches"

    def __len__(self) -> int:
        """Return the number of batches of a pass.

        Raises:
            ValueError: the loader has no length, or no batch.
        """
        try:
            length = len(self.loader)
        except TypeError:
            raise ValueError("data must be a DataLoader with a length, got one of an IterableDataset") from None
        if not length:
            raise ValueError("data must have at least one batch, got an empty DataLoader")
        return length

    def split(self, fraction: float, seed: int) -> tuple[Data, Data]:
        """Raise an error: the order of a loader is its own.

        Raises:
            ValueError: always.
        """
        raise ValueError("validation must have the held-out data: a DataLoader cannot be split, got None")

    def batch(self, size: int, rng: np.random.Generator) -> Any:
        """Return the first batch of a random pass; ``size`` has no effect."""
        return next(self._one_pass([int(rng.integers(2**31))]))

    def batches(self, size: int) -> Iterator[Any]:
        """Iterate over one pass; ``size`` has no effect."""
        return self._one_pass([0])

    def passes(self, seed: int, start: int) -> Iterator[Any]:
        """Yield batches pass after pass, from the batch with the number ``start`` on."""
        first, position = divmod(start, len(self))
        for number in itertools.count(first):
            yield from itertools.islice(self._one_pass([seed, number]), position, None)
            position = 0

    def _one_pass(self, words: list[int]) -> Iterator[Any]:
        rng = np.random.default_rng(words)
        if self.loader.generator is not None:
            self.loader.generator.manual_seed(int(rng.integers(2**63)))
        with seeded(int(rng.integers(2**63))):
            batches = iter(self.loader)
        for _ in range(len(self)):
            with seeded(int(rng.integers(2**63))):
                batch = next(batches)
            yield batch
