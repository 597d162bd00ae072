"""Confidence intervals over trainings and clusters: by simulation, and against the tables of Student's t."""

import math

import numpy as np
import pytest

from worldmodel.agents.analysis.statistics import Interval, interval, t_quantile, variance


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (59, 2.0010), (919, 1.9626), (1e6, 1.9600)]
)
def test_quantiles_equal_those_of_the_tables(freedom, expected):
    assert t_quantile(0.975, freedom) == pytest.approx(expected, abs=2e-4)
    assert t_quantile(0.5, freedom) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("seeds", "sizes", "training", "cluster"),
    [
        (3, [26] * 5, 0.7, 1.0),
        (3, [22, 20, 4], 0.0, 1.0),
        (3, [1] * 60, 1.0, 0.0),
        (2, [1] * 60, 1.0, 1.0),
        (3, [1] * 60, 0.5, 1.0),
    ],
    ids=["voices", "fonts", "episodes", "two trainings", "three trainings"],
)
def test_intervals_cover_the_true_mean_in_95_of_100_cases(seeds, sizes, training, cluster):
    """Seeds, clusters and sequences have known variances; with 300 repetitions, three standard errors of 0.95 are 0.038. The
    intervals are conservative, so the coverage may be higher."""
    rng, labels, covered, naive = np.random.default_rng(1), np.repeat(np.arange(len(sizes)), sizes), 0, 0
    for _ in range(300):
        differences = (
            2.0 + training * rng.standard_normal((seeds, 1)) + cluster * rng.standard_normal(len(sizes))[labels]
        )
        differences = differences + 0.5 * rng.standard_normal((seeds, len(labels)))
        result = interval(differences, labels.tolist())
        covered += abs(result.mean - 2.0) < result.half
        means = differences.mean(axis=0)  # ignores the variance over trainings and clusters
        naive += abs(means.mean() - 2.0) < 1.96 * means.std(ddof=1) / math.sqrt(len(means))
    assert covered / 300 > 0.912
    if training or len(sizes) < 10:
        assert naive / 300 < 0.75


def test_equal_weights_give_the_sample_variance_of_the_mean():
    values = np.array([1.0, 4.0, -2.0, 0.5])
    assert variance(values, np.full(4, 0.25)) == pytest.approx((values.var(ddof=1) / 4, 3))


@pytest.mark.slow
def test_unequal_clusters_have_fewer_degrees_of_freedom_than_equal_ones():
    weights = np.array([440, 400, 80]) / 920
    drawn = np.random.default_rng(0).standard_normal((20_000, 3))
    estimates = [variance(row, weights)[0] for row in drawn]
    assert np.mean(estimates) == pytest.approx((weights**2).sum(), rel=0.03)  # the true variance of the weighted mean
    assert 1 < variance(drawn[0], weights)[1] < 2


def test_pairing_removes_shared_variance():
    rng = np.random.default_rng(0)
    shared = 10 * rng.standard_normal((3, 1)) + 10 * rng.standard_normal(40)
    model, reference = (shared + 0.1 * rng.standard_normal((3, 40)) + add for add in (1.0, 0.0))
    result = interval(model - reference)
    assert result.sign == 1
    assert result.half < 0.3
    assert result.text() == f"{result.mean:+.2f} ± {result.half:.2f}"


def test_one_training_or_one_cluster_has_no_interval():
    for result in (interval(np.ones((1, 5))), interval(np.ones((3, 2)), ["a", "a"])):
        assert math.isnan(result.half)
        assert result.sign == 0
        assert result.text() == "+1.00"
    assert interval(np.zeros((3, 2))) == Interval(0.0, 0.0)


def test_wrong_shapes_are_refused(as_users_do):
    with pytest.raises(ValueError, match=r"differences"):
        interval(np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        interval(np.array([[1.0, math.nan]]))
    with pytest.raises(ValueError, match="clusters"):
        interval(np.ones((3, 2)), ["a"])
