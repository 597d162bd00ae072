"""Returns of populations, lived in the game or dreamed: nothing that should not matter does."""

import time

import gymnasium
import numpy as np
import pytest
import torch

import rollouts
from agents import Agent, LinearController
from rollouts.controllers import Population
from rollouts.lockstep import Together, live
from tests import toys
from tests.rollouts.dreams import STARTS, assert_same_lives, beacon_world, controllers


@pytest.mark.parametrize("workers", [1, 2])
def test_played_returns_do_not_depend_on_workers_or_lanes(workers):
    fitness = rollouts.played(toys.beacon, beacon_world(), episodes=3, workers=workers, lanes=1 + workers)
    reference = rollouts.played(toys.beacon, beacon_world(), episodes=3)
    population = controllers(5, 9)
    assert_same_lives(fitness(population, 4), reference(population, 4), 5)
    assert fitness.steps == 5 * 3 * 5


def test_played_is_the_life_of_an_agent():
    built, parameters = beacon_world(), controllers(1, 9)
    total = rollouts.played(toys.beacon, built).live(parameters.astype(np.float32), [77])[0].total
    agent = Agent(built, LinearController.sized(built).having(parameters[0]))
    assert_same_lives(rollouts.play(toys.beacon(), agent, 77).rewards.sum(), total, 5)


def test_a_life_remembers_nothing_of_the_one_before_it_in_its_lane():
    built, parameters = beacon_world(), torch.from_numpy(3 * controllers(3, 9)).float()
    family, game = Population(LinearController.sized(built), parameters), toys.beacon()

    def lived(which, seeds):
        return live([game], Together(built, family, parameters[which], game.action_space, 1), seeds)

    together = lived(slice(None), [1, 2, 3])
    alone = [lived(slice(i, i + 1), [i + 1])[0] for i in range(3)]
    assert_same_lives([life.total for life in together], [life.total for life in alone], 5)


def test_patience_gives_up():
    lives = rollouts.played(toys.beacon, beacon_world(), patience=1).live(np.zeros((1, 9), np.float32), [1])
    assert lives[0].length == 1

    rewarded = rollouts.played(toys.now_and_then, beacon_world(), patience=5)
    assert rewarded.live(np.zeros((1, 9), np.float32), [1])[0].length == 4 + 4 + 5  # two rewards, then no more
    short = rollouts.played(toys.beacon, beacon_world(), max_steps=2)
    assert short.live(np.zeros((1, 9), np.float32), [1])[0].length == 2


def test_every_controller_plays_the_same_episodes_and_every_seed_others():
    fitness = rollouts.played(toys.seeded_reward, beacon_world(), episodes=3, max_steps=2)
    returns = fitness(controllers(4, 9), 5)
    assert (returns == returns[0]).all()
    assert len(set(returns[0])) == 3
    assert not np.isin(fitness(controllers(1, 9), 6), returns).any()


@pytest.mark.parametrize("episodes", [1, 4, 8])
def test_of_the_scouted_episodes_those_are_lived_that_the_mean_had_least_in(episodes):
    built, population = beacon_world(), 3 * controllers(3, 9)
    fitness = rollouts.played(toys.seeded_reward, built, episodes, scouted=9, max_steps=2)
    everywhere = rollouts.played(toys.seeded_reward, built, episodes=9, max_steps=2)
    mean, all_of_them = everywhere(population.mean(axis=0), 4)[0], everywhere(population, 4)
    np.testing.assert_array_equal(fitness(population, 4), all_of_them[:, np.argsort(mean)[:episodes]])  # whole numbers
    np.testing.assert_array_equal(fitness.scouts, mean)
    assert fitness.steps == (9 + 3 * episodes) * everywhere.steps // (9 * 4)
    with pytest.raises(ValueError, match="scouted"):
        fitness(population, 4, episodes=9)


@pytest.mark.parametrize("scouted", [-1, 2.5, True, "4"])
def test_scouted_episodes_are_a_whole_number(scouted):
    with pytest.raises(ValueError, match="scouted"):
        rollouts.played(toys.beacon, beacon_world(), scouted=scouted)


def test_identities_say_what_returns_depend_on():
    built = beacon_world()
    base = rollouts.played(toys.beacon, built).identity
    assert rollouts.played(toys.beacon, built, workers=2).identity == base
    for change in ({"episodes": 2}, {"patience": 3}, {"max_steps": 4}, {"env_options": {"a": 1}}, {"scouted": 3}):
        assert rollouts.played(toys.beacon, built, **change).identity != base
    along = [{"moments": 2}, {"moments": 3}, {"moments": 2, "stretch": 9}]
    told = [rollouts.played(toys.remembered, built, **change).identity for change in ({}, *along)]
    assert all(one != other for number, one in enumerate(told) for other in told[:number])
    dreamed = rollouts.dreamed(built, STARTS).identity
    assert rollouts.dreamed(built, STARTS + 1).identity != dreamed
    assert rollouts.dreamed(built, STARTS, temperature=0.5).identity != dreamed


def test_bad_patience_is_refused():
    with pytest.raises(ValueError, match="patience"):
        rollouts.played(toys.beacon, beacon_world(), patience=0)


def test_workers_play_the_world_model_as_it_is_now():
    built, population = beacon_world(), 3 * controllers(3, 9)
    fitness = rollouts.played(toys.remembered, built, workers=2)
    before = fitness(population, 4)
    with torch.no_grad():
        for parameter in built.memory.parameters():
            parameter.neg_()
    after = fitness(population, 4)
    assert_same_lives(after, rollouts.played(toys.remembered, built)(population, 4), 30)
    assert (np.abs(after - before) > 1e-3).any()


class Slow(gymnasium.Wrapper):
    def step(self, action):
        time.sleep(0.1)
        return super().step(action)


def slow():
    return Slow(toys.beacon())


@pytest.mark.parametrize("workers", [1, 2])
def test_episodes_are_counted_as_they_end(workers):
    seen = []
    fitness = rollouts.played(slow, beacon_world(), workers=workers, lanes=1, progress=lambda *told: seen.append(told))
    fitness.live(np.zeros((6, 9), np.float32), list(range(6)))  # two tasks of three episodes
    done = [count for count, total, _ in seen if total == 6]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 6)
    assert set(done) & {1, 2}
    assert set(done) & {4, 5}
