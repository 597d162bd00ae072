"""CMA-ES: covariances, candidates, stopping criteria and comparisons of members."""

import io
import itertools
import json

import numpy as np
import pytest

from tests.agents.spheres import controller, sphere
from worldmodel.agents import evolve
from worldmodel.agents.evolution import cma_es
from worldmodel.agents.evolution.cma_es import CMAES
from worldmodel.agents.evolution.evolve import standardize_per_episode
from worldmodel.rollouts.fitness import FitnessResult


def generation(es):
    """Run a generation on the sphere function; return its members."""
    population = es.ask()
    es.tell(population, sphere(population, 0))
    return population


@pytest.mark.parametrize("generations", [0, 1, 2, 3, 40])
@pytest.mark.parametrize(("size", "population"), [(1, 3), (6, 4), (6, 20), (150, 12), (2_001, 5)])
def test_a_restored_cma_es_continues_bit_for_bit(size, population, generations):
    """Depends on private attributes of the installed pycma."""
    settings = {"sigma": 0.3, "population": population, "seed": 4}
    es, restored = (CMAES(np.linspace(-1, 1, size), **settings) for _ in range(2))
    for _ in range(generations):
        generation(es)
        es.sigma *= 0.99
    with io.BytesIO() as file:  # as a search saves it: the order in memory matters, too
        np.savez(file, **es.state_dict())
        file.seek(0)
        restored.load_state_dict(dict(np.load(file)))
    for _ in range(60 if size < 10 else 15 if size < 1_000 else 5):
        np.testing.assert_array_equal(generation(es), generation(restored))
    assert es.generation == restored.generation
    states = es.state_dict(), restored.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name], err_msg=name)


def test_a_state_of_another_cma_es_is_refused():
    es, other = CMAES(np.zeros(3), 0.3, 6), CMAES(np.zeros(4), 0.3, 6)
    generation(other)
    before = es.state_dict()
    for state in (other.state_dict(), {}, {name: value * np.nan for name, value in before.items() if name == ".sigma"}):
        with pytest.raises(ValueError, match="state"):
            es.load_state_dict(state)
    assert all((es.state_dict()[name] == value).all() for name, value in before.items())


def test_a_callback_reads_the_search_and_stops_it():
    sigmas = []

    def third(search):
        sigmas.append(search.es.sigma)
        return search.generation == 3

    rows = []
    evolve(controller(), sphere, seed=1, population=8, callbacks=[third], on_generation=rows.append)
    assert [row["sigma"] for row in rows] == sigmas
    assert len(rows) == 3


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_every_covariance_solves_an_ellipsoid_and_resumes_bit_for_bit(tmp_path, monkeypatch, covariance):
    monkeypatch.setattr(cma_es, "FULL_COVARIANCE", {"full": 10, "diagonal": 9}[covariance])
    scales = np.logspace(0, 1, 10)

    def ellipsoid(population, seed):
        return -np.square(scales * (population - 1.0)).sum(axis=1)

    settings = {"seed": 2, "population": 12, "sigma": 0.5}
    uninterrupted = evolve(controller(), ellipsoid, **settings, generations=200)
    np.testing.assert_allclose(uninterrupted.parameters, 1.0, atol=0.02)
    for generations in (1, 77, 78, 200):
        resumed = evolve(controller(), ellipsoid, **settings, generations=generations, out=tmp_path)
    assert uninterrupted.parameters.equal(resumed.parameters)


def test_a_better_candidate_is_kept_instead_of_the_mean(tmp_path):
    """The evaluation prefers candidates far from the mean."""
    evaluated = []

    def far(population, seed):
        evaluated.append(population)
        return np.abs(population).max(axis=1)

    settings = {"eval_fitness": far, "eval_every": 1, "seed": 1, "generations": 3, "population": 8}
    best = evolve(controller(), sphere, **settings, num_eval_candidates=3, out=tmp_path)
    # The first evaluation includes the initial controller.
    assert [len(candidates) for candidates in evaluated] == [5, 4, 4]
    candidates_of_all = np.concatenate(evaluated)
    np.testing.assert_allclose(
        best.parameters, candidates_of_all[np.abs(candidates_of_all).max(axis=1).argmax()], rtol=1e-6
    )
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for row, candidates in zip(rows, evaluated, strict=True):
        assert row["eval"] == np.abs(candidates[0]).max()
        assert row["eval_candidate"] == np.abs(candidates[1:4]).max()


def test_eval_candidates_are_the_best_members():
    populations, evaluated = [], []

    def record(population, seed):
        populations.append(population)
        return sphere(population, seed)

    def evaluate(population, seed):
        evaluated.append(population)
        return sphere(population, seed)

    evolve(
        controller(),
        record,
        eval_fitness=evaluate,
        eval_every=1,
        seed=1,
        generations=3,
        population=8,
        num_eval_candidates=3,
    )
    for members, candidates in zip(populations, evaluated, strict=True):
        best_first = sorted(members, key=lambda member: -sphere(member[None], 0)[0])
        np.testing.assert_array_equal(candidates[1:4], best_first[:3])


ADDED_SETTINGS = (
    "controller",
    "num_eval_candidates",
    "sigma_decay",
    "whitening",
    "mean_window",
)


@pytest.mark.parametrize("name", (*ADDED_SETTINGS, "normalize_episodes"))
def test_states_older_than_a_setting_resume(tmp_path, name):
    settings = {"seed": 1, "population": 4, "out": tmp_path}
    evolve(controller(), sphere, generations=2, **settings)
    with np.load(tmp_path / "state.npz") as saved:
        state = dict(saved)
    about = json.loads(str(state["about"]))
    del about["settings"][name]
    np.savez(tmp_path / "state.npz", **state | {"about": np.array(json.dumps(about))})
    evolve(controller(), sphere, generations=3, **settings)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_on_generation_gets_every_generation_including_those_before_a_stop(tmp_path):
    settings = {"seed": 1, "population": 4, "out": tmp_path}
    evolve(controller(), sphere, generations=2, **settings)
    logged = []
    evolve(controller(), sphere, generations=5, on_generation=logged.append, **settings)
    assert logged == [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["generation"] for row in logged] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_eval_candidates": 1}, "num_eval_candidates"),
        ({"num_eval_candidates": 9, "eval_fitness": sphere}, "num_eval_candidates"),
    ],
)
def test_bad_settings_are_refused(change, named):
    with pytest.raises(ValueError, match=rf"^{named} "):
        evolve(controller(), sphere, generations=2, population=8, **change)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {"about": np.array("[]")},
        lambda state: state | {"about": np.array(str(state["about"]).replace('"generation"', '"generations"'))},
        lambda state: state | {"best": np.full_like(state["best"], np.nan)},
        lambda state: state | {"best": state["best"][1:]},
        lambda state: state | {"es..sigma": np.array(np.nan)},
        lambda state: state | {"es..mean": state["es..mean"][1:]},
        lambda state: state | {"es.nobody.x": np.array(1.0)},
        lambda state: {name: value for name, value in state.items() if not name.startswith("es.")},
    ],
)
def test_states_with_wrong_content_are_refused(tmp_path, change):
    settings = {"seed": 1, "population": 4, "out": tmp_path}
    evolve(controller(), sphere, generations=2, **settings)
    with np.load(tmp_path / "state.npz") as saved:
        state = dict(saved)
    np.savez(tmp_path / "state.npz", **change(state))
    with pytest.raises(ValueError, match="state.npz"):
        evolve(controller(), sphere, generations=4, **settings)


def test_normalize_episodes_makes_evolution_invariant_to_episode_scales():
    """The evolution is bit-equal for all scales of episodes within the bounds of `standardize_per_episode`."""

    def evolved(scales, **options):
        def fitness(population, seed):
            halves = -np.square(population - 1.5).reshape(len(population), 2, -1).sum(axis=2)
            return halves * scales

        return evolve(controller(), fitness, seed=3, generations=25, population=12, sigma=0.3, **options).parameters

    scaled, unequal = [2.0, 1.0], [512.0, 1.0]
    assert (evolved(1.0, normalize_episodes=True) == evolved(scaled, normalize_episodes=True)).all()
    assert (evolved(1.0) != evolved(scaled)).any()
    distances = [
        ((evolved(unequal, normalize_episodes=normalized)[5:] - 1.5) ** 2).sum() for normalized in (False, True)
    ]
    assert distances[1] < distances[0]  # the small episode counts


def test_standardized_returns_have_unit_deviation_but_no_magnified_noise():
    returns = np.random.default_rng(0).normal(size=(50, 3)) * [1000.0, 200.0, 1.0] + [7.0, -3.0, 40.0]
    standardized = standardize_per_episode(returns)
    np.testing.assert_allclose(standardized.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(standardized.std(axis=0), [1, 1, returns[:, 2].std() / returns[:, 0].std() * 10])
    assert (standardize_per_episode(np.ones((4, 3))) == 0).all()


@pytest.mark.parametrize(("reset_weight", "best"), [(0, 3), (1, 2)])
def test_eval_candidates_are_chosen_by_standardized_returns_with_state_resets(reset_weight, best):
    """Member 3 is best in five of six episodes and last in one; member 2 is best after state resets."""
    populations, evaluated = [], []

    def fitness(population, seed):
        populations.append(population)
        episode_returns = np.full((4, 6), 10.0) + np.arange(4)[:, None]
        episode_returns[3, 0] = -20
        return FitnessResult(episode_returns, reset_returns=np.tile(reset_weight * np.eye(4)[:, [2]], 6))

    def evaluate(population, seed):
        evaluated.append(population)
        return np.zeros((len(population), 1))

    evolve(
        controller(),
        fitness,
        generations=1,
        population=4,
        eval_fitness=evaluate,
        eval_every=1,
        num_eval_candidates=1,
        normalize_episodes=True,
    )
    np.testing.assert_array_equal(evaluated[0][1], populations[0][best])


def test_every_generation_draws_other_directions(monkeypatch):
    """With a diagonal covariance, which does not rotate them."""
    monkeypatch.setattr(cma_es, "FULL_COVARIANCE", 9)
    populations = []

    def record(population, seed):
        populations.append(population)
        return sphere(population, seed)

    evolve(controller(), record, seed=1, generations=3, population=8)
    for one, other in itertools.combinations([np.diff(population, axis=0).ravel() for population in populations], 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.5


def test_the_average_of_the_means_is_exponential():
    settings = {"seed": 1, "population": 8}
    first, *means = (evolve(controller(), sphere, **settings, generations=count).parameters for count in (1, 2, 3))
    average = first
    for mean in means:
        average = (average + mean) / 2
    averaged = evolve(controller(), sphere, **settings, generations=3, mean_window=2)
    np.testing.assert_allclose(averaged.parameters, average, rtol=1e-5)


def test_rows_have_the_statistics_of_the_returns():
    returns, rows = [], []

    def record(population, seed):
        returns.append(sphere(population, seed))
        return returns[-1]

    evolve(controller(), record, seed=1, generations=3, population=8, on_generation=rows.append)
    for row, values in zip(rows, returns, strict=True):
        expected = {"mean": values.mean(), "std": values.std(ddof=1), "max": values.max()}
        assert {name: row[name] for name in expected} == pytest.approx(expected)
