"""Evolution of controllers by CMA-ES: from a population to returns, again and again.

Start reading at `evolve`. Evolution knows nothing of games or dreams; it sees a function from a population to returns
(`rollouts.played`, `rollouts.dreamed`, or one of your own).
"""

import hashlib
import inspect
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cma
import numpy as np

from agents.controller import Controller
from worldmodel.checkpoints import atomic
from worldmodel.progress import Progress, silent

FULL_COVARIANCE = 2_000
"""Above this many parameters only the diagonal of the covariance is adapted."""
NOISY, GROWTH, SMOOTHING = 0.5, 1.25, 4
"""Episodes grow by a quarter where more than half of the variance between members is noise, over some four generations."""

Family = TypeVar("Family", bound=Controller)


def evolve(
    controller: Family,
    fitness: Callable[..., np.ndarray],
    *,
    seed: int = 0,
    generations: int = 100,
    population: int = 64,
    sigma: float = 0.1,
    check: Callable[..., np.ndarray] | None = None,
    check_every: int = 10,
    target: float | None = None,
    most_episodes: int | None = None,
    antithetic: bool = False,
    out: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> Family:
    """Evolve a controller's parameters by CMA-ES and return the distribution's mean.

    Every member of a generation lives through the same episodes, and every generation through new ones.

    Args:
        controller: where to start: its parameters are the first mean.
        fitness: ``fitness(population (P, size), seed) -> returns``, of shape (P,) or (P, n); a function of the population
            alone is called without a seed. More is better. Its ``steps``, where it has them, are logged; its ``identity``
            tells evolutions in a folder apart.
        seed: of the search and of all episodes.
        generations: how many.
        population: members of a generation, at least 3.
        sigma: the first standard deviation.
        check: fitness for testing the mean on fresh seeds every ``check_every`` generations and after the last; the mean
            with the best check is what is returned. None: the last mean is returned.
        check_every: generations between checks.
        target: stop when a check's mean return reaches this.
        most_episodes: let each member live up to so many episodes as differences between members drown in the noise of
            theirs. The fitness must take ``episodes`` and begin with at least two. None: always as many.
        antithetic: draw members in pairs, to both sides of the mean (mirrored sampling).
        out: a folder for the state to resume from (saved whole after every generation), ``metrics.jsonl`` and
            ``controller.safetensors``. The same call with the same folder continues; more generations go further.
        progress: called as ``progress(generation, generations, note)``.

    Raises:
        ValueError: an argument is out of range, returns are not finite, or ``out`` holds another evolution.

    References:
        Hansen, The CMA Evolution Strategy: A Tutorial, 2016, https://arxiv.org/abs/1604.00772.
        Hansen, Niederberger, Guzzella and Koumoutsakos, A Method for Handling Uncertainty in Evolutionary Optimization, 2009
        (spending evaluations where noise dominates; the measure here is `noise_share`).
        Brockhoff et al., Mirrored Sampling and Sequential Selection for Evolution Strategies, 2010.
    """
    for name, value in {"generations": generations, "population": population, "check_every": check_every}.items():
        if value < (least := 3 if name == "population" else 1):
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma must be above zero, got {sigma}")
    if target is not None and check is None:
        raise ValueError(f"target needs a check that can reach it, got target = {target} and no check")
    episodes = _episodes_of(fitness, most_episodes)
    start = controller.parameters.double().numpy()
    settings = {
        "size": controller.size,
        "population": population,
        "sigma": sigma,
        "seed": seed,
        "check": check is not None,
        "check_every": check_every,
        "most_episodes": most_episodes,
        "antithetic": antithetic,
        "controller": repr(controller),
        "start": hashlib.sha256(start.tobytes()).hexdigest()[:16],
        "fitness": getattr(fitness, "identity", None),
        "checked by": getattr(check, "identity", None),
    }
    search = _Search(start, json.loads(json.dumps(settings)), None if out is None else Path(out), episodes)
    while search.generation < generations and not search.reached(target):
        began = time.monotonic()
        members = search.ask()
        lived = {} if search.episodes is None else {"episodes": search.episodes}
        each, steps = _call(fitness, members, _derived(seed, 0, search.generation), population, **lived)
        returns = each.mean(axis=1)
        search.tell(members, returns)
        row: dict[str, Any] = {"generation": search.generation, "sigma": float(search.es.sigma)}
        row |= {"mean": float(returns.mean()), "std": float(returns.std()), "max": float(returns.max())}
        last = search.generation == generations
        if check is not None and (last or search.generation % check_every == 0):
            tested, check_steps = _call(check, search.mean[None], _derived(seed, 1, search.generation), 1)
            row |= {"check": float(tested.mean()), "check_std": float(tested.std()), "check_n": int(tested.size)}
            row |= {} if check_steps is None else {"check_steps": check_steps}
        row |= {} if steps is None else {"steps": steps}
        if most_episodes is not None:
            row |= lived | {"noise": search.listen(each, most_episodes)}
        row["seconds"] = round(time.monotonic() - began, 3)
        search.record(row, controller)
        note = "" if search.best_check == -math.inf else f", best check {search.best_check:.1f}"
        progress(search.generation, generations, f"mean {row['mean']:.1f}, max {row['max']:.1f}{note}")
    best = controller.having(search.best)
    if out is not None:  # also where nothing was left to do: a lost or damaged file comes back
        best.save(Path(out) / "controller.safetensors")
    return best


class _Search:
    """CMA-ES and its history, saved whole after every generation, without pickle."""

    def __init__(
        self, start: np.ndarray, settings: dict[str, Any], folder: Path | None, episodes: int | None = None
    ) -> None:
        self.settings, self.folder, self.episodes = settings, folder, episodes
        self.noise: float | None = None
        self.generation, self.best_check = 0, -math.inf
        self.rows: list[dict[str, Any]] = []
        self.best = start.copy()
        self.rng = np.random.default_rng()
        options = {
            "popsize": settings["population"],
            "randn": self._normal,
            "seed": math.nan,  # pycma reads 0 as "the clock", and would reseed numpy's global state
            "verbose": -9,
            "CMA_mirrors": 0,  # mirrored steps, which pycma adds to tiny populations, keep samples between generations
            "CMA_diagonal": settings["size"] > FULL_COVARIANCE,
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,  # two-point adaptation keeps them, too
        }
        with warnings.catch_warnings():  # one parameter is fewer than pycma likes to see
            warnings.simplefilter("ignore")
            self.es = cma.CMAEvolutionStrategy(start, settings["sigma"], options)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "state.npz").exists():
                self._load(folder / "state.npz")

    @property
    def mean(self) -> np.ndarray:
        """The distribution's mean."""
        return np.asarray(self.es.mean)

    def ask(self) -> np.ndarray:
        """The next generation, (P, size)."""
        self.rng = np.random.default_rng([self.settings["seed"], self.generation])
        return np.stack(self.es.ask())

    def _normal(self, *shape: int) -> np.ndarray:
        """Standard Normal numbers; the second half of a generation mirrors the first if it shall."""
        numbers = self.rng.standard_normal(shape)
        if self.settings["antithetic"] and len(shape) == 2 and shape[0] == self.settings["population"]:
            pairs = shape[0] // 2
            numbers[pairs : 2 * pairs] = -numbers[:pairs]
        return numbers

    def tell(self, members: np.ndarray, returns: np.ndarray) -> None:
        """Learn from the generation's returns, (P,)."""
        self.es.tell(list(members), list(-returns))  # CMA-ES minimises: the one place where the sign flips
        self.generation += 1

    def listen(self, returns: np.ndarray, most: int) -> float:
        """The smoothed share of noise in the members' mean returns; where it is large, live more episodes from now on."""
        share = noise_share(returns)
        self.noise = share if self.noise is None else self.noise + (share - self.noise) / SMOOTHING
        if self.noise > NOISY and self.episodes is not None and self.episodes < most:
            more = min(most, math.ceil(GROWTH * self.episodes))
            self.noise *= self.episodes / more
            self.episodes = more
        return round(share, 4)

    def reached(self, target: float | None) -> bool:
        """Whether a check reached the target."""
        return target is not None and self.best_check >= target

    def record(self, row: dict[str, Any], controller: Controller) -> None:
        """Remember a generation, and the mean if it is the best so far; write both down."""
        self.rows.append(row)
        if row.get("check", -math.inf) > self.best_check:
            self.best_check, self.best = row["check"], self.mean.copy()
        if not self.settings["check"]:
            self.best = self.mean.copy()
        if self.folder is None:
            return
        arrays = {f"es.{name}": value for name, value in snapshot(self.es).items()}
        about = {
            "settings": self.settings,
            "generation": self.generation,
            "rows": self.rows,
            "episodes": self.episodes,
            "noise": self.noise,
            "best_check": None if self.best_check == -math.inf else self.best_check,
        }
        with atomic(self.folder / "state.npz") as aside, aside.open("wb") as file:
            np.savez(file, **{"about": np.array(json.dumps(about)), "best": self.best, **arrays})  # type: ignore[arg-type]
        controller.having(self.best).save(self.folder / "controller.safetensors")
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as saved:
                about = json.loads(str(saved["about"]))
                best = saved["best"]
                arrays = {name[3:]: saved[name] for name in saved.files if name.startswith("es.")}
        except Exception as error:
            raise ValueError(f"{path} is not a whole evolution state ({error}); remove it to start again") from None
        new = {"most_episodes": None, "antithetic": False, "controller": self.settings["controller"]}
        before = new | about["settings"]  # older states do not name them
        for name, value in self.settings.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{path.parent} holds an evolution with {name} = {before.get(name)!r}, asked for "
                    f"{value!r}: use another folder, or the same settings"
                )
        restore(self.es, arrays)
        self.episodes, self.noise = about.get("episodes"), about.get("noise")
        self.best, self.generation, self.rows = best, about["generation"], about["rows"]
        self.best_check = -math.inf if about["best_check"] is None else about["best_check"]
        with atomic(path.parent / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")


_PARTS = ("", "sm", "adapt_sigma", "sigma_vec", "sp")
"""Where pycma keeps the numbers that make up a search: the strategy itself, and these attributes of it."""
_CACHES = ("sm._mueff", "sm._lam")
"""Keys of a cache in pycma: a fresh search fills it by itself."""


def snapshot(es: "cma.CMAEvolutionStrategy") -> dict[str, np.ndarray]:
    """Every number and array that makes up a search between ``tell`` and ``ask``, by name."""
    arrays: dict[str, np.ndarray] = {}
    first: dict[int, str] = {}
    for part in _PARTS:
        owner = getattr(es, part, None) if part else es
        for name, value in vars(owner).items() if hasattr(owner, "__dict__") else ():
            key = f"{part}.{name}"
            if key in _CACHES:
                continue
            if isinstance(value, np.ndarray) and value.dtype.kind in "fib":
                if id(value) in first:  # two names for one array must stay so
                    arrays[f"{key}@"] = np.array(first[id(value)])
                else:
                    first[id(value)] = key
                    arrays[key] = value.copy()
            elif isinstance(value, bool | int | float | np.number):
                arrays[key] = np.array(value)
    return arrays


def restore(es: "cma.CMAEvolutionStrategy", arrays: dict[str, np.ndarray]) -> None:
    """Put a `snapshot` into a fresh search with the same settings."""
    live: dict[str, Any] = {}
    for key, value in arrays.items():
        if not key.endswith("@"):
            live[key] = value.copy() if value.ndim else value.item()
    for key, value in arrays.items():
        if key.endswith("@"):
            live[key[:-1]] = live[str(value)]
    for key, value in live.items():
        part, _, name = key.partition(".")
        owner = getattr(es, part) if part else es
        if isinstance(vars(owner).get(name), np.number):
            value = vars(owner)[name].dtype.type(value)
        setattr(owner, name, value)
    es.timer = cma.utilities.utils.ElapsedWCTime()  # pycma makes it with the first generation only


def noise_share(returns: np.ndarray) -> float:
    """How much of the variance between members' mean returns (P,) is noise, of returns (P, n) over n common episodes.

    What is left of a return without its member's mean and its episode's mean is noise (a two-way layout without
    interaction); a mean of n has 1/n of its variance. 0: ranks are sure; 1: they are chance.
    """
    members, episodes = returns.shape
    spread = returns.mean(axis=1).var(ddof=1)
    if spread == 0:
        return 1.0  # nobody is better than anybody: as good as chance
    rest = returns - returns.mean(axis=1, keepdims=True) - returns.mean(axis=0) + returns.mean()
    noise = np.square(rest).sum() / ((members - 1) * (episodes - 1)) / episodes
    return float(min(1.0, noise / spread))


def _episodes_of(fitness: Callable[..., np.ndarray], most: int | None) -> int | None:
    """With how many episodes a fitness begins whose episodes may grow."""
    if most is None:
        return None
    episodes = getattr(fitness, "episodes", None)
    if episodes is None or "episodes" not in inspect.signature(fitness).parameters:
        raise ValueError(f"most_episodes needs a fitness with episodes, such as rollouts.played, got {fitness!r}")
    if not 2 <= episodes <= most:
        raise ValueError(f"most_episodes needs a fitness of 2 to {most} episodes, so that noise shows, got {episodes}")
    return int(episodes)


def _call(
    fitness: Callable[..., np.ndarray], members: np.ndarray, seed: int, count: int, **lived: int
) -> tuple[np.ndarray, int | None]:
    """Ask for returns (P, n), check them, and count the steps that were taken for them, where the fitness counts."""
    before = getattr(fitness, "steps", None)
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
