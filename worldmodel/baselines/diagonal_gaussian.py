"""Diagonal Gaussians parameterized by precision, the distributions of latent variables."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.low_rank import LOG_TWO_PI


class DiagonalGaussian(NamedTuple):
    """A diagonal Gaussian parameterized by its mean and log-precision."""

    loc: Float[Tensor, "*batch latent"]
    log_precision: Float[Tensor, "*batch latent"]

    def rsample_from_noise(self, noise: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent"]:
        """Return the sample for given standard Normal numbers."""
        return self.loc + noise * torch.exp(-0.5 * self.log_precision)

    def log_prob(self, value: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch"]:
        """Return log p(value) in nats, summed over the event."""
        quadratic = self.log_precision.exp() * (value - self.loc).square()
        return 0.5 * (self.log_precision - LOG_TWO_PI - quadratic).sum(dim=-1)


def kl_divergence(q: DiagonalGaussian, p: DiagonalGaussian) -> Float[Tensor, "*batch"]:
    """Return KL(q || p) in nats.

    With log-precisions a: ``1/2 sum a_q - a_p - 1 + exp(a_p - a_q) + exp(a_p) (mu_q - mu_p)^2``.
    """
    difference = q.log_precision - p.log_precision
    distance = p.log_precision.exp() * (q.loc - p.loc).square()
    return 0.5 * (difference - 1 + torch.exp(-difference) + distance).sum(dim=-1)
