"""Batches of training data, and the protocol of their sources.

`rollouts.store.datasets` and the corpora produce them. Start reading at `SequenceBatch` and `Data`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


class Loss(NamedTuple):
    """Result of a model's ``loss``: the scalar to minimize, and its parts for the log (scalar tensors)."""

    value: Float[Tensor, ""]
    parts: dict[str, Tensor]


class SequenceBatch(NamedTuple):
    """A batch of sequences of transitions; ``action[:, t]`` leads from ``latent[:, t]`` to ``next_latent[:, t]``."""

    latent: Float[Tensor, "batch time latent"]
    action: Float[Tensor, "batch time actions"]
    next_latent: Float[Tensor, "batch time latent"]
    reward: Float[Tensor, "batch time"]
    terminated: Float[Tensor, "batch time"]
    mask: Float[Tensor, "batch time"]
    """One for a transition, zero for padding."""


class EventBatch(NamedTuple):
    """A batch of sequences for density modeling: frames of speech, rows of images (`worldmodel.corpora`)."""

    event: Float[Tensor, "batch time event"]
    """One event per time."""
    mask: Float[Tensor, "batch time"]
    """One for an event, zero for padding."""
    log_jacobian: Float[Tensor, "batch"]
    """log|d event / d data| of the whole sequence in nats. log p(events) plus this number is the log-density of the data in the
    corpus's unit. It is zero for speech, whose unit is the standardised sample."""


@runtime_checkable
class Data(Protocol):
    """A source of training batches for `worldmodel.fit`."""

    @property
    def identity(self) -> Any:
        """What the data are, with digests, as JSON. A training continues only with data of the same identity."""
        ...

    def split(self, fraction: float, seed: int) -> tuple["Data", "Data"]:
        """Split by whole episodes into training data and the held-out ``fraction``."""
        ...

    def batch(self, size: int, rng: np.random.Generator) -> Any:
        """Draw one random training batch; the same ``rng`` state gives the same batch."""
        ...

    def batches(self, size: int) -> Iterator[Any]:
        """Iterate once over all data, in a fixed order and with fixed random numbers."""
        ...


@dataclass(frozen=True)
class Splits:
    """Training and validation data with a fixed split: `worldmodel.fit` uses these two, whatever fraction it asks for.

    Args:
        training: Training data.
        validation: Validation data, which determine the stored weights.
    """

    training: Data
    validation: Data

    @property
    def identity(self) -> Any:
        """Identity of both parts."""
        training, validation = self.training.identity, self.validation.identity
        if isinstance(training, str) and isinstance(validation, str):  # of corpora
            return f"{training}; held out: {validation}"
        return {"training": training, "held_out": validation}

    def split(self, fraction: float, seed: int) -> tuple[Data, Data]:
        """Return the two parts; ``fraction`` and ``seed`` have no effect."""
        return self.training, self.validation

    def batch(self, size: int, rng: np.random.Generator) -> Any:
        """Draw a random batch of the training part."""
        return self.training.batch(size, rng)

    def batches(self, size: int) -> Iterator[Any]:
        """Iterate once over the training part."""
        return self.training.batches(size)


def frames_to_float(
    frames: UInt8[Tensor, "*batch height width channel"],
) -> Float[Tensor, "*batch channel height width"]:
    """Convert stored frames (uint8, channel last) to network inputs (floats in [0, 1], channel first)."""
    return frames.movedim(-1, -3).float().div_(255)


def frames_to_uint8(
    frames: Float[Tensor, "*batch channel height width"],
) -> UInt8[Tensor, "*batch height width channel"]:
    """Invert `frames_to_float`; round and clip."""
    return frames.detach().float().mul(255).round_().clamp_(0, 255).to(torch.uint8).movedim(-3, -1)


def to_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert bfloat16 or half outputs under autocast to single precision, which densities and sums need."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) and _autocast(values) else values


def _autocast(values: Tensor) -> bool:
    return torch.is_autocast_enabled(values.device.type)


def mask_of(batch: Any) -> Tensor | None:
    """Return the part of a batch with the name ``mask``, one for a valid step; None if there is none."""
    return batch.get("mask") if isinstance(batch, Mapping) else getattr(batch, "mask", None)


def leaves(batch: Any) -> list[Tensor]:
    """Return all tensors of a batch."""
    if isinstance(batch, Tensor):
        return [batch]
    return [leaf for part in (batch.values() if isinstance(batch, Mapping) else batch) for leaf in leaves(part)]


def num_valid(batch: Any) -> int:
    """Return the number of items in the mean of a batch's loss: its valid steps, or its examples without a mask."""
    mask = mask_of(batch)
    return len(leaves(batch)[0]) if mask is None else int((mask > 0).sum())


def to_device(batch: Any, device: torch.device | str) -> Any:
    """Move every tensor of a batch to ``device``."""
    return tree_map(batch, lambda part: part.to(device, non_blocking=True))


def tree_map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``function`` to a tensor, or to every tensor of a tuple, a NamedTuple, a list, a dict or of nested ones."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: tree_map(part, function) for name, part in value.items()}
    parts = [tree_map(part, function) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def action_inputs(actions: np.ndarray, size: int, discrete: bool) -> Float[np.ndarray, "*batch size"]:
    """Convert environment actions to float32 inputs of a memory; discrete actions become one-hot.

    Raises:
        ValueError: a discrete action is out of range, or a Box action has the wrong size.
    """
    if discrete:
        if actions.size and not 0 <= actions.min() <= actions.max() < size:
            raise ValueError(f"actions must be from 0 to {size - 1}, got {actions.min()} to {actions.max()}")
        return np.eye(size, dtype=np.float32)[actions]
    if actions.shape[-1] != size:
        raise ValueError(f"actions must be {size} numbers, got {actions.shape[-1]}")
    return np.asarray(actions, np.float32)
