"""Densities of whole sequences: ``p(y_1..T) = prod_t p(y_t | y_1..t-1)``, for speech, images read row by row, and the like.

Start reading at `SequenceDensity`. The functions before it are what every density of sequences shares (`baselines.VRNN` too):
padding that reaches nothing, passes over long sequences in pieces, and samples one event at a time.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from worldmodel.batches import EventBatch, Loss, to_float32, tree_map
from worldmodel.flows import LOG_SCALE_BOUND
from worldmodel.low_rank import LOG_TWO_PI
from worldmodel.mdn_rnn import FRMDN, LOG_PRECISION_RANGE, RMDN, State
from worldmodel.validation import validate_optional_positive_int, validate_positive_int, validate_temperature

EVAL_CHUNK = 64
"""Without gradients, so many times are looked at at once: what a mixture puts out is far larger than what it read."""

StateT = TypeVar("StateT", bound=tuple[Any, ...])


def precision_ceiling() -> float:
    """The most that log N can be, in nats a dimension: ``(max log-precision - log 2 pi) / 2``, about 6.08.

    Where data do not vary at all (digital silence, a constant pixel) a likelihood has no bound but this one. Report it
    beside every likelihood of such data: `SequenceDensity.ceiling` and `VRNN.ceiling` say it for a model.
    """
    return 0.5 * (LOG_PRECISION_RANGE[1] - LOG_TWO_PI)


def masked_events(
    batch: EventBatch, event_dim: int
) -> tuple[Float[Tensor, "batch time event"], Bool[Tensor, "batch time"]]:
    """The events, zero where they are padding, and where they are not.

    Raises:
        ValueError: shapes are others than a model of ``event_dim`` dimensions needs, or padding is not at the end.
    """
    event, mask, log_jacobian = batch
    if event.ndim != 3 or 0 in event.shape or event.shape[-1] != event_dim:
        raise ValueError(f"batch.event must have shape (batch > 0, time > 0, {event_dim}), got {tuple(event.shape)}")
    if mask.shape != event.shape[:2]:
        raise ValueError(f"batch.mask must have shape {tuple(event.shape[:2])}, got {tuple(mask.shape)}")
    if log_jacobian.shape != event.shape[:1]:
        raise ValueError(f"batch.log_jacobian must have shape ({len(event)},), got {tuple(log_jacobian.shape)}")
    seen = mask > 0
    if bool((seen[:, 1:] & ~seen[:, :-1]).any()):
        raise ValueError("batch.mask must be ones and then zeros in every sequence, got ones behind zeros")
    return torch.where(seen[..., None], event, 0), seen


def tbptt_chunks(
    step: Callable[..., tuple[tuple[Tensor, ...], StateT]], state: StateT, bptt_length: int | None, *sequences: Tensor
) -> tuple[tuple[Tensor, ...], StateT]:
    """Pass over sequences (batch, time, ...) in pieces of ``bptt_length`` times: truncated back-propagation.

    ``step(state, *pieces)`` returns tensors (batch, time, ...), which are put together again, and the state after them. The
    state is carried from piece to piece; gradients are cut there. A piece keeps nothing for its gradient but its inputs
    and its state and computes the rest again, so that memory does not grow with time; an update takes 2 to 2.5 times as long.

    Args:
        step: what happens to a piece.
        state: the state before the first piece.
        bptt_length: length of the pieces; None: one piece, and without gradients pieces of `EVAL_CHUNK`.
        sequences: what is cut along the second axis.

    Returns:
        What ``step`` returned, as if all had been one piece, and the last state, without gradient if ``bptt_length`` is given.
    """
    learns = torch.is_grad_enabled()
    time = sequences[0].shape[1]
    length = min(bptt_length or (time if learns else EVAL_CHUNK), time)
    pieces = list(zip(*(sequence.split(length, dim=1) for sequence in sequences), strict=True))
    found = []
    for piece in pieces:
        if learns and len(pieces) > 1:
            outputs, state = checkpoint(step, state, *piece, use_reentrant=False, preserve_rng_state=False)
        else:
            outputs, state = step(state, *piece)
        if bptt_length is not None:
            state = tree_map(state, Tensor.detach)
        found.append(outputs)
    return tuple(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)), state


def masked_mean(values: Float[Tensor, "batch time"], seen: Bool[Tensor, "batch time"]) -> Float[Tensor, ""]:
    """The mean over events that are not padding."""
    return torch.where(seen, values, 0).sum() / seen.sum().clamp(min=1)


def with_prefix(prefix: Tensor | None, batch: int, event_dim: int) -> Float[Tensor, "batch time event"] | None:
    """Given events for ``batch`` sequences: one for each, or the same for all.

    Raises:
        ValueError: ``prefix`` has another shape.
    """
    validate_positive_int(batch=batch)
    if prefix is None:
        return None
    fits = prefix.ndim == 3 and 0 not in prefix.shape and prefix.shape[-1] == event_dim
    if not fits or not (batch in (1, len(prefix)) or len(prefix) == 1):
        wanted = f"(batch > 0, time > 0, {event_dim})" if batch == 1 else f"({batch} or 1, time > 0, {event_dim})"
        raise ValueError(f"prefix must have shape {wanted}, got {tuple(prefix.shape)}")
    return prefix.expand(max(batch, len(prefix)), -1, -1)


def stream_steps(
    step: Callable[[StateT], tuple[Tensor, StateT]], state: StateT, length: int | None
) -> Iterator[Float[Tensor, "batch event"]]:
    """One event after the other, ``length`` of them or without end; nothing but the state is kept."""
    for _ in itertools.count() if length is None else range(length):
        with torch.inference_mode():
            event, state = step(state)
        yield event.clone()  # outside of inference mode: an ordinary tensor, which may be learned from


class SequenceState(NamedTuple):
    """Where a sequence stands: its last event, and the memory of all before that one."""

    event: Float[Tensor, "batch event"]
    memory: State


class SequenceDensity(nn.Module):
    """A recurrent density that reads its own past: ``p(y_1..T) = prod_t p(y_t | y_1..t-1)``; what is read first is zero.

    Args:
        density: an `RMDN` or `FRMDN` with as many inputs as outputs: D, the size of an event.
        bptt_length: events a gradient goes back through, in training; None: all of the sequence. Values do not depend on it.

    Example:
        >>> from worldmodel import FRMDN, SequenceDensity
        >>> model = SequenceDensity(FRMDN(input_size=28, output_size=28, hidden_size=64, num_components=5))
        >>> rows = EventBatch(torch.zeros(2, 28, 28), torch.ones(2, 28), torch.zeros(2))
        >>> model.log_prob(rows).shape
        torch.Size([2])
        >>> model.sample(14, prefix=rows.event[:, :14]).shape  # the lower halves
        torch.Size([2, 14, 28])

    References:
        Razavi, Hosseini, Behzad, FRMDN, 2020, https://arxiv.org/abs/2008.02144 (speech and images).
        Graves, Generating Sequences With Recurrent Neural Networks, 2013, https://arxiv.org/abs/1308.0850.
    """

    def __init__(self, density: RMDN | FRMDN, bptt_length: int | None = None) -> None:
        super().__init__()
        validate_optional_positive_int(bptt_length=bptt_length)
        if density.input_size != density.output_size:
            raise ValueError(
                f"density must read what it predicts: inputs must be outputs, got {density.input_size} and "
                f"{density.output_size}"
            )
        self.density, self.bptt_length = density, bptt_length

    def __repr__(self) -> str:
        """The call that builds it."""
        bptt_length = "" if self.bptt_length is None else f", bptt_length={self.bptt_length}"
        return f"SequenceDensity({self.density!r}{bptt_length})"

    @property
    def event_dim(self) -> int:
        """D, the size of an event."""
        return self.density.output_size

    @property
    def config(self) -> dict[str, Any]:
        """What `worldmodel.registry.build_density` makes this model of again."""
        return {"density": type(self.density).__name__, **self.density.config, "bptt_length": self.bptt_length}

    @property
    def ceiling(self) -> float:
        """The most that log p of an event can be, in nats a dimension; infinite where nothing bounds it.

        `precision_ceiling`, and what affine couplings may add to it. Precision factors and splines have no bound.
        """
        if isinstance(self.density, RMDN):
            return math.inf if self.density.rank else precision_ceiling()
        couplings = len(self.density.flow.couplings)
        if self.density.base.rank or (couplings and self.density.spline):
            return math.inf
        changed = (self.event_dim + 1) // 2  # dimensions that a coupling scales
        return precision_ceiling() + LOG_SCALE_BOUND * couplings * changed / self.event_dim

    def initial(self, batch: int) -> SequenceState:
        """The state before the first event."""
        memory = self.density.initial(batch)
        return SequenceState(memory.hidden.new_zeros(batch, self.event_dim), memory)

    def observe(self, state: SequenceState, event: Float[Tensor, "batch time event"]) -> SequenceState:
        """Read events that happened."""
        _, memory = self.density.unroll(_shifted(state.event, event), state.memory)
        return SequenceState(event[:, -1], memory)

    def predict(self, state: SequenceState) -> tuple[Any, State]:
        """The distribution of the next event, with batch (B,) and event (D,); and the memory that goes with that event."""
        hidden, memory = self.density.unroll(state.event[:, None], state.memory)
        return self.density.distribution(hidden[:, 0]), memory

    def log_probs(
        self, batch: EventBatch, state: SequenceState | None = None
    ) -> tuple[Float[Tensor, "batch time"], SequenceState]:
        """``log p(y_t | y_1..t-1)`` in nats for each event, zero for padding; and the state after the last time.

        The Jacobian of ``batch`` is not in it. Go on from the state only where the sequence had no padding.
        """
        event, seen = masked_events(batch, self.event_dim)
        state = self.initial(len(event)) if state is None else state
        (values,), memory = tbptt_chunks(
            self._chunk, state.memory, self.bptt_length, _shifted(state.event, event), event
        )
        return torch.where(seen, values, 0), SequenceState(event[:, -1], memory)

    def log_prob(self, batch: EventBatch, state: SequenceState | None = None) -> Float[Tensor, "batch"]:
        """Log p of each sequence in nats, the Jacobian of ``batch`` included: the density of the data.

        Args:
            batch: the sequences; padding changes nothing.
            state: where they go on from; None: they begin.

        Raises:
            ValueError: ``batch`` has other shapes than the model was made for, or padding before its end.
        """
        return self.log_probs(batch, state)[0].sum(dim=1) + batch.log_jacobian

    def loss(self, batch: EventBatch, generator: Generator | None = None) -> Loss:
        """Mean over events of ``-log p(y_t | y_1..t-1)``: nats a frame, without the Jacobian, which no weight changes."""
        nll = masked_mean(-self.log_probs(batch)[0], batch.mask > 0)
        return Loss(nll, {"nll": nll.detach()})

    @torch.no_grad()
    def init_from_data(self, batch: EventBatch) -> None:
        """Begin near the data's own statistics: `worldmodel.fit` calls it with the first batch of a new training."""
        seen = batch.event[batch.mask > 0]
        if len(seen) > 1:
            self.density.init_from_statistics(seen.mean(dim=0), seen.std(dim=0))

    def stream(
        self,
        length: int | None = None,
        batch: int = 1,
        temperature: float | Tensor = 1.0,
        generator: Generator | None = None,
        prefix: Float[Tensor, "given past event"] | None = None,
    ) -> Iterator[Float[Tensor, "batch event"]]:
        """Draw events one at a time, in constant memory.

        Args:
            length: how many; None: without end.
            batch: how many sequences at once (where ``prefix`` holds several, one for each of them).
            temperature: see `GaussianMixture.sample`.
            generator: the source of all randomness.
            prefix: (batch or 1, T0, D) events that came before; they are not drawn again.
        """
        validate_temperature(temperature)
        given = with_prefix(prefix, batch, self.event_dim)
        with torch.no_grad():
            state = self.initial(batch if given is None else len(given))
            state = state if given is None else self.observe(state, given)
        return stream_steps(lambda before: self._draw(before, temperature, generator), state, length)

    def sample(
        self,
        length: int,
        batch: int = 1,
        temperature: float | Tensor = 1.0,
        generator: Generator | None = None,
        prefix: Float[Tensor, "given past event"] | None = None,
    ) -> Float[Tensor, "batch time event"]:
        """Draw ``length`` new events of each sequence, (B, length, D): what `stream` draws."""
        validate_positive_int(length=length)
        return torch.stack(list(self.stream(length, batch, temperature, generator, prefix)), dim=1)

    def _chunk(self, memory: State, before: Tensor, event: Tensor) -> tuple[tuple[Tensor], State]:
        hidden, memory = self.density.unroll(before, memory)
        return (self.density.distribution(hidden).log_prob(event),), tree_map(memory, to_float32)

    def _draw(
        self, state: SequenceState, temperature: float | Tensor, generator: Generator | None
    ) -> tuple[Tensor, SequenceState]:
        following, memory = self.predict(state)
        event = following.sample((), temperature, generator)
        return event, SequenceState(event, memory)


def _shifted(first: Float[Tensor, "batch event"], event: Float[Tensor, "batch time event"]) -> Tensor:
    """What is read at each time: the event before."""
    return torch.cat((first[:, None].to(event.dtype), event[:, :-1]), dim=1)
