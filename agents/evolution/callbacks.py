"""Callbacks of `agents.evolve`: what happens to a `agents.evolution.search.Search` after each generation.

Start reading at `EvolutionCallback`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldmodel.agents.evolution.search import Search
from worldmodel.rollouts.fitness import Fitness, FitnessFunction, call_fitness

KEPT_MEANS = 6
"""Largest number of means that `KeepMeans` keeps of a search, besides the initial controller and the last mean."""
EvolutionCallback = Callable[[Search], bool | None]
"""Called at the end of each generation; a callback that returns True stops the search."""


@dataclass(frozen=True)
class SigmaDecay:
    """Shrink the step size, in addition to the adaptation of CMA-ES: ``sigma <- factor * sigma``.

    Noise can keep the adaptation from shrinking the step size near a good controller.
    """

    factor: float

    def __call__(self, search: Search) -> None:
        """Update the step size."""
        search.es.sigma *= self.factor


@dataclass(frozen=True)
class MeanWindow:
    """Average the mean m of the distribution over about ``window`` generations g; 0: the average is the mean.

    ``a_g = a_{g-1} + (m_g - a_{g-1}) / min(g, window)``. Noise makes the mean fluctuate around a point that is often better.
    """

    window: int

    def __call__(self, search: Search) -> None:
        """Update the average."""
        change = search.mean - search.average
        search.average = search.average + change / min(search.generation, self.window) if self.window else search.mean


def log_returns(search: Search) -> None:
    """Log the step size and the returns of the members; episodes from restored states have a value of their own."""
    result, row = search.result, search.rows[-1]
    returns = result.returns.mean(axis=1)
    row |= {"sigma": search.es.sigma}
    row |= {"mean": float(returns.mean()), "std": float(returns.std(ddof=1)), "max": float(returns.max())}
    if result.reset_returns is not None:
        row["state_resets"] = float(result.reset_returns.mean())
    if result.candidate_returns is not None:
        row["hard_episodes"] = float(result.candidate_returns.mean())
    if result.steps:
        row["steps"] = result.steps


@dataclass(frozen=True)
class Evaluation:
    """Evaluate the mean on new episodes, and keep the best controller of all evaluations.

    Args:
        fitness: Fitness of the evaluation.
        every: Number of generations between evaluations.
        last: Generation that is evaluated in any case.
        num_candidates: Number of best members that are evaluated, too.
        average: Whether to evaluate the average of `MeanWindow`, too.
    """

    fitness: Fitness | FitnessFunction
    every: int
    last: int
    num_candidates: int = 0
    average: bool = False

    def __call__(self, search: Search) -> None:
        """Evaluate, if it is due."""
        if search.generation % self.every and search.generation != self.last:
            return
        best_first = np.argsort(-search.scores, kind="stable")[: self.num_candidates]
        candidates = [search.mean, *([search.average] if self.average else []), *search.members[best_first]]
        num_controllers = len(candidates)
        if (
            search.best_eval == -math.inf
        ):  # the first evaluation: a search without progress keeps the initial controller
            candidates.append(search.best)
        result = call_fitness(self.fitness, np.array(candidates), search.episode_seed(stream=1))
        returns, means, row = result.returns, result.returns.mean(axis=1), search.rows[-1]
        std = float(returns[0].std(ddof=1)) if returns[0].size > 1 else 0.0
        row |= {"eval": float(means[0]), "eval_std": std, "eval_n": int(returns[0].size)}
        if self.average:
            row["eval_average"] = float(means[1])
        if len(best_first):
            row["eval_candidate"] = float(means[num_controllers - len(best_first) : num_controllers].max())
        if result.steps:
            row["eval_steps"] = result.steps
        top = int(means.argmax())
        if means[top] > search.best_eval:
            search.best_eval, search.best = float(means[top]), candidates[top].copy()


@dataclass(frozen=True)
class KeepMeans:
    """Write the initial controller, at most `KEPT_MEANS` means at equal distances, and that of generation ``last``."""

    last: int

    def __call__(self, search: Search) -> None:
        """Write the files that are due."""
        if search.generation == 1:
            search.save_mean(0)
        if not search.generation % math.ceil(self.last / KEPT_MEANS) or search.generation == self.last:
            search.save_mean(search.generation)


def keep_average(search: Search) -> None:
    """Keep the last average of `MeanWindow` as the best controller."""
    search.best = search.average.copy()
