"""Evolution of controllers with CMA-ES.

Start reading at `evolve`. The fitness is any function from a population to returns, such as `rollouts.EnvFitness` or
`rollouts.DreamFitness`.
"""

import hashlib
import inspect
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from worldmodel.agents.config.validate import validate_search
from worldmodel.agents.evolution.cma_es import CMAES, StoppingCriteria, standardize_per_episode
from worldmodel.agents.evolution.controller import Controller
from worldmodel.agents.evolution.whitening import Whitening
from worldmodel.io.paths import folder_path
from worldmodel.messages import format_number
from worldmodel.training.progress import Progress, callback, shows_progress, silent
from worldmodel.validation import validate_optional_positive_int, validate_positive_int, validate_seed

Family = TypeVar("Family", bound=Controller)


@shows_progress("evolve", "generations")
def evolve(
    controller: Family,
    fitness: Callable[..., np.ndarray],
    *,
    seed: int = 0,
    generations: int = 100,
    population: int = 64,
    sigma: float = 0.1,
    sigma_decay: float = 1.0,
    whitening: Whitening | None = None,
    eval_fitness: Callable[..., np.ndarray] | None = None,
    eval_every: int = 10,
    target_return: float | None = None,
    num_eval_candidates: int = 0,
    mean_window: int = 0,
    normalize_episodes: bool = False,
    eval_patience: int | None = None,
    min_sigma: float = 0.0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | bool = silent,
    on_generation: Callable[[dict[str, Any]], None] | None = None,
) -> Family:
    """Evolve the parameters of a controller with CMA-ES.

    All members of a generation play the same episodes; each generation draws new episodes.

    Args:
        controller: Initial controller; its parameters are the initial mean.
        fitness: Function ``fitness(population (P, size), seed) -> returns`` with returns of shape (P,) or (P, n); more is
            better. A function of the population alone is called without a seed. Optional attributes: ``steps`` (logged),
            ``identity`` (a resumed search must have the same), ``episodes`` (number of columns that are complete episodes;
            logged returns use these columns), ``candidate_returns`` (their mean is logged, see
            ``hard_episode_candidates`` of `rollouts.EnvFitness`).
        seed: Seed of the search and of all episodes.
        generations: Number of generations.
        population: Number of members of a generation, at least 3.
        sigma: Initial step size (standard deviation).
        sigma_decay: Factor of the step size after each generation, in addition to the adaptation of CMA-ES. Noise can
            keep the adaptation from shrinking the step size near a good controller; a value below 1 shrinks it.
        whitening: Coordinates of the search, as from `Whitening.fit`; ``sigma`` is in their unit. None: the parameters
            themselves.
        eval_fitness: Fitness that evaluates the mean on new seeds every ``eval_every`` generations and after the last
            one; the first evaluation includes the initial controller. None: no evaluation.
        eval_every: Number of generations between evaluations.
        target_return: Mean return of an evaluation that stops the search; None: none. The best of many noisy evaluations
            is biased upwards, so the search stops a little early.
        num_eval_candidates: Number of best members of a generation that an evaluation includes.
        mean_window: Number of generations in an exponential average of the mean, which an evaluation includes. Noisy
            selection makes the mean fluctuate around a point that is often better. 0: no average.
        normalize_episodes: Whether to compare members by `standardize_per_episode`, so that each episode has the same
            weight. False: by their mean return.
        eval_patience: Number of evaluations in a row without a better one that stops the search; None: none. Stopping and
            resuming a call adds an evaluation at the stop, which counts.
        min_sigma: Step size below which the search stops; must be below ``sigma``. 0: none.
        out: Path of a folder for the state (saved after each generation), ``metrics.jsonl`` and
            ``controller.safetensors``. The same call with the same folder resumes; more generations extend the search.
        progress: Function that is called as ``progress(generation, generations, note)``; True: a bar.
        on_generation: Function that is called with each row of ``metrics.jsonl``, first with those of an earlier call.

    Returns:
        The controller with the best evaluation. Without ``eval_fitness``: the last mean, or its average over
        ``mean_window`` generations.

    Raises:
        ValueError: An argument is out of range, returns are not finite, or ``out`` holds another evolution.

    References:
        Hansen, The CMA Evolution Strategy: A Tutorial, 2016, https://arxiv.org/abs/1604.00772.
    """
    report = callback(progress)
    validate_positive_int(generations=generations, population=population, eval_every=eval_every)
    validate_optional_positive_int(eval_patience=eval_patience)
    validate_seed(seed)
    start = controller.parameters.double().numpy()
    settings = {
        "size": controller.size,
        "population": population,
        "sigma": sigma,
        "sigma_decay": sigma_decay,
        "whitening": None if whitening is None else whitening.identity,
        "seed": seed,
        "eval_fitness": eval_fitness is not None,
        "eval_every": eval_every,
        "num_eval_candidates": num_eval_candidates,
        "mean_window": mean_window,
        "normalize_episodes": normalize_episodes,
        "controller": repr(controller),
        "start": hashlib.sha256(start.tobytes()).hexdigest()[:16],
        "fitness": getattr(fitness, "identity", None),
        "eval_fitness_identity": getattr(eval_fitness, "identity", None),
    }
    stopping = StoppingCriteria(target_return, eval_patience, min_sigma)
    _validate(settings, stopping, whitening)
    folder = None if out is None else folder_path(out, "out")
    evaluate, evaluate_mean = _Fitness(fitness), None if eval_fitness is None else _Fitness(eval_fitness)
    search = CMAES(start, json.loads(json.dumps(settings)), stopping, folder, whitening, _defaults(settings))
    if on_generation is not None:
        for row in search.rows:
            on_generation(row)
    report(search.generation, generations, _resume_note(search, generations))
    while search.generation < generations and not search.should_stop:
        row = _generation(search, evaluate, evaluate_mean, seed, generations, eval_every)
        search.log_generation(row, controller)
        note = "" if search.best_eval == -math.inf else f", best eval {format_number(search.best_eval)}"
        report(
            search.generation, generations, f"mean {format_number(row['mean'])}, max {format_number(row['max'])}{note}"
        )
        if on_generation is not None:
            on_generation(row)
    best = controller.with_parameters(search.best)
    if folder is not None:  # also after a finished search: this repairs a lost or damaged file
        best.save(folder / "controller.safetensors")
    return best


def _defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of arguments of `evolve` among the settings, for states that are older than an argument."""
    parameters = inspect.signature(evolve).parameters
    return {
        name: parameters[name].default
        for name in settings
        if name in parameters and parameters[name].default is not inspect.Parameter.empty
    }


def _resume_note(search: CMAES, generations: int) -> str:
    """Return the note of the progress bar about a resumed or a finished search; empty for a new one."""
    if search.generation >= generations or search.should_stop:
        return f"already finished at generation {search.generation}"
    return f"resuming at generation {search.generation}" if search.generation else ""


def _validate(
    settings: dict[str, Any],
    stopping: StoppingCriteria,
    whitening: Whitening | None,
) -> None:
    """Validate the settings: each one is in range, and their combination has an effect."""
    validate_search(settings | {"min_sigma": stopping.min_sigma})
    if whitening is not None and whitening.size != settings["size"]:
        raise ValueError(f"whitening must have {settings['size']} parameters, got {whitening.size}")
    dependent = {
        "target_return": stopping.target_return,
        "eval_patience": stopping.patience,
        "num_eval_candidates": settings["num_eval_candidates"] or None,
    }
    if not settings["eval_fitness"] and dependent != dict.fromkeys(dependent):
        name = next(name for name, value in dependent.items() if value is not None)
        raise ValueError(f"{name} needs eval_fitness, got {name} = {dependent[name]} and none")


def _generation(
    search: CMAES,
    fitness: "_Fitness",
    eval_fitness: "_Fitness | None",
    seed: int,
    generations: int,
    eval_every: int,
) -> dict[str, Any]:
    """Evaluate a generation, update the search, and evaluate the mean when it is due; return the row of the log."""
    start_time = time.monotonic()
    coordinates = search.ask()
    members = search.to_parameters(coordinates)
    all_returns, steps = fitness(members, _episode_seed(seed, 0, search.generation))
    normalized = standardize_per_episode(all_returns) if search.settings["normalize_episodes"] else all_returns
    scores = normalized.mean(axis=1)
    search.tell(coordinates, scores)
    count = getattr(fitness.function, "episodes", all_returns.shape[1])
    # episodes that start from a restored state are not complete: the row has a separate value for them
    returns, after_resets = all_returns[:, :count].mean(axis=1), all_returns[:, count:]
    row: dict[str, Any] = {"generation": search.generation, "sigma": float(search.es.sigma)}
    row |= {"mean": float(returns.mean()), "std": float(returns.std(ddof=1)), "max": float(returns.max())}
    row |= {"state_resets": float(after_resets.mean())} if after_resets.size else {}
    candidate_returns = getattr(fitness.function, "candidate_returns", None)
    row |= {} if candidate_returns is None else {"hard_episodes": float(np.mean(candidate_returns))}
    if eval_fitness is not None and (search.generation == generations or search.generation % eval_every == 0):
        best_first = np.argsort(-scores, kind="stable")[: search.settings["num_eval_candidates"]]
        averages = search.averaged_mean[None][: search.settings["mean_window"]]
        first = search.best_eval == -math.inf  # with the initial controller: a search without progress keeps it
        candidates = np.concatenate((search.mean[None], averages, members[best_first], search.best[None][:first]))
        evaluated, eval_steps = eval_fitness(candidates, _episode_seed(seed, 1, search.generation))
        std = float(evaluated[0].std(ddof=1)) if evaluated[0].size > 1 else 0.0
        row |= {"eval": float(evaluated[0].mean()), "eval_std": std, "eval_n": int(evaluated[0].size)}
        row |= {"eval_average": float(evaluated[1].mean())} if len(averages) else {}
        best_members = evaluated[1 + len(averages) :][: len(best_first)]
        row |= {"eval_candidate": float(best_members.mean(axis=1).max())} if len(best_first) else {}
        row |= {} if eval_steps is None else {"eval_steps": eval_steps}
        search.update_best(candidates, evaluated.mean(axis=1))
    row |= {} if steps is None else {"steps": steps}
    row["seconds"] = round(time.monotonic() - start_time, 3)
    return row


class _Fitness:
    """A fitness with validated returns; a function of the population alone is called without a seed."""

    def __init__(self, function: Callable[..., np.ndarray]) -> None:
        self.function = function
        self.takes_seed = len(inspect.signature(function).parameters) > 1

    def __call__(self, members: np.ndarray, seed: int) -> tuple[np.ndarray, int | None]:
        """Return the returns (P, n) of a population and their number of steps; None: the fitness has no ``steps``."""
        before, count = getattr(self.function, "steps", None), len(members)
        arguments = (members, seed) if self.takes_seed else (members,)
        returns = np.asarray(self.function(*arguments), dtype=np.float64)
        if returns.ndim not in (1, 2) or len(returns) != count:
            raise ValueError(f"fitness must return shape ({count},) or ({count}, n), got {returns.shape}")
        if not np.isfinite(returns).all():
            raise ValueError("fitness must return finite numbers, got NaN or infinity")
        steps = None if before is None else int(self.function.steps) - int(before)  # type: ignore[attr-defined]
        return returns.reshape(count, -1), steps


def _episode_seed(seed: int, stream: int, generation: int) -> int:
    """Return the seed of the episodes of a generation: stream 0 is for the population, 1 for evaluations."""
    return int(np.random.SeedSequence([seed, stream, generation]).generate_state(1)[0]) >> 1
