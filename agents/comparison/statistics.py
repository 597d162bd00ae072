"""How sure a difference between two models is, when both the trainings and the data are a few draws of many.

Start reading at `interval`. A difference that was measured with S training seeds on N sequences of G clusters (speakers,
font families, episodes) is ``d[s, i] = mu + training_s + cluster_g(i) + rest``. An interval over sequences alone takes the
trainings and the clusters for all there are; here both are draws, and the interval is for others of their kind.

References:
    Robust Inference with Multiway Clustering, A. C. Cameron, J. B. Gelbach, D. L. Miller, 2011,
    https://doi.org/10.1198/jbes.2010.07136: variances of both ways add up;
    Bias Reduction in Standard Errors for Linear Regression with Multi-Stage Samples, R. M. Bell, D. F. McCaffrey, 2002,
    Survey Methodology 28: few clusters of unequal size.
"""

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
GRID = 10_001
"""Points of the numerical integral behind `t_quantile`."""


class Interval(NamedTuple):
    """A mean with the interval around it."""

    mean: float
    half: float
    """Half of its width; nan where one training or one cluster does not tell."""
    freedom: float
    """Degrees of freedom of its t quantile."""

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval lies on one side of zero, otherwise 0."""
        return int(self.mean - self.half > 0) - int(self.mean + self.half < 0)

    def text(self, digits: int = 2) -> str:
        """``+1.20 ± 0.30``, or the mean alone where there is no interval."""
        mean = f"{self.mean:+.{digits}f}"
        return mean if math.isnan(self.half) else f"{mean} ± {self.half:.{digits}f}"


def interval(differences: np.ndarray, clusters: Sequence[Hashable] | None = None) -> Interval:
    """The mean of paired differences, with a 95 % interval over trainings and clusters of sequences.

    The variance is that of the mean over trainings, plus that over clusters; what both share is counted twice, which makes
    the interval a little too wide rather than too narrow. Degrees of freedom are Satterthwaite's, of S - 1 and at most G - 1.

    Args:
        differences: (S, N), a row for each training seed, paired with the reference by seed (same batches) and by sequence.
        clusters: (N,) what each sequence belongs to; None: each is a cluster of its own.

    Raises:
        ValueError: shapes do not fit together.
    """
    if differences.ndim != 2 or not differences.size:
        raise ValueError(f"differences must have shape (seeds, sequences), got {differences.shape}")
    labels = list(range(differences.shape[1])) if clusters is None else list(clusters)
    if len(labels) != differences.shape[1]:
        raise ValueError(f"clusters must name the cluster of {differences.shape[1]} sequences, got {len(labels)}")
    seeds, mean = differences.mean(axis=1), float(differences.mean())
    names = {name: place for place, name in enumerate(dict.fromkeys(labels))}
    member = np.array([names[label] for label in labels])
    sizes = np.bincount(member)
    if len(seeds) < 2 or len(sizes) < 2:
        return Interval(mean, math.nan, math.nan)
    means = np.bincount(member, differences.mean(axis=0)) / sizes
    parts = [variance(seeds, np.full(len(seeds), 1 / len(seeds))), variance(means, sizes / sizes.sum())]
    total = sum(part for part, _ in parts)
    if total == 0:
        return Interval(mean, 0.0, math.inf)
    freedom = total**2 / sum(part**2 / free for part, free in parts)
    return Interval(mean, t_quantile((1 + LEVEL) / 2, freedom) * math.sqrt(total), freedom)


def variance(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The variance of ``sum_g w_g x_g`` for independent x of one mean, and its degrees of freedom.

    ``V = sum_g w_g^2 r_g^2 / E_g`` with residuals ``r_g = x_g - sum_h w_h x_h`` and ``E_g = 1 - 2 w_g + sum_h w_h^2``, their
    variance where all x have variance 1: without bias then. With equal weights this is the sample variance through G, with
    G - 1 degrees of freedom; with unequal ones Bell's and McCaffrey's ``(tr B)^2 / tr(B B)`` of ``V = x^T B x`` are fewer.

    Args:
        values: (G,) x.
        weights: (G,) w, positive, with the sum 1.
    """
    residual = np.eye(len(values)) - weights  # every row: x_g less the weighted mean
    scale = weights**2 / (1 - 2 * weights + (weights**2).sum())
    form = residual.T @ (scale[:, None] * residual)
    return float(scale @ (values - weights @ values) ** 2), float(np.trace(form) ** 2 / (form**2).sum())


def t_quantile(probability: float, freedom: float) -> float:
    """Student's t: the value that is not passed with ``probability``, for any degrees of freedom from 1 up.

    With ``t = sqrt(freedom) tan(angle)`` the density is proportional to ``cos(angle)^(freedom - 1)``, which is integrated.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0.5 <= probability < 1:
        raise ValueError(f"probability must be at least 0.5 and below 1, got {probability:g}")
    if not freedom >= 1 - 1e-9:
        raise ValueError(f"freedom must be at least 1, got {freedom:g}")
    if freedom > 10_000:
        return NormalDist().inv_cdf(probability)
    angle = np.linspace(0, math.pi / 2, GRID)
    density = np.cos(angle).clip(0) ** max(freedom - 1, 0.0)
    share = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    found = float(np.interp(2 * probability - 1, share / share[-1], angle))
    return math.sqrt(freedom) * math.tan(found)
