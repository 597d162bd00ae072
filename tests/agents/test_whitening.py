"""Whitening of a search: an exact change of variables in which the controller inputs are white."""

import numpy as np
import pytest
import torch

from tests import toys
from worldmodel import RMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.agents import HiddenController, LinearController, evolve
from worldmodel.agents.evolution.whitening import RIDGE, Whitening
from worldmodel.io.files import write_tensors

KINDS = [LinearController(5, 2), HiddenController(5, 2, hidden_units=4)]


def sample_inputs(n=400, inputs=7):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, inputs)) @ rng.normal(size=(inputs, inputs)) + 3 * rng.normal(size=inputs)


@pytest.mark.parametrize("kind", KINDS, ids=["linear", "hidden"])
def test_whitening_is_a_change_of_variables(kind):
    whitening = Whitening.from_inputs(kind, sample_inputs())
    y = np.random.default_rng(1).normal(size=(3, kind.size))
    np.testing.assert_allclose(whitening.to_coordinates(whitening.to_parameters(y)), y, atol=1e-9)
    np.testing.assert_allclose(whitening.to_parameters(y)[1], whitening.to_parameters(y[1]))


@pytest.mark.parametrize("kind", KINDS, ids=["linear", "hidden"])
def test_weights_act_on_whitened_inputs(kind):
    """The controller at coordinates y, on x, is the controller with parameters y on whitened x."""
    x, y = sample_inputs(), np.random.default_rng(1).normal(size=kind.size)
    whitening = Whitening.from_inputs(kind, x)
    white = (x[:, :5] - whitening.mean) @ whitening.matrix
    np.testing.assert_allclose(
        kind.with_parameters(whitening.to_parameters(y))(torch.from_numpy(x[:, :5])),
        kind.with_parameters(y)(torch.from_numpy(white)),
        atol=1e-4,
    )
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-9)
    covariance = np.cov(white, rowvar=False)
    np.testing.assert_allclose(covariance, np.diag(covariance.diagonal()), atol=1e-9)
    variance = np.linalg.eigvalsh(np.cov(x[:, :5], rowvar=False))
    np.testing.assert_allclose(covariance.diagonal(), variance / (variance + RIDGE * variance.mean()))


def test_constant_inputs_give_finite_parameters():
    whitening = Whitening.from_inputs(LinearController(3, 1), np.ones((4, 3)))
    assert np.isfinite(whitening.to_parameters(np.ones(4))).all()


def test_whitening_helps_evolution_on_badly_scaled_inputs():
    """A regression on correlated inputs with a large mean: the same search, without and with whitening."""
    x, rng = sample_inputs(inputs=5), np.random.default_rng(2)
    whitening = Whitening.from_inputs(KINDS[0], x)
    expected = (x - whitening.mean) @ whitening.matrix @ rng.normal(size=(5, 2)) + 1

    def fitness(population, seed):
        weight, bias = population[:, :10].reshape(-1, 2, 5), population[:, None, 10:]
        return -np.square(x @ weight.swapaxes(1, 2) + bias - expected).mean(axis=(1, 2))

    ends = []
    for coordinates in (None, whitening):
        best = evolve(KINDS[0], fitness, seed=3, generations=30, whitening=coordinates)
        ends.append(float(fitness(best.parameters.double().numpy()[None], 0)[0]))
    assert ends[1] > ends[0] / 5  # both are below zero


@pytest.mark.parametrize("coordinates", [False, True])
def test_evolution_with_sigma_decay_resumes_bit_for_bit(tmp_path, coordinates):
    kind = KINDS[0]
    settings = {"seed": 3, "population": 8, "sigma_decay": 0.9}
    settings["whitening"] = Whitening.from_inputs(kind, sample_inputs()) if coordinates else None

    def fitness(population, seed):
        return -np.square(population - 0.5).sum(axis=1)

    uninterrupted = evolve(kind, fitness, **settings, generations=9, out=tmp_path / "whole")
    evolve(kind, fitness, **settings, generations=4, out=tmp_path / "parts")
    resumed = evolve(kind, fitness, **settings, generations=9, out=tmp_path / "parts")
    assert uninterrupted.parameters.equal(resumed.parameters)
    other = settings | {"whitening": Whitening.from_inputs(kind, 2 * sample_inputs())}
    with pytest.raises(ValueError, match="whitening"):
        evolve(kind, fitness, **other, generations=10, out=tmp_path / "parts")


def test_sigma_falls_with_the_decay():
    flat = [evolve_sigma(decay) for decay in (1.0, 0.8)]
    assert flat[1] == pytest.approx(flat[0] * 0.8**5)


def evolve_sigma(decay):
    rows = []
    evolve(KINDS[0], lambda population, seed: np.arange(len(population)) * 1.0, seed=1, generations=5, sigma_decay=decay,
           population=8, on_generation=rows.append)  # fmt: skip
    return rows[-1]["sigma"]


def test_whitening_of_a_world_model(tmp_path):
    store = rollouts.collect(toys.counter, rollouts.uniform, 3, seed=3, out=tmp_path / "store")
    with seeded(0):
        world = WorldModel(VAE(3), Memory(RMDN(5, 3, hidden_size=4, num_components=1))).eval()
    latents = store.latents(world.vae)
    kind = LinearController.for_world_model(world)
    whitening = Whitening.fit(world, latents, kind)
    path = tmp_path / "evolve" / "coordinates.safetensors"
    first = Whitening.load_or_fit(path, world, latents, kind)
    again = Whitening.load_or_fit(path, world, [], kind)  # a resumed search keeps its whitening after further episodes
    assert whitening.identity == first.identity == again.identity
    np.testing.assert_array_equal(again.to_parameters(np.ones(kind.size)), whitening.to_parameters(np.ones(kind.size)))
    with pytest.raises(ValueError, match=r"coordinates\.safetensors"):
        Whitening.load_or_fit(path, world, latents, LinearController.for_world_model(world, "z"))
    write_tensors(path, {"mean": torch.full((7,), torch.nan).double(), "whitening": torch.eye(7).double()})
    with pytest.raises(ValueError, match=r"coordinates\.safetensors"):
        Whitening.load_or_fit(path, world, latents, kind)
    observed = []
    for index in range(3):  # as in an episode: encode, act, observe
        state, episode = world.initial(1), latents.episode(index)
        for step in range(len(episode.action) + 1):
            latent = torch.from_numpy(np.array(episode.mean[step : step + 1], np.float32))
            observed.append(torch.cat((latent, state.hidden[:, -1]), dim=1))
            if step < len(episode.action):
                state = world.observe(
                    state, latent, torch.from_numpy(np.array(episode.action[step : step + 1], np.float32))
                )
    with torch.no_grad():
        np.testing.assert_allclose(whitening.mean, torch.cat(observed).mean(dim=0), atol=1e-5)


def test_wrong_inputs_and_sizes_are_refused():
    with pytest.raises(ValueError, match="inputs"):
        Whitening.from_inputs(KINDS[0], np.ones((1, 5)))
    with pytest.raises(ValueError, match="inputs"):
        Whitening.from_inputs(KINDS[0], np.full((3, 5), np.nan))
    with pytest.raises(ValueError, match="whitening"):
        evolve(
            KINDS[0],
            lambda population, seed: population.sum(axis=1),
            whitening=Whitening.from_inputs(KINDS[1], sample_inputs()),
        )
    for decay in (0.0, 1.1):
        with pytest.raises(ValueError, match="decay"):
            evolve(KINDS[0], lambda population, seed: population.sum(axis=1), sigma_decay=decay)
