"""Intervals hold for other trainings and other clusters: by simulation, and by the tables of Student's t."""

import math

import numpy as np
import pytest

from agents.comparison.statistics import Interval, interval, t_quantile, variance


@pytest.mark.parametrize(
    ("freedom", "wanted"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (59, 2.0010), (919, 1.9626), (1e6, 1.9600)]
)
def test_quantiles_are_those_of_the_tables(freedom, wanted):
    assert t_quantile(0.975, freedom) == pytest.approx(wanted, abs=2e-4)
    assert t_quantile(0.5, freedom) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("seeds", "sizes", "training", "cluster"),
    [(3, [26] * 5, 0.7, 1.0), (3, [22, 20, 4], 0.0, 1.0), (3, [1] * 60, 1.0, 0.0)],
    ids=["voices", "fonts", "episodes"],
)
def test_nineteen_in_twenty_intervals_hold_the_truth(seeds, sizes, training, cluster):
    """True variances of seeds, clusters and sequences; 700 repetitions, three standard errors beside 0.95 are 0.025."""
    rng, labels, held, naive = np.random.default_rng(1), np.repeat(np.arange(len(sizes)), sizes), 0, 0
    for _ in range(700):
        differences = (
            2.0 + training * rng.standard_normal((seeds, 1)) + cluster * rng.standard_normal(len(sizes))[labels]
        )
        differences = differences + 0.5 * rng.standard_normal((seeds, len(labels)))
        found = interval(differences, labels.tolist())
        held += abs(found.mean - 2.0) < found.half
        over = differences.mean(axis=0)  # what takes trainings and clusters for all there are
        naive += abs(over.mean() - 2.0) < 1.96 * over.std(ddof=1) / math.sqrt(len(over))
    assert 0.915 < held / 700 < 0.99
    if training or len(sizes) < 10:
        assert naive / 700 < 0.75


def test_equal_clusters_give_the_sample_variance_and_unequal_ones_fewer_degrees_of_freedom():
    values = np.array([1.0, 4.0, -2.0, 0.5])
    found, freedom = variance(values, np.full(4, 0.25))
    assert found == pytest.approx(values.var(ddof=1) / 4)
    assert freedom == pytest.approx(3)
    weights = np.array([440, 400, 80]) / 920
    drawn = np.random.default_rng(0).standard_normal((20_000, 3))
    estimates = [variance(row, weights)[0] for row in drawn]
    assert np.mean(estimates) == pytest.approx((weights**2).sum(), rel=0.03)  # the true variance of the weighted mean
    assert 1 < variance(drawn[0], weights)[1] < 2


def test_pairing_takes_what_is_shared_out():
    rng = np.random.default_rng(0)
    shared = 10 * rng.standard_normal((3, 1)) + 10 * rng.standard_normal(40)
    model, reference = (shared + 0.1 * rng.standard_normal((3, 40)) + add for add in (1.0, 0.0))
    found = interval(model - reference)
    assert found.sign == 1
    assert found.half < 0.3
    assert found.text() == f"{found.mean:+.2f} ± {found.half:.2f}"


def test_one_training_or_one_cluster_tells_nothing():
    for found in (interval(np.ones((1, 5))), interval(np.ones((3, 2)), ["a", "a"])):
        assert math.isnan(found.half)
        assert found.sign == 0
        assert found.text() == "+1.00"
    assert interval(np.zeros((3, 2))) == Interval(0.0, 0.0, math.inf)


def test_wrong_shapes_are_refused(as_users_do):
    with pytest.raises(ValueError, match=r"differences"):
        interval(np.ones(3))
    with pytest.raises(ValueError, match="clusters"):
        interval(np.ones((3, 2)), ["a"])
    with pytest.raises(ValueError, match="freedom"):
        t_quantile(0.9, 0.5)
    with pytest.raises(ValueError, match="probability"):
        t_quantile(1, 3)
