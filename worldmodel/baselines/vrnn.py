"""The variational recurrent neural network (VRNN): a latent variable at each time.

Start reading at `VRNN`. Its likelihoods are lower bounds of log p; those of an `RMDN` are exact. Training maximizes
`VRNN.elbo`; `VRNN.iwae_bound` is tighter.
"""

import itertools
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.distributions import kl_divergence

from worldmodel.baselines.diagonal_gaussian import DiagonalGaussian
from worldmodel.batches import EventBatch, Loss, to_float32
from worldmodel.distributions import GaussianMixture
from worldmodel.mdn_rnn import LOG_PRECISION_RANGE
from worldmodel.sequences import AbstractSequenceModel, masked_events, masked_mean, precision_ceiling, tbptt_chunks
from worldmodel.validation import constructor_repr, validate_optional_positive_int, validate_positive_int

MAX_ROWS = 256
"""Largest number of sampled sequences per pass of `VRNN.iwae_bound` (at least one per sequence)."""


class VRNNState(NamedTuple):
    """State of the LSTM."""

    hidden: Float[Tensor, "batch hidden"]
    cell: Float[Tensor, "batch hidden"]


class VRNN(AbstractSequenceModel):
    """A recurrent network with a latent z_t at each time, an input of the decoder and of the recurrence.

    Equation numbers follow the paper. Every phi is a network of ``depth`` hidden layers with rectified linear units::

        z_t ~ N(mu_0, sigma_0^2),        [mu_0, sigma_0] = phi_prior(h_t-1)               (5)
        x_t | z_t ~ a Gaussian mixture,  parameters = phi_dec(phi_z(z_t), h_t-1)          (6)
        h_t = LSTM(phi_x(x_t), phi_z(z_t), h_t-1)                                         (7)
        p(x, z) = prod_t p(x_t | z_1..t, x_1..t-1) p(z_t | x_1..t-1, z_1..t-1)            (8)
        z_t | x_t ~ N(mu_z, sigma_z^2),  [mu_z, sigma_z] = phi_enc(phi_x(x_t), h_t-1)     (9)
        q(z | x) = prod_t q(z_t | x_1..t, z_1..t-1)                                       (10)
        log p(x) >= E_q sum_t log p(x_t | z_1..t, x_1..t-1) - KL(q(z_t | ..) || p(z_t | ..))  (11)

    Log-precisions are clamped to the range of an `RMDN`, so that the ceilings are comparable.

    Args:
        event_dim: D, size of an event.
        hidden_size: Number of hidden units of the LSTM.
        latent_dim: Size of z.
        num_components: K, number of diagonal Gaussians of an event's mixture. 1: the paper's VRNN-Gauss.
        width: Number of units per hidden layer, and size of the outputs of phi_x and phi_z.
        depth: Number of hidden layers of each phi (four in the paper's speech models).
        bptt_length: Number of events that a gradient passes back through. None: the whole sequence. Values do not depend on it.

    Example:
        >>> from worldmodel.baselines import VRNN
        >>> model = VRNN(event_dim=28, hidden_size=64, num_components=5)
        >>> rows = EventBatch(torch.zeros(2, 28, 28), torch.ones(2, 28), torch.zeros(2))
        >>> model.elbo(rows).shape, model.iwae_bound(rows, num_samples=3).shape
        (torch.Size([2]), torch.Size([2]))

    References:
        Chung, Kastner, Dinh, Goel, Courville, Bengio, A Recurrent Latent Variable Model for Sequential Data, 2015,
        https://arxiv.org/abs/1506.02216.
    """

    def __init__(
        self,
        event_dim: int,
        hidden_size: int = 256,
        latent_dim: int = 64,
        num_components: int = 1,
        width: int = 256,
        depth: int = 2,
        bptt_length: int | None = None,
    ) -> None:
        super().__init__()
        validate_positive_int(
            event_dim=event_dim,
            hidden_size=hidden_size,
            latent_dim=latent_dim,
            num_components=num_components,
            width=width,
            depth=depth,
        )
        validate_optional_positive_int(bptt_length=bptt_length)
        self.event_dim, self.hidden_size, self.latent_dim, self.num_components = (
            event_dim,
            hidden_size,
            latent_dim,
            num_components,
        )
        self.width, self.depth, self.bptt_length = width, depth, bptt_length
        self.phi_x, self.phi_z = _layers(event_dim, width, depth), _layers(latent_dim, width, depth)
        self.prior = _MLP(hidden_size, width, depth, 2 * latent_dim)
        self.encoder = _MLP(width + hidden_size, width, depth, 2 * latent_dim)
        self.decoder = _MLP(width + hidden_size, width, depth, sum(self._sizes()))
        self.lstm = nn.LSTMCell(2 * width, hidden_size)
        self.reset_parameters()

    def __repr__(self) -> str:
        """Return the constructor call."""
        return constructor_repr(self, **{name: value for name, value in self.config.items() if name != "density"})

    def _sizes(self) -> tuple[int, int, int]:
        """Return the sizes of the decoder's outputs: logits, means, log-precisions."""
        return self.num_components, self.num_components * self.event_dim, self.num_components * self.event_dim

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize all distributions near N(0, 1), as in an `RMDN`, and open the forget gates."""
        for network in (self.prior, self.encoder):
            network.last.weight.mul_(0.1)
            network.last.bias.zero_()
        logits, loc, log_precision = self.decoder.last.bias.split(self._sizes())
        logits.zero_()
        loc.normal_(0.0, 0.5 if self.num_components > 1 else 0.0)
        log_precision.zero_()
        logits, _, log_precision = self.decoder.last.weight.split(self._sizes())
        logits.zero_()
        log_precision.mul_(0.1)
        self.lstm.bias_ih[self.hidden_size : 2 * self.hidden_size].fill_(1.0)  # as in `RMDN`

    @property
    def config(self) -> dict[str, Any]:
        """Settings from which `worldmodel.registry.build_density` rebuilds this model."""
        names = ("event_dim", "hidden_size", "latent_dim", "num_components", "width", "depth", "bptt_length")
        return {"density": "VRNN", **{name: getattr(self, name) for name in names}}

    @property
    def ceiling(self) -> float:
        """Upper bound of log p of an event in nats per dimension (`precision_ceiling`)."""
        return precision_ceiling()

    def extra_repr(self) -> str:
        """Return the arguments that the layers do not show."""
        return f"event_dim={self.event_dim}, latent_dim={self.latent_dim}, num_components={self.num_components}"

    def initial(self, batch: int) -> VRNNState:
        """Return the state before the first event."""
        zeros = self.lstm.weight_hh.new_zeros(batch, self.hidden_size)
        return VRNNState(zeros, zeros.clone())

    def observe(
        self, state: VRNNState, event: Float[Tensor, "batch time event"], generator: Generator | None = None
    ) -> VRNNState:
        """Return the state after observed events; the encoder samples their latents."""
        return tbptt_chunks(self._chunk, state, self.bptt_length, event, self._noise(event, generator))[1]

    def elbo(self, batch: EventBatch, generator: Generator | None = None) -> Float[Tensor, "batch"]:
        """Return the evidence lower bound (11) of each sequence in nats from one sample of q, with the Jacobian of ``batch``.

        Raises:
            ValueError: ``batch`` has the wrong shape, or padding that is not at the end.
        """
        event, valid = masked_events(batch, self.event_dim)
        log_event, divergence, _ = self._terms(event, generator)
        return torch.where(valid, log_event - divergence, 0).sum(dim=1) + batch.log_jacobian

    @torch.no_grad()
    def iwae_bound(
        self, batch: EventBatch, num_samples: int, generator: Generator | None = None
    ) -> Float[Tensor, "batch"]:
        """Return ``log 1/S sum_s p(x, z_s) / q(z_s | x)`` of each sequence in nats, z_s ~ q, with the Jacobian; no gradients.

        The mean over z is a lower bound of log p(x) that becomes tighter with more samples. For long sequences one sample
        dominates the sum, and a thousand times more samples tighten it little.

        References:
            Burda, Grosse, Salakhutdinov, Importance Weighted Autoencoders, 2015, https://arxiv.org/abs/1509.00519 (eq. 8).
        """
        validate_positive_int(num_samples=num_samples)
        event, valid = masked_events(batch, self.event_dim)
        many = max(1, MAX_ROWS // len(event))
        total = event.new_full((len(event),), -math.inf)
        for done in range(0, num_samples, many):
            count = min(many, num_samples - done)
            log_event, _, log_ratio = self._terms(event.repeat(count, 1, 1), generator)
            log_weight = torch.where(valid, (log_event + log_ratio).unflatten(0, (count, -1)), 0).sum(dim=-1)
            total = torch.logaddexp(total, log_weight.logsumexp(dim=0))
        return total - math.log(num_samples) + batch.log_jacobian

    def loss(self, batch: EventBatch, generator: Generator | None = None) -> Loss:
        """Return the mean of the negative bound over events, in nats per event, without the Jacobian; also log its KL part."""
        event, valid = masked_events(batch, self.event_dim)
        log_event, divergence, _ = self._terms(event, generator)
        value, part = masked_mean(divergence - log_event, valid), masked_mean(divergence, valid)
        return Loss(value, {"nll_bound": value.detach(), "kl": part.detach()})

    @torch.no_grad()
    def init_from_data(self, batch: EventBatch) -> None:
        """Initialize near the statistics of the data; `worldmodel.fit` passes the first batch of a new training."""
        event = batch.event[batch.mask > 0]
        if len(event) > 1:
            mean, std = event.mean(dim=0), event.std(dim=0).clamp(min=math.exp(-0.5 * LOG_PRECISION_RANGE[1]))
            _, weight, _ = self.decoder.last.weight.split(self._sizes())
            _, loc, log_precision = self.decoder.last.bias.split(self._sizes())
            weight.mul_(std.repeat(self.num_components)[:, None])
            loc.copy_((loc.view(self.num_components, -1) * std + mean).flatten())
            log_precision.copy_((-2 * std.log()).repeat(self.num_components))

    def _terms(self, event: Tensor, generator: Generator | None) -> tuple[Tensor, ...]:
        """Return log p(x_t | z_t), the KL, and log p(z_t) / q(z_t), each (batch, time)."""
        noise = self._noise(event, generator)
        return tbptt_chunks(self._chunk, self.initial(len(event)), self.bptt_length, event, noise)[0]

    def _noise(self, event: Tensor, generator: Generator | None) -> Tensor:
        """Sample noise time by time, so that padding after a sequence does not change its noise."""
        batch, time = event.shape[:2]
        return torch.stack(
            [event.new_empty(batch, self.latent_dim).normal_(generator=generator) for _ in range(time)], dim=1
        )

    def _chunk(self, state: VRNNState, event: Tensor, noise: Tensor) -> tuple[tuple[Tensor, ...], VRNNState]:
        """Run the encoder time by time; then apply prior and decoder to all times at once."""
        event_features, steps = to_float32(self.phi_x(event)), []
        for t in range(event.shape[1]):
            q = self._normal(self.encoder, torch.cat((event_features[:, t], state.hidden), dim=-1))  # (9)
            z = q.rsample_from_noise(noise[:, t])
            latent_features = to_float32(self.phi_z(z))
            steps.append((state.hidden, z, latent_features, q.loc, q.log_precision))
            state = self._advance(state, event_features[:, t], latent_features)
        before, z, latent_features, loc, log_precision = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))
        q, p = DiagonalGaussian(loc, log_precision, validate_args=False), self._normal(self.prior, before)  # (5)
        return (
            self._decode(latent_features, before).log_prob(event),
            kl_divergence(q, p),
            p.log_prob(z) - q.log_prob(z),
        ), state

    def _draw(
        self, state: VRNNState, temperature: float | Tensor, generator: Generator | None
    ) -> tuple[Tensor, VRNNState]:
        latent = self._normal(self.prior, state.hidden).sample((), temperature, generator)
        latent_features = self.phi_z(latent)
        event = self._decode(latent_features, state.hidden).sample((), temperature, generator)
        return event, self._advance(state, self.phi_x(event), latent_features)

    def _advance(self, state: VRNNState, event_features: Tensor, latent_features: Tensor) -> VRNNState:
        hidden, cell = self.lstm(torch.cat((event_features, latent_features), dim=-1), state)  # (7)
        return VRNNState(to_float32(hidden), to_float32(cell))

    def _normal(self, network: nn.Module, inputs: Tensor) -> DiagonalGaussian:
        loc, log_precision = to_float32(network(inputs)).chunk(2, dim=-1)
        return DiagonalGaussian(loc, log_precision.clamp(*LOG_PRECISION_RANGE), validate_args=False)

    def _decode(self, latent_features: Tensor, hidden: Tensor) -> GaussianMixture:
        parts = to_float32(self.decoder(torch.cat((latent_features, hidden), dim=-1))).split(
            self._sizes(), dim=-1
        )  # (6)
        loc, log_precision = (part.unflatten(-1, (self.num_components, self.event_dim)) for part in parts[1:])
        return GaussianMixture(parts[0], loc, log_precision.clamp(*LOG_PRECISION_RANGE), validate_args=False)


class _MLP(nn.Module):
    """Hidden layers, followed by a linear layer."""

    def __init__(self, input_size: int, width: int, depth: int, output_size: int) -> None:
        super().__init__()
        self.layers, self.last = _layers(input_size, width, depth), nn.Linear(width, output_size)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return self.last(self.layers(x))


def _layers(input_size: int, width: int, depth: int) -> nn.Sequential:
    """Return hidden layers with rectified linear units."""
    sizes = itertools.pairwise((input_size, *([width] * depth)))
    return nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in sizes))
