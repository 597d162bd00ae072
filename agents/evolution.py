"""Evolution of controllers by CMA-ES: from a population to returns, again and again.

Start reading at `evolve`. Evolution knows nothing of games or dreams; it sees a function from a population to returns
(`rollouts.EnvFitness`, `rollouts.DreamFitness`, or one of your own).
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

from agents.cma_es import CMAES, StoppingCriteria, score
from agents.config.schema import Covariance
from agents.config.validate import validate_search
from agents.controller import Controller
from agents.whitening import Whitening
from worldmodel.formatting import format_number
from worldmodel.paths import folder_path
from worldmodel.progress import Progress, callback, shows_progress, silent
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
    max_episodes: int | None = None,
    antithetic: bool = False,
    covariance: Covariance = "auto",
    bounds: float | None = None,
    num_eval_candidates: int = 0,
    mean_window: int = 0,
    normalize_episodes: bool = False,
    ranked: bool = False,
    eval_patience: int | None = None,
    min_sigma: float = 0.0,
    restarts: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | bool = silent,
    on_generation: Callable[[dict[str, Any]], None] | None = None,
) -> Family:
    """Evolve a controller's parameters by CMA-ES and return the distribution's mean, or its average over generations.

    Every member of a generation lives through the same episodes, and every generation through new ones.

    Args:
        controller: where to start: its parameters are the first mean.
        fitness: ``fitness(population (P, size), seed) -> returns``, of shape (P,) or (P, n); a function of the population
            alone is called without a seed. More is better. Its ``steps``, where it has them, are logged; its ``identity``
            tells evolutions in a folder apart; with ``episodes``, so many first columns are whole ones, which the log's scores
            are of; with ``candidate_returns``, the mean of these returns is logged, too (`rollouts.EnvFitness` with
            ``hard_episode_candidates``).
        seed: of the search and of all episodes.
        generations: how many.
        population: members of a generation, at least 3.
        sigma: the first standard deviation.
        sigma_decay: the step size is multiplied by this after every generation, besides what CMA-ES makes of it. Where noise
            hides that it should fall, as it does near a good controller, something below 1 lets it.
        whitening: what the search steps along, such as `Whitening.fit` a world model; None: the parameters themselves.
            ``sigma`` is in its units.
        eval_fitness: fitness for testing the mean on fresh seeds every ``eval_every`` generations and after the last (the first
            time the start, too); the parameters with the best check are returned. None: the last mean is returned.
        eval_every: generations between checks.
        target_return: stop when a check's mean return reaches this. The best of many noisy checks flatters: it is reached a
            little early.
        max_episodes: let each member live up to so many episodes as differences between members drown in the noise of
            theirs. The fitness must take ``episodes`` and begin with at least two. None: always as many.
        antithetic: draw members in pairs, to both sides of the mean (mirrored sampling), and select the better one of each.
        covariance: "full", "diagonal", or "auto": full up to 2,000 parameters, diagonal above.
        bounds: keep every parameter that lives in [-bounds, bounds]; None: wherever it goes. The search itself may stray
            beyond, and does where returns are mostly noise: only members that live alike are told apart by their distance.
        num_eval_candidates: so many of a generation's best members live through a check, too; where one is better than the
            mean and all
            before it, on the check's episodes, it is what is kept.
        mean_window: an exponential average of the mean, over about so many last generations, lives through a check, too, and is
            kept where it is better; without a check it is what is returned. Selection by noisy returns makes the mean
            wander, and what it wanders around is often better. 0: no.
        normalize_episodes: let each episode count alike: members are compared by their returns after
            `standardize_per_episode`, so that an episode in
            which little is to be won decides as much as one with much. Else by their mean return.
        ranked: compare members by the share of the others that they beat, on average over the episodes (`win_rate`): how often
            one is better counts, and not by how much, so that a rare failure does not drown what all the others tell.
        eval_patience: end after so many checks without a better one; None: never. A call that stops earlier and one that
            goes on
            make one check more, at the stop, which counts.
        min_sigma: end when the step size falls below this, which must be below sigma; 0: never.
        restarts: instead of the last two, begin again at the best so far, with the first sigma and twice the population.
        out: a folder for the state to resume from (saved whole after every generation), ``metrics.jsonl`` and
            ``controller.safetensors``. The same call with the same folder continues; more generations go further.
        progress: called as ``progress(generation, generations, note)``; True: a bar.
        on_generation: called with each generation's row of ``metrics.jsonl``, those of an earlier sitting first.

    Raises:
        ValueError: an argument is out of range, returns are not finite, or ``out`` holds another evolution.

    References:
        Hansen, The CMA Evolution Strategy: A Tutorial, 2016, https://arxiv.org/abs/1604.00772.
        Hansen, Niederberger, Guzzella and Koumoutsakos, A Method for Handling Uncertainty in Evolutionary Optimization, 2009
        (spending evaluations where noise dominates; the measure here is `noise_share`).
        Auger, Brockhoff and Hansen, Mirrored Sampling in Evolution Strategies With Weighted Recombination, 2011.
    """
    report = callback(progress)
    validate_positive_int(generations=generations, population=population, eval_every=eval_every)
    validate_optional_positive_int(eval_patience=eval_patience, max_episodes=max_episodes)
    validate_seed(seed)
    episodes = _episodes_of(fitness, max_episodes)
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
        "max_episodes": max_episodes,
        "antithetic": antithetic,
        "covariance": covariance,
        "bounds": bounds,
        "num_eval_candidates": num_eval_candidates,
        "mean_window": mean_window,
        "normalize_episodes": normalize_episodes,
        "ranked": ranked,
        "controller": repr(controller),
        "start": hashlib.sha256(start.tobytes()).hexdigest()[:16],
        "fitness": getattr(fitness, "identity", None),
        "eval_fitness_identity": getattr(eval_fitness, "identity", None),
    }
    stopping = StoppingCriteria(target_return, eval_patience, min_sigma, restarts)
    _validate(
        settings, stopping, whitening, episodes, getattr(fitness, "hard_episode_candidates", 0) if max_episodes else 0
    )
    folder = None if out is None else folder_path(out, "out")
    signature = inspect.signature(evolve).parameters
    defaults = {
        name: one.default for name, one in signature.items() if name in settings and one.default is not one.empty
    }
    search = CMAES(start, json.loads(json.dumps(settings)), stopping, folder, episodes, whitening, defaults)
    if on_generation is not None:
        for row in search.rows:
            on_generation(row)
    report(search.generation, generations, _where(search, generations))
    while search.generation < generations and not search.should_stop:
        if search.is_stagnant:
            search.restart()
        row = _generation(search, fitness, eval_fitness, seed, generations, eval_every, max_episodes)
        search.log_generation(row, controller)
        note = "" if search.best_eval == -math.inf else f", best check {format_number(search.best_eval)}"
        report(
            search.generation, generations, f"mean {format_number(row['mean'])}, max {format_number(row['max'])}{note}"
        )
        if on_generation is not None:
            on_generation(row)
    best = controller.with_parameters(search.best)
    if folder is not None:  # also where nothing was left to do: a lost or damaged file comes back
        best.save(folder / "controller.safetensors")
    return best


def _where(search: CMAES, generations: int) -> str:
    """Where a search goes on, or that it does not."""
    if search.generation >= generations or search.should_stop:
        return f"already finished at generation {search.generation}"
    return f"going on at generation {search.generation}" if search.generation else ""


def _validate(
    settings: dict[str, Any],
    stopping: StoppingCriteria,
    whitening: Whitening | None,
    episodes: int | None,
    candidates: int,
) -> None:
    """Refuse numbers that are out of range, and those that do nothing beside one another."""
    validate_search(settings | vars(stopping) | {"episodes": episodes, "scouted": candidates})
    if whitening is not None and whitening.size != settings["size"]:
        raise ValueError(f"coordinates must be of {settings['size']} parameters, got {whitening.size}")
    wanting = {
        "target_return": stopping.target_return,
        "eval_patience": stopping.patience,
        "num_eval_candidates": settings["num_eval_candidates"] or None,
    }
    if not settings["eval_fitness"] and wanting != dict.fromkeys(wanting):
        name = next(name for name, value in wanting.items() if value is not None)
        raise ValueError(f"{name} needs eval_fitness, got {name} = {wanting[name]} and none")


def _generation(
    search: CMAES,
    fitness: Callable[..., np.ndarray],
    eval_fitness: Callable[..., np.ndarray] | None,
    seed: int,
    generations: int,
    eval_every: int,
    max_episodes: int | None,
) -> dict[str, Any]:
    """Live, learn, and check where it is time; what there is to say about it."""
    began = time.monotonic()
    drawn = search.ask()
    members = search.clip(drawn)
    lived = {} if search.num_episodes is None else {"episodes": search.num_episodes}
    each, steps = _call(fitness, members, _derived(seed, 0, search.generation), **lived)
    how = (search.settings["normalize_episodes"], search.settings["ranked"])
    scores = score(each, *how).mean(axis=1)
    search.tell(drawn, scores)
    count = search.num_episodes or getattr(fitness, "episodes", each.shape[1])
    returns, along = each[:, :count].mean(axis=1), each[:, count:]  # lives from moments on are no scores of the game
    row: dict[str, Any] = {"generation": search.generation, "sigma": float(search.es.sigma)}
    row |= {"mean": float(returns.mean()), "std": float(returns.std(ddof=1)), "max": float(returns.max())}
    row |= {"state_resets": float(along.mean())} if along.size else {}
    scouts = getattr(fitness, "candidate_returns", None)
    row |= {} if scouts is None else {"hard_episodes": float(np.mean(scouts))}
    if search.restarts:
        row |= {"restart": search.restarts, "population": len(members)}
    if eval_fitness is not None and (search.generation == generations or search.generation % eval_every == 0):
        best_first = np.argsort(-scores, kind="stable")[: search.settings["num_eval_candidates"]]
        averages = search.averaged_mean[None][: search.settings["mean_window"]]
        first = search.best_eval == -math.inf  # then the start, too: a search that finds nothing better keeps it
        candidates = np.concatenate((search.mean[None], averages, members[best_first], search.best[None][:first]))
        evaluated, eval_steps = _call(eval_fitness, candidates, _derived(seed, 1, search.generation))
        spread = float(evaluated[0].std(ddof=1)) if evaluated[0].size > 1 else 0.0
        row |= {"eval": float(evaluated[0].mean()), "eval_std": spread, "eval_n": int(evaluated[0].size)}
        row |= {"eval_average": float(evaluated[1].mean())} if len(averages) else {}
        elite = evaluated[1 + len(averages) :][: len(best_first)]
        row |= {"eval_candidate": float(elite.mean(axis=1).max())} if len(best_first) else {}
        row |= {} if eval_steps is None else {"eval_steps": eval_steps}
        search.update_best(candidates, evaluated.mean(axis=1))
    row |= {} if steps is None else {"steps": steps}
    if max_episodes is not None:
        row |= lived | {
            "noise_fraction": search.adapt_num_episodes(score(each[:, : search.num_episodes], *how), max_episodes)
        }
    row["seconds"] = round(time.monotonic() - began, 3)
    return row


def _episodes_of(fitness: Callable[..., np.ndarray], max_episodes: int | None) -> int | None:
    """With how many episodes a fitness begins whose episodes may grow."""
    if max_episodes is None:
        return None
    episodes = getattr(fitness, "episodes", None)
    if episodes is None or "episodes" not in inspect.signature(fitness).parameters:
        raise ValueError(f"max_episodes needs a fitness with episodes, such as rollouts.EnvFitness, got {fitness!r}")
    return int(episodes)


def _call(
    fitness: Callable[..., np.ndarray], members: np.ndarray, seed: int, **lived: int
) -> tuple[np.ndarray, int | None]:
    """Ask for returns (P, n), check them, and count the steps that were taken for them, where the fitness counts."""
    before, count = getattr(fitness, "steps", None), len(members)
    takes_seed = len(inspect.signature(fitness).parameters) > 1
    returns = np.asarray(fitness(members, seed, **lived) if takes_seed else fitness(members), dtype=np.float64)
    if returns.ndim not in (1, 2) or len(returns) != count:
        raise ValueError(f"fitness must give returns of shape ({count},) or ({count}, n), got {returns.shape}")
    if not np.isfinite(returns).all():
        raise ValueError("fitness gave a return that is NaN or infinite")
    steps = None if before is None else int(fitness.steps) - int(before)  # type: ignore[attr-defined]
    return returns.reshape(count, -1), steps


def _derived(seed: int, stream: int, generation: int) -> int:
    """The episodes' seed of one generation: stream 0 for the population, 1 for checks."""
    return int(np.random.SeedSequence([seed, stream, generation]).generate_state(1)[0]) >> 1
