"""The RMDN of Ha's code: one scalar mixture per dimension, instead of one joint mixture.

Start reading at `PerDimensionRMDN`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from worldmodel.batches import to_float32
from worldmodel.distributions import AbstractTemperedDistribution, Batch, Event, GaussianMixture, Temperature, Value
from worldmodel.mdn_rnn import LOG_PRECISION_RANGE, RMDN


class PerDimensionMixture(AbstractTemperedDistribution):
    """D independent scalar mixtures of K Gaussians; the log-likelihood is summed over them.

    Args:
        scalar: Mixture with batch shape (*batch, D) and event shape (1,).
        validate_args: Whether to validate values. None: torch's default, True.
    """

    def __init__(self, scalar: GaussianMixture, validate_args: bool | None = None) -> None:
        self.scalar = scalar
        super().__init__(scalar.batch_shape[:-1], scalar.batch_shape[-1:], validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether there is a single component per dimension."""
        return self.scalar.has_rsample

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the distribution with the scalar mixtures expanded to a batch shape."""
        return type(self)(self.scalar.expand((*batch_shape, *self.event_shape)), self._validate_args)

    def log_prob(self, value: Value) -> Batch:
        """Return log p(value) in nats, summed over the event."""
        self._validate_value(value)
        return self.scalar.log_prob(value.unsqueeze(-1)).sum(dim=-1)

    def rsample_from_noise(
        self,
        gumbel: Tensor,
        normal: Tensor,
        temperature: Temperature = 1.0,
    ) -> Tensor:
        """Compute the samples for standard Gumbel numbers (*shape_batch, D, K) and Normal numbers (*shape_batch, D)."""
        return self.scalar.rsample_from_noise(gumbel, normal.unsqueeze(-1), _per_dimension(temperature)).squeeze(-1)

    @property
    def weights(self) -> Tensor:
        """Probabilities of the components, averaged over the dimensions."""
        return self.scalar.weights.mean(dim=-2)

    @property
    def mean(self) -> Event:
        """Mean of each dimension."""
        return self.scalar.mean.squeeze(-1)

    @property
    def variance(self) -> Event:
        """Variance of each dimension."""
        return self.scalar.variance.squeeze(-1)

    @property
    def mode(self) -> Event:
        """Mean of the component with the largest weight, in each dimension."""
        return self.scalar.mode.squeeze(-1)

    def _draw(self, sample_shape: tuple[int, ...], temperature: Temperature, generator: Generator | None) -> Tensor:
        return self.scalar._draw(sample_shape, _per_dimension(temperature), generator).squeeze(-1)


def _per_dimension(temperature: Temperature) -> Temperature:
    """Expand a temperature to the dimensions of an event."""
    return temperature.unsqueeze(-1) if isinstance(temperature, Tensor) else temperature


class PerDimensionRMDN(RMDN):
    """An LSTM with a mixture of K scalar Gaussians for each of D dimensions; an `RMDN` has one joint mixture of K.

    It has K^D combinations of components instead of K, and no dependence between dimensions. Its likelihoods are comparable
    with those of other densities over the same event; its K is not comparable with the K of a joint mixture.

    Args:
        input_size: Size of the input at each time.
        output_size: D, size of the event.
        hidden_size: Number of hidden units of the LSTM.
        num_components: K, number of components per dimension.

    References:
        Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122, and its code.
    """

    def __init__(self, input_size: int, output_size: int, hidden_size: int = 256, num_components: int = 5) -> None:
        super().__init__(input_size, output_size, hidden_size, num_components)
        self.head = nn.Linear(hidden_size, 3 * num_components * output_size)
        with torch.no_grad():
            logits, loc, log_precision = self.head.bias.split(num_components * output_size)
            logits.zero_()
            log_precision.zero_()
            loc.normal_(0.0, 0.5)
            self.head.weight[2 * num_components * output_size :].mul_(0.1)

    @property
    def config(self) -> dict[str, int]:
        """Arguments that rebuild this module."""
        return {name: getattr(self, name) for name in ("input_size", "output_size", "hidden_size", "num_components")}

    @property
    def noise_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the standard Gumbel and Normal numbers of one sample."""
        return (self.output_size, self.num_components), (self.output_size,)

    def init_from_statistics(self, mean: Float[Tensor, "outputs"], std: Float[Tensor, "outputs"]) -> None:
        """Move the initial distribution to the mean and standard deviation of the data; call it once, on new weights."""
        k, d = self.num_components, self.output_size
        std = std.clamp(min=math.exp(-0.5 * LOG_PRECISION_RANGE[1]))
        with torch.no_grad():
            _, weight, _ = self.head.weight.split(k * d)
            _, loc, log_precision = self.head.bias.split(k * d)
            weight.mul_(std.repeat_interleave(k)[:, None])
            loc.copy_((loc.view(d, k) * std[:, None] + mean[:, None]).flatten())
            log_precision.copy_((-2 * std.log())[:, None].expand(d, k).flatten())

    def distribution(self, h: Float[Tensor, "*batch hidden"]) -> PerDimensionMixture:
        """Return the D mixtures for hidden states."""
        return PerDimensionMixture(self.mixtures(self.head(h)), validate_args=False)

    def mixtures(self, outputs: Float[Tensor, "*batch outputs"]) -> GaussianMixture:
        """Return the D scalar mixtures for outputs of the head, batch shape (*batch, D)."""
        k, d = self.num_components, self.output_size
        logits, loc, log_precision = (part.unflatten(-1, (d, k)) for part in to_float32(outputs).split(k * d, dim=-1))
        log_precision = log_precision.clamp(*LOG_PRECISION_RANGE).unsqueeze(-1)
        return GaussianMixture(logits, loc.unsqueeze(-1), log_precision, validate_args=False)
