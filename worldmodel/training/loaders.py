"""torch's datasets and loaders as sources of batches; start reading at `as_data`."""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NoReturn

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


class DatasetData:
    """A map-style torch dataset, or some of its examples.

    A batch is ``default_collate`` of random examples, drawn with replacement. A resumed training takes the same steps: each
    batch seeds torch's generator, from which random transforms must draw.

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
        """Draw random examples."""
        return self._collate(rng.choice(self.indices, size), rng)

    def batches(self, size: int) -> Iterator[Any]:
        """Iterate once over all examples in order."""
        rng = np.random.default_rng(0)
        for first in range(0, len(self.indices), size):
            yield self._collate(self.indices[first : first + size], rng)

    def _collate(self, indices: np.ndarray, rng: np.random.Generator) -> Any:
        with _seeded_by(rng):
            return default_collate([self.dataset[int(index)] for index in indices])


@dataclass(frozen=True)
class LoaderData:
    """A torch `DataLoader`: its own batches, in its own order, pass after pass.

    Each batch seeds torch's generator, and each pass that of the loader, by the seed of the training and the position. So a
    resumed training takes the same steps; it first draws the earlier batches of its pass again, and drops them. A sampler
    with another source of random numbers continues with other batches.

    Args:
        loader: Loader with a length.

    Raises:
        ValueError: the workers are persistent: they draw other random numbers in a resumed pass.
    """

    loader: DataLoader[Any]

    def __post_init__(self) -> None:
        if self.loader.persistent_workers:
            raise ValueError("data must have no persistent_workers, which draw other numbers after a resume, got True")

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of the dataset, and the number of batches."""
        return {"batches": len(self), "data": _identity(self.loader.dataset)}  # an IterableDataset has no length

    def __len__(self) -> int:
        """Return the number of batches of a pass.

        Raises:
            ValueError: the loader has no length, or no batch.
        """
        try:
            length = len(self.loader)
        except TypeError:
            length = 0
        if not length:
            raise ValueError(
                "data must be a DataLoader with a length above zero, got an empty one or an IterableDataset"
            )
        return length

    def split(self, fraction: float, seed: int) -> NoReturn:
        """Raise an error: a loader cannot be split.

        Raises:
            ValueError: always.
        """
        raise ValueError("validation must be the held-out data, because a DataLoader cannot be split, got None")

    def batch(self, size: int, rng: np.random.Generator) -> Any:
        """Return the first batch of a random pass; ``size`` has no effect."""
        return next(self._one_pass(rng))

    def batches(self, size: int) -> Iterator[Any]:
        """Iterate over one pass; ``size`` has no effect."""
        return self._one_pass(np.random.default_rng(0))

    def passes(self, seed: int, start: int) -> Iterator[Any]:
        """Yield batches pass after pass, from the batch with the number ``start`` on."""
        first, position = divmod(start, len(self))
        for number in itertools.count(first):
            yield from itertools.islice(self._one_pass(np.random.default_rng([seed, number])), position, None)
            position = 0

    def _one_pass(self, rng: np.random.Generator) -> Iterator[Any]:
        if self.loader.generator is not None:
            self.loader.generator.manual_seed(int(rng.integers(2**63)))
        with _seeded_by(rng):
            batches = iter(self.loader)
        for _ in range(len(self)):
            with _seeded_by(rng):
                batch = next(batches)
            yield batch


def _seeded_by(rng: np.random.Generator) -> AbstractContextManager[None]:
    """Seed torch's generator by ``rng`` while a block runs."""
    return seeded(int(rng.integers(2**63)))


def _identity(dataset: Any) -> Any:
    """Return the identity that a dataset names, else its type and its length."""
    return getattr(dataset, "identity", None) or {"dataset": type(dataset).__name__, "examples": len(dataset)}
