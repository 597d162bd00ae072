"""Wrappers that change the episodes of an `EnvFitness`: episodes from restored states, and hard episodes.

They compose: ``HardEpisodes(StateResets(EnvFitness(...), 12), 9)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.rng import Stream
from worldmodel.rollouts.fitness import EnvFitness, FitnessResult, episode_returns
from worldmodel.rollouts.rollout_tasks import RolloutTask
from worldmodel.rollouts.state_resets import Trajectory, validate_state_resets
from worldmodel.validation import validate_positive_int


@dataclass(frozen=True)
class StateResets:
    """Adds short episodes that start from states along the best trajectories of the call (the best of each episode).

    The states are the same for all controllers, and lie behind obstacles that only the best ones pass.

    Args:
        fitness: Fitness in an environment with ``save_state`` and ``load_state``, such as Super Mario Bros or FastCarRacing.
        num_resets: Number of additional episodes per controller.
        reset_horizon: Number of steps of an additional episode.

    Raises:
        ValueError: An argument is out of range, or the environment cannot restore states.
    """

    fitness: EnvFitness
    num_resets: int
    reset_horizon: int = 40

    def __post_init__(self) -> None:
        validate_positive_int(num_resets=self.num_resets, reset_horizon=self.reset_horizon)
        validate_state_resets(self.fitness.env, self.fitness.env_options)

    @property
    def unwrapped(self) -> EnvFitness:
        """The wrapped fitness."""
        return self.fitness

    @property
    def identity(self) -> dict[str, Any]:
        """All settings that returns depend on."""
        return self.fitness.identity | {"num_state_resets": self.num_resets, "reset_horizon": self.reset_horizon}

    def __call__(self, population: np.ndarray, seed: int, env_seeds: Sequence[int] | None = None) -> FitnessResult:
        """Return the returns (P, n) as `EnvFitness` does, and (P, num_resets) from restored states."""
        population, fitness = np.atleast_2d(population), self.fitness
        env_seeds = fitness.env_seeds(seed) if env_seeds is None else env_seeds
        members, episodes = len(population), len(env_seeds)
        results, steps = fitness.run_episodes(population, env_seeds, return_actions=True)
        returns = episode_returns(results, members)
        tasks, counts = list[RolloutTask](), split_evenly(self.num_resets, episodes)
        for episode, count in enumerate(counts):
            if count:
                best = results[episode * members + int(returns[:, episode].argmax())].actions
                rng = np.random.default_rng([seed, Stream.STATE_RESETS, episode])
                trajectory = Trajectory.sample_resets(env_seeds[episode], best, count, self.reset_horizon, rng)
                parameters = np.repeat(population, count, axis=0)  # each member starts once at each reset step
                seeds = [trajectory.seed] * len(parameters)
                tasks += fitness.tasks(parameters, seeds, False, trajectory, self.reset_horizon)
        reset_results, reset_steps = fitness.run(tasks)
        parts = np.split(
            np.array([result.episode_return for result in reset_results]), members * np.cumsum(counts[:-1])
        )
        together = np.hstack([returns, *(part.reshape(members, -1) for part in parts)])
        return FitnessResult(together[:, :episodes], steps + reset_steps, together[:, episodes:])


@dataclass(frozen=True)
class HardEpisodes:
    """Evaluates the population on those of many episodes in which its mean has the lowest returns.

    Rare failures of a good controller then occur in every generation.

    Args:
        fitness: Fitness in the environment, with the number of episodes per controller.
        num_candidates: Number of candidate episodes, above the number of episodes. The population's mean plays all of them.

    Raises:
        ValueError: ``num_candidates`` is out of range.

    References:
        Related to Jiang, Grefenstette and Rocktaschel, Prioritized Level Replay, 2021, https://arxiv.org/abs/2010.03934.
    """

    fitness: EnvFitness | StateResets
    num_candidates: int

    def __post_init__(self) -> None:
        validate_positive_int(num_candidates=self.num_candidates)
        if self.num_candidates <= (episodes := self.fitness.unwrapped.episodes):
            raise ValueError(f"num_candidates must be above episodes = {episodes}, got {self.num_candidates}")

    @property
    def identity(self) -> dict[str, Any]:
        """All settings that returns depend on."""
        return self.fitness.identity | {"hard_episode_candidates": self.num_candidates}

    def __call__(self, population: np.ndarray, seed: int) -> FitnessResult:
        """Return the returns in the hard episodes, and the mean's in all candidate episodes."""
        population, env_fitness = np.atleast_2d(population), self.fitness.unwrapped
        env_seeds = env_fitness.env_seeds(seed, self.num_candidates)
        candidates = env_fitness(population.mean(axis=0), seed, env_seeds)
        hardest = np.argsort(candidates.returns[0], kind="stable")[: env_fitness.episodes]
        result = self.fitness(population, seed, [env_seeds[index] for index in hardest])
        return result._replace(steps=candidates.steps + result.steps, candidate_returns=candidates.returns[0])


def split_evenly(total: int, parts: int) -> list[int]:
    """Split ``total`` into integer parts that differ by at most one, larger ones first."""
    return [total // parts + (number < total % parts) for number in range(parts)]
