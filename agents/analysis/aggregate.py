"""Scores of several training runs in one: the interquartile mean with its interval. Start reading at `aggregate`.

References:
    Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, 2021, https://arxiv.org/abs/2108.13264.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from worldmodel.agents.analysis.statistics import LEVEL

RESAMPLES = 10_000
"""Number of bootstrap resamples."""
TRIMMED = 0.25
"""Fraction of the runs that the interquartile mean leaves out on each side."""


class Aggregate(NamedTuple):
    """Scores of several runs; the score of a run is the mean return of its episodes."""

    iqm: float
    """Interquartile mean of the scores: the mean without the lowest and the highest quarter."""
    interval: tuple[float, float] | None
    """95 % interval of ``iqm``, by the percentile bootstrap over runs. None: there is a single run."""
    mean: float
    std: float | None
    """Standard deviation of the scores of runs (n - 1 in the denominator). None: there is a single run."""
    worst: float
    runs: int
    episodes: int
    """Number of episodes of all runs."""
    improvement: float | None = None
    """Probability that an episode has a higher return than one of random actions; ties count half. None: unknown."""


def aggregate(returns: Sequence[Sequence[float]], random: Sequence[float] | None = None) -> Aggregate:
    """Aggregate the returns of the episodes of several runs.

    Args:
        returns: Returns of each run's episodes.
        random: Returns of random actions, for ``improvement``.

    Raises:
        ValueError: There is no run, a run has no episode, or a return is not finite.

    Example:
        >>> aggregate([[1.0, 3.0], [2.0, 2.0], [9.0, 11.0]])[:1]
        (4.666666666666667,)
    """
    if not returns or not all(len(run) for run in returns):
        raise ValueError(f"returns must have runs with episodes, got {[len(run) for run in returns]} episodes")
    if not all(np.isfinite(run).all() for run in returns):
        raise ValueError("returns must be finite, got NaN or infinity")
    scores = np.array([np.mean(run) for run in returns])
    return Aggregate(
        interquartile_mean(scores),
        interval_of_iqm(scores),
        float(scores.mean()),
        float(scores.std(ddof=1)) if len(scores) > 1 else None,
        float(scores.min()),
        len(scores),
        sum(map(len, returns)),
        None if random is None else probability_of_improvement(np.concatenate([*returns]), np.asarray(random)),
    )


def interquartile_mean(scores: np.ndarray) -> float:
    """Return the mean without the lowest and the highest quarter of the scores, each rounded down to whole scores."""
    from scipy.stats import trim_mean  # slow to import

    return float(trim_mean(scores, TRIMMED))


def interval_of_iqm(scores: np.ndarray) -> tuple[float, float] | None:
    """Return a 95 % interval of the interquartile mean over other runs: the percentile bootstrap, always with the same seed."""
    from scipy.stats import bootstrap, trim_mean

    if len(scores) < 2:
        return None
    found = bootstrap(
        (scores,),
        lambda sample, axis: trim_mean(sample, TRIMMED, axis=axis),
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def probability_of_improvement(returns: np.ndarray, others: np.ndarray) -> float:
    """Return the probability that one of the returns is higher than one of the others; ties count half."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(returns, others).statistic) / (len(returns) * len(others))
