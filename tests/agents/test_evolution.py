"""Evolution: convergence, bit-equal resumption and a private random state."""

import json

import numpy as np
import pytest

from tests import toys
from tests.agents.spheres import controller, noisy, sphere
from worldmodel import RMDN, VAE, Memory, WorldModel, fit, rollouts, seeded
from worldmodel.agents import LinearController, evolve
from worldmodel.rollouts.fitness import FitnessResult


def test_evolution_solves_the_sphere():
    best = evolve(controller(), sphere, seed=1, generations=80, population=16, sigma=0.5)
    np.testing.assert_allclose(best.parameters, 1.5, atol=0.01)


class Stop(Exception):
    """Interrupts a search."""


def interrupted(generation):
    """A fitness that is interrupted in a generation, counted from one."""
    calls = []

    def fitness(population, seed):
        calls.append(seed)
        if len(calls) == generation:
            raise Stop
        return noisy(population, seed)

    return fitness


@pytest.mark.parametrize("size", [(4, 2), (700, 3)], ids=["full", "diagonal"])
@pytest.mark.parametrize(("stop", "population"), [(2, 3), (5, 9), (7, 4)])
def test_evolution_resumes_bit_for_bit(tmp_path, size, stop, population):
    settings = {"seed": 3, "population": population, "eval_fitness": noisy, "eval_every": 3, "generations": 9}
    settings |= {"mean_window": 4, "sigma_decay": 0.9}
    uninterrupted = evolve(controller(*size), noisy, **settings, out=tmp_path / "whole")
    with pytest.raises(Stop):
        evolve(controller(*size), interrupted(stop), **settings, out=tmp_path / "parts")
    resumed = evolve(controller(*size), noisy, **settings, out=tmp_path / "parts")
    assert uninterrupted.parameters.equal(resumed.parameters)
    first, second = (np.load(tmp_path / name / "state.npz") for name in ("whole", "parts"))
    assert set(first.files) == set(second.files)
    for name in set(first.files) - {"about"}:
        np.testing.assert_array_equal(first[name], second[name])
    rows = [
        [json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    for one, other in zip(*rows, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_each_generation_has_one_seed_of_its_own():
    seeds = []

    def record(population, seed):
        seeds.append(seed)
        return sphere(population, seed)

    for seed in (5, 6):
        evolve(controller(), record, eval_fitness=record, eval_every=2, seed=seed, generations=4, population=4)
    assert len(seeds) == 2 * (4 + 2)
    assert len(set(seeds)) == len(seeds)


def test_the_global_random_state_is_unchanged():
    before = np.random.get_state()[1].copy()
    one = evolve(controller(), sphere, seed=0, generations=3, population=4)
    assert (np.random.get_state()[1] == before).all()
    assert one.parameters.equal(evolve(controller(), sphere, seed=0, generations=3, population=4).parameters)


def test_the_initial_controller_is_returned_if_it_evaluates_best():
    initial = controller()
    optimum = initial.parameters.double().numpy()

    def closeness(population, seed):
        return -np.square(population - optimum).sum(axis=1)

    kept = evolve(initial, sphere, seed=1, generations=6, population=8, eval_fitness=closeness, eval_every=2)
    assert kept.parameters.equal(initial.parameters)


def test_the_mean_with_the_best_evaluation_is_returned():
    """The fitness leads away from the optimum of the evaluation."""
    best = evolve(
        controller(), sphere, seed=1, generations=40, population=16, sigma=0.3,
        eval_fitness=lambda population, seed: -np.abs(np.abs(population).mean(axis=1) - 0.5), eval_every=1,
    )  # fmt: skip
    assert float(best.parameters.abs().mean()) == pytest.approx(0.5, abs=0.15)


@pytest.mark.slow
def test_the_average_of_noisy_means_is_better_than_the_mean(tmp_path):
    """With strong noise the mean wanders around the optimum, and its average stays there."""

    def noisy_sphere(population, seed):
        return sphere(population, seed) + np.random.default_rng(seed).normal(scale=5, size=len(population))

    settings = {"seed": 1, "population": 8, "sigma": 0.3, "eval_every": 20, "mean_window": 40}
    settings["eval_fitness"] = sphere
    evolve(controller(), noisy_sphere, **settings, generations=200, out=tmp_path / "whole")
    rows = [json.loads(row) for row in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [(row["eval"], row["eval_average"]) for row in rows if "eval" in row]
    assert np.mean([average - mean for mean, average in evaluated[3:]]) > 0
    kept = LinearController.load(tmp_path / "whole" / "controller.safetensors")
    best = max(max(pair) for pair in evaluated)
    assert float(sphere(kept.parameters.numpy()[None], 0)[0]) == pytest.approx(best, rel=1e-4)
    evolve(controller(), noisy_sphere, **settings, generations=60, out=tmp_path / "parts")
    evolve(controller(), noisy_sphere, **settings, generations=200, out=tmp_path / "parts")
    uninterrupted, resumed = (np.load(tmp_path / name / "state.npz")["average"] for name in ("whole", "parts"))
    np.testing.assert_array_equal(uninterrupted, resumed)
    without_eval = {**settings, "eval_fitness": None, "generations": 200}
    mean, average = (evolve(controller(), noisy_sphere, **{**without_eval, "mean_window": n}) for n in (0, 40))
    assert sphere(average.parameters.numpy()[None], 0) > sphere(mean.parameters.numpy()[None], 0)


def test_evolution_stops_at_the_target_return(tmp_path):
    evolve(
        controller(),
        sphere,
        eval_fitness=sphere,
        eval_every=1,
        target_return=-5.0,
        seed=1,
        generations=500,
        population=16,
        out=tmp_path,
    )
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(rows) < 500
    assert json.loads(rows[-1])["eval"] >= -5


def test_evolution_solves_the_beacon(tmp_path):
    """The agent encodes a light and leans towards it: VAE, world model, evolution and rollouts together."""
    store = rollouts.collect(toys.beacon, rollouts.uniform, 10, seed=1, out=tmp_path / "s")
    with seeded(0):
        vae, memory = VAE(latent_dim=2), Memory(RMDN(3, 2, hidden_size=4, num_components=1))
    fit(vae, store.frames(), num_updates=40, batch_size=8, learning_rate=2e-3, seed=1)
    world = WorldModel(vae, memory)
    best = evolve(
        LinearController.for_world_model(world), rollouts.EnvFitness(toys.beacon, world, episodes=2),
        seed=2, generations=12, population=10, sigma=0.5,
    )  # fmt: skip
    returns = rollouts.EnvFitness(toys.beacon, world, episodes=10)(best.parameters.numpy(), 99).returns
    assert returns.mean() > 4.5  # of 5


@pytest.mark.parametrize(
    "change",
    [
        {"generations": 0},
        {"seed": "1"},
        {"population": 2},
        {"sigma": 0.0},
        {"target_return": 5.0},
        {"fitness": lambda p, seed: np.full(len(p), np.nan)},
        {"fitness": lambda p, seed: np.zeros(3)},
        {"fitness": lambda p, seed: np.zeros((8, 2, 2))},
        {"fitness": lambda p, seed: FitnessResult(np.zeros((3, 2)))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_bad_arguments_are_refused(change):
    settings = {"controller": controller(), "fitness": sphere, "generations": 2, "population": 8}
    with pytest.raises(ValueError, match=rf"\b{next(iter(change))}\b"):
        evolve(**settings | change)


def test_another_evolution_in_the_folder_is_refused(tmp_path):
    evolve(controller(), sphere, seed=1, generations=1, population=4, out=tmp_path)
    with pytest.raises(ValueError, match=r"\bseed = 1\b"):
        evolve(controller(), sphere, seed=2, generations=1, population=4, out=tmp_path)
    with np.load(tmp_path / "state.npz") as saved:
        arrays = dict(saved)
    np.savez_compressed(tmp_path / "state.npz", **arrays, bomb=np.zeros(10**6))
    with pytest.raises(ValueError, match=r"state.npz.*compressed"):
        evolve(controller(), sphere, seed=1, generations=1, population=4, out=tmp_path)
    (tmp_path / "state.npz").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=r"state.npz"):
        evolve(controller(), sphere, seed=1, generations=1, population=4, out=tmp_path)
    (tmp_path / "state.npz").unlink()
    evolve(controller(), sphere, seed=1, generations=2, population=4, out=tmp_path)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["generation"] for row in rows] == [1, 2]


def test_candidate_returns_are_logged(tmp_path):
    played = []

    def fitness(population, seed):
        played.append(np.array([1.0, float(seed % 7)]))
        return FitnessResult(sphere(population, seed)[:, None], candidate_returns=played[-1])

    evolve(controller(), fitness, generations=3, population=4, out=tmp_path)
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["hard_episodes"] for row in rows] == [returns.mean() for returns in played]
    assert len({row["hard_episodes"] for row in rows}) > 1


def test_an_evolution_with_another_fitness_is_refused(tmp_path):
    class CountingFitness:
        def __init__(self, identity):
            self.identity = {"env": identity}

        def __call__(self, population, seed):
            return FitnessResult(sphere(population, seed)[:, None], steps=len(population))

    game = CountingFitness("game")
    evolve(controller(), game, eval_fitness=game, eval_every=1, generations=2, population=4, out=tmp_path)
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # The first evaluation includes the initial controller.
    assert [(row["steps"], row["eval_steps"]) for row in rows] == [(4, 2), (4, 1)]
    with pytest.raises(ValueError, match="fitness.env = 'game'"):
        evolve(
            controller(),
            CountingFitness("dream"),
            eval_fitness=game,
            eval_every=1,
            generations=2,
            population=4,
            out=tmp_path,
        )
    with pytest.raises(ValueError, match=r"\bstart\b"):
        evolve(controller().with_parameters(-controller().parameters + 1), game, eval_fitness=game, eval_every=1, generations=2,
               population=4, out=tmp_path)  # fmt: skip


def test_a_lost_controller_is_restored(tmp_path):
    best = evolve(controller(), sphere, seed=1, generations=2, population=4, out=tmp_path)
    (tmp_path / "controller.safetensors").write_bytes(b"")
    again = evolve(controller(), sphere, seed=1, generations=2, population=4, out=tmp_path)
    assert again.parameters.equal(best.parameters)
    assert LinearController.load(tmp_path / "controller.safetensors").parameters.equal(best.parameters)


def test_the_log_separates_whole_episodes_from_state_resets(tmp_path):
    """Selection uses both; ``mean``, ``std`` and ``max`` are those of whole episodes."""

    def fitness(population, seed):
        episode_returns = sphere(population, seed)[:, None] * [1.0, 1.0]
        return FitnessResult(episode_returns, reset_returns=np.full((len(population), 3), 50.0))

    evolve(controller(), fitness, seed=1, generations=2, population=6, out=tmp_path / "along")
    evolve(controller(), sphere, seed=1, generations=2, population=6, out=tmp_path / "plain")
    with_resets, plain = (
        [json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("along", "plain")
    )
    for one, other in zip(with_resets, plain, strict=True):
        assert one["state_resets"] == 50
        for name in ("mean", "std", "max"):
            assert one[name] == pytest.approx(other[name])
        assert "state_resets" not in other
