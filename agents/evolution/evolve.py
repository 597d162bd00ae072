"""Evolution of controllers with CMA-ES. Start reading at `evolve`."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from worldmodel.agents.config.validate import validate_search
from worldmodel.agents.evolution.callbacks import (
    Evaluation,
    EvolutionCallback,
    MeanWindow,
    SigmaDecay,
    keep_average,
    log_returns,
)
from worldmodel.agents.evolution.search import Search
from worldmodel.agents.evolution.whitening import Whitening
from worldmodel.io.files import array_digest
from worldmodel.io.paths import folder_path
from worldmodel.messages import format_number
from worldmodel.rollouts.fitness import Fitness, FitnessFunction, call_fitness
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.training.progress import Progress, callback, shows_progress, silent
from worldmodel.validation import validate_positive_int, validate_seed

MIN_STD_FRACTION = 0.1
"""Smallest standard deviation that `standardize_per_episode` divides by, as a fraction of the largest."""
ControllerT = TypeVar("ControllerT", bound=Controller)


@shows_progress("evolve", "generations")
def evolve(
    controller: ControllerT,
    fitness: Fitness | FitnessFunction,
    *,
    seed: int = 0,
    generations: int = 100,
    population: int = 64,
    sigma: float = 0.1,
    sigma_decay: float = 1.0,
    whitening: Whitening | None = None,
    eval_fitness: Fitness | FitnessFunction | None = None,
    eval_every: int = 10,
    target_return: float | None = None,
    num_eval_candidates: int = 0,
    mean_window: int = 0,
    normalize_episodes: bool = False,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | bool = silent,
    on_generation: Callable[[dict[str, Any]], None] | None = None,
    callbacks: Sequence[EvolutionCallback] = (),
) -> ControllerT:
    """Evolve the parameters of a controller with CMA-ES.

    All members of a generation play the same episodes; each generation draws new episodes.

    Args:
        controller: Initial controller; its parameters are the initial mean.
        fitness: Returns of a population: a `rollouts.Fitness`, or a function ``fitness(population (P, size), seed)`` that gives
            returns of shape (P,) or (P, n); more is better. A resumed search must have a fitness with the same ``identity``.
        seed: Seed of the search and of all episodes.
        generations: Number of generations.
        population: Number of members of a generation, at least 3.
        sigma: Initial step size (standard deviation).
        sigma_decay: Factor of the step size after each generation.
        whitening: Coordinates of the search, as from `Whitening.fit`; ``sigma`` is in their unit. None: the parameters
            themselves.
        eval_fitness: Fitness that evaluates the mean on new seeds every ``eval_every`` generations and after the last
            one; the first evaluation includes the initial controller. None: no evaluation.
        eval_every: Number of generations between evaluations.
        target_return: Mean return of an evaluation that stops the search; None: none. The best of many noisy evaluations
            is biased upwards, so the search stops a little early.
        num_eval_candidates: Number of best members of a generation that an evaluation includes.
        mean_window: Number of generations in an exponential average of the mean, which an evaluation includes. 0: none.
        normalize_episodes: Whether each episode has the same weight (`standardize_per_episode`) in comparisons of members.
        out: Path of a folder for the state (saved after each generation), ``metrics.jsonl`` and
            ``controller.safetensors``. The same call with the same folder resumes; more generations extend the search.
        progress: Function that is called as ``progress(generation, generations, note)``; True: a bar.
        on_generation: Function that is called with each row of ``metrics.jsonl``, first with those of an earlier call.
        callbacks: Functions that are called with the `Search` at the end of each generation; one that returns True stops the
            search.

    Returns:
        The controller with the best evaluation. Without ``eval_fitness``: the last mean, or its average over
        ``mean_window`` generations.

    Raises:
        ValueError: An argument is out of range, returns are not finite, or ``out`` holds another evolution.
    """
    report = callback(progress)
    validate_positive_int(generations=generations, population=population, eval_every=eval_every)
    validate_seed(seed)
    settings = _identities(controller, whitening, fitness, eval_fitness) | {
        "population": population,
        "sigma": sigma,
        "sigma_decay": sigma_decay,
        "seed": seed,
        "eval_every": eval_every,
        "num_eval_candidates": num_eval_candidates,
        "mean_window": mean_window,
        "normalize_episodes": normalize_episodes,
    }
    _validate(settings, target_return, whitening)
    search = Search(controller, settings, whitening, None if out is None else folder_path(out, "out"))
    search.resume()
    keep_best: EvolutionCallback = keep_average
    if eval_fitness is not None:
        keep_best = Evaluation(eval_fitness, eval_every, generations, num_eval_candidates, average=mean_window > 0)
    # the order matters: the log has the step size of the next generation, and the evaluation extends its row
    callbacks = (SigmaDecay(sigma_decay), MeanWindow(mean_window), log_returns, keep_best, *callbacks)
    on_row = on_generation or (lambda row: None)
    for row in search.rows:
        on_row(row)
    target = math.inf if target_return is None else target_return
    stopped = search.best_eval >= target
    report(search.generation, generations, _resume_note(search, stopped or search.generation >= generations))
    while search.generation < generations and not stopped:
        result = call_fitness(fitness, search.ask(), search.episode_seed())
        returns = standardize_per_episode(result.all_returns) if normalize_episodes else result.all_returns
        search.tell(result, returns.mean(axis=1))
        stopped = any([act(search) for act in callbacks]) or search.best_eval >= target
        search.save()
        report(search.generation, generations, _note(search))
        on_row(search.rows[-1])
    search.save_controller()  # also after a finished search: this repairs a lost or damaged file
    return controller.with_parameters(search.best)


def _identities(
    controller: Controller,
    whitening: Whitening | None,
    fitness: Fitness | FitnessFunction,
    eval_fitness: Fitness | FitnessFunction | None,
) -> dict[str, Any]:
    """Return what a resumed search must have unchanged, beside its numbers."""
    return {
        "size": controller.size,
        "whitening": None if whitening is None else whitening.identity,
        "eval_fitness": eval_fitness is not None,
        "controller": repr(controller),
        "start": array_digest(controller.parameters.double().numpy()),
        "fitness": fitness.identity if isinstance(fitness, Fitness) else None,
        "eval_fitness_identity": eval_fitness.identity if isinstance(eval_fitness, Fitness) else None,
    }


def _validate(settings: dict[str, Any], target_return: float | None, whitening: Whitening | None) -> None:
    """Validate the settings: each one is in range, and their combination has an effect."""
    validate_search(settings)
    if whitening is not None and whitening.size != settings["size"]:
        raise ValueError(f"whitening must have {settings['size']} parameters, got {whitening.size}")
    dependent = {"target_return": target_return, "num_eval_candidates": settings["num_eval_candidates"] or None}
    for name, value in dependent.items():
        if value is not None and not settings["eval_fitness"]:
            raise ValueError(f"{name} needs eval_fitness, got {name} = {value} and none")


def standardize_per_episode(returns: np.ndarray) -> np.ndarray:
    """Standardize the returns (P, n) of each episode over the members: zero mean, unit standard deviation.

    A standard deviation below a tenth of the largest is replaced by that tenth, so that tiny differences do not count fully.
    """
    std = returns.std(axis=0)
    if not std.max():
        return np.zeros_like(returns)
    scaled: np.ndarray = (returns - returns.mean(axis=0)) / np.maximum(std, MIN_STD_FRACTION * std.max())
    return scaled


def _note(search: Search) -> str:
    """Return the note of the progress bar about the last generation."""
    row = search.rows[-1]
    best = "" if search.best_eval == -math.inf else f", best eval {format_number(search.best_eval)}"
    return f"mean {format_number(row['mean'])}, max {format_number(row['max'])}{best}"


def _resume_note(search: Search, finished: bool) -> str:
    """Return the note of the progress bar about a resumed or a finished search; empty for a new one."""
    words = "already finished" if finished else "resuming"
    return f"{words} at generation {search.generation}" if search.generation else ""
