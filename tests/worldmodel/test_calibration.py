"""Laws of calibration measures: the true distribution scores best, and known errors have known values."""

import pytest
import torch

from worldmodel.calibration import (
    LEVELS,
    calibration_error,
    coverage,
    energy_distance,
    energy_score,
    integral_transform,
)


def normals(*shape, seed=0, scale=1.0, shift=0.0):
    return shift + scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def transformed(scale=1.0, shift=0.0):
    g = torch.Generator().manual_seed(5)
    return integral_transform(normals(200, 3_000, 2, seed=1, scale=scale, shift=shift), normals(3_000, 2, seed=2), g)


def test_the_transform_of_the_true_distribution_is_uniform():
    values = transformed()
    assert values.min() > 0
    assert values.max() < 1
    torch.testing.assert_close(coverage(values).double(), LEVELS.double(), rtol=0, atol=0.015)
    assert calibration_error(values) < 0.01


def test_calibration_measures_detect_wrong_scales_and_locations():
    narrow, wide, shifted = transformed(scale=0.5), transformed(scale=2.0), transformed(shift=1.0)
    # With half the true scale, the predicted 5 % quantile is Phi^-1(0.05) / 2, and 20.5 % of the values lie below it.
    assert float(coverage(narrow)[0]) == pytest.approx(0.205, abs=0.015)
    assert float(coverage(wide)[0]) == pytest.approx(0.0005, abs=0.003)
    assert min(calibration_error(values) for values in (narrow, wide, shifted)) > 0.08


def test_the_energy_score_is_least_for_the_true_distribution():
    truth = normals(4_000, 3, seed=3)
    scores = {scale: energy_score(normals(100, 4_000, 3, seed=4, scale=scale), truth) for scale in (0.6, 1.0, 1.6)}
    assert scores[1.0] == min(scores.values())
    assert energy_score(normals(100, 4_000, 3, seed=4, shift=0.7), truth) > scores[1.0]


def test_energy_distance_of_two_normals_is_exact():
    """For N(0, 1) and N(m, 1) in one dimension, E|X - Y| is the mean of a folded normal."""
    same = energy_distance(normals(1_500, 1, seed=1), normals(1_500, 1, seed=2))
    assert abs(same) < 0.01
    shift = 2.0
    folded = torch.distributions.Normal(0.0, 1.0)
    between = 2 / torch.pi**0.5 * torch.exp(torch.tensor(-(shift**2) / 4)) + shift * (
        1 - 2 * folded.cdf(torch.tensor(-shift / 2**0.5))
    )
    expected = 2 * float(between) - 4 / torch.pi**0.5
    apart = energy_distance(normals(1_500, 1, seed=1), normals(1_500, 1, seed=2, shift=shift))
    assert apart == pytest.approx(expected, abs=0.1)


def test_the_energy_distance_of_three_points_is_the_unbiased_one():
    one, other = torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0]] * 2)
    assert energy_distance(one, other) == pytest.approx(2 * (1 + 2) / 2 - 3 - 0)


def test_the_energy_score_needs_two_samples():
    with pytest.raises(ValueError, match="samples"):
        energy_score(torch.zeros(1, 3, 2), torch.zeros(3, 2))
