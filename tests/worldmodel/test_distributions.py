"""Laws of mixture densities, compared with torch in float64."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from worldmodel.baselines.per_dimension import PerDimensionMixture
from worldmodel.distributions import FullGaussianMixture, GaussianMixture, TransformedMixture
from worldmodel.flows import AffineCoupling, Flow
from worldmodel.low_rank import matmul

SHAPES = [(1, 1, 0), (1, 1, 1), (3, 1, 2), (1, 4, 0), (5, 4, 1), (3, 4, 3), (2, 3, 5), (2, 2, 7)]


def mixture(k, d, r, batch=(), seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*batch, *shape, generator=g, dtype=dtype)

    return GaussianMixture(draw(k), draw(k, d), 0.5 * draw(k, d), draw(k, d, r) if r else None)


def torch_mixture(g):
    return MixtureSameFamily(Categorical(logits=g.logits), MultivariateNormal(g.loc, precision_matrix=g.precision))


@pytest.mark.parametrize(("k", "d", "r"), SHAPES)
def test_log_prob_agrees_with_torch(k, d, r):
    g = mixture(k, d, r, batch=(7, 2))
    value = torch.randn(7, 2, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(g.log_prob(value), torch_mixture(g).log_prob(value), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("k", "d", "r"), SHAPES)
def test_covariance_is_the_inverse_of_the_precision(k, d, r):
    g = mixture(k, d, r, batch=(3,))
    identity = torch.eye(d, dtype=torch.float64).expand(3, k, d, d)
    torch.testing.assert_close(g.precision @ g.covariance, identity, rtol=1e-9, atol=1e-9)


def full(k, d, batch=(), seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*batch, *shape, generator=g, dtype=torch.float64)

    return FullGaussianMixture(draw(k), draw(k, d), 0.5 * draw(k, d), draw(k, d * (d - 1) // 2))


@pytest.mark.parametrize(("k", "d"), [(1, 1), (3, 1), (2, 2), (5, 4)])
def test_full_precisions_agree_with_torch(k, d):
    g = full(k, d, batch=(7, 2))
    value = torch.randn(7, 2, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(g.log_prob(value), torch_mixture(g).log_prob(value), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(g.precision @ g.covariance, torch.eye(d, dtype=torch.float64).expand(7, 2, k, d, d))


def test_full_precision_represents_a_low_rank_precision():
    g = mixture(3, 4, 2, batch=(5,))
    lower = torch.linalg.cholesky(g.precision)
    rows, columns = torch.tril_indices(4, 4, -1)
    same = FullGaussianMixture(g.logits, g.loc, lower.diagonal(dim1=-2, dim2=-1).log(), lower[..., rows, columns])
    value = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(same.log_prob(value), g.log_prob(value))


def test_samples_of_full_precisions_have_their_covariance():
    g = full(1, 3, seed=2)
    drawn = g.sample((40_000,), 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.cov(drawn.T), 0.5 * g.covariance[0], rtol=0.05, atol=0.01)
    torch.testing.assert_close(drawn.mean(0), g.mean, rtol=0.05, atol=0.02)


def test_per_dimension_mixtures_are_one_mixture_for_each_dimension():
    g = PerDimensionMixture(mixture(3, 1, 0, batch=(6, 4)))
    value = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    total = torch.zeros(6, dtype=torch.float64)
    for d in range(4):
        s = g.scalar
        parts = Normal(s.loc[:, d, :, 0], torch.exp(-0.5 * s.log_precision[:, d, :, 0]))
        total += MixtureSameFamily(Categorical(logits=s.logits[:, d]), parts).log_prob(value[:, d])
    torch.testing.assert_close(g.log_prob(value), total)
    drawn = g.sample((20_000,), 1.0, torch.Generator().manual_seed(0))
    assert drawn.shape == (20_000, 6, 4)
    torch.testing.assert_close(drawn.mean(0), g.mean, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("d", "r"), [(1, 0), (1, 2), pytest.param(2, 0, marks=pytest.mark.slow), (2, 1)])
def test_density_integrates_to_one(d, r):
    g = mixture(3, d, r, seed=4)
    axis = torch.linspace(-25, 25, 4001 if d == 1 else 1201, dtype=torch.float64)
    points = torch.cartesian_prod(*[axis] * d).view(-1, d)
    total = g.log_prob(points).exp().sum() * float(axis[1] - axis[0]) ** d
    assert float(total) == pytest.approx(1.0, abs=2e-4)


def test_one_component_is_a_normal():
    loc, scale = torch.tensor([0.3, -1.0], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)
    g = GaussianMixture(torch.zeros(1, dtype=torch.float64), loc[None], -2 * scale.log()[None])
    value = torch.tensor([1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(g.log_prob(value), Normal(loc, scale).log_prob(value).sum())


def test_order_of_components_is_irrelevant():
    g = mixture(4, 3, 2)
    order = torch.tensor([2, 0, 3, 1])
    assert g.precision_factor is not None
    other = GaussianMixture(g.logits[order], g.loc[order], g.log_precision[order], g.precision_factor[order])
    value = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(g.log_prob(value), other.log_prob(value))


@pytest.mark.parametrize("r", [0, 2, 6])
def test_samples_have_the_mean_and_covariance_of_the_mixture(r):
    g = mixture(1, 3, r, seed=2)
    drawn = g.sample((200_000,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.T.cov(), g.covariance[0], rtol=0.02, atol=0.02)
    torch.testing.assert_close(drawn.mean(0), g.mean, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("rank", [2, 5])
@pytest.mark.parametrize(
    ("log_precision", "size", "apart"),
    [((-10, -10), 10, 1), ((-10, -10), 100, 1), ((-10, -10), 10, 1e-3), ((-10, 14), 10, 1e-2), ((14, 14), 10, 1)],
    ids=["wide", "wider", "parallel", "mixed", "narrow"],
)  # fmt: skip
def test_samples_in_single_precision_have_the_exact_covariance_at_the_clamps(log_precision, size, apart, rank):
    """Samples whitened by the Cholesky factor of the exact precision have covariance I, also where columns are parallel."""
    g = torch.Generator().manual_seed(0)
    factor = torch.randn(32, rank, generator=g)
    factor = size * (factor[:, :1] + apart * factor) if apart < 1 else size * factor
    log_precision = torch.linspace(*log_precision, 32)
    mixed = GaussianMixture(torch.zeros(1), torch.zeros(1, 32), log_precision[None], factor[None])
    drawn = mixed.sample((20_000,), generator=torch.Generator().manual_seed(1))
    assert drawn.dtype == torch.float32
    exact = torch.diag(log_precision.double().exp()) + factor.double() @ factor.double().T
    white = drawn.double() @ torch.linalg.cholesky(exact)
    spread = torch.linalg.eigvalsh(white.T.cov())  # of 20,000 samples: (1 +- sqrt(32 / 20,000))^2
    assert float(spread.min()) > 0.9
    assert float(spread.max()) < 1.1


@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.0])
def test_temperature_scales_the_noise_and_flattens_the_weights(temperature):
    # Two distant components: logits / tau select the component, and sqrt(tau) scales the noise.
    g = GaussianMixture(torch.tensor([1.0, 0.0]), torch.tensor([[-50.0], [50.0]]), torch.zeros(2, 1))
    drawn = g.sample((100_000,), temperature, torch.Generator().manual_seed(3))[:, 0]
    share = 1 / (1 + math.exp(-1 / temperature))
    assert float((drawn < 0).float().mean()) == pytest.approx(share, abs=0.01)
    spread = (drawn + 50 * torch.where(drawn < 0, 1.0, -1.0)).std()
    assert float(spread) == pytest.approx(math.sqrt(temperature), rel=0.02)


def test_samples_follow_their_density():
    """Probability integral transform in one dimension, Kolmogorov-Smirnov at the 1 % level."""
    g = mixture(3, 1, 1, seed=5)
    drawn = g.sample((5_000,), generator=torch.Generator().manual_seed(1))[:, 0]
    scale = g.covariance[:, 0, 0].sqrt()
    cdf = (g.logits.softmax(-1) * Normal(g.loc[:, 0], scale).cdf(drawn[:, None])).sum(-1).sort().values
    even = torch.arange(1, 5_001, dtype=torch.float64) / 5_000
    assert float((cdf - even).abs().max()) < 1.63 / math.sqrt(5_000)


def test_samples_have_the_entropy_of_the_density():
    g = mixture(1, 4, 2, seed=1)
    drawn = g.sample((50_000,), generator=torch.Generator().manual_seed(0))
    entropy = MultivariateNormal(g.loc[0], precision_matrix=g.precision[0]).entropy()
    assert float(-g.log_prob(drawn).mean()) == pytest.approx(float(entropy), abs=4 * math.sqrt(2 / 50_000) * 2)


def test_samples_at_low_temperature_approach_the_mode():
    g = mixture(4, 3, 2, seed=7)
    cold = g.sample((10,), 1e-8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(cold, g.mode.expand(10, 3), atol=1e-2, rtol=0)


def test_temperature_may_differ_within_a_batch():
    g = mixture(1, 2, 0, batch=(2,))
    drawn = g.sample((20_000,), torch.tensor([0.25, 4.0]), torch.Generator().manual_seed(0))
    ratio = (drawn - g.loc[:, 0]).std(0) * (0.5 * g.log_precision[:, 0]).exp()
    torch.testing.assert_close(ratio, torch.tensor([[0.5, 0.5], [2.0, 2.0]], dtype=torch.float64), rtol=0.03, atol=0)


def test_sampling_uses_only_the_given_generator():
    g = mixture(3, 2, 1)
    before = torch.get_rng_state()
    first, second = (g.sample((5,), generator=torch.Generator().manual_seed(9)) for _ in range(2))
    assert first.equal(second)
    assert before.equal(torch.get_rng_state())


def transformed_mixture(context=0):
    torch.manual_seed(0)
    flow = Flow([AffineCoupling(2, hidden=(8,), context=context) for _ in range(3)]).double()
    for parameter in flow.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return TransformedMixture(
        mixture(2, 2, 1, seed=3), flow, torch.ones(context, dtype=torch.float64) if context else None
    )


@pytest.mark.slow
@pytest.mark.parametrize("context", [0, 3])
def test_transformed_density_integrates_to_one(context):
    density = transformed_mixture(context)
    axis = torch.linspace(-60, 60, 1601, dtype=torch.float64)
    with torch.no_grad():
        total = sum(density.log_prob(torch.cartesian_prod(part, axis)).exp().sum() for part in axis.split(100))
    assert float(total) * float(axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=0.01)


def test_transformed_log_prob_includes_the_log_determinant():
    density = transformed_mixture()
    y = torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    jacobian = torch.autograd.functional.jacobian(lambda v: density.flow(v)[0], y)
    expected = density.base_dist.log_prob(density.flow(y)[0]) + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(density.log_prob(y), expected)


def test_transformed_samples_map_to_the_base_distribution():
    density = transformed_mixture()
    drawn = density.sample((20_000,), generator=torch.Generator().manual_seed(0))
    base = density.flow(drawn)[0]
    assert float((base.detach().mean(0) - density.base_dist.mean).abs().max()) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_densities_stay_finite_in_low_precision_and_at_the_clamps(dtype):
    for level in (-10.0, 14.0):
        g = GaussianMixture(
            torch.zeros(2, 3, dtype=dtype),
            torch.zeros(2, 3, 4, dtype=dtype),
            torch.full((2, 3, 4), level, dtype=dtype),
            torch.ones(2, 3, 4, 2, dtype=dtype),
        )
        assert torch.isfinite(g.log_prob(torch.full((2, 4), 1e4, dtype=dtype))).all()
        assert torch.isfinite(g.sample(generator=torch.Generator().manual_seed(0))).all()


def test_gradients_of_low_rank_precisions_agree_with_torch():
    g = mixture(2, 3, 2)
    parts = [g.logits, g.loc, g.log_precision, g.precision_factor]
    for part in parts:
        part.requires_grad_()
    value = torch.ones(3, dtype=torch.float64)
    ours = torch.autograd.grad(GaussianMixture(*parts).log_prob(value), parts)
    again = GaussianMixture(*parts)
    theirs = torch.autograd.grad(torch_mixture(again).log_prob(value), parts)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperature_is_refused(bad):
    with pytest.raises(ValueError, match="temperature"):
        mixture(2, 2, 0).sample((), bad)


def test_wrong_shapes_are_refused(as_users_do):
    with pytest.raises(ValueError, match="log_precision"):
        GaussianMixture(torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="value"):
        mixture(2, 3, 0).log_prob(torch.zeros(4, dtype=torch.float64))
    assert np.isfinite(float(mixture(2, 3, 0).log_prob(torch.zeros(3, dtype=torch.float64))))


@pytest.mark.parametrize(("k", "d", "r"), SHAPES)
def test_closed_form_gradients_agree_with_finite_differences(k, d, r):
    g = mixture(k, d, r, batch=(2,))
    parts = [part.clone().requires_grad_() for part in (g.logits, g.loc, g.log_precision)]
    factor = None if g.precision_factor is None else g.precision_factor.clone().requires_grad_()
    value = torch.randn(2, d, dtype=torch.float64, requires_grad=True)

    def log_prob(value, *arguments):
        return GaussianMixture(*arguments).log_prob(value)

    assert torch.autograd.gradcheck(log_prob, (value, *parts, *(() if factor is None else (factor,))))


def test_gradients_flow_through_broadcasting():
    g = mixture(3, 2, 1)
    loc, factor = g.loc.clone().requires_grad_(), g.precision_factor.clone().requires_grad_()
    value = torch.randn(5, 4, 2, dtype=torch.float64)
    GaussianMixture(g.logits, loc, g.log_precision, factor).log_prob(value).sum().backward()
    one_by_one = torch.zeros_like(loc)
    for row in value.reshape(-1, 2):
        again = g.loc.clone().requires_grad_()
        GaussianMixture(g.logits, again, g.log_precision, g.precision_factor).log_prob(row).backward()
        one_by_one += again.grad
    torch.testing.assert_close(loc.grad, one_by_one)
    assert factor.grad.shape == (3, 2, 1)


@pytest.mark.parametrize("rank", [4, 5, 8])
def test_extreme_precision_factors_stay_finite_in_single_precision(rank):
    """Rounding makes the capacitance matrix indefinite; no error is raised, and values and gradients stay finite."""
    g = torch.Generator().manual_seed(0)
    factor = 30 * torch.randn(6, 2, 3, rank, generator=g)
    parts = [torch.zeros(6, 2), torch.zeros(6, 2, 3), torch.full((6, 2, 3), -10.0), factor]
    leaves = [part.clone().requires_grad_() for part in parts]
    value = 0.01 * torch.randn(6, 3, generator=g)
    log_prob = GaussianMixture(*leaves).log_prob(value)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)
    exact = GaussianMixture(*(part.double() for part in parts)).log_prob(value.double())
    torch.testing.assert_close(log_prob.double(), exact, rtol=0, atol=2.5 * rank)  # of about 20 nats per direction


@pytest.mark.parametrize("rank", [0, 3, 6])
def test_bfloat16_log_prob_is_close_to_float32(rank):
    g = torch.Generator().manual_seed(0)
    parts = [torch.randn(5, *shape, generator=g) for shape in ((2,), (2, 4), (2, 4), (2, 4, rank))[: 4 if rank else 3]]
    value = torch.randn(5, 4, generator=g)
    log_prob = GaussianMixture(*(part.bfloat16() for part in parts)).log_prob(value.bfloat16())
    torch.testing.assert_close(log_prob.float(), GaussianMixture(*parts).log_prob(value), rtol=0.1, atol=1.0)


def nearly_collinear(rank, log_precision=-10.0):
    """A mixture whose factor U has columns that differ by a thousandth."""
    g = torch.Generator().manual_seed(0)
    factor = 3 * (torch.randn(1, 32, 1, generator=g) + 1e-3 * torch.randn(1, 32, rank, generator=g))
    return GaussianMixture(torch.zeros(1), torch.zeros(1, 32), torch.full((1, 32), log_precision), factor)


@pytest.mark.parametrize("make", [lambda r: nearly_collinear(r, 0.0), lambda r: FullGaussianMixture(*_full_parts())])
@pytest.mark.parametrize("rank", [4, 8])
def test_densities_do_not_depend_on_autocast(make, rank):
    value = 0.1 * torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    expected = make(rank).log_prob(value), make(rank).precision
    with torch.autocast("cpu", torch.bfloat16):
        actual = make(rank).log_prob(value), make(rank).precision
    assert all(a.equal(b) for a, b in zip(actual, expected, strict=True))


def _full_parts():
    tril = torch.randn(1, 32 * 31 // 2, generator=torch.Generator().manual_seed(0))
    return torch.zeros(1), torch.zeros(1, 32), torch.zeros(1, 32), tril


@pytest.mark.slow
def test_products_under_autocast_are_one_graph():
    def product(one, other):
        with torch.autocast("cpu", torch.bfloat16):
            return matmul(one, other)

    one, other = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 4, 5)
    compiled = torch.compile(product, backend="eager", fullgraph=True)(one, other)
    assert compiled.dtype == torch.float32
    torch.testing.assert_close(compiled, one @ other)


@pytest.mark.parametrize("rank", [2, 4, 6])
def test_covariances_of_nearly_collinear_factors_are_exact(rank):
    g = nearly_collinear(rank)
    parts = (part.double() for part in (g.logits, g.loc, g.log_precision, g.precision_factor))
    exact = torch.linalg.inv(GaussianMixture(*parts).precision)
    torch.testing.assert_close(g.covariance.double(), exact, rtol=1e-5, atol=1e-6 * float(exact.abs().max()))
