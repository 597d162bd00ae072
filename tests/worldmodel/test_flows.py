"""Laws of flows, over both kinds of couplings."""

import math

import pytest
import torch
import zuko

from worldmodel import flows
from worldmodel.flows import AffineCoupling, Flow, SplineCoupling

CASES = [(1, 0, 1), (1, 3, 2), (2, 0, 2), (2, 3, 1), (5, 0, 2), (5, 3, 2), (4, 0, 0)]
"""Number of features, size of the context and number of couplings."""
KINDS = [AffineCoupling, SplineCoupling]


def random_flow(num_features, context, couplings, kind=AffineCoupling):
    torch.manual_seed(num_features)
    flow = Flow([kind(num_features, hidden=(16, 16), context=context) for _ in range(couplings)]).double()
    for parameter in flow.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return flow, torch.randn(6, context, dtype=torch.float64) if context else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_inverse_undoes_forward(case, kind):
    flow, context = random_flow(*case, kind)
    y = 3 * torch.randn(6, case[0], dtype=torch.float64)
    torch.testing.assert_close(flow.inverse(flow(y, context)[0], context), y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_log_det_equals_the_autograd_jacobian(case, kind):
    flow, context = random_flow(*case, kind)
    y = 3 * torch.randn(6, case[0], dtype=torch.float64)
    _, log_det = flow(y, context)
    for row in range(6):
        condition = None if context is None else context[row]
        jacobian = torch.autograd.functional.jacobian(lambda v, condition=condition: flow(v, condition)[0], y[row])
        torch.testing.assert_close(log_det[row], torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_flow_is_the_identity_at_initialisation(case, kind):
    num_features, context, couplings = case
    flow = Flow([kind(num_features, context=context) for _ in range(couplings)])
    y = torch.randn(4, num_features)
    u, log_det = flow(y, torch.randn(4, context) if context else None)
    torch.testing.assert_close(u, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_det, torch.zeros(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bins", [1, 4])
def test_splines_agree_with_zuko(bins):
    torch.manual_seed(0)
    theirs = zuko.transforms.MonotonicRQSTransform(
        *(torch.randn(50, size, dtype=torch.float64) for size in (bins, bins, bins - 1)), bound=4.0
    )
    knots = theirs.horizontal, theirs.vertical, theirs.derivatives
    x = torch.linspace(-6, 6, 50, dtype=torch.float64)
    y, log_slope = flows.rational_quadratic(x, *knots)
    torch.testing.assert_close(y, theirs(x))
    torch.testing.assert_close(log_slope, theirs.log_abs_det_jacobian(x, y))
    torch.testing.assert_close(flows.rational_quadratic_inverse(y, *knots), x)


def test_splines_join_the_identity_smoothly_at_their_bound():
    flow, _ = random_flow(2, 0, 1, SplineCoupling)
    bound = flow.couplings[0].bound
    y = torch.tensor([[0.3, side * bound + step] for side in (-1, 1) for step in (-1e-7, 1e-7)], dtype=torch.float64)
    u, log_det = flow(y)
    torch.testing.assert_close(u, y, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_det, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-4)


def test_two_couplings_change_every_dimension_and_train_every_parameter():
    flow, _ = random_flow(5, 0, 2)
    y = torch.randn(6, 5, dtype=torch.float64)
    u, log_det = flow(y)
    assert bool(((u - y).abs() > 1e-6).all(dim=0).all())
    (u.square().sum() + log_det.sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in flow.parameters())


def test_affine_coupling_agrees_with_zuko():
    flow, _ = random_flow(4, 0, 1)
    coupling = flow.couplings[0]
    y = torch.randn(4, dtype=torch.float64)
    log_scale, shift = coupling._scale_and_shift(coupling._params(y[:2], None))
    bound = math.log(1e3)  # zuko bounds its log-scale s as s / (1 + |s| / bound)
    theirs = zuko.transforms.MonotonicAffineTransform(shift, log_scale / (1 - log_scale.abs() / bound), slope=1e-3)
    u, log_det = flow(y)
    torch.testing.assert_close(u[2:], theirs(y[2:]))
    torch.testing.assert_close(log_det, theirs.log_abs_det_jacobian(y[2:], u[2:]).sum())


def test_outliers_do_not_overflow():
    flow, _ = random_flow(4, 0, 2)
    u, log_det = flow(torch.full((1, 4), 1e8, dtype=torch.float64))
    assert torch.isfinite(u).all()
    assert float(log_det.detach().abs().max()) <= 2 * 2 * flows.LOG_SCALE_BOUND


def test_bad_arguments_are_refused(as_users_do):
    with pytest.raises(ValueError, match="num_features"):
        AffineCoupling(0)
    for bins in (0, 1_000):
        with pytest.raises(ValueError, match="bins"):
            SplineCoupling(3, bins=bins)
    with pytest.raises(ValueError, match="value"):
        AffineCoupling(3)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="context"):
        AffineCoupling(3)(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="num_features"):
        Flow([AffineCoupling(2), AffineCoupling(3)])


@pytest.mark.parametrize("kind", KINDS)
def test_far_outliers_change_the_other_features_alike(kind):
    """The inputs of the network of a coupling are bounded."""
    flow, _ = random_flow(4, 0, 1, kind)
    y = torch.randn(1, 4, dtype=torch.float64).expand(2, 4).clone()
    y[:, :2] = torch.tensor([[1e4], [1e6]], dtype=torch.float64)
    u, log_det = flow(y)
    torch.testing.assert_close(u[0, 2:], u[1, 2:])
    torch.testing.assert_close(log_det[0], log_det[1])
