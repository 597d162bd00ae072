"""How good is a predictive distribution, beyond its likelihood: judged by its samples, whatever made them.

All functions take samples (S, N, D) of N predictions and what came true (N, D).
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

LEVELS = torch.linspace(0.05, 0.95, 19)
"""Probabilities at which calibration is looked at."""


def integral_transform(
    samples: Float[Tensor, "draws events dims"], truth: Float[Tensor, "events dims"], generator: Generator | None = None
) -> Float[Tensor, "events dims"]:
    """The probability integral transform: uniform on [0, 1] in each dimension if, and only if, margins are right.

    Ranks of the truth among the samples, with a uniform number for the place within a rank.

    References:
        Gneiting, Balabdaoui, Raftery, Probabilistic forecasts, calibration and sharpness, 2007 (section 3.1).
    """
    below = (samples < truth).sum(dim=0).to(truth)
    return (below + torch.rand(truth.shape, generator=generator).to(truth)) / (len(samples) + 1)


def coverage(transformed: Float[Tensor, "events dims"]) -> Float[Tensor, "levels"]:
    """The share of transformed values below each of `LEVELS`, over all events and dimensions: the levels, if calibrated."""
    return torch.stack([(transformed < level).float().mean() for level in LEVELS])


def calibration_error(transformed: Float[Tensor, "events dims"]) -> float:
    """The mean distance between `coverage` and `LEVELS`: zero if calibrated; 0.5 if the truth is always far on one side."""
    return float((coverage(transformed) - LEVELS).abs().mean())


def energy_score(samples: Float[Tensor, "draws events dims"], truth: Float[Tensor, "events dims"]) -> float:
    """``E|X - y| - E|X - X'| / 2``, averaged over events: a proper score of the whole distribution; lower is better.

    References:
        Gneiting and Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation, 2007 (equation 22).
    """
    to_truth = (samples - truth).norm(dim=-1).mean()
    half = len(samples) // 2
    among = (samples[:half] - samples[half : 2 * half]).norm(dim=-1).mean()
    return float(to_truth - among / 2)


def energy_distance(one: Float[Tensor, "count dims"], other: Float[Tensor, "count_other dims"]) -> float:
    """``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` between two sets of points: zero if, and only if, they are alike.

    That is for sets drawn independently. Of sets that share what they began with, such as dreams and what really followed the
    same moments, those that are alike come out below zero: such sets are to be compared with one another, not with zero.

    References:
        Székely and Rizzo, Energy statistics, 2013 (equation 5). This is the unbiased estimate; it may fall below zero.
    """

    def within(points: Tensor) -> Tensor:
        return torch.cdist(points, points).sum() / (len(points) * (len(points) - 1))

    return float(2 * torch.cdist(one, other).mean() - within(one) - within(other))
