"""Diagonal Gaussians parameterized by precision, the distributions of latent variables."""

import torch
from torch import Generator, Tensor
from torch.distributions import constraints, register_kl

from worldmodel.distributions import AbstractTemperedDistribution, Batch, Event, Samples, Temperature, Value
from worldmodel.low_rank import LOG_TWO_PI
from worldmodel.validation import validate_temperature


class DiagonalGaussian(AbstractTemperedDistribution):
    """A diagonal Gaussian parameterized by its mean and log-precision.

    Args:
        loc: (*batch, D), the mean.
        log_precision: (*batch, D).
        validate_args: Whether to validate parameters and values. None: torch's default, True.
    """

    has_rsample = True
    arg_constraints = {"loc": constraints.real_vector, "log_precision": constraints.real_vector}

    def __init__(self, loc: Event, log_precision: Event, validate_args: bool | None = None) -> None:
        self.loc, self.log_precision = loc, log_precision
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args)

    @property
    def mean(self) -> Event:
        """The mean."""
        return self.loc

    mode = mean

    @property
    def variance(self) -> Event:
        """Variance of each dimension."""
        return torch.exp(-self.log_precision)

    def log_prob(self, value: Value) -> Batch:
        """Return log p(value) in nats, summed over the event."""
        self._validate_value(value)
        quadratic = self.log_precision.exp() * (value - self.loc).square()
        return 0.5 * (self.log_precision - LOG_TWO_PI - quadratic).sum(dim=-1)

    def rsample_from_noise(self, normal: Samples) -> Samples:
        """Return the sample for given standard Normal numbers."""
        return self.loc + normal * torch.exp(-0.5 * self.log_precision)

    def _draw(self, sample_shape: tuple[int, ...], temperature: Temperature, generator: Generator | None) -> Tensor:
        validate_temperature(temperature)
        root = torch.as_tensor(temperature).to(self.loc).sqrt().unsqueeze(-1)
        normal = self.loc.new_empty(*sample_shape, *self.loc.shape).normal_(generator=generator)
        return self.rsample_from_noise(root * normal)


@register_kl(DiagonalGaussian, DiagonalGaussian)
def _kl_diagonal_gaussians(q: DiagonalGaussian, p: DiagonalGaussian) -> Batch:
    """Return KL(q || p) in nats: ``1/2 sum a_q - a_p - 1 + exp(a_p - a_q) + exp(a_p) (mu_q - mu_p)^2`` of log-precisions a."""
    difference = q.log_precision - p.log_precision
    distance = p.log_precision.exp() * (q.loc - p.loc).square()
    return 0.5 * (difference - 1 + torch.exp(-difference) + distance).sum(dim=-1)
