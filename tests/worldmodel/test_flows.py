"""Laws of flows and of their transforms: each law holds for every coupling, alone and in a flow."""

import pytest
import torch
import zuko
from torch.distributions import Independent, Normal, TransformedDistribution

from worldmodel import flows
from worldmodel.flows import AffineCoupling, Flow, SplineCoupling

KINDS = {"affine": AffineCoupling, "spline": SplineCoupling, "alternating": AffineCoupling}
"""Couplings by name; those of "alternating" are in a flow that splits odd and even dimensions."""
SIZES = [(1, 0, 1), (1, 3, 2), (2, 0, 2), (2, 3, 1), (5, 0, 2), (5, 3, 2), (4, 0, 0)]
"""Number of features, size of the context and number of couplings."""
CASES = [(name, *sizes) for name in KINDS for sizes in SIZES]
each = pytest.mark.parametrize("case", CASES, ids=str)


def random_flow(kind, num_features, context=0, couplings=1, dtype=torch.float64):
    """A flow, or the coupling itself if there is one, with random values and contexts."""
    torch.manual_seed(num_features)
    parts = [KINDS[kind](num_features, hidden=(16, 16), context=context) for _ in range(couplings)]
    alternating = kind == "alternating"
    flow = (parts[0] if couplings == 1 and not alternating else Flow(parts, alternating)).double()
    for parameter in flow.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    y = 3 * torch.randn(6, num_features, dtype=torch.float64)
    condition = torch.randn(6, context, dtype=torch.float64) if context else None
    return flow.to(dtype), y.to(dtype), condition if condition is None else condition.to(dtype)


def test_every_flow_is_in_the_battery():
    assert set(flows.AbstractFlow.__subclasses__()) == {flows.Coupling, Flow, flows.WhiteningFlow}
    kinds = {kind for kind in vars(flows).values() if isinstance(kind, type) and issubclass(kind, flows.Coupling)}
    assert kinds == {flows.Coupling, *KINDS.values()}


@each
def test_inverse_undoes_forward(case):
    flow, y, context = random_flow(*case)
    torch.testing.assert_close(flow.inverse(flow(y, context)[0], context), y)


@each
def test_log_det_equals_the_autograd_jacobian(case):
    flow, y, context = random_flow(*case)
    _, log_det = flow(y, context)
    for row in range(6):
        condition = None if context is None else context[row]
        jacobian = torch.autograd.functional.jacobian(lambda v, condition=condition: flow(v, condition)[0], y[row])
        torch.testing.assert_close(log_det[row], torch.linalg.slogdet(jacobian).logabsdet)


@each
def test_flow_is_the_identity_at_initialisation(case):
    kind, num_features, context, couplings = case
    flow = Flow([KINDS[kind](num_features, context=context) for _ in range(couplings)], kind == "alternating")
    y = torch.randn(4, num_features)
    u, log_det = flow(y, torch.randn(4, context) if context else None)
    torch.testing.assert_close(u, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_det, torch.zeros(4), rtol=0, atol=1e-5)


@each
def test_every_parameter_and_the_values_receive_gradients(case):
    flow, y, context = random_flow(*case)
    u, log_det = flow(y.requires_grad_(), context)
    (u.square().sum() + log_det.sum()).backward()
    assert y.grad is not None and bool((y.grad.abs() > 0).all())
    trained = [parameter for parameter in flow.parameters() if parameter.numel()]  # without inputs there are no weights
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained)


@each
def test_outliers_stay_finite_in_low_precision(case):
    for dtype in (torch.float32, torch.bfloat16):
        flow, y, context = random_flow(*case, dtype=dtype)
        exact, log_det = random_flow(*case)[0](*(None if part is None else part.double() for part in (y, context)))
        u, rough = flow(y, context)
        tolerance = 1e-3 if dtype == torch.float32 else 0.5
        torch.testing.assert_close(rough.double(), log_det, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(u.double(), exact, rtol=tolerance, atol=tolerance)
        far, log_det = flow((1e8 * y.sign()).requires_grad_(), context)
        (far.sum() + log_det.sum()).backward()
        assert torch.isfinite(far).all() and torch.isfinite(flow.inverse(far.detach(), context)).all()
        assert float(log_det.detach().abs().max()) <= case[3] * case[1] * flows.LOG_SCALE_BOUND
        assert all(
            torch.isfinite(parameter.grad).all() for parameter in flow.parameters() if parameter.grad is not None
        )


@each
@pytest.mark.parametrize("cache_size", [0, 1])
def test_transform_is_a_transform_of_torch(case, cache_size):
    flow, y, context = random_flow(*case)
    passes = []
    flow.register_forward_hook(lambda *_: passes.append(1))
    u, log_det = flow(y, context)
    transform = flow.transform(context, cache_size)
    assert transform.bijective and (transform.domain.event_dim, transform.codomain.event_dim) == (1, 1)
    passes.clear()
    mapped = transform(y)
    assert mapped.equal(u)
    assert transform.log_abs_det_jacobian(y, mapped).equal(log_det)
    assert len(passes) == 2 - cache_size
    torch.testing.assert_close(transform.inv(u.clone()), y)
    torch.testing.assert_close(transform.inv.log_abs_det_jacobian(u, y), -log_det)
    assert transform.forward_shape(y.shape) == transform.inverse_shape(u.shape) == y.shape
    twice = torch.distributions.ComposeTransform([transform, transform.with_cache(1 - cache_size)])
    second, part = flow(u, context)
    torch.testing.assert_close(twice(y), second)
    torch.testing.assert_close(twice.log_abs_det_jacobian(y, second), log_det + part)
    torch.testing.assert_close(twice.inv(second), y)


@each
def test_transform_works_in_a_transformed_distribution_of_torch(case):
    flow, y, context = random_flow(*case)
    base = Independent(Normal(torch.zeros(6, case[1], dtype=torch.float64), 1.0), 1)
    density = TransformedDistribution(base, [flow.transform(context, cache_size=1).inv])
    u, log_det = flow(y, context)
    torch.testing.assert_close(density.log_prob(y), base.log_prob(u) + log_det)
    assert density.log_prob(density.sample((3,))).shape == (3, 6)
    assert density.expand((2, 6)).log_prob(y).shape == (2, 6)
    if case[3]:
        density.rsample((2,)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in flow.parameters() if parameter.numel())


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
    flow, *_ = random_flow("spline", 2)
    bound = flow.bound
    y = torch.tensor([[0.3, side * bound + step] for side in (-1, 1) for step in (-1e-7, 1e-7)], dtype=torch.float64)
    u, log_det = flow(y)
    torch.testing.assert_close(u, y, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_det, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_features", [5, 6])
def test_an_alternating_coupling_keeps_odd_dimensions(num_features):
    """Even dimensions change, each by its own value and by odd ones."""
    flow, y, _ = random_flow("alternating", num_features)
    changed = (flow(y)[0] - y).abs().amax(dim=0) > 1e-6
    assert changed.tolist() == [number % 2 == 0 for number in range(num_features)]
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v)[0], y[0]) != 0
    for row in range(num_features):
        others = {column for column in range(num_features) if jacobian[row, column] and column != row}
        assert others == (set(range(1, num_features, 2)) if row % 2 == 0 else set())


@pytest.mark.parametrize("kind", ["affine", "alternating"])
def test_two_couplings_change_every_dimension(kind):
    flow, y, _ = random_flow(kind, 5, couplings=2)
    assert bool(((flow(y)[0] - y).abs() > 1e-6).all(dim=0).all())


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
    flow, y, _ = random_flow(kind, 4)
    y = y[:1].expand(2, 4).clone()
    y[:, :2] = torch.tensor([[1e4], [1e6]], dtype=torch.float64)
    u, log_det = flow(y)
    torch.testing.assert_close(u[0, 2:], u[1, 2:])
    torch.testing.assert_close(log_det[0], log_det[1])
