"""The variational recurrent network: a latent variable at each time, whose likelihood is only bounded.

Start reading at `VRNN`. Its numbers are bounds on log p where those of an `RMDN` are log p itself: `VRNN.bound` is the one that
training raises, `VRNN.importance_sampled` a tighter one.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from worldmodel.arguments import at_least_one, at_least_one_if_given, call_of, check_temperature
from worldmodel.baselines.normal import Normal, kl
from worldmodel.batches import EventBatch, Loss, single
from worldmodel.density import LOG_PRECISION_RANGE
from worldmodel.distributions import GaussianMixture
from worldmodel.sequences import continued, frame_mean, in_pieces, precision_ceiling, real_events, streamed

ROWS = 256
"""At most so many samples of sequences are weighed at once (or one of each sequence, if there are more sequences)."""


class VRNNState(NamedTuple):
    """The LSTM's state."""

    hidden: Float[Tensor, "batch hidden"]
    cell: Float[Tensor, "batch hidden"]


class VRNN(nn.Module):
    """A recurrent network with a latent z_t at each time, given to the decoder and to the recurrence.

    Equation numbers are the paper's; every phi is a network of ``depth`` hidden layers with rectified linear units::

        z_t ~ N(mu_0, sigma_0^2),        [mu_0, sigma_0] = phi_prior(h_t-1)               (5)
        x_t | z_t ~ a Gaussian mixture,  parameters = phi_dec(phi_z(z_t), h_t-1)          (6)
        h_t = LSTM(phi_x(x_t), phi_z(z_t), h_t-1)                                         (7)
        p(x, z) = prod_t p(x_t | z_1..t, x_1..t-1) p(z_t | x_1..t-1, z_1..t-1)            (8)
        z_t | x_t ~ N(mu_z, sigma_z^2),  [mu_z, sigma_z] = phi_enc(phi_x(x_t), h_t-1)     (9)
        q(z | x) = prod_t q(z_t | x_1..t, z_1..t-1)                                       (10)
        log p(x) >= E_q sum_t log p(x_t | z_1..t, x_1..t-1) - KL(q(z_t | ..) || p(z_t | ..))  (11)

    All log-precisions are clamped to the range of an `RMDN`'s, so that ceilings compare.

    Args:
        event: D, the size of an event.
        hidden: width of the LSTM.
        latent: size of z.
        mixtures: K diagonal Gaussians that an event is drawn from; 1: the paper's VRNN-Gauss.
        width: units of the hidden layers, and size of what phi_x and phi_z put out.
        depth: hidden layers of each phi (the paper's speech models have four).
        truncate: events a gradient goes back through, in training; None: all of the sequence. Values do not depend on it.

    Example:
        >>> from worldmodel.baselines import VRNN
        >>> model = VRNN(event=28, hidden=64, mixtures=5)
        >>> rows = EventBatch(torch.zeros(2, 28, 28), torch.ones(2, 28), torch.zeros(2))
        >>> model.bound(rows).shape, model.importance_sampled(rows, samples=3).shape
        (torch.Size([2]), torch.Size([2]))

    References:
        Chung, Kastner, Dinh, Goel, Courville, Bengio, A Recurrent Latent Variable Model for Sequential Data, 2015,
        https://arxiv.org/abs/1506.02216.
    """

    def __init__(
        self,
        event: int,
        hidden: int = 256,
        latent: int = 64,
        mixtures: int = 1,
        width: int = 256,
        depth: int = 2,
        truncate: int | None = None,
    ) -> None:
        super().__init__()
        at_least_one(event=event, hidden=hidden, latent=latent, mixtures=mixtures, width=width, depth=depth)
        at_least_one_if_given(truncate=truncate)
        self.event, self.hidden, self.latent, self.mixtures = event, hidden, latent, mixtures
        self.width, self.depth, self.truncate = width, depth, truncate
        self.phi_x, self.phi_z = _layers(event, width, depth), _layers(latent, width, depth)
        self.prior = _Network(hidden, width, depth, 2 * latent)
        self.encoder = _Network(width + hidden, width, depth, 2 * latent)
        self.decoder = _Network(width + hidden, width, depth, sum(self._sizes()))
        self.lstm = nn.LSTMCell(2 * width, hidden)
        self._start()

    def __repr__(self) -> str:
        """The call that builds it."""
        return call_of(self, **{name: value for name, value in self.settings.items() if name != "density"})

    def _sizes(self) -> tuple[int, int, int]:
        """Outputs of the decoder: logits, means, log-precisions."""
        return self.mixtures, self.mixtures * self.event, self.mixtures * self.event

    @torch.no_grad()
    def _start(self) -> None:
        """Begin near N(0, 1) everywhere, as an `RMDN` does, and with a memory that lasts."""
        for network in (self.prior, self.encoder):
            network.last.weight.mul_(0.1)
            network.last.bias.zero_()
        logits, loc, log_precision = self.decoder.last.bias.split(self._sizes())
        logits.zero_()
        loc.normal_(0.0, 0.5 if self.mixtures > 1 else 0.0)
        log_precision.zero_()
        logits, _, log_precision = self.decoder.last.weight.split(self._sizes())
        logits.zero_()
        log_precision.mul_(0.1)
        self.lstm.bias_ih[self.hidden : 2 * self.hidden].fill_(1.0)  # forget gates start open (Jozefowicz et al., 2015)

    @property
    def settings(self) -> dict[str, Any]:
        """What `worldmodel.builders.build_density` makes this model of again."""
        names = ("event", "hidden", "latent", "mixtures", "width", "depth", "truncate")
        return {"density": "VRNN", **{name: getattr(self, name) for name in names}}

    @property
    def ceiling(self) -> float:
        """The most that log p of an event can be, in nats a dimension (`precision_ceiling`)."""
        return precision_ceiling()

    def extra_repr(self) -> str:
        """The arguments that the layers do not show."""
        return f"event={self.event}, latent={self.latent}, mixtures={self.mixtures}"

    def initial(self, batch: int) -> VRNNState:
        """The state before the first event."""
        zeros = self.lstm.weight_hh.new_zeros(batch, self.hidden)
        return VRNNState(zeros, zeros.clone())

    def observe(
        self, state: VRNNState, event: Float[Tensor, "batch time event"], generator: Generator | None = None
    ) -> VRNNState:
        """Read events that happened; their latents are drawn from the encoder."""
        return in_pieces(self._piece, state, self.truncate, event, self._noise(event, generator))[1]

    def bound(self, batch: EventBatch, generator: Generator | None = None) -> Float[Tensor, "batch"]:
        """The evidence lower bound of each sequence in nats (11), by one sample of q; the Jacobian of ``batch`` included.

        Raises:
            ValueError: ``batch`` has other shapes than the model was made for, or padding before its end.
        """
        event, seen = real_events(batch, self.event)
        log_event, divergence, _ = self._terms(event, generator)
        return torch.where(seen, log_event - divergence, 0).sum(dim=1) + batch.log_jacobian

    @torch.no_grad()
    def importance_sampled(
        self, batch: EventBatch, samples: int, generator: Generator | None = None
    ) -> Float[Tensor, "batch"]:
        """``log 1/S sum_s p(x, z_s) / q(z_s | x)`` of each sequence in nats, z_s ~ q; the Jacobian included.

        A bound too, in the mean over z, and nearer to log p(x) the more samples there are; over long sequences one sample
        outweighs all others, and a thousand times as many win little. No gradients.

        References:
            Burda, Grosse, Salakhutdinov, Importance Weighted Autoencoders, 2015, https://arxiv.org/abs/1509.00519 (eq. 8).
        """
        at_least_one(samples=samples)
        event, seen = real_events(batch, self.event)
        many = max(1, ROWS // len(event))
        total = event.new_full((len(event),), -math.inf)
        for done in range(0, samples, many):
            count = min(many, samples - done)
            log_event, _, log_ratio = self._terms(event.repeat(count, 1, 1), generator)
            log_weight = torch.where(seen, (log_event + log_ratio).unflatten(0, (count, -1)), 0).sum(dim=-1)
            total = torch.logaddexp(total, log_weight.logsumexp(dim=0))
        return total - math.log(samples) + batch.log_jacobian

    def loss(self, batch: EventBatch, generator: Generator | None = None) -> Loss:
        """Mean over events of the negative bound: nats a frame, without the Jacobian; and the part of it that is KL."""
        event, seen = real_events(batch, self.event)
        log_event, divergence, _ = self._terms(event, generator)
        value, part = frame_mean(divergence - log_event, seen), frame_mean(divergence, seen)
        return Loss(value, {"nll_bound": value.detach(), "kl": part.detach()})

    @torch.no_grad()
    def start_from_batch(self, batch: EventBatch) -> None:
        """Begin near the data's own statistics: `worldmodel.fit` calls it with the first batch of a new training."""
        seen = batch.event[batch.mask > 0]
        if len(seen) > 1:
            mean, std = seen.mean(dim=0), seen.std(dim=0).clamp(min=math.exp(-0.5 * LOG_PRECISION_RANGE[1]))
            _, weight, _ = self.decoder.last.weight.split(self._sizes())
            _, loc, log_precision = self.decoder.last.bias.split(self._sizes())
            weight.mul_(std.repeat(self.mixtures)[:, None])
            loc.copy_((loc.view(self.mixtures, -1) * std + mean).flatten())
            log_precision.copy_((-2 * std.log()).repeat(self.mixtures))

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
            temperature: scales the variance of z, and tempers the mixture as `GaussianMixture.sample` does.
            generator: the source of all randomness.
            prefix: (batch or 1, T0, D) events that came before; they are not drawn again, but their latents are.
        """
        check_temperature(temperature)
        given = continued(prefix, batch, self.event)
        with torch.no_grad():
            state = self.initial(batch if given is None else len(given))
            state = state if given is None else self.observe(state, given, generator)
        return streamed(lambda before: self._draw(before, temperature, generator), state, length)

    def sample(
        self,
        length: int,
        batch: int = 1,
        temperature: float | Tensor = 1.0,
        generator: Generator | None = None,
        prefix: Float[Tensor, "given past event"] | None = None,
    ) -> Float[Tensor, "batch time event"]:
        """Draw ``length`` new events of each sequence, (B, length, D): what `stream` draws."""
        at_least_one(length=length)
        return torch.stack(list(self.stream(length, batch, temperature, generator, prefix)), dim=1)

    def _terms(self, event: Tensor, generator: Generator | None) -> tuple[Tensor, ...]:
        """Of each time, (batch, time): log p(x_t | z_t), the KL, and log p(z_t) / q(z_t)."""
        noise = self._noise(event, generator)
        return in_pieces(self._piece, self.initial(len(event)), self.truncate, event, noise)[0]

    def _noise(self, event: Tensor, generator: Generator | None) -> Tensor:
        """Drawn time by time, so that padding behind a sequence changes none of what is drawn for it."""
        batch, time = event.shape[:2]
        return torch.stack(
            [event.new_empty(batch, self.latent).normal_(generator=generator) for _ in range(time)], dim=1
        )

    def _piece(self, state: VRNNState, event: Tensor, noise: Tensor) -> tuple[tuple[Tensor, ...], VRNNState]:
        """Walk through time with the encoder alone; prior and decoder then see all times at once."""
        read, steps = single(self.phi_x(event)), []
        for t in range(event.shape[1]):
            q = self._normal(self.encoder, torch.cat((read[:, t], state.hidden), dim=-1))  # (9)
            z = q.at(noise[:, t])
            seen = single(self.phi_z(z))
            steps.append((state.hidden, z, seen, *q))
            state = self._advance(state, read[:, t], seen)
        before, z, seen, loc, log_precision = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))
        q, p = Normal(loc, log_precision), self._normal(self.prior, before)  # (5)
        return (self._decode(seen, before).log_prob(event), kl(q, p), p.log_prob(z) - q.log_prob(z)), state

    def _draw(
        self, state: VRNNState, temperature: float | Tensor, generator: Generator | None
    ) -> tuple[Tensor, VRNNState]:
        p = self._normal(self.prior, state.hidden)
        root = torch.as_tensor(temperature).to(p.loc).sqrt()[..., None]
        seen = self.phi_z(p.at(root * torch.empty_like(p.loc).normal_(generator=generator)))
        event = self._decode(seen, state.hidden).sample((), temperature, generator)
        return event, self._advance(state, self.phi_x(event), seen)

    def _advance(self, state: VRNNState, read: Tensor, seen: Tensor) -> VRNNState:
        hidden, cell = self.lstm(torch.cat((read, seen), dim=-1), state)  # (7)
        return VRNNState(single(hidden), single(cell))

    def _normal(self, network: nn.Module, seen: Tensor) -> Normal:
        loc, log_precision = single(network(seen)).chunk(2, dim=-1)
        return Normal(loc, log_precision.clamp(*LOG_PRECISION_RANGE))

    def _decode(self, seen: Tensor, hidden: Tensor) -> GaussianMixture:
        parts = single(self.decoder(torch.cat((seen, hidden), dim=-1))).split(self._sizes(), dim=-1)  # (6)
        loc, log_precision = (part.unflatten(-1, (self.mixtures, self.event)) for part in parts[1:])
        return GaussianMixture(parts[0], loc, log_precision.clamp(*LOG_PRECISION_RANGE))


class _Network(nn.Module):
    """Hidden layers, and a linear one behind them."""

    def __init__(self, inputs: int, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.layers, self.last = _layers(inputs, width, depth), nn.Linear(width, outputs)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return self.last(self.layers(x))


def _layers(inputs: int, width: int, depth: int) -> nn.Sequential:
    """Hidden layers with rectified linear units."""
    sizes = itertools.pairwise((inputs, *([width] * depth)))
    return nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in sizes))
