"""Episodes that start from states of another trajectory."""

import numpy as np
import pytest
import torch

from tests import toys
from tests.rollouts.dreams import assert_same_returns, beacon_world, controllers
from worldmodel import FRMDN, VAE, Memory, WorldModel, envs, rollouts, seeded
from worldmodel.agents import Agent, LinearController
from worldmodel.rollouts import rollout_tasks
from worldmodel.rollouts.fitness_wrappers import split_evenly
from worldmodel.rollouts.rollout_tasks import run_rollout_task
from worldmodel.rollouts.state_resets import Trajectory, replay, restore, unwrap_snapshot_env, validate_state_resets


def test_episodes_from_reset_states_equal_the_rest_of_the_trajectory():
    """An episode from a state of the best trajectory, with its memory state and its controller, has its remaining rewards."""
    model, parameters = beacon_world(), 3 * controllers(1, 9)
    fitness = rollouts.StateResets(rollouts.EnvFitness(toys.remembered, model), 5, 12)
    result = fitness(parameters, 4)
    seed = rollouts.episode.training_seeds(4, 7)[0]
    agent = Agent(model, LinearController.for_world_model(model).with_parameters(parameters[0]))
    rewards = rollouts.play(toys.remembered(), agent, seed).rewards
    steps = Trajectory.sample_resets(seed, tuple(rewards), 5, 12, np.random.default_rng([4, 8, 0])).reset_steps
    assert len(set(steps)) == 5
    expected = [rewards.sum(), *(rewards[step : step + 12].sum() for step in steps)]
    assert_same_returns(result.all_returns[0], expected, 30)
    # including the replay of the trajectory
    assert result.steps == 30 + max(steps) + sum(min(12, 30 - step) for step in steps)


@pytest.mark.slow
def test_reset_states_come_from_the_best_trajectory_with_any_number_of_workers():
    model, population = beacon_world(), 3 * controllers(3, 9)
    env_fitness = rollouts.EnvFitness(toys.remembered, model, episodes=2)
    parallel = rollouts.EnvFitness(toys.remembered, model, episodes=2, workers=2, envs_per_worker=4)
    fitness = rollouts.StateResets(env_fitness, 3, 7)
    alone = fitness(population, 9).all_returns
    together = rollouts.StateResets(parallel, 3, 7)(population, 9).all_returns
    assert alone.shape == (3, 5)
    assert_same_returns(alone, together, 30)
    plain = env_fitness(population, 9).returns
    assert_same_returns(alone[:, :2], plain, 30)
    for episode, columns in ((0, [2, 3]), (1, [4])):  # each episode has its own trajectory, for any population
        best = population[plain[:, episode].argmax()]
        only = fitness(best, 9).all_returns
        assert_same_returns(only[0, columns], alone[plain[:, episode].argmax(), columns], 30)


@pytest.mark.slow
def test_trajectories_come_from_the_hard_episodes_with_any_number_of_workers():
    model, population = beacon_world(), 3 * controllers(3, 9)
    env_fitness = rollouts.EnvFitness(toys.remembered, model, 2)
    parallel = rollouts.EnvFitness(toys.remembered, model, 2, workers=2, envs_per_worker=4)
    result, other = (
        rollouts.HardEpisodes(rollouts.StateResets(fitness, 3, 7), 5)(population, 9)
        for fitness in (env_fitness, parallel)
    )
    alone = result.all_returns
    assert_same_returns(alone, other.all_returns, 30)
    assert_same_returns(result.candidate_returns, other.candidate_returns, 30)
    hard = np.array(rollouts.episode.training_seeds(9, 7, count=5))[np.argsort(result.candidate_returns)[:2]].tolist()
    for episode, columns in ((0, [2, 3]), (1, [4])):  # the rest of the best trajectory in the hard episode
        best = population[alone[:, episode].argmax()].astype(np.float32)
        [episode_result], _ = env_fitness.run_episodes(best[None], [hard[episode]], return_actions=True)
        assert_same_returns(episode_result.episode_return, alone[:, episode].max(), 30)
        steps = Trajectory.sample_resets(
            hard[episode], episode_result.actions, len(columns), 7, np.random.default_rng([9, 8, episode])
        ).reset_steps
        agent = Agent(model, LinearController.for_world_model(model).with_parameters(best))
        rewards = rollouts.play(toys.remembered(), agent, hard[episode]).rewards
        expected = [rewards[step : step + 7].sum() for step in steps]
        assert_same_returns(alone[alone[:, episode].argmax(), columns], expected, 30)


def test_two_thirds_of_reset_steps_cover_the_trajectory_and_one_third_its_end():
    for length, count, reset_horizon in ((30, 5, 12), (100, 8, 20), (100, 12, 40), (3, 3, 40), (2, 5, 1)):
        steps = Trajectory.sample_resets(
            1, tuple(range(length)), count, reset_horizon, np.random.default_rng(0)
        ).reset_steps
        last = count // 3
        for first_step, part in ((0, steps[: count - last]), (max(0, length - reset_horizon), steps[count - last :])):
            edges = first_step + np.floor(np.arange(len(part) + 1) / max(1, len(part)) * (length - first_step))
            assert all(edges[i] <= step <= edges[i + 1] for i, step in enumerate(part))
        assert len(steps) == count and max(steps) < length


@pytest.mark.slow
def test_state_resets_in_car_racing(monkeypatch):
    """The reset states of an episode belong to its own track, and their steps differ between episodes."""
    with seeded(0):
        world = WorldModel(VAE(), Memory(FRMDN(input_size=35, output_size=32, hidden_size=8))).eval()
    population = 0.1 * np.random.default_rng(0).normal(size=(3, LinearController.for_world_model(world).size))
    options = {"episodes": 2, "max_steps": 12, "env_options": {"action_repeat": 2}}
    fitness = rollouts.StateResets(rollouts.EnvFitness("FastCarRacing", world, **options), 4, 5)
    assert fitness(population, 3).all_returns.shape == (3, 6)
    trajectories, tasks = [], rollouts.EnvFitness.tasks

    def recorded(self, parameters, seeds, return_actions, *reset):
        trajectories.extend(reset[:1])
        return tasks(self, parameters, seeds, return_actions, *reset)

    monkeypatch.setattr(rollouts.EnvFitness, "tasks", recorded)
    steps = fitness(population, 3).steps
    one, other = trajectories
    assert one.seed != other.seed
    assert one.reset_steps != other.reset_steps
    replayed_steps = max(one.reset_steps) + max(other.reset_steps)
    assert steps == 3 * (2 * 12) + 3 * 4 * 5 + replayed_steps


def test_replays_are_not_shared_between_world_models():
    """Reset states are cached between tasks of one world model, but not between world models."""
    population = 3 * controllers(4, 9)
    models = [beacon_world(), beacon_world()]
    with torch.no_grad():
        for parameter in models[1].memory.parameters():
            parameter.mul_(-1)
    trajectory = Trajectory(seed=3, actions=(np.ones(1, np.float32),) * 9, reset_steps=(8,))
    tasks_by_model = [
        rollouts.EnvFitness(toys.remembered, world_model).tasks(population, [3] * 4, trajectory=trajectory)
        for world_model in models
    ]
    returns = [
        [episode_result.episode_return for task in tasks for episode_result in run_rollout_task(task).episodes]
        for tasks in tasks_by_model
    ]
    rollout_tasks._last_replay[0] = None  # clear the cache
    assert (
        [
            episode_result.episode_return
            for task in tasks_by_model[1]
            for episode_result in run_rollout_task(task).episodes
        ]
        == returns[1]
        != returns[0]
    )


def test_reset_states_are_split_evenly_among_episodes():
    assert [split_evenly(*case) for case in ((12, 4), (3, 2), (1, 3), (0, 2))] == [[3] * 4, [2, 1], [1, 0, 0], [0, 0]]


@pytest.mark.parametrize("name", ["SuperMarioBros-1-1", "FastCarRacing"])
def test_games_continue_from_a_restored_state(name):
    mario = name != "FastCarRacing"
    with seeded(0):
        memory = Memory(FRMDN(input_size=32 + (2 if mario else 3), output_size=32, hidden_size=8))
        world = WorldModel(VAE(), memory, discrete=mario).eval()
    options = {"action_set": "run", "action_repeat": 8} if mario else {"action_repeat": 2}
    first, second = (envs.make(name, **options) for _ in range(2))
    unwrap_snapshot_env(first)
    if mario:
        actions = tuple(np.random.default_rng(0).integers(2, size=40).tolist())
    else:
        actions = tuple(rollouts.play(first, toys.RoadFollower(), 5, max_steps=40).actions)
    reset_states = replay(first, world, Trajectory(seed=5, actions=actions, reset_steps=(0, 9, 20)))
    assert sorted(reset_states) == [0, 9, 20]
    for step, reset_state in reset_states.items():
        frame, _ = first.reset(seed=5)
        for action in actions[:step]:
            frame, *_ = first.step(action)
        assert np.array_equal(restore(second, reset_state, 5), frame)
        for action in actions[step : step + 8]:
            frame, *result = first.step(action)
            restored_frame, *restored_result = second.step(action)
            if mario:
                assert np.array_equal(frame, restored_frame)
                assert result == restored_result
            else:  # Box2D does not expose the last forces in joints: see envs.car_racing.state
                assert np.abs(frame.astype(int) - restored_frame).mean() < 0.2
                assert result[0] == pytest.approx(restored_result[0], abs=1e-6)
    assert reset_states[0].memory.hidden.abs().sum() == 0
    assert reset_states[9].memory.hidden.abs().sum() > 0


@pytest.mark.parametrize(("num_resets", "named"), [(-1, "num_resets"), (2, "save_state")])
def test_bad_state_resets_are_refused(num_resets, named):
    with pytest.raises(ValueError, match="save_state"):
        validate_state_resets(toys.beacon, {})
    with pytest.raises(ValueError, match=named):
        rollouts.StateResets(rollouts.EnvFitness(toys.beacon, beacon_world()), num_resets)
