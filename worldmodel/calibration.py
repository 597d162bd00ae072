"""Evaluate predictive distributions by their samples: calibration and energy scores.

Start reading at `integral_transform` and `energy_score`. Samples are (S, N, D) for N predictions; the truth is (N, D).
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

LEVELS = torch.linspace(0.05, 0.95, 19)
"""Probabilities at which `coverage` is computed."""


def integral_transform(
    samples: Float[Tensor, "draws events dims"], truth: Float[Tensor, "events dims"], generator: Generator | None = None
) -> Float[Tensor, "events dims"]:
    """Return the probability integral transform: uniform on [0, 1] in each dimension if the marginals are correct.

    The reverse does not hold. It is the rank of the truth among the samples, plus a uniform random number, divided by S + 1.

    References:
        Gneiting, Balabdaoui, Raftery, Probabilistic forecasts, calibration and sharpness, 2007 (section 3.1).
    """
    below = (samples < truth).sum(dim=0).to(truth)
    return (below + torch.rand(truth.shape, generator=generator).to(truth)) / (len(samples) + 1)


def coverage(transformed: Float[Tensor, "events dims"]) -> Float[Tensor, "levels"]:
    """Return the fraction of transformed values below each of `LEVELS`. A calibrated model gives `LEVELS`."""
    return torch.stack([(transformed < level).float().mean() for level in LEVELS])


def calibration_error(transformed: Float[Tensor, "events dims"]) -> float:
    """Return the mean distance of `coverage` to `LEVELS`: 0.5 if the truth is always outside on one side.

    For a calibrated model it tends to 0 as the number of events grows.
    """
    return float((coverage(transformed) - LEVELS).abs().mean())


def energy_score(samples: Float[Tensor, "draws events dims"], truth: Float[Tensor, "events dims"]) -> float:
    """Return ``E|X - y| - E|X - X'| / 2``, averaged over events: a proper score of the joint distribution; lower is better.

    Raises:
        ValueError: there are fewer than two samples.

    References:
        Gneiting and Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation, 2007 (equation 22).
    """
    if len(samples) < 2:
        raise ValueError(f"samples must have at least two draws, got {len(samples)}")
    to_truth = (samples - truth).norm(dim=-1).mean()
    half = len(samples) // 2
    among = (samples[:half] - samples[half : 2 * half]).norm(dim=-1).mean()
    return float(to_truth - among / 2)


def energy_distance(one: Float[Tensor, "count dims"], other: Float[Tensor, "count_other dims"]) -> float:
    """Return ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` of two sets of points.

    Its expectation is zero if and only if independent sets have the same distribution. Sets with shared start states, such as
    dreams and the real episodes from the same steps, are below zero at equal distributions. Compare these values with one
    another, not with zero.

    References:
        Székely and Rizzo, Energy statistics, 2013 (equation 5). This is the unbiased estimate; it may be negative.
    """

    def within(points: Tensor) -> Tensor:
        return torch.cdist(points, points).sum() / (len(points) * (len(points) - 1))

    return float(2 * torch.cdist(one, other).mean() - within(one) - within(other))
