"""Returns of populations in the game and in dreams: episodes, workers, identities, validation."""

import time

import gymnasium
import numpy as np
import pytest
import torch

from tests import toys
from tests.rollouts.dreams import STARTS, assert_same_returns, beacon_world, controllers, world
from worldmodel import rollouts
from worldmodel.agents import Agent, LinearController
from worldmodel.rollouts.policy.actors import WorldModelActor
from worldmodel.rollouts.runner import run_episodes


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_env_fitness_does_not_depend_on_workers_or_envs_per_worker(workers):
    fitness = rollouts.EnvFitness(toys.beacon, beacon_world(), episodes=3, workers=workers, envs_per_worker=1 + workers)
    reference = rollouts.EnvFitness(toys.beacon, beacon_world(), episodes=3)
    population = controllers(5, 9)
    result = fitness(population, 4)
    assert_same_returns(result.returns, reference(population, 4).returns, 5)
    assert result.steps == 5 * 3 * 5


def test_env_fitness_equals_the_return_of_an_agent():
    model, parameters = beacon_world(), controllers(1, 9)
    [result], _ = rollouts.EnvFitness(toys.beacon, model).run_episodes(parameters, [77])
    agent = Agent(model, LinearController.for_world_model(model).with_parameters(parameters[0]))
    assert_same_returns(rollouts.play(toys.beacon(), agent, 77).rewards.sum(), result.episode_return, 5)


def test_dream_steps_are_counted():
    fitness = rollouts.DreamFitness(world(termination=False), STARTS, horizon=4, num_rollouts=3)
    for _ in range(2):
        assert fitness(controllers(2), 1).steps == 2 * 3 * 4


def test_memory_is_reset_between_episodes():
    model, parameters = beacon_world(), torch.from_numpy(3 * controllers(3, 9)).float()
    kind, game = LinearController.for_world_model(model), toys.beacon()

    def play_episodes(which, seeds):
        return run_episodes([game], WorldModelActor(model, kind, parameters[which], game.action_space, 1), seeds)

    together = play_episodes(slice(None), [1, 2, 3])
    alone = [play_episodes(slice(i, i + 1), [i + 1])[0] for i in range(3)]
    assert_same_returns([result.episode_return for result in together], [result.episode_return for result in alone], 5)


def test_idle_episodes_are_truncated():
    results = rollouts.EnvFitness(toys.beacon, beacon_world(), max_idle_steps=1).run_episodes(
        np.zeros((1, 9), np.float32), [1]
    )
    assert results.episodes[0].length == 1

    rewarded = rollouts.EnvFitness(toys.now_and_then, beacon_world(), max_idle_steps=5)
    # the second of two rewards is at step 8
    assert rewarded.run_episodes(np.zeros((1, 9), np.float32), [1]).episodes[0].length == 4 + 4 + 5
    short = rollouts.EnvFitness(toys.beacon, beacon_world(), max_steps=2)
    assert short.run_episodes(np.zeros((1, 9), np.float32), [1]).episodes[0].length == 2


def test_controllers_play_the_same_episodes_and_seeds_change_them():
    fitness = rollouts.EnvFitness(toys.seeded_reward, beacon_world(), episodes=3, max_steps=2)
    returns = fitness(controllers(4, 9), 5).returns
    assert (returns == returns[0]).all()
    assert len(set(returns[0])) == 3
    assert not np.isin(fitness(controllers(1, 9), 6).returns, returns).any()


@pytest.mark.parametrize("episodes", [1, 4, 8])
def test_the_population_plays_the_episodes_with_the_lowest_returns_of_the_mean(episodes):
    model, population = beacon_world(), 3 * controllers(3, 9)
    fitness = rollouts.HardEpisodes(rollouts.EnvFitness(toys.seeded_reward, model, episodes, max_steps=2), 9)
    all_episodes = rollouts.EnvFitness(toys.seeded_reward, model, episodes=9, max_steps=2)
    mean, members = all_episodes(population.mean(axis=0), 4), all_episodes(population, 4)
    result = fitness(population, 4)
    # integer returns are exact
    np.testing.assert_array_equal(result.returns, members.returns[:, np.argsort(mean.returns[0])[:episodes]])
    np.testing.assert_array_equal(result.candidate_returns, mean.returns[0])
    assert result.steps == mean.steps + members.steps * episodes // 9


@pytest.mark.parametrize("value", [-1, 2.5, True, "4", 1])
def test_hard_episode_candidates_must_be_more_than_the_episodes(value):
    with pytest.raises(ValueError, match="num_candidates"):
        rollouts.HardEpisodes(rollouts.EnvFitness(toys.beacon, beacon_world()), value)


def test_identities_contain_what_returns_depend_on():
    model = beacon_world()
    base = rollouts.EnvFitness(toys.beacon, model).identity
    assert rollouts.EnvFitness(toys.beacon, model, workers=2).identity == base
    for change in ({"episodes": 2}, {"max_idle_steps": 3}, {"max_steps": 4}, {"env_options": {"a": 1}}):
        assert rollouts.EnvFitness(toys.beacon, model, **change).identity != base
    plain = rollouts.EnvFitness(toys.remembered, model)
    resets = [rollouts.StateResets(plain, *settings) for settings in ((2,), (3,), (2, 9))]
    hard = [rollouts.HardEpisodes(fitness, count) for fitness, count in ((plain, 3), (plain, 4), (resets[0], 3))]
    identities = [fitness.identity for fitness in (plain, *resets, *hard)]
    assert all(one != other for number, one in enumerate(identities) for other in identities[:number])
    dream_identity = rollouts.DreamFitness(model, STARTS).identity
    assert rollouts.DreamFitness(model, STARTS + 1).identity != dream_identity
    assert rollouts.DreamFitness(model, STARTS, temperature=0.5).identity != dream_identity


def test_bad_max_idle_steps_is_refused():
    with pytest.raises(ValueError, match="max_idle_steps"):
        rollouts.EnvFitness(toys.beacon, beacon_world(), max_idle_steps=0)


def test_workers_use_the_current_weights_of_the_world_model():
    model, population = beacon_world(), 3 * controllers(3, 9)
    fitness = rollouts.EnvFitness(toys.remembered, model, workers=2)
    before = fitness(population, 4).returns
    with torch.no_grad():
        for parameter in model.memory.parameters():
            parameter.neg_()
    after = fitness(population, 4).returns
    assert_same_returns(after, rollouts.EnvFitness(toys.remembered, model)(population, 4).returns, 30)
    assert (np.abs(after - before) > 1e-3).any()


class Slow(gymnasium.Wrapper):
    def step(self, action):
        time.sleep(0.1)
        return super().step(action)


def slow():
    return Slow(toys.beacon())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_episodes_are_counted_as_they_end(workers):
    calls = []
    fitness = rollouts.EnvFitness(
        slow, beacon_world(), workers=workers, envs_per_worker=1, progress=lambda *args: calls.append(args)
    )
    fitness.run_episodes(np.zeros((1, 9), np.float32), list(range(6)))  # two tasks of three episodes
    done = [count for count, total, _ in calls if total == 6]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 6)
    assert set(done) & {1, 2}
    assert set(done) & {4, 5}
