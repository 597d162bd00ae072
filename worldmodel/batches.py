"""What training consumes: frames, sequences, and the protocol of whoever provides them.

The types live here, with their consumer; `rollouts.datasets` and the corpora produce them.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


class Loss(NamedTuple):
    """What a model's ``loss`` returns: the number to minimise, and its parts for the log (plain scalars as tensors)."""

    value: Float[Tensor, ""]
    parts: dict[str, Tensor]


class SequenceBatch(NamedTuple):
    """A batch of transitions in time, aligned: ``action[:, t]`` leads from ``latent[:, t]`` to ``next_latent[:, t]``."""

    latent: Float[Tensor, "batch time latent"]
    action: Float[Tensor, "batch time actions"]
    next_latent: Float[Tensor, "batch time latent"]
    reward: Float[Tensor, "batch time"]
    terminated: Float[Tensor, "batch time"]
    mask: Float[Tensor, "batch time"]
    """One where a transition happened, zero where the sequence was padded."""


class EventBatch(NamedTuple):
    """A batch of sequences whose density is to be learned: frames of speech, rows of images (`worldmodel.corpora`)."""

    event: Float[Tensor, "batch time event"]
    """What the density is over, one event for each time."""
    mask: Float[Tensor, "batch time"]
    """One where there is an event, zero where the sequence was padded."""
    log_jacobian: Float[Tensor, "batch"]
    """log|d event / d data| of the whole sequence in nats: added to log p(events), it gives the density of the data in
    the unit that the corpus states (zero for speech, which is measured on its standardised samples)."""


@runtime_checkable
class Data(Protocol):
    """A source of training batches that `worldmodel.fit` can split, draw from and pass over."""

    @property
    def identity(self) -> str:
        """What the data are, in a few words: a training goes on only with the data that it began with."""
        ...

    def split(self, fraction: float, seed: int) -> tuple["Data", "Data"]:
        """Cut by whole episodes into training data and the held-out ``fraction``."""
        ...

    def batch(self, size: int, rng: np.random.Generator) -> Any:
        """Draw one random training batch; the same ``rng`` state gives the same batch."""
        ...

    def batches(self, size: int) -> Iterator[Any]:
        """Pass once over everything, in a fixed order and with fixed randomness."""
        ...


def frames_to_float(
    frames: UInt8[Tensor, "*batch height width channel"],
) -> Float[Tensor, "*batch channel height width"]:
    """Turn stored frames (bytes, channel last) into the network's (floats in [0, 1], channel first)."""
    return frames.movedim(-1, -3).float().div_(255)


def frames_to_uint8(
    frames: Float[Tensor, "*batch channel height width"],
) -> UInt8[Tensor, "*batch height width channel"]:
    """The way back from `frames_to_float`, rounded and clipped."""
    return frames.detach().float().mul(255).round_().clamp_(0, 255).to(torch.uint8).movedim(-3, -1)


def to_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What a layer computed in bfloat16 or half under autocast, in single precision: densities and sums need it."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) and _autocast(values) else values


def _autocast(values: Tensor) -> bool:
    return torch.is_autocast_enabled(values.device.type)


def num_valid(batch: Any) -> int:
    """How many things a batch's loss is the mean over: what its mask says is real, or its examples."""
    mask = getattr(batch, "mask", None)
    if mask is not None:
        return int((mask > 0).sum())
    return len(batch if isinstance(batch, Tensor) else batch[0])


def to_device(batch: Any, device: torch.device | str) -> Any:
    """Move a tensor, or every tensor of a NamedTuple, to ``device``."""
    return tree_map(batch, lambda part: part.to(device, non_blocking=True))


def tree_map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Change a tensor, or every tensor of a NamedTuple."""
    return function(value) if isinstance(value, Tensor) else type(value)(*map(function, value))


def action_inputs(actions: np.ndarray, size: int, discrete: bool) -> Float[np.ndarray, "*batch size"]:
    """Actions of an environment as a memory's inputs, float32: one-hot if they are choices.

    Raises:
        ValueError: there are no such choices, or not as many numbers.
    """
    if discrete:
        if actions.size and not 0 <= actions.min() <= actions.max() < size:
            raise ValueError(f"actions must be from 0 to {size - 1}, got {actions.min()} to {actions.max()}")
        return np.eye(size, dtype=np.float32)[actions]
    if actions.shape[-1] != size:
        raise ValueError(f"actions must be {size} numbers, got {actions.shape[-1]}")
    return np.asarray(actions, np.float32)
