"""Laws of distributions: each law holds for every class, with the distributions of torch as the oracle, in float64."""

import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    kl_divergence,
)

from worldmodel.baselines.autoregressive import AutoregressiveMixture
from worldmodel.baselines.diagonal_gaussian import DiagonalGaussian
from worldmodel.baselines.per_dimension import PerDimensionMixture
from worldmodel.distributions import (
    AbstractTemperedDistribution,
    FullGaussianMixture,
    GaussianMixture,
    TransformedMixture,
)
from worldmodel.flows import AffineCoupling, Flow, SplineCoupling
from worldmodel.low_rank import matmul


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(k, d, r, batch=(), seed=0, dtype=torch.float64):
    g = generator(seed)

    def draw(*shape):
        return torch.randn(*batch, *shape, generator=g, dtype=torch.float64).to(dtype)

    return GaussianMixture(draw(k), draw(k, d), 0.5 * draw(k, d), draw(k, d, r) if r else None)


def full(k, d, batch=(), seed=0, dtype=torch.float64):
    g = generator(seed)

    def draw(*shape):
        return torch.randn(*batch, *shape, generator=g, dtype=torch.float64).to(dtype)

    return FullGaussianMixture(draw(k), draw(k, d), 0.5 * draw(k, d), draw(k, d * (d - 1) // 2))


def transformed(base, kind=AffineCoupling, context=0):
    torch.manual_seed(0)
    flow = Flow([kind(base.event_shape[0], hidden=(8,), context=context) for _ in range(2)]).double()
    for parameter in flow.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return TransformedMixture(
        base, flow.to(base.loc.dtype), base.loc.new_ones(*base.batch_shape, context) if context else None
    )


def per_dimension(k, d, batch, dtype):
    return PerDimensionMixture(mixture(k, 1, 0, (*batch, d), dtype=dtype))


def gaussian(batch, dtype):
    one = mixture(1, 3, 0, batch, dtype=dtype)
    return DiagonalGaussian(one.loc[..., 0, :], one.log_precision[..., 0, :])


CASES = {
    "scalar": lambda batch, dtype: mixture(3, 1, 0, batch, dtype=dtype),
    "scalar rank 2": lambda batch, dtype: mixture(3, 1, 2, batch, dtype=dtype),
    "diagonal": lambda batch, dtype: mixture(5, 4, 0, batch, dtype=dtype),
    "rank 1": lambda batch, dtype: mixture(2, 2, 1, batch, dtype=dtype),
    "rank 3": lambda batch, dtype: mixture(3, 4, 3, batch, dtype=dtype),
    "rank 5": lambda batch, dtype: mixture(2, 3, 5, batch, dtype=dtype),
    "rank 7": lambda batch, dtype: mixture(2, 2, 7, batch, dtype=dtype),
    "one component": lambda batch, dtype: mixture(1, 4, 2, batch, seed=1, dtype=dtype),
    "full scalar": lambda batch, dtype: full(3, 1, batch, dtype=dtype),
    "full": lambda batch, dtype: full(3, 3, batch, dtype=dtype),
    "full one component": lambda batch, dtype: full(1, 3, batch, dtype=dtype),
    "flow": lambda batch, dtype: transformed(mixture(2, 2, 1, batch, seed=3, dtype=dtype)),
    "conditional flow": lambda batch, dtype: transformed(full(2, 2, batch, seed=3, dtype=dtype), context=3),
    "spline": lambda batch, dtype: transformed(mixture(2, 2, 0, batch, seed=3, dtype=dtype), SplineCoupling),
    "flow of one component": lambda batch, dtype: transformed(mixture(1, 3, 1, batch, seed=1, dtype=dtype)),
    "per dimension": lambda batch, dtype: per_dimension(3, 4, batch, dtype),
    "per dimension, one component": lambda batch, dtype: per_dimension(1, 2, batch, dtype),
    "gaussian": gaussian,
}


def build(name, batch=(), dtype=torch.float64):
    return CASES[name](batch, dtype)


def as_torch(dist):
    """The same distribution with the classes of torch."""
    if isinstance(dist, TransformedMixture):
        return TransformedDistribution(as_torch(dist.base_dist), dist.transforms)
    if isinstance(dist, DiagonalGaussian):
        return Independent(Normal(dist.loc, torch.exp(-0.5 * dist.log_precision)), 1)
    if isinstance(dist, PerDimensionMixture):
        scalar = dist.scalar
        normal = Normal(scalar.loc[..., 0], torch.exp(-0.5 * scalar.log_precision[..., 0]))
        return Independent(MixtureSameFamily(Categorical(logits=scalar.logits), normal), 1)
    return MixtureSameFamily(
        Categorical(logits=dist.logits), MultivariateNormal(dist.loc, precision_matrix=dist.precision)
    )


def values(dist, seed=1):
    return torch.randn(*dist.batch_shape, *dist.event_shape, dtype=torch.float64, generator=generator(seed))


def is_flow(dist):
    return isinstance(dist, TransformedMixture)


def base_of(dist):
    return dist.base_dist if is_flow(dist) else getattr(dist, "scalar", dist)


def parameters(dist):
    """The parameters of a distribution or of its base."""
    return [getattr(base_of(dist), name) for name in base_of(dist).arg_constraints]


each = pytest.mark.parametrize("name", CASES)


def test_every_distribution_is_in_the_battery():
    def final(kind):
        return {kind} if not kind.__subclasses__() else set().union(*map(final, kind.__subclasses__()))

    elsewhere = {AutoregressiveMixture}  # tests/worldmodel/test_autoregressive.py
    assert {type(build(name)) for name in CASES} == final(AbstractTemperedDistribution) - elsewhere


@each
def test_it_is_a_distribution_of_torch(name):
    dist = build(name, (4,))
    assert isinstance(dist, Distribution)
    assert (dist.batch_shape, dist.event_shape) == (as_torch(dist).batch_shape, as_torch(dist).event_shape)
    for parameter, constraint in dist.arg_constraints.items():
        assert constraint.check(getattr(dist, parameter)).all()
    assert dist.support.check(dist.sample()).all()
    assert type(dist).__name__ in repr(dist)
    for unknown in (dist.cdf, dist.icdf):
        with pytest.raises(NotImplementedError):
            unknown(values(dist))


@each
@pytest.mark.parametrize("batch", [(), (7, 2)], ids=str)
def test_log_prob_agrees_with_torch(name, batch):
    dist = build(name, batch)
    value = values(dist)
    torch.testing.assert_close(dist.log_prob(value), as_torch(dist).log_prob(value), rtol=1e-9, atol=1e-9)


@each
def test_mean_and_variance_agree_with_torch(name):
    dist = build(name, (3,))
    if is_flow(dist):
        with pytest.raises(NotImplementedError):
            _ = dist.mean
        return
    torch.testing.assert_close(dist.mean, as_torch(dist).mean)
    torch.testing.assert_close(dist.variance, as_torch(dist).variance)
    torch.testing.assert_close(dist.stddev, as_torch(dist).stddev)


@each
def test_entropy_agrees_with_torch_or_is_refused(name):
    dist = build(name, (3,))
    if is_flow(dist) or not dist.has_rsample:
        with pytest.raises(NotImplementedError):
            dist.entropy()
        return
    normal = as_torch(dist)
    if isinstance(normal, MixtureSameFamily):
        normal = normal.component_distribution
    expected = dist.scalar.variance if isinstance(dist, PerDimensionMixture) else normal.entropy()
    if isinstance(dist, PerDimensionMixture):
        expected = Normal(dist.mean, expected[..., 0].sqrt()).entropy().sum(dim=-1)
    torch.testing.assert_close(dist.entropy(), expected.reshape(3))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * is_flow(build(n))) for n in CASES if build(n).event_shape[0] <= 2],
)
def test_density_integrates_to_one(name):
    dist = build(name)
    d = dist.event_shape[0]
    points = 4001 if d == 1 else 1601 if is_flow(dist) else 601
    axis = torch.linspace(-25, 25, points, dtype=torch.float64) * (2 if is_flow(dist) else 1)
    with torch.no_grad():
        parts = (torch.cartesian_prod(part, *[axis] * (d - 1)).view(-1, d) for part in axis.split(100))
        total = sum(float(dist.log_prob(part).exp().sum()) for part in parts) * float(axis[1] - axis[0]) ** d
    assert total == pytest.approx(1.0, abs=0.01 if is_flow(dist) else 2e-4)


@each
def test_samples_agree_with_samples_of_torch(name):
    """Two-sample Kolmogorov-Smirnov tests at the 0.1 % level, of each dimension and of the log-density."""
    dist, many = build(name), 20_000
    ours = dist.sample((many,), generator=generator())
    theirs = as_torch(dist).sample((many,))
    with torch.no_grad():
        pairs = [*zip(ours.T, theirs.T, strict=True), (dist.log_prob(ours), dist.log_prob(theirs))]
    for one, other in pairs:
        order = torch.cat((one, other)).argsort()
        apart = torch.where(order < many, 1.0, -1.0).cumsum(dim=0).abs().max() / many
        assert float(apart) < 1.95 * math.sqrt(2 / many)


@each
def test_shapes_of_samples(name):
    for batch in ((), (4,)):
        dist = build(name, batch)
        for shape in ((), (5,), (2, 3), torch.Size([2]), [1]):
            drawn = dist.sample(shape, 0.7, generator())
            assert drawn.shape == (*shape, *batch, *dist.event_shape)
            assert dist.log_prob(drawn).shape == (*shape, *batch)


@each
def test_values_broadcast_to_the_batch(name):
    dist = build(name, (4,))
    value = values(dist)[:1]
    torch.testing.assert_close(dist.log_prob(value[0]), dist.log_prob(value.expand(4, -1)))
    wide = value.expand(2, 4, -1) + torch.ones(2, 1, 1)
    torch.testing.assert_close(dist.log_prob(wide), torch.stack([dist.log_prob(part) for part in wide]))


@each
def test_expand_repeats_the_distribution(name):
    dist = build(name)
    expanded = dist.expand((5, 2))
    assert (type(expanded), expanded.batch_shape, expanded.event_shape) == (type(dist), (5, 2), dist.event_shape)
    value = values(expanded)
    torch.testing.assert_close(expanded.log_prob(value), torch.stack([dist.log_prob(part) for part in value]))
    assert expanded.sample((3,)).shape == (3, 5, 2, *dist.event_shape)
    assert build(name, (1,)).expand(torch.Size([4])).batch_shape == (4,)


@each
def test_sampling_uses_only_the_given_generator(name):
    dist = build(name, (2,))
    before = torch.get_rng_state()
    first, second = (dist.sample((5,), 0.8, generator(9)) for _ in range(2))
    assert first.equal(second)
    assert not first.equal(dist.sample((5,), 0.8, generator(10)))
    assert before.equal(torch.get_rng_state())


@each
def test_samples_have_no_gradient_and_reparameterized_samples_have(name):
    dist = build(name, (3,))
    for parameter in parameters(dist):
        parameter.requires_grad_()
    dist = dist.expand((3,))  # the lower triangle of a full precision is computed from its parameters
    drawn = dist.sample((2,), 0.5, generator())
    assert not drawn.requires_grad
    if not dist.has_rsample:
        with pytest.raises(NotImplementedError):
            dist.rsample()
        return
    again = dist.rsample((2,), 0.5, generator())
    assert again.equal(drawn)
    gradients = torch.autograd.grad(again.square().sum(), parameters(dist)[-2:])  # without the logits of the component
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@each
def test_samples_at_low_temperature_approach_the_mode(name):
    dist = build(name, (3,))
    cold = dist.sample((10,), 1e-8, generator())
    torch.testing.assert_close(cold, dist.mode.expand(10, 3, -1), atol=1e-2, rtol=0)


@each
def test_temperature_may_differ_within_a_batch(name):
    dist = build(name, (2,))
    temperatures = torch.tensor([0.25, 4.0], dtype=torch.float64)
    both = dist.sample((50,), temperatures, generator())
    for row, temperature in enumerate(temperatures.tolist()):
        alone = dist.sample((50,), temperature, generator())
        torch.testing.assert_close(both[:, row], alone[:, row])


@pytest.mark.parametrize("name", [n for n in CASES if build(n).has_rsample and not is_flow(build(n))])
def test_temperature_is_the_factor_of_a_gaussian_variance(name):
    dist = build(name)
    drawn = dist.sample((40_000,), 0.3, generator())
    torch.testing.assert_close(drawn.var(dim=0), 0.3 * dist.variance, rtol=0.05, atol=0)


@each
def test_gradients_of_log_prob_agree_with_finite_differences(name):
    dist = build(name, (2,))
    inputs = [parameter.clone().requires_grad_() for parameter in parameters(dist)]

    def log_prob(value, *arguments):
        again = type(base_of(dist))(*arguments)
        if is_flow(dist):
            again = TransformedMixture(again, dist.flow, dist.context)
        elif isinstance(dist, PerDimensionMixture):
            again = PerDimensionMixture(again)
        return again.log_prob(value)

    assert torch.autograd.gradcheck(log_prob, (values(dist.expand((3, 2))).requires_grad_(), *inputs))


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_low_precision_is_close_to_double_precision_and_finite_for_outliers(name, dtype):
    exact, dist = build(name, (5,)), build(name, (5,), dtype)
    value = values(exact)
    rough = dist.log_prob(value.to(dtype))
    assert rough.dtype == dtype
    tolerance = 1e-3 if dtype == torch.float32 else 1.5
    torch.testing.assert_close(rough.double(), exact.log_prob(value), rtol=tolerance / 10, atol=tolerance)
    leaf = torch.full_like(value, 1e4).to(dtype).requires_grad_()
    far = dist.log_prob(leaf)
    far.sum().backward()
    assert torch.isfinite(far).all() and torch.isfinite(leaf.grad).all()
    if dtype == torch.float32 or not name.startswith(("full", "conditional")):  # LAPACK has no bfloat16
        assert torch.isfinite(dist.sample((50,), 1.0, generator())).all()


@each
def test_bad_arguments_are_refused(name, as_users_do):
    dist = build(name, (2,))
    for bad in (0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0])):
        with pytest.raises(ValueError, match="temperature"):
            dist.sample(temperature=bad)
    with pytest.raises(ValueError, match="value"):
        dist.log_prob(torch.zeros(2, dist.event_shape[0] + 1, dtype=torch.float64))


@each
def test_validation_can_be_turned_off(name, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", True)  # torch's default, which zuko changes
    dist = build(name, (2,))
    missing = torch.full_like(values(dist), math.nan)
    with pytest.raises(ValueError):
        dist.log_prob(missing)
    for part in (dist, base_of(dist)):
        part._validate_args = False
    assert dist.expand((2,)).log_prob(missing).isnan().all()
    parts = [torch.full_like(parameter, math.nan) for parameter in parameters(dist)]
    kind = type(base_of(dist))
    with pytest.raises(ValueError):
        kind(*parts)
    kind(*parts, validate_args=False)


def test_wrong_shapes_are_refused(as_users_do):
    zeros = torch.zeros
    for parts, name in (
        ((zeros(3), zeros(2, 3), zeros(2, 3)), "logits"),
        ((zeros(2), zeros(2, 3), zeros(2, 4)), "log_precision"),
        ((zeros(2), zeros(2, 3), zeros(2, 3), zeros(2, 4, 1)), "precision_factor"),
    ):
        with pytest.raises(ValueError, match=f"^{name} "):
            GaussianMixture(*parts)
    with pytest.raises(ValueError, match="tril"):
        FullGaussianMixture(zeros(2), zeros(2, 3), zeros(2, 3), zeros(2, 2))


def test_kl_agrees_with_torch():
    q, p = gaussian((5,), torch.float64), DiagonalGaussian(*(torch.randn(2, 5, 3, dtype=torch.float64)))
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(as_torch(q), as_torch(p)))
    torch.testing.assert_close(kl_divergence(q, q), torch.zeros(5, dtype=torch.float64))


def test_full_precision_represents_a_low_rank_precision():
    g = mixture(3, 4, 2, batch=(5,))
    lower = torch.linalg.cholesky(g.precision)
    rows, columns = torch.tril_indices(4, 4, -1)
    same = FullGaussianMixture(g.logits, g.loc, lower.diagonal(dim1=-2, dim2=-1).log(), lower[..., rows, columns])
    value = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(same.log_prob(value), g.log_prob(value))


def test_order_of_components_is_irrelevant():
    g = mixture(4, 3, 2)
    order = torch.tensor([2, 0, 3, 1])
    assert g.precision_factor is not None
    other = GaussianMixture(g.logits[order], g.loc[order], g.log_precision[order], g.precision_factor[order])
    value = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(g.log_prob(value), other.log_prob(value))


@pytest.mark.parametrize("rank", [2, 5])
@pytest.mark.parametrize(
    ("log_precision", "size", "apart"),
    [((-10, -10), 10, 1), ((-10, -10), 100, 1), ((-10, -10), 10, 1e-3), ((-10, 14), 10, 1e-2), ((14, 14), 10, 1)],
    ids=["wide", "wider", "parallel", "mixed", "narrow"],
)  # fmt: skip
def test_samples_in_single_precision_have_the_exact_covariance_at_the_clamps(log_precision, size, apart, rank):
    """Samples whitened by the Cholesky factor of the exact precision have covariance I, also where columns are parallel."""
    factor = torch.randn(32, rank, generator=generator(0))
    factor = size * (factor[:, :1] + apart * factor) if apart < 1 else size * factor
    log_precision = torch.linspace(*log_precision, 32)
    mixed = GaussianMixture(torch.zeros(1), torch.zeros(1, 32), log_precision[None], factor[None])
    drawn = mixed.sample((20_000,), generator=generator(1))
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
    drawn = g.sample((100_000,), temperature, generator(3))[:, 0]
    share = 1 / (1 + math.exp(-1 / temperature))
    assert float((drawn < 0).float().mean()) == pytest.approx(share, abs=0.01)
    spread = (drawn + 50 * torch.where(drawn < 0, 1.0, -1.0)).std()
    assert float(spread) == pytest.approx(math.sqrt(temperature), rel=0.02)


def test_samples_pass_the_kolmogorov_smirnov_test():
    """Probability integral transform in one dimension, Kolmogorov-Smirnov at the 1 % level."""
    g = mixture(3, 1, 1, seed=5)
    drawn = g.sample((5_000,), generator=generator(1))[:, 0]
    scale = g.covariance[:, 0, 0].sqrt()
    cdf = (g.logits.softmax(-1) * Normal(g.loc[:, 0], scale).cdf(drawn[:, None])).sum(-1).sort().values
    even = torch.arange(1, 5_001, dtype=torch.float64) / 5_000
    assert float((cdf - even).abs().max()) < 1.63 / math.sqrt(5_000)


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
        assert torch.isfinite(g.sample(generator=generator(0))).all()


@pytest.mark.parametrize("rank", [4, 5, 8])
def test_extreme_precision_factors_stay_finite_in_single_precision(rank):
    """Rounding makes the capacitance matrix indefinite; no error is raised, and values and gradients stay finite."""
    g = generator(0)
    factor = 30 * torch.randn(6, 2, 3, rank, generator=g)
    parts = [torch.zeros(6, 2), torch.zeros(6, 2, 3), torch.full((6, 2, 3), -10.0), factor]
    leaves = [part.clone().requires_grad_() for part in parts]
    value = 0.01 * torch.randn(6, 3, generator=g)
    log_prob = GaussianMixture(*leaves).log_prob(value)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)
    exact = GaussianMixture(*(part.double() for part in parts)).log_prob(value.double())
    torch.testing.assert_close(log_prob.double(), exact, rtol=0, atol=3)  # of about 20 nats per direction


def nearly_collinear(rank, log_precision=-10.0):
    """A mixture whose factor U has columns that differ by a thousandth."""
    g = generator(0)
    factor = 3 * (torch.randn(1, 32, 1, generator=g) + 1e-3 * torch.randn(1, 32, rank, generator=g))
    return GaussianMixture(torch.zeros(1), torch.zeros(1, 32), torch.full((1, 32), log_precision), factor)


@pytest.mark.parametrize("make", [lambda r: nearly_collinear(r, 0.0), lambda r: FullGaussianMixture(*_full_parts())])
@pytest.mark.parametrize("rank", [4, 8])
def test_densities_do_not_depend_on_autocast(make, rank):
    value = 0.1 * torch.randn(3, 32, generator=generator(1))
    expected = make(rank).log_prob(value), make(rank).precision
    with torch.autocast("cpu", torch.bfloat16):
        actual = make(rank).log_prob(value), make(rank).precision
    assert all(a.equal(b) for a, b in zip(actual, expected, strict=True))


def _full_parts():
    tril = torch.randn(1, 32 * 31 // 2, generator=generator(0))
    return torch.zeros(1), torch.zeros(1, 32), torch.zeros(1, 32), tril


@pytest.mark.slow
def test_products_under_autocast_are_one_graph():
    def product(one, other):
        with torch.autocast("cpu", torch.bfloat16):
            return matmul(one, other)

    one, other = torch.randn(2, 3, 4, generator=generator(0)), torch.ones(2, 4, 5)
    compiled = torch.compile(product, backend="eager", fullgraph=True)(one, other)
    assert compiled.dtype == torch.float32
    torch.testing.assert_close(compiled, one @ other)


@pytest.mark.parametrize("rank", [2, 4, 6])
def test_covariances_of_nearly_collinear_factors_are_exact(rank):
    g = nearly_collinear(rank)
    parts = (part.double() for part in (g.logits, g.loc, g.log_precision, g.precision_factor))
    exact = torch.linalg.inv(GaussianMixture(*parts).precision)
    torch.testing.assert_close(g.covariance.double(), exact, rtol=1e-5, atol=1e-6 * float(exact.abs().max()))
