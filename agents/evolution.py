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

from agents.checks import check_search
from agents.controller import Controller
from agents.coordinates import Coordinates
from agents.search import Ending, Search, compared
from agents.settings import Covariance
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
    decay: float = 1.0,
    coordinates: Coordinates | None = None,
    check: Callable[..., np.ndarray] | None = None,
    check_every: int = 10,
    target: float | None = None,
    most_episodes: int | None = None,
    antithetic: bool = False,
    covariance: Covariance = "auto",
    bounds: float | None = None,
    elite: int = 0,
    average: int = 0,
    balanced: bool = False,
    ranked: bool = False,
    stale: int | None = None,
    least_sigma: float = 0.0,
    restarts: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | bool = silent,
    watch: Callable[[dict[str, Any]], None] | None = None,
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
        decay: the step size is multiplied by this after every generation, besides what CMA-ES makes of it. Where noise
            hides that it should fall, as it does near a good controller, something below 1 lets it.
        coordinates: what the search steps along, such as `Coordinates.of` a world model; None: the parameters themselves.
            ``sigma`` is in its units.
        check: fitness for testing the mean on fresh seeds every ``check_every`` generations and after the last (the first
            time the start, too); the parameters with the best check are returned. None: the last mean is returned.
        check_every: generations between checks.
        target: stop when a check's mean return reaches this. The best of many noisy checks flatters: it is reached a
            little early.
        most_episodes: let each member live up to so many episodes as differences between members drown in the noise of
            theirs. The fitness must take ``episodes`` and begin with at least two. None: always as many.
        antithetic: draw members in pairs, to both sides of the mean (mirrored sampling), and select the better one of each.
        covariance: "full", "diagonal", or "auto": full up to 2,000 parameters, diagonal above.
        bounds: keep every parameter that lives in [-bounds, bounds]; None: wherever it goes. The search itself may stray
            beyond, and does where returns are mostly noise: only members that live alike are told apart by their distance.
        elite: so many of a generation's best members live through a check, too; where one is better than the mean and all
            before it, on the check's episodes, it is what is kept.
        average: an exponential average of the mean, over about so many last generations, lives through a check, too, and is
            kept where it is better; without a check it is what is returned. Selection by noisy returns makes the mean
            wander, and what it wanders around is often better. 0: no.
        balanced: let each episode count alike: members are compared by their returns after `balance`, so that an episode in
            which little is to be won decides as much as one with much. Else by their mean return.
        ranked: compare members by the share of the others that they beat, on average over the episodes (`beaten`): how often
            one is better counts, and not by how much, so that a rare failure does not drown what all the others tell.
        stale: end after so many checks without a better one; None: never. A call that stops earlier and one that goes on
            make one check more, at the stop, which counts.
        least_sigma: end when the step size falls below this, which must be below sigma; 0: never.
        restarts: instead of the last two, begin again at the best so far, with the first sigma and twice the population.
        out: a folder for the state to resume from (saved whole after every generation), ``metrics.jsonl`` and
            ``controller.safetensors``. The same call with the same folder continues; more generations go further.
        progress: called as ``progress(generation, generations, note)``; True: a bar.
        watch: called with each generation's row of ``metrics.jsonl``, those of an earlier sitting first.

    Raises:
        ValueError: an argument is out of range, returns are not finite, or ``out`` holds another evolution.

    References:
        Hansen, The CMA Evolution Strategy: A Tutorial, 2016, https://arxiv.org/abs/1604.00772.
        Hansen, Niederberger, Guzzella and Koumoutsakos, A Method for Handling Uncertainty in Evolutionary Optimization, 2009
        (spending evaluations where noise dominates; the measure here is `noise_share`).
        Auger, Brockhoff and Hansen, Mirrored Sampling in Evolution Strategies With Weighted Recombination, 2011.
    """
    report = callback(progress)
    validate_positive_int(generations=generations, population=population, check_every=check_every)
    validate_optional_positive_int(stale=stale, most_episodes=most_episodes)
    validate_seed(seed)
    episodes = _episodes_of(fitness, most_episodes)
    start = controller.parameters.double().numpy()
    settings = {
        "size": controller.size,
        "population": population,
        "sigma": sigma,
        "decay": decay,
        "coordinates": None if coordinates is None else coordinates.identity,
        "seed": seed,
        "check": check is not None,
        "check_every": check_every,
        "most_episodes": most_episodes,
        "antithetic": antithetic,
        "covariance": covariance,
        "bounds": bounds,
        "elite": elite,
        "average": average,
        "balanced": balanced,
        "ranked": ranked,
        "controller": repr(controller),
        "start": hashlib.sha256(start.tobytes()).hexdigest()[:16],
        "fitness": getattr(fitness, "identity", None),
        "checked by": getattr(check, "identity", None),
    }
    ending = Ending(target, stale, least_sigma, restarts)
    _check(
        settings, ending, coordinates, episodes, getattr(fitness, "hard_episode_candidates", 0) if most_episodes else 0
    )
    folder = None if out is None else folder_path(out, "out")
    signature = inspect.signature(evolve).parameters
    defaults = {
        name: one.default for name, one in signature.items() if name in settings and one.default is not one.empty
    }
    search = Search(start, json.loads(json.dumps(settings)), ending, folder, episodes, coordinates, defaults)
    if watch is not None:
        for row in search.rows:
            watch(row)
    report(search.generation, generations, _where(search, generations))
    while search.generation < generations and not search.ended:
        if search.stuck:
            search.restart()
        row = _generation(search, fitness, check, seed, generations, check_every, most_episodes)
        search.record(row, controller)
        note = "" if search.best_check == -math.inf else f", best check {format_number(search.best_check)}"
        report(
            search.generation, generations, f"mean {format_number(row['mean'])}, max {format_number(row['max'])}{note}"
        )
        if watch is not None:
            watch(row)
    best = controller.having(search.best)
    if folder is not None:  # also where nothing was left to do: a lost or damaged file comes back
        best.save(folder / "controller.safetensors")
    return best


def _where(search: Search, generations: int) -> str:
    """Where a search goes on, or that it does not."""
    if search.generation >= generations or search.ended:
        return f"already finished at generation {search.generation}"
    return f"going on at generation {search.generation}" if search.generation else ""


def _check(
    settings: dict[str, Any], ending: Ending, coordinates: Coordinates | None, episodes: int | None, scouted: int
) -> None:
    """Refuse numbers that are out of range, and those that do nothing beside one another."""
    check_search(settings | vars(ending) | {"episodes": episodes, "scouted": scouted})
    if coordinates is not None and coordinates.size != settings["size"]:
        raise ValueError(f"coordinates must be of {settings['size']} parameters, got {coordinates.size}")
    wanting = {"target": ending.target, "stale": ending.stale, "elite": settings["elite"] or None}
    if not settings["check"] and wanting != dict.fromkeys(wanting):
        name = next(name for name, value in wanting.items() if value is not None)
        raise ValueError(f"{name} needs a check, got {name} = {wanting[name]} and no check")


def _generation(
    search: Search,
    fitness: Callable[..., np.ndarray],
    check: Callable[..., np.ndarray] | None,
    seed: int,
    generations: int,
    check_every: int,
    most_episodes: int | None,
) -> dict[str, Any]:
    """Live, learn, and check where it is time; what there is to say about it."""
    began = time.monotonic()
    drawn = search.ask()
    members = search.within(drawn)
    lived = {} if search.episodes is None else {"episodes": search.episodes}
    each, steps = _call(fitness, members, _derived(seed, 0, search.generation), **lived)
    how = (search.settings["balanced"], search.settings["ranked"])
    scores = compared(each, *how).mean(axis=1)
    search.tell(drawn, scores)
    count = search.episodes or getattr(fitness, "episodes", each.shape[1])
    returns, along = each[:, :count].mean(axis=1), each[:, count:]  # lives from moments on are no scores of the game
    row: dict[str, Any] = {"generation": search.generation, "sigma": float(search.es.sigma)}
    row |= {"mean": float(returns.mean()), "std": float(returns.std(ddof=1)), "max": float(returns.max())}
    row |= {"along": float(along.mean())} if along.size else {}
    scouts = getattr(fitness, "candidate_returns", None)
    row |= {} if scouts is None else {"scouted": float(np.mean(scouts))}
    if search.restarts:
        row |= {"restart": search.restarts, "population": len(members)}
    if check is not None and (search.generation == generations or search.generation % check_every == 0):
        best_first = np.argsort(-scores, kind="stable")[: search.settings["elite"]]
        averages = search.average[None][: search.settings["average"]]
        first = search.best_check == -math.inf  # then the start, too: a search that finds nothing better keeps it
        candidates = np.concatenate((search.mean[None], averages, members[best_first], search.best[None][:first]))
        tested, check_steps = _call(check, candidates, _derived(seed, 1, search.generation))
        spread = float(tested[0].std(ddof=1)) if tested[0].size > 1 else 0.0
        row |= {"check": float(tested[0].mean()), "check_std": spread, "check_n": int(tested[0].size)}
        row |= {"average": float(tested[1].mean())} if len(averages) else {}
        elite = tested[1 + len(averages) :][: len(best_first)]
        row |= {"elite": float(elite.mean(axis=1).max())} if len(best_first) else {}
        row |= {} if check_steps is None else {"check_steps": check_steps}
        search.judge(candidates, tested.mean(axis=1))
    row |= {} if steps is None else {"steps": steps}
    if most_episodes is not None:
        row |= lived | {"noise": search.listen(compared(each[:, : search.episodes], *how), most_episodes)}
    row["seconds"] = round(time.monotonic() - began, 3)
    return row


def _episodes_of(fitness: Callable[..., np.ndarray], most: int | None) -> int | None:
    """With how many episodes a fitness begins whose episodes may grow."""
    if most is None:
        return None
    episodes = getattr(fitness, "episodes", None)
    if episodes is None or "episodes" not in inspect.signature(fitness).parameters:
        raise ValueError(f"most_episodes needs a fitness with episodes, such as rollouts.EnvFitness, got {fitness!r}")
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
