"""Laws of recurrent densities, tested on every class."""

import math

import pytest
import torch

import worldmodel
import worldmodel.registry
from tests.toys import BANANA_ENTROPY, banana, linear_gaussian
from worldmodel import FRMDN, RMDN, seeded
from worldmodel.baselines import AutoregressiveRNN, PerDimensionRMDN
from worldmodel.mdn_rnn import LOG_PRECISION_RANGE, State

DENSITIES = {
    "rmdn": lambda **k: RMDN(3, 2, **{"hidden_size": 8, "num_components": 3} | k),
    "rmdn rank": lambda **k: RMDN(3, 2, **{"hidden_size": 8, "num_components": 2, "rank": 2} | k),
    "rmdn layers": lambda **k: RMDN(3, 2, **{"hidden_size": 8, "num_layers": 2} | k),
    "frmdn": lambda **k: FRMDN(3, 2, **{"hidden_size": 8, "rank": 1} | k),
    "rmdn full": lambda **k: RMDN(3, 2, **{"hidden_size": 8, "num_components": 2, "full": True} | k),
    "per dimension": lambda **k: PerDimensionRMDN(3, 2, **{"hidden_size": 8} | k),
    "autoregressive": lambda **k: AutoregressiveRNN(3, 2, **{"hidden_size": 8, "width": 8} | k),
    "frmdn spline": lambda **k: FRMDN(3, 2, **{"hidden_size": 8, "spline": True} | k),
    "frmdn conditional": lambda **k: FRMDN(3, 2, **{"hidden_size": 8, "conditional": True} | k),
    "rmdn residual": lambda **k: RMDN(3, 2, **{"hidden_size": 8, "num_layers": 2, "residual": True} | k),
    "frmdn residual": lambda **k: FRMDN(3, 2, **{"hidden_size": 8, "conditional": True, "residual": True} | k),
}


@pytest.fixture(params=DENSITIES)
def density(request):
    with worldmodel.seeded(0):
        model = DENSITIES[request.param]().double()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def test_every_density_is_in_the_battery():
    assert {type(build()) for build in DENSITIES.values()} == set(worldmodel.registry.DENSITIES.values())


def batch(time=6):
    g = torch.Generator().manual_seed(1)
    return torch.randn(4, time, 3, dtype=torch.float64, generator=g), torch.randn(
        4, time, 2, dtype=torch.float64, generator=g
    )


def test_steps_equal_one_pass(density):
    x, y = batch()
    whole, last = density(x)
    state, steps = density.initial(4), []
    for t in range(x.shape[1]):
        dist, state = density(x[:, t : t + 1], state)
        steps.append(dist.log_prob(y[:, t : t + 1]))
    torch.testing.assert_close(torch.cat(steps, dim=1), whole.log_prob(y))
    torch.testing.assert_close(state.hidden, last.hidden)
    torch.testing.assert_close(state.cell, last.cell)


def test_the_future_leaves_the_past_bit_equal(density):
    x, y = batch()
    changed = x.clone()
    changed[:, 4:] += 100
    assert density(x)[0].log_prob(y)[:, :4].equal(density(changed)[0].log_prob(y)[:, :4])


def test_every_parameter_receives_a_gradient(density):
    x, y = batch()
    (-density(x)[0].log_prob(y)).mean().backward()
    assert [name for name, p in density.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_config_rebuilds_the_same_density(density):
    rebuilt = type(density)(**density.config).double()
    rebuilt.load_state_dict(density.state_dict())
    x, y = batch()
    assert rebuilt(x)[0].log_prob(y).equal(density(x)[0].log_prob(y))


def test_samples_have_batch_and_event_shape(density):
    dist, _ = density(batch()[0])
    assert dist.batch_shape == (4, 6)
    assert dist.event_shape == (2,)
    assert dist.sample((5,), 0.7, torch.Generator().manual_seed(0)).shape == (5, 4, 6, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DENSITIES)
@pytest.mark.parametrize("case", ["constant", "outliers", "one step"])
def test_training_stays_finite_on_adversarial_data(kind, case):
    with worldmodel.seeded(1):
        density = DENSITIES[kind]()
    optimizer = torch.optim.Adam(density.parameters(), lr=1e-2)
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        x = torch.randn(8, 1 if case == "one step" else 5, 3, generator=g)
        y = torch.randn(*x.shape[:2], 2, generator=g)
        if case == "constant":
            x, y = torch.zeros_like(x), torch.zeros_like(y)
        elif case == "outliers":
            x[0, 0], y[0, 0] = 1e4, -1e4
        loss = -density(x)[0].log_prob(y).mean()
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(density.parameters(), 1.0)
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in density.parameters())


def train_and_evaluate(density, draw, updates, lr=3e-3):
    optimizer = torch.optim.Adam(density.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for update in range(updates):
        x, y = draw(update)
        loss = -density(x)[0].log_prob(y).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        values = torch.stack([-density(x)[0].log_prob(y).mean() for x, y in map(draw, range(10_000, 10_020))])
    return float(values.mean()), float(values.std()) / math.sqrt(20)


@pytest.mark.slow
def test_nll_approaches_the_true_entropy_and_never_beats_it():
    """The lowest possible NLL of a linear-Gaussian process is known."""

    def draw(seed):
        x, a, _ = linear_gaussian(32, 20, seed)
        return torch.cat((x[:, :-1], a), dim=2), x[:, 1:]

    entropy = linear_gaussian(1, 1, 0)[2]
    with worldmodel.seeded(0):
        density = RMDN(2, 1, hidden_size=16, num_components=2)
    nll, error = train_and_evaluate(density, draw, 250, lr=2e-2)
    assert nll > entropy - 4 * error
    assert nll < entropy + 0.08


@pytest.mark.slow
def test_frmdn_beats_rmdn_on_the_banana():
    def draw(seed):
        return torch.zeros(64, 1, 1), banana(64, seed)[:, None]

    results = {}
    for name, kind in {"rmdn": RMDN, "frmdn": FRMDN}.items():
        with worldmodel.seeded(0):
            results[name] = train_and_evaluate(kind(1, 2, hidden_size=8, num_components=2), draw, 200, lr=1e-2)
    assert results["frmdn"][0] < results["rmdn"][0] - 0.2
    assert results["frmdn"][0] > BANANA_ENTROPY - 4 * results["frmdn"][1]


def test_initial_forget_gates_are_open():
    """A cell keeps sigmoid(1) = 0.73 of its value at a step without input."""
    with seeded(0):
        model = RMDN(input_size=2, output_size=1, hidden_size=64)
    before = model.initial(1)
    _, after = model.unroll(torch.zeros(1, 1, 2), before._replace(cell=torch.ones_like(before.cell)))
    assert float(after.cell.mean().detach()) == pytest.approx(0.73, abs=0.05)


def test_state_is_explicit_and_validated():
    density = RMDN(3, 2, hidden_size=8)
    state = density.initial(2)
    assert isinstance(state, State)
    with pytest.raises(ValueError, match=r"state"):
        density(torch.zeros(4, 1, 3), state)
    with pytest.raises(ValueError, match="^x "):
        density(torch.zeros(4, 0, 3))


@pytest.mark.parametrize(
    ("name", "value"), [("input_size", 0), ("num_components", 0), ("rank", -1), ("hidden_size", 0)]
)
def test_bad_sizes_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} "):
        RMDN(**{"input_size": 3, "output_size": 2, name: value})


def test_num_parameters_match_the_published_model():
    """LSTM-256 on 32 latents and 3 actions, K = 5 joint components."""
    assert sum(p.numel() for p in RMDN(35, 32).parameters()) == 4 * 256 * (35 + 256 + 2) + 257 * 5 * 65


@pytest.mark.parametrize(
    "options",
    [{}, {"rank": 2}, {"full": True}],
    ids=["diagonal", "rank", "full"],
)
def test_initial_distributions_scale_with_the_data(options):
    """For data of another mean and scale, the initial density is that of the standardized data, in their units."""
    mean, std = torch.tensor([5.0, -3.0, 0.0]), torch.tensor([0.1, 10.0, 100.0])
    x = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(0))
    event = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1))
    with worldmodel.seeded(0):
        density = RMDN(5, 3, hidden_size=8, **options)
    before = density(x)[0].log_prob(event)
    density.init_from_statistics(mean, std)
    after = density(x)[0].log_prob(mean + std * event)
    torch.testing.assert_close(after, before - std.log().sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("output", "end"), [(-1e3, 0), (1e3, 1)])
def test_precisions_are_clamped_to_their_range(full, output, end):
    """Without factors the diagonal of the precision is between exp(-10) and exp(14), full or not."""
    density = RMDN(3, 2, hidden_size=4, num_components=1, full=full)
    with torch.no_grad():
        density.head.weight.zero_()
        density.head.bias.zero_()
        density.head.bias[3:5] = output  # one logit, two means, then the log-precisions
        precision = density.distribution(torch.zeros(1, 4)).precision[0, 0]
    assert precision.diagonal().log().tolist() == pytest.approx([LOG_PRECISION_RANGE[end]] * 2, rel=1e-5)
