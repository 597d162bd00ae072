"""Evolution: solves what it should, resumes bit for bit, keeps its randomness to itself."""

import json

import numpy as np
import pytest

import rollouts
from agents import LinearController, evolve
from tests import toys
from tests.agents.spheres import controller, noisy, sphere
from worldmodel import RMDN, VAE, Memory, WorldModel, fit, seeded


def test_solves_the_sphere():
    best = evolve(controller(), sphere, seed=1, generations=80, population=16, sigma=0.5)
    np.testing.assert_allclose(best.parameters, 1.5, atol=0.01)


@pytest.mark.parametrize("size", [(4, 2), (700, 3)], ids=["full", "diagonal"])
@pytest.mark.parametrize(("stop", "population"), [(1, 3), (4, 9), (6, 4)])
def test_resumes_bit_for_bit(tmp_path, size, stop, population):
    settings = {"seed": 3, "population": population, "eval_fitness": noisy, "eval_every": 3}
    whole = evolve(controller(*size), noisy, **settings, generations=9, out=tmp_path / "whole")
    evolve(controller(*size), noisy, **settings, generations=stop, out=tmp_path / "parts")
    parts = evolve(controller(*size), noisy, **settings, generations=9, out=tmp_path / "parts")
    if stop % 3 == 0:  # the last generation of a call is checked too; else the stop itself is one more check
        assert whole.parameters.equal(parts.parameters)
    first, second = (np.load(tmp_path / name / "state.npz") for name in ("whole", "parts"))
    assert set(first.files) == set(second.files)
    for name in first.files:
        if name.startswith("es."):
            np.testing.assert_array_equal(first[name], second[name])


def test_a_kill_in_a_generation_changes_nothing(tmp_path):
    class Stop(Exception):
        pass

    calls = []

    def killed(population, seed):
        calls.append(seed)
        if len(calls) == 6:
            raise Stop
        return noisy(population, seed)

    settings = {"seed": 3, "population": 8, "eval_every": 3, "generations": 9}
    whole = evolve(controller(), noisy, eval_fitness=noisy, **settings, out=tmp_path / "whole")
    with pytest.raises(Stop):
        evolve(controller(), killed, eval_fitness=noisy, **settings, out=tmp_path / "parts")
    parts = evolve(controller(), noisy, eval_fitness=noisy, **settings, out=tmp_path / "parts")
    assert whole.parameters.equal(parts.parameters)
    rows = [
        [json.loads(row) for row in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("whole", "parts")
    ]
    for one, other in zip(*rows, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_every_member_of_a_generation_gets_the_same_seed_and_every_generation_another():
    seeds = []

    def remember(population, seed):
        seeds.append(seed)
        return sphere(population, seed)

    evolve(controller(), remember, eval_fitness=remember, eval_every=2, seed=5, generations=4, population=4)
    assert len(seeds) == 4 + 2
    assert len(set(seeds)) == 6


def test_global_randomness_is_left_alone():
    before = np.random.get_state()[1].copy()
    one = evolve(controller(), sphere, seed=0, generations=3, population=4)
    assert (np.random.get_state()[1] == before).all()
    assert one.parameters.equal(evolve(controller(), sphere, seed=0, generations=3, population=4).parameters)


def test_a_start_that_checks_better_than_all_means_is_returned():
    start = controller()
    home = start.parameters.double().numpy()

    def closeness(population, seed):
        return -np.square(population - home).sum(axis=1)

    kept = evolve(start, sphere, seed=1, generations=6, population=8, eval_fitness=closeness, eval_every=2)
    assert kept.parameters.equal(start.parameters)


def test_the_mean_with_the_best_check_is_returned():
    """Fitness leads away from where the check is best."""
    best = evolve(
        controller(), sphere, seed=1, generations=40, population=16, sigma=0.3,
        eval_fitness=lambda population, seed: -np.abs(np.abs(population).mean(axis=1) - 0.5), eval_every=1,
    )  # fmt: skip
    assert float(best.parameters.abs().mean()) == pytest.approx(0.5, abs=0.15)


def test_the_average_of_a_wandering_mean_is_better_than_the_mean(tmp_path):
    """Noise that nobody can see through: the mean wanders around the optimum, its average stays there."""

    def drowned(population, seed):
        return sphere(population, seed) + np.random.default_rng(seed).normal(scale=5, size=len(population))

    settings = {"seed": 1, "population": 8, "sigma": 0.3, "eval_every": 20, "mean_window": 40}
    settings["eval_fitness"] = sphere
    evolve(controller(), drowned, **settings, generations=200, out=tmp_path / "whole")
    rows = [json.loads(row) for row in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    checked = [(row["eval"], row["eval_average"]) for row in rows if "eval" in row]
    assert np.mean([average - mean for mean, average in checked[3:]]) > 0
    kept = LinearController.load(tmp_path / "whole" / "controller.safetensors")
    best = max(max(pair) for pair in checked)
    assert float(sphere(kept.parameters.numpy()[None], 0)[0]) == pytest.approx(best, rel=1e-4)
    evolve(controller(), drowned, **settings, generations=60, out=tmp_path / "parts")
    evolve(controller(), drowned, **settings, generations=200, out=tmp_path / "parts")
    whole, parts = (np.load(tmp_path / name / "state.npz")["average"] for name in ("whole", "parts"))
    np.testing.assert_array_equal(whole, parts)
    unchecked = {**settings, "eval_fitness": None, "generations": 200}
    mean, average = (evolve(controller(), drowned, **{**unchecked, "mean_window": n}) for n in (0, 40))
    assert sphere(average.parameters.numpy()[None], 0) > sphere(mean.parameters.numpy()[None], 0)


def test_stops_at_the_target(tmp_path):
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


def test_solves_the_beacon_by_playing(tmp_path):
    """See a light, lean towards it: the VAE, the world model, evolution and playing together."""
    store = rollouts.collect(toys.beacon, rollouts.uniform, 10, seed=1, out=tmp_path / "s")
    with seeded(0):
        vae, memory = VAE(latent_dim=2), Memory(RMDN(3, 2, hidden_size=4, num_components=1))
    fit(vae, store.frames(), num_updates=40, batch_size=8, learning_rate=2e-3, seed=1)
    world = WorldModel(vae, memory)
    best = evolve(
        LinearController.for_world_model(world), rollouts.EnvFitness(toys.beacon, world, episodes=2),
        seed=2, generations=12, population=10, sigma=0.5,
    )  # fmt: skip
    returns = rollouts.EnvFitness(toys.beacon, world, episodes=10)(best.parameters.numpy(), 99)
    assert returns.mean() > 4.5  # of 5


@pytest.mark.parametrize(
    "change",
    [
        {"generations": 0},
        {"eval_patience": 1.5},
        {"seed": "1"},
        {"population": 2},
        {"sigma": 0.0},
        {"target_return": 5.0},
        {"fitness": lambda p: np.full(len(p), np.nan)},
        {"fitness": lambda p: np.zeros(3)},
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
    (tmp_path / "state.npz").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=r"state.npz"):
        evolve(controller(), sphere, seed=1, generations=1, population=4, out=tmp_path)
    (tmp_path / "state.npz").unlink()
    evolve(controller(), sphere, seed=1, generations=2, population=4, out=tmp_path)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["generation"] for row in rows] == [1, 2]


def test_what_was_scouted_is_logged(tmp_path):
    class Scouting:
        def __call__(self, population, seed):
            self.candidate_returns = np.array([1.0, float(seed % 7)])
            return sphere(population, seed)

    seen, fitness = [], Scouting()
    evolve(
        controller(),
        fitness,
        generations=3,
        population=4,
        on_generation=lambda row: seen.append(fitness.candidate_returns),
        out=tmp_path,
    )
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["hard_episodes"] for row in rows] == [scouts.mean() for scouts in seen]
    assert len({row["hard_episodes"] for row in rows}) > 1


def test_an_evolution_of_other_returns_is_refused(tmp_path):
    class Counted:
        def __init__(self, identity):
            self.identity, self.steps = {"env": identity}, 0

        def __call__(self, population, seed):
            self.steps += len(population)
            return sphere(population, seed)

    game = Counted("game")
    evolve(controller(), game, eval_fitness=game, eval_every=1, generations=2, population=4, out=tmp_path)
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["steps"], row["eval_steps"]) for row in rows] == [(4, 2), (4, 1)]  # the first time the start, too
    with pytest.raises(ValueError, match="fitness.env = 'game'"):
        evolve(
            controller(), Counted("dream"), eval_fitness=game, eval_every=1, generations=2, population=4, out=tmp_path
        )
    with pytest.raises(ValueError, match=r"\bstart\b"):
        evolve(controller().with_parameters(-controller().parameters + 1), game, eval_fitness=game, eval_every=1, generations=2,
               population=4, out=tmp_path)  # fmt: skip


def test_a_lost_controller_comes_back(tmp_path):
    best = evolve(controller(), sphere, seed=1, generations=2, population=4, out=tmp_path)
    (tmp_path / "controller.safetensors").write_bytes(b"")
    again = evolve(controller(), sphere, seed=1, generations=2, population=4, out=tmp_path)
    assert again.parameters.equal(best.parameters)
    assert LinearController.load(tmp_path / "controller.safetensors").parameters.equal(best.parameters)


def test_the_log_tells_scores_of_whole_episodes_and_those_of_lives_from_moments_apart(tmp_path):
    """Selection knows both; ``mean``, ``std`` and ``max`` are the game's."""

    class Along:
        episodes = 2

        def __call__(self, population, seed):
            whole = sphere(population, seed)[:, None] * [1.0, 1.0]
            return np.hstack([whole, np.full((len(population), 3), 50.0)])

    evolve(controller(), Along(), seed=1, generations=2, population=6, out=tmp_path / "along")
    evolve(controller(), sphere, seed=1, generations=2, population=6, out=tmp_path / "plain")
    along, plain = (
        [json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("along", "plain")
    )
    for one, other in zip(along, plain, strict=True):
        assert one["state_resets"] == 50
        for name in ("mean", "std", "max"):
            assert one[name] == pytest.approx(other[name])
        assert "along" not in other
