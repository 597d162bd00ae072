"""Densities of whitened differences: exact change of variables, whitened data, and what they learn."""

import pytest
import torch

from worldmodel import FRMDN, RMDN, Memory, SequenceDensity, WorldModel, seeded
from worldmodel.batches import SequenceBatch
from worldmodel.flows import WhiteningFlow
from worldmodel.vae import VAE
from worldmodel.world_model import WorldState


def differences(count=4_000, size=3):
    g = torch.Generator().manual_seed(0)
    mixing = torch.eye(size) + 0.4 * torch.randn(size, size, generator=g)
    return torch.randn(count, size, generator=g) @ mixing.T + torch.tensor([5.0, -1.0, 0.0])


@pytest.fixture
def fitted():
    flow = WhiteningFlow(3, difference=True)
    flow.fit(differences())
    return flow


def test_differences_of_the_data_are_white(fitted):
    values = differences()
    u, _ = fitted(values + 2.0, torch.full_like(values, 2.0))
    torch.testing.assert_close(u.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.cov(u.T), torch.eye(3), rtol=0, atol=2e-2)


def test_the_map_is_exact():
    fitted = WhiteningFlow(3, difference=True).double()
    fitted.fit(differences().double())
    y, context = torch.randn(6, 3).double(), torch.randn(6, 5).double()  # the context ends in the latent
    u, log_det = fitted(y, context)
    torch.testing.assert_close(fitted.inverse(u, context), y)
    for row in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda v, row=row: fitted(v, context[row])[0], y[row])
        torch.testing.assert_close(log_det[row], torch.linalg.slogdet(jacobian).logabsdet)
    with pytest.raises(ValueError, match="^context "):
        fitted(y)


def test_the_map_stays_exact_in_half_precision(fitted):
    """Weights are shipped in half precision: the inverse and the log-determinant must be those of the rounded map."""
    for buffer in fitted.buffers():
        buffer.copy_(buffer.half())
    y, context = torch.randn(50, 3), torch.randn(50, 3)
    u, log_det = fitted(y, context)
    torch.testing.assert_close(fitted.inverse(u, context), y, rtol=0, atol=1e-5)
    jacobian = torch.autograd.functional.jacobian(lambda v: fitted(v, context[0])[0], y[0])
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.parametrize("values", [torch.zeros(50, 3), torch.ones(2, 3), differences(2)], ids=str)
def test_data_without_variation_give_finite_maps(values):
    flow = WhiteningFlow(3, difference=True)
    flow.fit(values)
    assert all(torch.isfinite(part).all() for part in flow(torch.randn(4, 3), torch.zeros(4, 3)))


def test_a_dimension_that_depends_on_another_gets_a_bounded_map():
    """The ridge is a thousandth of each variance, in any unit; the conditional variance is then 1.001 - 1 / 1.001."""
    flow, step = WhiteningFlow(3, difference=True), torch.randn(4_000, 3, generator=torch.Generator().manual_seed(0))
    step[:, 2] = step[:, 0] + 1e-6 * step[:, 2]
    for scale in (1.0, 1e3):
        flow.fit(step * scale)
        unit = torch.tensor([0.0, 0.0, 1.0])
        gain = float(flow(flow.mean + unit, torch.zeros(3))[0][2])
        assert gain * scale == pytest.approx((1.001 - 1 / 1.001) ** -0.5, rel=0.05)


@pytest.mark.parametrize("kind", [RMDN, FRMDN])
def test_the_initial_density_follows_the_differences(kind):
    """With the data's statistics, a new density is near their Gaussian: a few nats above its entropy, at any scale."""
    step = differences()
    latent = 100 * torch.randn(len(step), 3, generator=torch.Generator().manual_seed(1))
    with seeded(0):
        density = kind(input_size=4, output_size=3, hidden_size=8, residual=True)
    density.init_from_data(latent, latent + step)
    x = torch.cat((latent, torch.zeros(len(step), 1)), dim=1)[:, None]
    entropy = float(torch.distributions.MultivariateNormal(torch.zeros(3), torch.cov(step.T)).entropy())
    with torch.no_grad():  # the head sees the latent of scale 100: remove its part, which training would learn to
        head = density.head if kind is RMDN else density.base.head
        head.weight.zero_()
        nll = float(-density(x)[0].log_prob((latent + step)[:, None]).mean())
    assert entropy - 0.05 < nll < entropy + 1.5


def walk(seed, batch=32, time=16, size=4):
    """Latents that drift by the action: their position is arbitrary, their steps are small."""
    g = torch.Generator().manual_seed(seed)
    action = torch.randint(0, 2, (batch, time, 1), generator=g).float() * 2 - 1
    noise = 0.05 * torch.randn(batch, time, size, generator=g)
    start = 3 * torch.randn(batch, 1, size, generator=g)
    path = torch.cat((start, start + (0.3 * action + noise).cumsum(dim=1)), dim=1)
    zeros, ones = torch.zeros(batch, time), torch.ones(batch, time)
    return SequenceBatch(path[:, :-1], action, path[:, 1:], zeros, zeros, ones)


def test_a_residual_memory_learns_a_walk_in_updates_that_leave_another_nats_behind():
    found = {}
    for residual in (False, True):
        with seeded(0):
            memory = Memory(RMDN(5, 4, hidden_size=32, num_components=2, residual=residual), reward=False)
        memory.init_from_data(walk(0))
        optimizer = torch.optim.Adam(memory.parameters(), lr=1e-2)
        for update in range(60):
            loss = memory.loss(walk(1 + update)).value
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            found[residual] = float(memory.loss(walk(1_000)).parts["nll"])
    assert found[True] < found[False] - 4


@pytest.mark.parametrize("differences", [torch.zeros(1, 3), torch.full((4, 3), torch.nan)], ids=["one step", "nan"])
def test_bad_differences_are_refused(differences):
    with pytest.raises(ValueError, match="^data "):
        WhiteningFlow(3, difference=True).fit(differences)


def test_each_dimension_is_whitened_in_its_own_units():
    scales = torch.tensor([10.0, 1e-3, 1e-3])
    values = scales * torch.randn(2_000, 3, generator=torch.Generator().manual_seed(0))
    flow = WhiteningFlow(3, difference=True)
    flow.fit(values)
    torch.testing.assert_close(flow(values, torch.zeros_like(values))[0].std(dim=0), torch.ones(3), rtol=0.05, atol=0)


def test_densities_stay_in_single_precision_under_autocast():
    """Small differences of large latents: bfloat16 would round them away."""
    with seeded(0):
        density = RMDN(5, 4, hidden_size=16, residual=True)
    latent = 3 + torch.randn(8, 6, 4)
    following = latent + 0.01 * torch.randn(8, 6, 4)
    density.init_from_data(latent.flatten(0, 1), following.flatten(0, 1))
    x = torch.cat((latent, torch.zeros(8, 6, 1)), dim=-1)
    with torch.no_grad():
        expected = density(x)[0].log_prob(following)
        with torch.autocast("cpu", torch.bfloat16):
            found = density(x)[0].log_prob(following)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


def test_residual_densities_of_sequences_are_refused():
    with pytest.raises(ValueError, match="residual"):
        SequenceDensity(RMDN(3, 3, residual=True))


def test_a_recurrent_state_holds_the_latest_latent():
    with seeded(0):
        world = WorldModel(VAE(latent_dim=4), Memory(FRMDN(6, 4, hidden_size=8, residual=True)))
    latent, action = torch.randn(3, 5, 4), torch.randn(3, 5, 2)
    state = world.replay(latent, action)
    assert state.cell[:, -1, 8:].equal(latent[:, -1])
    _, last = world.memory.unroll(latent, action)
    torch.testing.assert_close(state.cell, last.cell)
    first, after = world.imagine(state, action[:, 0], generator=torch.Generator().manual_seed(0))
    assert isinstance(after, WorldState) and first.latent.shape == (3, 4)
    assert after.controller_inputs.shape == (3, world.num_features)
