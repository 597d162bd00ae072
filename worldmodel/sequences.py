"""Autoregressive densities of sequences, ``p(y_1..T) = prod_t p(y_t | y_1..t-1)``, such as speech and rows of images.

Start reading at `SequenceDensity`. `baselines.VRNN` shares the functions before it: masks, truncated back-propagation through
time, and sampling one event at a time.
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
"""Number of times per chunk without gradients. The outputs of a mixture are far larger than its inputs."""

StateT = TypeVar("StateT", bound=tuple[Any, ...])


def precision_ceiling() -> float:
    """Return the upper bound of log N in nats per dimension: ``(max log-precision - log 2 pi) / 2``, about 6.08.

    This is the only bound of a likelihood of data without variation (digital silence, a constant pixel). Report it beside
    every likelihood of these data: `SequenceDensity.ceiling` and `VRNN.ceiling`.
    """
    return 0.5 * (LOG_PRECISION_RANGE[1] - LOG_TWO_PI)


def masked_events(
    batch: EventBatch, event_dim: int
) -> tuple[Float[Tensor, "batch time event"], Bool[Tensor, "batch time"]]:
    """Return the events with zeros at the padding, and the mask as booleans.

    Raises:
        ValueError: a shape does not match ``event_dim``, or padding is not at the end.
    """
    event, mask, log_jacobian = batch
    if event.ndim != 3 or 0 in event.shape or event.shape[-1] != event_dim:
        raise ValueError(f"batch.event must have shape (batch > 0, time > 0, {event_dim}), got {tuple(event.shape)}")
    if mask.shape != event.shape[:2]:
        raise ValueError(f"batch.mask must have shape {tuple(event.shape[:2])}, got {tuple(mask.shape)}")
    if log_jacobian.shape != event.shape[:1]:
        raise ValueError(f"batch.log_jacobian must have shape ({len(event)},), got {tuple(log_jacobian.shape)}")
    valid = mask > 0
    if bool((valid[:, 1:] & ~valid[:, :-1]).any()):
        raise ValueError("batch.mask must be ones and then zeros in every sequence, got ones after zeros")
    return torch.where(valid[..., None], event, 0), valid


def tbptt_chunks(
    step: Callable[..., tuple[tuple[Tensor, ...], StateT]], state: StateT, bptt_length: int | None, *sequences: Tensor
) -> tuple[tuple[Tensor, ...], StateT]:
    """Process sequences (batch, time, ...) in chunks of ``bptt_length`` times: truncated back-propagation through time.

    ``step(state, *chunks)`` returns tensors (batch, time, ...) and the state after them. The state passes from chunk to chunk;
    gradients do not. A chunk stores its inputs and its state, and recomputes the rest for its gradient. Memory use therefore
    does not grow with time, and an update takes 2 to 2.5 times as long.

    Args:
        step: Function that processes a chunk.
        state: State before the first chunk.
        bptt_length: Length of the chunks. None: one chunk with gradients, and chunks of `EVAL_CHUNK` without gradients.
        sequences: Tensors that are split along the second axis.

    Returns:
        The concatenated outputs of ``step``, and the last state, which has no gradient if ``bptt_length`` is given.
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


def masked_mean(values: Float[Tensor, "batch time"], valid: Bool[Tensor, "batch time"]) -> Float[Tensor, ""]:
    """Return the mean over events that are not padding."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


class AbstractSequenceModel(nn.Module):
    """A generative model of sequences that is sampled one event after another."""

    event_dim: int
    """D, the size of an event."""

    def initial(self, batch: int) -> Any:
        """Return the state before the first event."""
        raise NotImplementedError

    def observe(self, state: Any, event: Float[Tensor, "batch time event"], generator: Generator | None = None) -> Any:
        """Return the state after observed events; ``generator`` is the source of the latents, if the model has any."""
        raise NotImplementedError

    def _draw(self, state: Any, temperature: float | Tensor, generator: Generator | None) -> tuple[Tensor, Any]:
        """Sample the next event; return it and the state after it."""
        raise NotImplementedError

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
            length: Number of events. None: endless.
            batch: Number of sequences. If ``prefix`` has several sequences, there is one sequence per prefix.
            temperature: Temperature of the mixtures, as in `GaussianMixture.sample`, and of the latents of a `VRNN`.
            generator: Source of all random numbers. None: torch's default generator.
            prefix: Events (batch or 1, T0, D) before the first sampled one; they are not returned.

        Raises:
            ValueError: an argument is out of range, or ``prefix`` has the wrong shape.
        """
        validate_temperature(temperature)
        validate_positive_int(batch=batch)
        if prefix is not None:
            fits = prefix.ndim == 3 and 0 not in prefix.shape and prefix.shape[-1] == self.event_dim
            if not fits or not (batch in (1, len(prefix)) or len(prefix) == 1):
                sequences = "batch > 0" if batch == 1 else f"{batch} or 1"
                wanted = f"({sequences}, time > 0, {self.event_dim})"
                raise ValueError(f"prefix must have shape {wanted}, got {tuple(prefix.shape)}")
            batch = max(batch, len(prefix))
        with torch.no_grad():
            state = self.initial(batch)
            if prefix is not None:
                state = self.observe(state, prefix.expand(batch, -1, -1), generator)
        return self._stream(state, length, temperature, generator)

    def _stream(
        self, state: Any, length: int | None, temperature: float | Tensor, generator: Generator | None
    ) -> Iterator[Tensor]:
        for _ in itertools.count() if length is None else range(length):
            with torch.inference_mode():
                event, state = self._draw(state, temperature, generator)
            yield event.clone()  # a copy outside inference mode is an ordinary tensor, usable for training

    def sample(
        self,
        length: int,
        batch: int = 1,
        temperature: float | Tensor = 1.0,
        generator: Generator | None = None,
        prefix: Float[Tensor, "given past event"] | None = None,
    ) -> Float[Tensor, "batch time event"]:
        """Draw ``length`` new events of each sequence, (B, length, D), with `stream`."""
        validate_positive_int(length=length)
        return torch.stack(list(self.stream(length, batch, temperature, generator, prefix)), dim=1)


class SequenceState(NamedTuple):
    """State of a sequence: the last event, and the recurrent state of all events before it."""

    event: Float[Tensor, "batch event"]
    memory: State


class SequenceDensity(AbstractSequenceModel):
    """An autoregressive recurrent density, ``p(y_1..T) = prod_t p(y_t | y_1..t-1)``; the first input is zero.

    Args:
        density: Network with ``input_size`` and ``output_size`` D, the size of an event.
        bptt_length: Number of events that a gradient passes back through. None: the whole sequence. Values do not depend on it.

    Raises:
        ValueError: ``bptt_length`` is invalid, or the sizes of ``density`` differ.

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
                f"density must have equal input_size and output_size, got {density.input_size} and "
                f"{density.output_size}"
            )
        if density.residual:
            raise ValueError("density must not be residual: the first event has no event before it, got residual=True")
        self.density, self.bptt_length, self.event_dim = density, bptt_length, density.output_size

    def __repr__(self) -> str:
        """Return the constructor call."""
        bptt_length = "" if self.bptt_length is None else f", bptt_length={self.bptt_length}"
        return f"SequenceDensity({self.density!r}{bptt_length})"

    @property
    def config(self) -> dict[str, Any]:
        """Settings from which `worldmodel.registry.build_density` rebuilds this model."""
        return {"density": type(self.density).__name__, **self.density.config, "bptt_length": self.bptt_length}

    @property
    def ceiling(self) -> float:
        """Upper bound of log p of an event in nats per dimension; infinite if there is no bound.

        It is `precision_ceiling` plus the largest log-determinant of the affine couplings and that of the whitening. Precision
        factors and splines have no bound.
        """
        rmdn = self.density if isinstance(self.density, RMDN) else self.density.base
        whitened = 0.0 if rmdn.whitening is None else float(rmdn.whitening.log_det) / self.event_dim
        if isinstance(self.density, RMDN):
            return math.inf if self.density.rank else precision_ceiling() + whitened
        couplings = len(self.density.flow.couplings)
        if self.density.base.rank or (couplings and self.density.spline):
            return math.inf
        changed = (self.event_dim + 1) // 2  # number of dimensions that a coupling scales
        return precision_ceiling() + whitened + LOG_SCALE_BOUND * couplings * changed / self.event_dim

    def initial(self, batch: int) -> SequenceState:
        """Return the state before the first event."""
        memory = self.density.initial(batch)
        return SequenceState(memory.hidden.new_zeros(batch, self.event_dim), memory)

    def observe(
        self, state: SequenceState, event: Float[Tensor, "batch time event"], generator: Generator | None = None
    ) -> SequenceState:
        """Return the state after observed events; ``generator`` is not used."""
        _, memory = self.density.unroll(_shifted(state.event, event), state.memory)
        return SequenceState(event[:, -1], memory)

    def predict(self, state: SequenceState) -> tuple[Any, State]:
        """Return the distribution of the next event, batch shape (B,) and event shape (D,), and the next recurrent state."""
        hidden, memory = self.density.unroll(state.event[:, None], state.memory)
        return self.density.distribution(hidden[:, 0]), memory

    def log_probs(
        self, batch: EventBatch, state: SequenceState | None = None
    ) -> tuple[Float[Tensor, "batch time"], SequenceState]:
        """Return ``log p(y_t | y_1..t-1)`` in nats for each event, zero for padding, and the state after the last time.

        It excludes the Jacobian of ``batch``. The state is valid only for sequences without padding.
        """
        event, valid = masked_events(batch, self.event_dim)
        state = self.initial(len(event)) if state is None else state
        (values,), memory = tbptt_chunks(
            self._chunk, state.memory, self.bptt_length, _shifted(state.event, event), event
        )
        return torch.where(valid, values, 0), SequenceState(event[:, -1], memory)

    def log_prob(self, batch: EventBatch, state: SequenceState | None = None) -> Float[Tensor, "batch"]:
        """Return the log-density of the data of each sequence in nats, including the Jacobian of ``batch``.

        Args:
            batch: Sequences; padding does not change the result.
            state: State before the sequences. None: the initial state.

        Raises:
            ValueError: ``batch`` has the wrong shape, or padding that is not at the end.
        """
        return self.log_probs(batch, state)[0].sum(dim=1) + batch.log_jacobian

    def loss(self, batch: EventBatch, generator: Generator | None = None) -> Loss:
        """Return the mean of ``-log p(y_t | y_1..t-1)`` over events, in nats per event, without the constant Jacobian."""
        nll = masked_mean(-self.log_probs(batch)[0], batch.mask > 0)
        return Loss(nll, {"nll": nll.detach()})

    @torch.no_grad()
    def init_from_data(self, batch: EventBatch) -> None:
        """Initialize near the statistics of the data; `worldmodel.fit` passes the first batch of a new training."""
        event = batch.event[batch.mask > 0]
        if len(event) > 1:
            self.density.init_from_data(event, event)

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
    """Return the input at each time: the event before it."""
    return torch.cat((first[:, None].to(event.dtype), event[:, :-1]), dim=1)
