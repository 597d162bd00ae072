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
"""Number of means that `KeepMeans` keeps of a search, besides the initial controller."""
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
    row |= {} if result.reset_returns is None else {"state_resets": float(result.reset_returns.mean())}
    row |= {} if result.candidate_returns is None else {"hard_episodes": float(result.candidate_returns.mean())}
    row |= {"steps": result.steps} if result.steps else {}


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
        initial = search.best[None][: search.best_eval == -math.inf]  # a search without progress keeps it
        averages = search.average[None][: self.average]
        candidates = np.concatenate((search.mean[None], averages, search.members[best_first], initial))
        result = call_fitness(self.fitness, candidates, search.episode_seed(stream=1))
        returns, means, row = result.returns, result.returns.mean(axis=1), search.rows[-1]
        std, members = float(returns[0].std(ddof=1)) if returns[0].size > 1 else 0.0, means[1 + len(averages) :]
        row |= {"eval": float(returns[0].mean()), "eval_std": std, "eval_n": int(returns[0].size)}
        row |= {"eval_average": float(returns[1].mean())} if self.average else {}
        row |= {"eval_candidate": float(members[: len(best_first)].max())} if len(best_first) else {}
        row |= {"eval_steps": result.steps} if result.steps else {}
        top = int(means.argmax())
        search.num_stagnant_evals += 1
        if means[top] > search.best_eval:
            search.best_eval, search.best, search.num_stagnant_evals = float(means[top]), candidates[top].copy(), 0


@dataclass(frozen=True)
class KeepMeans:
    """Write the initial controller and about `KEPT_MEANS` means, up to that of generation ``last`` (`Search.save_mean`)."""

    last: int

    def __call__(self, search: Search) -> None:
        """Write the files that are due."""
        if search.generation == 1:
            search.save_mean(0)
        if not search.generation % max(1, self.last // KEPT_MEANS) or search.generation == self.last:
            search.save_mean(search.generation)


def keep_average(search: Search) -> None:
    """Keep the last average of `MeanWindow` as the best controller."""
    search.best = search.average.copy()


@dataclass(frozen=True)
class StoppingCriteria:
    """Conditions that stop a search before its last generation."""

    target_return: float | None = None
    """Mean return of an evaluation; None: none."""
    patience: int | None = None
    """Number of evaluations in a row without a better one; None: none."""
    min_sigma: float = 0.0
    """Lower bound of the step size."""

    def __call__(self, search: Search) -> bool:
        """Return whether a condition is met."""
        reached = self.target_return is not None and search.best_eval >= self.target_return
        stagnant = self.patience is not None and search.num_stagnant_evals >= self.patience
        return reached or stagnant or search.es.sigma < self.min_sigma
