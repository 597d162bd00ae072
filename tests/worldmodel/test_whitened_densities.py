"""Densities of whitened events: the same as a density of data that were whitened before, plus the log-determinant."""

import pytest
import torch

from worldmodel import FRMDN, RMDN, SequenceDensity, seeded
from worldmodel.batches import EventBatch
from worldmodel.flows import WhiteningFlow
from worldmodel.registry import build, build_density

MIXING = torch.eye(4) + torch.tril(torch.full((4, 4), 0.9), -1)


def events(batch=64, time=9, seed=0):
    """Correlated events with a mean, (batch, time, 4)."""
    noise = torch.randn(batch, time, 4, generator=torch.Generator().manual_seed(seed))
    return 0.3 * noise @ MIXING.T + torch.tensor([1.0, 0.0, -2.0, 5.0])


def batch_of(event):
    return EventBatch(event, torch.ones(event.shape[:2]), torch.zeros(len(event)))


def whitened(kind, **options):
    with seeded(0):
        model = SequenceDensity(kind(4, 4, hidden_size=8, num_components=2, whiten=True, **options))
    model.init_from_data(batch_of(events()))
    return model


@pytest.mark.parametrize(("kind", "options"), [(RMDN, {}), (RMDN, {"rank": 2}), (RMDN, {"full": True}), (FRMDN, {})])
def test_the_density_is_that_of_the_whitened_data_with_the_log_determinant(kind, options):
    """log p(y) = log q(L^-1 (y - m)) - log|det L| with the mean and covariance of the data."""
    model, y = whitened(kind, **options), events(seed=1)
    flat = events().flatten(0, 1).double()
    covariance = torch.cov(flat.T)
    root = torch.linalg.cholesky(covariance + 1e-3 * covariance.diagonal().diag())
    u = torch.linalg.solve_triangular(root, (y.flatten(0, 1).double() - flat.mean(dim=0)).T, upper=False).T
    density = model.density
    h, _ = density.unroll(torch.cat((torch.zeros_like(y[:, :1]), y[:, :-1]), dim=1))
    plain = density.distribution(h).base_dist
    expected = plain.log_prob(u.float().view_as(y)) - root.diagonal().log().sum().float()
    torch.testing.assert_close(model.log_probs(batch_of(y))[0], expected, rtol=1e-4, atol=1e-4)


def test_a_new_density_is_near_the_gaussian_of_the_data():
    model, flat = whitened(RMDN), events().flatten(0, 1)
    entropy = float(torch.distributions.MultivariateNormal(torch.zeros(4), torch.cov(flat.T)).entropy())
    with torch.no_grad():
        nll = float(model.loss(batch_of(events(seed=2))).value)
    assert entropy - 0.05 < nll < entropy + 1.0
    with seeded(0):
        plain = SequenceDensity(RMDN(4, 4, hidden_size=8, num_components=2))
    plain.init_from_data(batch_of(events()))
    with torch.no_grad():
        assert float(plain.loss(batch_of(events(seed=2))).value) > nll + 1.0  # diagonal, at the same scales


def test_samples_have_the_mean_and_covariance_of_the_data():
    samples = whitened(FRMDN).sample(1, batch=4_000, generator=torch.Generator().manual_seed(3))[:, 0]
    flat = events().flatten(0, 1)
    torch.testing.assert_close(samples.mean(dim=0), flat.mean(dim=0), rtol=0, atol=0.5)
    correlation, expected = torch.corrcoef(samples.T), torch.corrcoef(flat.T)
    torch.testing.assert_close(correlation, expected, rtol=0, atol=0.2)


@pytest.mark.parametrize("kind", [RMDN, FRMDN])
def test_the_ceiling_has_the_log_determinant(kind):
    model = whitened(kind)
    flow = (model.density if kind is RMDN else model.density.base).whitening
    assert isinstance(flow, WhiteningFlow)
    bound = model.ceiling
    flow.root.mul_(0.5)  # a density of half the data's size is twice as high in each dimension
    assert model.ceiling == pytest.approx(bound + float(torch.tensor(2.0).log()))


def test_it_is_rebuilt_from_its_config_and_weights():
    model = build("frmdn", 4, hidden_size=8, num_components=2, whiten=True)
    model.init_from_data(batch_of(events()))
    again = build_density(model.config)
    again.load_state_dict(model.state_dict())
    y = batch_of(events(seed=1))
    assert torch.equal(again.log_prob(y), model.log_prob(y))
    assert "whiten" in repr(model)
    assert "whiten" not in build("rmdn", 4).config


def test_whitened_and_residual_exclude_each_other():
    with pytest.raises(ValueError, match="whiten"):
        RMDN(5, 4, residual=True, whiten=True)
