"""The search below evolution: noise, mirrored members, covariances, bounds, elite, endings and restarts."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents import evolve
from agents.cma_es import CMAES, StoppingCriteria, noise_share, score, standardize_per_episode, win_rate
from tests.agents.spheres import controller, sphere


class Drowned:
    """A sphere whose episodes differ, and whose returns carry noise of their own."""

    def __init__(self, noise, episodes=2):
        self.noise, self.episodes, self.asked = noise, episodes, []

    def __call__(self, population, seed, episodes=None):
        episodes = episodes or self.episodes
        self.asked.append(episodes)
        rng = np.random.default_rng(seed)
        common, own = rng.normal(size=episodes), rng.normal(size=(len(population), episodes))
        return sphere(population, seed)[:, None] + 100 * common + self.noise * own


@pytest.mark.parametrize("noise, episodes", [(0.0, 4), (3.0, 5), (10.0, 20)])
def test_the_share_of_noise_is_that_of_the_members_means(noise, episodes):
    rng = np.random.default_rng(4)
    members, common = 5 * rng.normal(size=(2_000, 1)), 100 * rng.normal(size=episodes)
    returns = members + common + noise * rng.normal(size=(2_000, episodes))
    of_means = noise**2 / episodes
    assert noise_share(returns) == pytest.approx(of_means / (25 + of_means), abs=0.02)


def test_chance_alone_is_all_noise():
    assert noise_share(np.random.default_rng(0).normal(size=(4_000, 3))) > 0.9
    assert noise_share(np.ones((5, 3))) == 1.0


def test_episodes_grow_where_noise_drowns_the_differences_and_only_there(tmp_path):
    quiet, loud = Drowned(0.0), Drowned(1e4)
    for fitness in (quiet, loud):
        evolve(controller(), fitness, seed=2, generations=10, population=8, max_episodes=9)
    assert set(quiet.asked) == {2}
    assert loud.asked[0] == 2 and loud.asked[-1] == 9 and loud.asked == sorted(loud.asked)
    parts = Drowned(1e4)
    for generations in (4, 10):
        evolve(controller(), parts, seed=2, generations=generations, population=8, max_episodes=9, out=tmp_path)
    assert parts.asked == loud.asked


def test_noise_is_smoothed_and_falls_as_episodes_grow():
    settings = {"size": 2, "population": 5, "sigma": 0.1, "seed": 1, "covariance": "auto", "antithetic": False}
    search = CMAES(
        np.zeros(2), settings | {"bounds": None, "eval_fitness": False}, StoppingCriteria(), None, num_episodes=4
    )
    search.noise_fraction, chance = 0.3, np.ones((5, 4))
    assert search.adapt_num_episodes(chance, max_episodes=9) == 1.0
    assert (search.noise_fraction, search.num_episodes) == (pytest.approx(0.475), 4)
    search.adapt_num_episodes(chance, max_episodes=9)
    assert (search.noise_fraction, search.num_episodes) == (pytest.approx((0.475 + 0.525 / 4) * 4 / 5), 5)


def test_growing_episodes_need_a_fitness_that_can():
    with pytest.raises(ValueError, match="max_episodes"):
        evolve(controller(), sphere, generations=1, max_episodes=4)
    with pytest.raises(ValueError, match="max_episodes"):
        evolve(controller(), Drowned(0.0, episodes=1), generations=1, max_episodes=4)
    scouting = Drowned(0.0, episodes=2)
    scouting.hard_episode_candidates = 4
    with pytest.raises(ValueError, match="hard_episode_candidates"):  # not when they have grown
        evolve(controller(), scouting, generations=1, max_episodes=4)


@pytest.mark.parametrize("population", [8, 9])
def test_antithetic_members_mirror_one_another_at_the_mean(population):
    generations = []

    def remember(members, seed):
        generations.append(members.copy())
        return sphere(members, seed)

    best = evolve(controller(), remember, seed=5, generations=60, population=population, sigma=0.5, antithetic=True)
    pairs = population // 2
    np.testing.assert_allclose(
        generations[0][:pairs], -generations[0][pairs : 2 * pairs], atol=1e-12
    )  # the mean is zero
    middle = (generations[7][:pairs] + generations[7][pairs : 2 * pairs]) / 2
    np.testing.assert_allclose(middle, np.broadcast_to(middle[0], middle.shape), atol=1e-9)
    np.testing.assert_allclose(best.parameters, 1.5, atol=0.3)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_every_covariance_solves_an_ellipsoid_and_resumes_bit_for_bit(tmp_path, covariance):
    scales = np.logspace(0, 1, 10)

    def ellipsoid(population, seed):
        return -np.square(scales * (population - 1.0)).sum(axis=1)

    settings = {"seed": 2, "population": 12, "sigma": 0.5, "covariance": covariance}
    whole = evolve(controller(), ellipsoid, **settings, generations=200)
    np.testing.assert_allclose(whole.parameters, 1.0, atol=0.02)
    for generations in (1, 77, 78, 200):
        parts = evolve(controller(), ellipsoid, **settings, generations=generations, out=tmp_path)
    assert whole.parameters.equal(parts.parameters)


def test_steps_do_not_collapse_where_antithetic_members_differ_by_chance():
    rows = []
    settings = {"generations": 150, "population": 24, "seed": 1, "on_generation": rows.append, "sigma": 0.1}

    def chance(population, seed):
        return np.random.default_rng(seed).normal(size=len(population))

    evolve(controller(), chance, antithetic=True, **settings)
    assert rows[-1]["sigma"] > 0.1 * 0.2


def test_bounds_hold_for_members_and_mean():
    lived = []

    def remember(population, seed):
        lived.append(population)
        return sphere(population, seed)

    best = evolve(controller(), remember, seed=1, generations=60, population=12, sigma=0.5, bounds=0.8)
    assert np.abs(np.concatenate(lived)).max() == 0.8
    np.testing.assert_allclose(best.parameters, 0.8, atol=1e-6)  # as near to 1.5 as it may come


def test_a_search_comes_to_rest_at_its_bounds():
    """Members beyond them live alike; the search must not drift away where nobody is better than anybody."""
    rows = []
    evolve(
        controller(), sphere, seed=1, generations=400, population=12, sigma=0.5, bounds=0.8, on_generation=rows.append
    )
    assert rows[-1]["sigma"] < 0.01


def test_a_better_member_is_kept_instead_of_the_mean(tmp_path):
    """The check prefers what lies far from the mean."""
    checked = []

    def far(population, seed):
        checked.append(population)
        return np.abs(population).max(axis=1)

    settings = {"eval_fitness": far, "eval_every": 1, "seed": 1, "generations": 3, "population": 8}
    best = evolve(controller(), sphere, **settings, num_eval_candidates=3, out=tmp_path)
    assert [len(candidates) for candidates in checked] == [5, 4, 4]  # the first time the start, too
    everyone = np.concatenate(checked)
    np.testing.assert_allclose(best.parameters, everyone[np.abs(everyone).max(axis=1).argmax()], rtol=1e-6)
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for row, candidates in zip(rows, checked, strict=True):
        assert row["eval"] == np.abs(candidates[0]).max()
        assert row["eval_candidate"] == np.abs(candidates[1:4]).max()


def test_the_elite_are_the_best_members():
    lived, checked = [], []

    def remember(population, seed):
        lived.append(population)
        return sphere(population, seed)

    def check(population, seed):
        checked.append(population)
        return sphere(population, seed)

    evolve(
        controller(),
        remember,
        eval_fitness=check,
        eval_every=1,
        seed=1,
        generations=3,
        population=8,
        num_eval_candidates=3,
    )
    for members, candidates in zip(lived, checked, strict=True):
        best_first = sorted(members, key=lambda member: -sphere(member[None], 0)[0])
        np.testing.assert_array_equal(candidates[1:4], best_first[:3])


def worse(population, seed):
    """A check that the first mean passes best."""
    return -np.square(population).sum(axis=1)


def test_ends_when_checks_go_stale_or_the_step_size_falls():
    calls = []

    def count(population, seed):
        calls.append(len(population))
        return sphere(population, seed)

    evolve(controller(), count, eval_fitness=worse, eval_every=1, eval_patience=3, seed=1, generations=50, population=8)
    assert len(calls) == 4  # the first check is the best, three more are not
    calls.clear()
    evolve(controller(), count, min_sigma=0.05, sigma=0.3, seed=1, generations=5_000, population=8)
    assert 10 < len(calls) < 1_000


def test_a_restart_begins_at_the_best_with_twice_the_population(tmp_path):
    populations = []

    def remember(population, seed):
        populations.append(population)
        return sphere(population, seed)

    settings = {"eval_fitness": worse, "eval_every": 1, "eval_patience": 2, "restarts": 1, "seed": 1, "population": 6}
    best = evolve(controller(), remember, **settings, generations=50)
    assert [len(one) for one in populations] == [6, 6, 6, 12, 12]
    np.testing.assert_allclose(populations[3].mean(axis=0), best.parameters, atol=0.1)  # around the best


def test_a_restart_forgets_the_average_before_it():
    settings = {"population": 6, "sigma": 0.1, "seed": 1, "size": 3, "covariance": "auto", "antithetic": False}
    search = CMAES(np.zeros(3), settings | {"bounds": None}, StoppingCriteria(patience=1, restarts=1), None)
    search.best, search.averaged_mean = np.full(3, 2.0), np.full(3, -5.0)
    search.restart()
    np.testing.assert_array_equal(search.averaged_mean, search.best)


def test_equal_checks_are_stale():
    """A score that cannot rise further does not keep a search going."""
    calls = []

    def count(population, seed):
        calls.append(seed)
        return sphere(population, seed)

    evolve(controller(), count, eval_fitness=lambda population: np.ones(len(population)), eval_every=1, eval_patience=3, seed=1,
           generations=50, population=8)  # fmt: skip
    assert len(calls) == 4


LATER = (
    "max_episodes",
    "antithetic",
    "controller",
    "covariance",
    "bounds",
    "num_eval_candidates",
    "sigma_decay",
    "whitening",
    "mean_window",
)


@pytest.mark.parametrize("name", (*LATER, "normalize_episodes", "ranked"))
def test_a_state_older_than_a_setting_goes_on_with_what_was_then(tmp_path, name):
    settings = {"seed": 1, "population": 4, "out": tmp_path}
    evolve(controller(), sphere, generations=2, **settings)
    with np.load(tmp_path / "state.npz") as saved:
        state = dict(saved)
    about = json.loads(str(state["about"]))
    del about["settings"][name]
    np.savez(tmp_path / "state.npz", **state | {"about": np.array(json.dumps(about))})
    evolve(controller(), sphere, generations=3, **settings)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_restarts_resume_bit_for_bit(tmp_path):
    def lived(stops, out=None):
        populations = []

        def remember(population, seed):
            populations.append(population)
            return sphere(population, seed)

        settings = {
            "eval_fitness": worse,
            "eval_every": 1,
            "eval_patience": 2,
            "restarts": 2,
            "seed": 1,
            "population": 6,
        }
        for generations in stops:
            evolve(controller(), remember, **settings, generations=generations, out=out)
        return populations

    whole, parts = lived([12]), lived(range(1, 13), tmp_path)
    assert [len(one) for one in whole] == [6, 6, 6, 12, 12, 24, 24]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_watcher_sees_every_generation_those_before_a_stop_too(tmp_path):
    settings = {"seed": 1, "population": 4, "out": tmp_path}
    evolve(controller(), sphere, generations=2, **settings)
    seen = []
    evolve(controller(), sphere, generations=5, on_generation=seen.append, **settings)
    assert seen == [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["generation"] for row in seen] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"covariance": "round"}, "covariance"),
        ({"bounds": 0.0}, "bounds"),
        ({"eval_patience": 2}, "eval_patience"),
        ({"num_eval_candidates": 1}, "num_eval_candidates"),
        ({"num_eval_candidates": 9, "eval_fitness": sphere}, "num_eval_candidates"),
        ({"restarts": -1}, "restarts"),
        ({"restarts": 1}, "restarts"),
        ({"min_sigma": 0.1, "sigma": 0.1}, "min_sigma"),
    ],
)
def test_bad_endings_are_refused(change, named):
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
def test_a_state_of_wrong_content_is_refused_by_name(tmp_path, change):
    settings = {"seed": 1, "population": 4, "out": tmp_path}
    evolve(controller(), sphere, generations=2, **settings)
    with np.load(tmp_path / "state.npz") as saved:
        state = dict(saved)
    np.savez(tmp_path / "state.npz", **change(state))
    with pytest.raises(ValueError, match="state.npz"):
        evolve(controller(), sphere, generations=4, **settings)


def test_a_balanced_search_does_not_know_the_units_of_an_episode():
    """Whatever an episode's scale, within the bounds of `standardize_per_episode`: the same evolution, to the last bit."""

    def found(scales, **options):
        def fitness(population, seed):
            halves = -np.square(population - 1.5).reshape(len(population), 2, -1).sum(axis=2)
            return halves * scales

        return evolve(controller(), fitness, seed=3, generations=25, population=12, sigma=0.3, **options).parameters

    scaled, unequal = [2.0, 1.0], [512.0, 1.0]
    assert (found(1.0, normalize_episodes=True) == found(scaled, normalize_episodes=True)).all()
    assert (found(1.0) != found(scaled)).any()
    far = [((found(unequal, normalize_episodes=balanced)[5:] - 1.5) ** 2).sum() for balanced in (False, True)]
    assert far[1] < far[0]  # the small episode is heard


def test_balance_has_mean_zero_and_deviation_one_but_magnifies_no_noise():
    returns = np.random.default_rng(0).normal(size=(50, 3)) * [1000.0, 200.0, 1.0] + [7.0, -3.0, 40.0]
    balanced = standardize_per_episode(returns)
    np.testing.assert_allclose(balanced.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(balanced.std(axis=0), [1, 1, returns[:, 2].std() / returns[:, 0].std() * 10])
    assert (standardize_per_episode(np.ones((4, 3))) == 0).all()


@given(arrays(np.float64, st.tuples(st.integers(2, 8), st.integers(1, 5)), elements=st.integers(-3, 3)))
def test_who_beats_whom_is_what_counting_says(returns):
    share, members = win_rate(returns), len(returns)
    for one in range(members):
        for episode in range(returns.shape[1]):
            others = np.delete(returns[:, episode], one)
            won = (returns[one, episode] > others).sum() + 0.5 * (returns[one, episode] == others).sum()
            assert share[one, episode] == pytest.approx(won / (members - 1))
    np.testing.assert_allclose(share.mean(axis=0), 0.5)
    np.testing.assert_array_equal(win_rate(np.exp(returns)), share)  # whatever the scale


def test_a_rare_failure_drowns_means_and_not_ranks():
    """A member that is a little better in every episode but fails in one is first by ranks, and last by its mean."""
    rng = np.random.default_rng(0)
    returns = 880 + np.arange(6)[:, None] + 10 * rng.normal(size=12)
    returns[5, 3] = 100
    ranked, plain = (score(returns, normalize_episodes=False, ranked=how) for how in (True, False))
    assert ranked.mean(axis=1).argmax() == 5
    assert plain.mean(axis=1).argmin() == 5
    assert noise_share(ranked) < 0.1 < 0.8 < noise_share(plain)  # ranks are sure where returns are not


@pytest.mark.parametrize(("along", "best"), [(0, 3), (1, 2)])
def test_the_elite_is_by_ranks_and_lives_from_moments_count(along, best):
    """Member 3 is best in five of six episodes and far behind in one; member 2 is best from moments on."""
    lived, checked = [], []

    class Fitness:
        episodes = 6

        def __call__(self, population, seed):
            lived.append(population)
            whole = np.full((4, 6), 10.0) + np.arange(4)[:, None]
            whole[3, 0] = -1_000
            return np.hstack((whole, np.tile(along * np.eye(4)[:, [2]], 6)))

    def check(population, seed):
        checked.append(population)
        return np.zeros((len(population), 1))

    evolve(
        controller(),
        Fitness(),
        generations=1,
        population=4,
        eval_fitness=check,
        eval_every=1,
        num_eval_candidates=1,
        ranked=True,
    )
    np.testing.assert_array_equal(checked[0][1], lived[0][best])


def test_a_ranked_search_knows_no_scale_at_all():
    def found(change, **options):
        def fitness(population, seed):
            return change(-np.square(population - 1.5).reshape(len(population), 2, -1).sum(axis=2))

        return evolve(controller(), fitness, generations=6, population=8, seed=2, **options).parameters.numpy()

    def strange(returns):
        return np.expm1(returns / 10) * [1e6, 1.0]

    assert (found(strange, ranked=True) == found(lambda returns: returns, ranked=True)).all()
    assert (found(strange) != found(lambda returns: returns)).any()


def test_ranks_and_balance_are_not_asked_for_together():
    with pytest.raises(ValueError, match="ranked"):
        evolve(controller(), sphere, generations=1, population=4, ranked=True, normalize_episodes=True)
