"""Returns of populations, lived in the game or dreamed: nothing that should not matter does."""

import time

import gymnasium
import numpy as np
import pytest
import torch

import rollouts
from agents import Agent, LinearController
from rollouts.actors import WorldModelActor
from rollouts.controllers import Population
from rollouts.runner import run_episodes
from tests import toys
from tests.rollouts.dreams import STARTS, assert_same_lives, beacon_world, controllers


@pytest.mark.parametrize("workers", [1, 2])
def test_played_returns_do_not_depend_on_workers_or_lanes(workers):
    fitness = rollouts.EnvFitness(toys.beacon, beacon_world(), episodes=3, workers=workers, envs_per_worker=1 + workers)
    reference = rollouts.EnvFitness(toys.beacon, beacon_world(), episodes=3)
    population = controllers(5, 9)
    assert_same_lives(fitness(population, 4), reference(population, 4), 5)
    assert fitness.steps == 5 * 3 * 5


def test_played_is_the_life_of_an_agent():
    built, parameters = beacon_world(), controllers(1, 9)
    total = rollouts.EnvFitness(toys.beacon, built).run_episodes(parameters.astype(np.float32), [77])[0].episode_return
    agent = Agent(built, LinearController.for_world_model(built).with_parameters(parameters[0]))
    assert_same_lives(rollouts.play(toys.beacon(), agent, 77).rewards.sum(), total, 5)


def test_a_life_remembers_nothing_of_the_one_before_it_in_its_lane():
    built, parameters = beacon_world(), torch.from_numpy(3 * controllers(3, 9)).float()
    family, game = Population(LinearController.for_world_model(built), parameters), toys.beacon()

    def lived(which, seeds):
        return run_episodes([game], WorldModelActor(built, family, parameters[which], game.action_space, 1), seeds)

    together = lived(slice(None), [1, 2, 3])
    alone = [lived(slice(i, i + 1), [i + 1])[0] for i in range(3)]
    assert_same_lives([result.episode_return for result in together], [result.episode_return for result in alone], 5)


def test_patience_gives_up():
    results = rollouts.EnvFitness(toys.beacon, beacon_world(), max_idle_steps=1).run_episodes(
        np.zeros((1, 9), np.float32), [1]
    )
    assert results[0].length == 1

    rewarded = rollouts.EnvFitness(toys.now_and_then, beacon_world(), max_idle_steps=5)
    assert rewarded.run_episodes(np.zeros((1, 9), np.float32), [1])[0].length == 4 + 4 + 5  # two rewards, then no more
    short = rollouts.EnvFitness(toys.beacon, beacon_world(), max_steps=2)
    assert short.run_episodes(np.zeros((1, 9), np.float32), [1])[0].length == 2


def test_every_controller_plays_the_same_episodes_and_every_seed_others():
    fitness = rollouts.EnvFitness(toys.seeded_reward, beacon_world(), episodes=3, max_steps=2)
    returns = fitness(controllers(4, 9), 5)
    assert (returns == returns[0]).all()
    assert len(set(returns[0])) == 3
    assert not np.isin(fitness(controllers(1, 9), 6), returns).any()


@pytest.mark.parametrize("episodes", [1, 4, 8])
def test_of_the_scouted_episodes_those_are_lived_that_the_mean_had_least_in(episodes):
    built, population = beacon_world(), 3 * controllers(3, 9)
    fitness = rollouts.EnvFitness(toys.seeded_reward, built, episodes, hard_episode_candidates=9, max_steps=2)
    everywhere = rollouts.EnvFitness(toys.seeded_reward, built, episodes=9, max_steps=2)
    mean, all_of_them = everywhere(population.mean(axis=0), 4)[0], everywhere(population, 4)
    np.testing.assert_array_equal(fitness(population, 4), all_of_them[:, np.argsort(mean)[:episodes]])  # whole numbers
    np.testing.assert_array_equal(fitness.candidate_returns, mean)
    assert fitness.steps == (9 + 3 * episodes) * everywhere.steps // (9 * 4)
    with pytest.raises(ValueError, match="hard_episode_candidates"):
        fitness(population, 4, episodes=9)


@pytest.mark.parametrize("scouted", [-1, 2.5, True, "4"])
def test_scouted_episodes_are_a_whole_number(scouted):
    with pytest.raises(ValueError, match="hard_episode_candidates"):
        rollouts.EnvFitness(toys.beacon, beacon_world(), hard_episode_candidates=scouted)


def test_identities_say_what_returns_depend_on():
    built = beacon_world()
    base = rollouts.EnvFitness(toys.beacon, built).identity
    assert rollouts.EnvFitness(toys.beacon, built, workers=2).identity == base
    for change in (
        {"episodes": 2},
        {"max_idle_steps": 3},
        {"max_steps": 4},
        {"env_options": {"a": 1}},
        {"hard_episode_candidates": 3},
    ):
        assert rollouts.EnvFitness(toys.beacon, built, **change).identity != base
    along = [{"num_state_resets": 2}, {"num_state_resets": 3}, {"num_state_resets": 2, "reset_horizon": 9}]
    told = [rollouts.EnvFitness(toys.remembered, built, **change).identity for change in ({}, *along)]
    assert all(one != other for number, one in enumerate(told) for other in told[:number])
    dreamed = rollouts.DreamFitness(built, STARTS).identity
    assert rollouts.DreamFitness(built, STARTS + 1).identity != dreamed
    assert rollouts.DreamFitness(built, STARTS, temperature=0.5).identity != dreamed


def test_bad_patience_is_refused():
    with pytest.raises(ValueError, match="max_idle_steps"):
        rollouts.EnvFitness(toys.beacon, beacon_world(), max_idle_steps=0)


def test_workers_play_the_world_model_as_it_is_now():
    built, population = beacon_world(), 3 * controllers(3, 9)
    fitness = rollouts.EnvFitness(toys.remembered, built, workers=2)
    before = fitness(population, 4)
    with torch.no_grad():
        for parameter in built.memory.parameters():
            parameter.neg_()
    after = fitness(population, 4)
    assert_same_lives(after, rollouts.EnvFitness(toys.remembered, built)(population, 4), 30)
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
    fitness = rollouts.EnvFitness(
        slow, beacon_world(), workers=workers, envs_per_worker=1, progress=lambda *told: seen.append(told)
    )
    fitness.run_episodes(np.zeros((6, 9), np.float32), list(range(6)))  # two tasks of three episodes
    done = [count for count, total, _ in seen if total == 6]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 6)
    assert set(done) & {1, 2}
    assert set(done) & {4, 5}
