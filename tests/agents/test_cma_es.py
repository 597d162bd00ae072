"""CMA-ES: noise handling, covariances, candidates, stopping criteria and comparisons of members."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from worldmodel.agents import cma_es, evolve
from worldmodel.agents.cma_es import CMAES, StoppingCriteria, noise_share, score, standardize_per_episode, win_rate

from tests.agents.spheres import controller, sphere


class NoisySphere:
    """A sphere whose returns have a common offset in each episode, and independent noise."""

    def __init__(self, noise, episodes=2):
        self.noise, self.episodes, self.episode_counts = noise, episodes, []

    def __call__(self, population, seed, episodes=None):
        episodes = episodes or self.episodes
        self.episode_counts.append(episodes)
        rng = np.random.default_rng(seed)
        common, own = rng.normal(size=episodes), rng.normal(size=(len(population), episodes))
        return sphere(population, seed)[:, None] + 100 * common + self.noise * own


@pytest.mark.parametrize("noise, episodes", [(0.0, 4), (3.0, 5), (10.0, 20)])
def test_noise_share_is_that_of_mean_returns(noise, episodes):
    rng = np.random.default_rng(4)
    members, common = 5 * rng.normal(size=(2_000, 1)), 100 * rng.normal(size=episodes)
    returns = members + common + noise * rng.normal(size=(2_000, episodes))
    of_means = noise**2 / episodes
    assert noise_share(returns) == pytest.approx(of_means / (25 + of_means), abs=0.02)


def test_noise_share_of_pure_noise_is_one():
    assert noise_share(np.random.default_rng(0).normal(size=(4_000, 3))) > 0.9
    assert noise_share(np.ones((5, 3))) == 1.0
    assert noise_share(np.arange(5.0)[:, None]) == 1.0  # one episode has no estimate of the noise


def test_episodes_grow_only_where_noise_dominates(tmp_path):
    noiseless, noisy = NoisySphere(0.0), NoisySphere(1e4)
    for fitness in (noiseless, noisy):
        evolve(controller(), fitness, seed=2, generations=10, population=8, max_episodes=9)
    assert set(noiseless.episode_counts) == {2}
    assert (
        noisy.episode_counts[0] == 2
        and noisy.episode_counts[-1] == 9
        and noisy.episode_counts == sorted(noisy.episode_counts)
    )
    resumed = NoisySphere(1e4)
    for generations in (4, 10):
        evolve(controller(), resumed, seed=2, generations=generations, population=8, max_episodes=9, out=tmp_path)
    assert resumed.episode_counts == noisy.episode_counts


def test_noise_fraction_is_smoothed_and_falls_with_more_episodes():
    settings = {"size": 2, "population": 5, "sigma": 0.1, "seed": 1, "eval_fitness": False}
    search = CMAES(np.zeros(2), settings, StoppingCriteria(), None, num_episodes=4)
    search.noise_fraction, pure_noise = 0.3, np.ones((5, 4))
    assert search.adapt_num_episodes(pure_noise, max_episodes=9) == 1.0
    assert (search.noise_fraction, search.num_episodes) == (pytest.approx(0.475), 4)
    search.adapt_num_episodes(pure_noise, max_episodes=9)
    assert (search.noise_fraction, search.num_episodes) == (pytest.approx((0.475 + 0.525 / 4) * 4 / 5), 5)


def test_growing_episodes_need_a_fitness_that_supports_them():
    with pytest.raises(ValueError, match="max_episodes"):
        evolve(controller(), sphere, generations=1, max_episodes=4)
    with pytest.raises(ValueError, match="max_episodes"):
        evolve(controller(), NoisySphere(0.0, episodes=1), generations=1, max_episodes=4)
    with_candidates = NoisySphere(0.0, episodes=2)
    with_candidates.hard_episode_candidates = 4
    # Hard episodes and growing episodes exclude each other.
    with pytest.raises(ValueError, match="hard_episode_candidates"):
        evolve(controller(), with_candidates, generations=1, max_episodes=4)


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


def worse(population, seed):
    """An evaluation in which the first mean is best."""
    return -np.square(population).sum(axis=1)


def test_search_stops_when_evaluations_stagnate_or_sigma_falls():
    calls = []

    def count(population, seed):
        calls.append(len(population))
        return sphere(population, seed)

    evolve(controller(), count, eval_fitness=worse, eval_every=1, eval_patience=3, seed=1, generations=50, population=8)
    assert len(calls) == 4  # the first evaluation is the best, the next three are not
    calls.clear()
    evolve(controller(), count, min_sigma=0.05, sigma=0.3, seed=1, generations=5_000, population=8)
    assert 10 < len(calls) < 1_000


def test_equal_evaluations_count_as_stagnation():
    """A score that cannot rise further does not prolong a search."""
    calls = []

    def count(population, seed):
        calls.append(seed)
        return sphere(population, seed)

    evolve(controller(), count, eval_fitness=lambda population: np.ones(len(population)), eval_every=1, eval_patience=3, seed=1,
           generations=50, population=8)  # fmt: skip
    assert len(calls) == 4


ADDED_SETTINGS = (
    "max_episodes",
    "controller",
    "num_eval_candidates",
    "sigma_decay",
    "whitening",
    "mean_window",
)


@pytest.mark.parametrize("name", (*ADDED_SETTINGS, "normalize_episodes", "ranked"))
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
        ({"eval_patience": 2}, "eval_patience"),
        ({"num_eval_candidates": 1}, "num_eval_candidates"),
        ({"num_eval_candidates": 9, "eval_fitness": sphere}, "num_eval_candidates"),
        ({"min_sigma": 0.1, "sigma": 0.1}, "min_sigma"),
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


@given(arrays(np.float64, st.tuples(st.integers(2, 8), st.integers(1, 5)), elements=st.integers(-3, 3)))
def test_win_rate_equals_a_direct_count(returns):
    share, members = win_rate(returns), len(returns)
    for one in range(members):
        for episode in range(returns.shape[1]):
            others = np.delete(returns[:, episode], one)
            won = (returns[one, episode] > others).sum() + 0.5 * (returns[one, episode] == others).sum()
            assert share[one, episode] == pytest.approx(won / (members - 1))
    np.testing.assert_allclose(share.mean(axis=0), 0.5)
    np.testing.assert_array_equal(win_rate(np.exp(returns)), share)  # monotone maps change nothing


def test_ranks_are_robust_to_a_rare_failure():
    """A member that is slightly better in each episode but fails in one is first by ranks and last by its mean."""
    rng = np.random.default_rng(0)
    returns = 880 + np.arange(6)[:, None] + 10 * rng.normal(size=12)
    returns[5, 3] = 100
    ranked, plain = (score(returns, normalize_episodes=False, ranked=how) for how in (True, False))
    assert ranked.mean(axis=1).argmax() == 5
    assert plain.mean(axis=1).argmin() == 5
    assert noise_share(ranked) < 0.1 < 0.8 < noise_share(plain)  # ranks have little noise where returns have much


@pytest.mark.parametrize(("reset_weight", "best"), [(0, 3), (1, 2)])
def test_eval_candidates_are_chosen_by_ranks_with_state_resets(reset_weight, best):
    """Member 3 is best in five of six episodes and far behind in one; member 2 is best after state resets."""
    populations, evaluated = [], []

    class Fitness:
        episodes = 6

        def __call__(self, population, seed):
            populations.append(population)
            episode_returns = np.full((4, 6), 10.0) + np.arange(4)[:, None]
            episode_returns[3, 0] = -1_000
            return np.hstack((episode_returns, np.tile(reset_weight * np.eye(4)[:, [2]], 6)))

    def evaluate(population, seed):
        evaluated.append(population)
        return np.zeros((len(population), 1))

    evolve(
        controller(),
        Fitness(),
        generations=1,
        population=4,
        eval_fitness=evaluate,
        eval_every=1,
        num_eval_candidates=1,
        ranked=True,
    )
    np.testing.assert_array_equal(evaluated[0][1], populations[0][best])


def test_ranked_evolution_is_invariant_to_monotone_maps():
    def evolved(change, **options):
        def fitness(population, seed):
            return change(-np.square(population - 1.5).reshape(len(population), 2, -1).sum(axis=2))

        return evolve(controller(), fitness, generations=6, population=8, seed=2, **options).parameters.numpy()

    def monotone(returns):
        return np.expm1(returns / 10) * [1e6, 1.0]

    assert (evolved(monotone, ranked=True) == evolved(lambda returns: returns, ranked=True)).all()
    assert (evolved(monotone) != evolved(lambda returns: returns)).any()


def test_ranked_and_normalize_episodes_exclude_each_other():
    with pytest.raises(ValueError, match="ranked"):
        evolve(controller(), sphere, generations=1, population=4, ranked=True, normalize_episodes=True)
