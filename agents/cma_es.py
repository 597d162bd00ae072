"""CMA-ES as evolution uses it: ask, tell, and a state that is saved whole after every generation, without pickle.

Start reading at `CMAES`. What it minimises, how it learns of noise, when it ends and begins again is all here; what members
live through is `agents.evolution`'s.

References:
    Hansen, The CMA Evolution Strategy: A Tutorial, 2016, https://arxiv.org/abs/1604.00772.
    Auger, Brockhoff and Hansen, Mirrored Sampling in Evolution Strategies With Weighted Recombination, 2011 (of a pair of
    mirrored members only the better one is recombined).
    Auger and Hansen, A Restart CMA Evolution Strategy With Increasing Population Size, 2005.
"""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cma
import numpy as np

from agents.cma_state import restore, shapes, snapshot
from agents.controller import Controller
from agents.whitening import Whitening
from worldmodel import migration
from worldmodel.io import atomic

FULL_COVARIANCE = 2_000
"""Above this many parameters only the diagonal of the covariance is adapted, unless another choice is made."""
NOISE_THRESHOLD, EPISODES_GROWTH, SMOOTHING = 0.5, 1.25, 4
"""Episodes grow by a quarter where more than half of the variance between members is noise, over some four generations."""
MIN_STD_FRACTION = 0.1
"""`standardize_per_episode` magnifies no episode by more than the inverse of this."""
POPULATION_GROWTH = 2
"""A restart has so many times the population before."""


@dataclass(frozen=True)
class StoppingCriteria:
    """When a search ends before its last generation, or begins again.

    Args:
        target_return: it ends when a check's mean return reaches this; None: never.
        patience: it ends after so many checks without a better one; None: never.
        min_sigma: it ends when the step size falls below this.
        restarts: instead of the last two, begin again so many times: at the best mean so far, with the first step size
            and twice the population.
    """

    target_return: float | None = None
    patience: int | None = None
    min_sigma: float = 0.0
    restarts: int = 0


class CMAES:
    """CMA-ES and its history.

    Args:
        start: the first mean, (size,).
        settings: all that the search depends on; a state with others is refused. Read here: population, sigma, seed, size,
            covariance, antithetic, bounds, sigma_decay, mean_window, eval_fitness.
        stopping: when it ends.
        folder: where the state lies, and is looked for; None: nowhere.
        num_episodes: how many a member lives through at first, where they may grow.
        whitening: what it steps along; None: the parameters themselves.
        defaults: settings that an older state may lack, as they were then.

    Raises:
        ValueError: the folder holds another search, or a damaged state.
    """

    def __init__(
        self,
        start: np.ndarray,
        settings: dict[str, Any],
        stopping: StoppingCriteria,
        folder: Path | None,
        num_episodes: int | None = None,
        whitening: Whitening | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.stopping, self.folder, self.num_episodes = settings, stopping, folder, num_episodes
        self.defaults = dict(defaults or {})
        self.whitening = whitening
        self.noise_fraction: float | None = None
        self.generation, self.best_eval, self.num_stagnant_evals = 0, -math.inf, 0
        self.restarts = 0
        self.rows: list[dict[str, Any]] = []
        self.best = start.copy()
        self.averaged_mean = start.copy()
        self.rng = np.random.default_rng()
        self.es = self._make_es(start)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "state.npz").exists():
                self._load(folder / "state.npz")

    def _make_es(self, start: np.ndarray) -> "cma.CMAEvolutionStrategy":
        """A fresh strategy around ``start``, with the population of this restart."""
        choice, many = self.settings["covariance"], self.settings["size"] > FULL_COVARIANCE
        options: dict[str, Any] = {
            "popsize": self.population,
            "randn": self._normal,
            "seed": math.nan,  # pycma reads 0 as "the clock", and would reseed numpy's global state
            "verbose": -9,
            "CMA_mirrors": 0,  # mirrored steps, which pycma adds to tiny populations, keep samples between generations
            "CMA_diagonal": choice == "diagonal" or (choice == "auto" and many),
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,  # two-point adaptation keeps them, too
        }
        with warnings.catch_warnings():  # one parameter is fewer than pycma likes to see
            warnings.simplefilter("ignore")
            return cma.CMAEvolutionStrategy(self._to_coordinates(start), self.settings["sigma"], options)

    @property
    def population(self) -> int:
        """Members of a generation."""
        return int(self.settings["population"]) * POPULATION_GROWTH**self.restarts

    @property
    def mean(self) -> np.ndarray:
        """The distribution's mean."""
        return self.clip(np.asarray(self.es.mean))

    def _to_coordinates(self, parameters: np.ndarray) -> np.ndarray:
        """The inverse of `to_parameters`."""
        return parameters if self.whitening is None else self.whitening.to_coordinates(parameters)

    def to_parameters(self, y: np.ndarray) -> np.ndarray:
        """Parameters at coordinates of the search."""
        return y if self.whitening is None else self.whitening.to_parameters(y)

    def clip(self, y: np.ndarray) -> np.ndarray:
        """Parameters as controllers have them: kept in the bounds, where there are some."""
        parameters, bounds = self.to_parameters(y), self.settings["bounds"]
        return parameters if bounds is None else np.clip(parameters, -bounds, bounds)

    def ask(self) -> np.ndarray:
        """The next generation's coordinates, (P, size). `tell` them as they are; members are evaluated after `clip`."""
        self.rng = np.random.default_rng([self.settings["seed"], self.generation])
        return np.stack(self.es.ask())

    def _normal(self, *shape: int) -> np.ndarray:
        """Standard Normal numbers; the second half of a generation mirrors the first if it shall."""
        numbers = self.rng.standard_normal(shape)
        if self.settings["antithetic"] and len(shape) == 2 and shape[0] == self.population:
            pairs = shape[0] // 2
            numbers[pairs : 2 * pairs] = -numbers[:pairs]
        return numbers

    def tell(self, members: np.ndarray, returns: np.ndarray) -> None:
        """Learn from the generation's returns, (P,)."""
        costs = -returns  # CMA-ES minimises: the one place where the sign flips
        if self.settings["bounds"] is not None:  # members beyond them live alike: prefer the nearer, or it would drift
            outside = np.square(self.to_parameters(members) - self.clip(members)).sum(axis=1)
            costs = np.lexsort((outside, costs)).argsort().astype(float)
        if self.settings["antithetic"]:
            # of each pair the better one is selected: both would cancel, and steps collapse
            pairs = len(costs) // 2
            worse = np.where(costs[:pairs] > costs[pairs : 2 * pairs], np.arange(pairs), np.arange(pairs, 2 * pairs))
            costs = np.lexsort((costs, np.isin(np.arange(len(costs)), worse))).argsort().astype(float)
        self.es.tell(list(members), list(costs))
        self.es.sigma *= self.settings["sigma_decay"]
        self.generation += 1
        lately = min(self.generation, self.settings["mean_window"] or 1)
        self.averaged_mean += (self.mean - self.averaged_mean) / lately

    def adapt_num_episodes(self, returns: np.ndarray, max_episodes: int) -> float:
        """The smoothed share of noise in the members' mean returns; where it is large, live more episodes from now on."""
        share = noise_share(returns)
        self.noise_fraction = (
            share if self.noise_fraction is None else self.noise_fraction + (share - self.noise_fraction) / SMOOTHING
        )
        if self.noise_fraction > NOISE_THRESHOLD and self.num_episodes is not None and self.num_episodes < max_episodes:
            more = min(max_episodes, math.ceil(EPISODES_GROWTH * self.num_episodes))
            self.noise_fraction *= self.num_episodes / more
            self.num_episodes = more
        return round(share, 4)

    def update_best(self, candidates: np.ndarray, checked: np.ndarray) -> None:
        """Remember the best of some parameters (C, size) by their returns in a check, (C,)."""
        top = int(checked.argmax())
        better = checked[top] > self.best_eval
        self.num_stagnant_evals = 0 if better else self.num_stagnant_evals + 1
        if better:
            self.best_eval, self.best = float(checked[top]), candidates[top].copy()

    @property
    def is_stagnant(self) -> bool:
        """Whether checks have gone stale or steps too small."""
        stale = self.stopping.patience is not None and self.num_stagnant_evals >= self.stopping.patience
        return stale or self.es.sigma < self.stopping.min_sigma

    @property
    def should_stop(self) -> bool:
        """Whether the target is reached, or the search is stuck and may not begin again."""
        reached = self.stopping.target_return is not None and self.best_eval >= self.stopping.target_return
        return reached or (self.is_stagnant and self.restarts >= self.stopping.restarts)

    def restart(self) -> None:
        """Begin again at the best mean so far, with a larger population."""
        self.restarts, self.num_stagnant_evals = self.restarts + 1, 0
        self.averaged_mean = self.best.copy()
        self.es = self._make_es(self.best)

    def log_generation(self, row: dict[str, Any], controller: Controller) -> None:
        """Write a generation down."""
        self.rows.append(row)
        if not self.settings["eval_fitness"]:
            self.best = (self.averaged_mean if self.settings["mean_window"] else self.mean).copy()
        if self.folder is None:
            return
        arrays = {f"es.{name}": value for name, value in snapshot(self.es).items()}
        about = {
            "settings": self.settings,
            "generation": self.generation,
            "rows": self.rows,
            "episodes": self.num_episodes,
            "noise_fraction": self.noise_fraction,
            "best_eval": None if self.best_eval == -math.inf else self.best_eval,
            "num_stagnant_evals": self.num_stagnant_evals,
            "restarts": self.restarts,
        }
        with atomic(self.folder / "state.npz") as aside, aside.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), best=self.best, average=self.averaged_mean, **arrays)  # type: ignore[arg-type]
        controller.with_parameters(self.best).save(self.folder / "controller.safetensors")
        kind = "a" if len(self.rows) > 1 else "w"  # where a state was removed to begin again, its log stayed
        with (self.folder / "metrics.jsonl").open(kind, encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as saved:
                about = migration.search_state(json.loads(str(saved["about"])))
                best = saved["best"]
                average = saved.get("average", best)  # older states have none
                arrays = {name[3:]: saved[name] for name in saved.files if name.startswith("es.")}
            kept = dict(about["settings"])
        except Exception as error:
            raise _damaged(path, error) from None
        before = {"controller": self.settings["controller"]} | self.defaults | kept  # older states do not name them all
        if changed := differences({name: before.get(name) for name in self.settings}, self.settings):
            raise ValueError(
                f"{path.parent} holds an evolution with {changed}: use the same settings (the same --preset), or remove "
                "that folder to begin again"
            )
        try:
            self._restore(about, best, average, arrays)
        except Exception as error:  # whatever pycma makes of numbers that are none of its own
            raise _damaged(path, error) from None
        with atomic(path.parent / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

    def _restore(
        self, about: dict[str, Any], best: np.ndarray, average: np.ndarray, arrays: dict[str, np.ndarray]
    ) -> None:
        """Take a loaded state's place."""
        finite = all(np.isfinite(value).all() for name, value in arrays.items() if value.ndim or name == ".sigma")
        finite = finite and bool(np.isfinite(best).all() and np.isfinite(average).all())
        if not best.shape == average.shape == self.best.shape or not finite:
            raise ValueError(f"numbers must be finite, and {len(self.best)} parameters")
        self.best, self.averaged_mean = best, average
        self.generation, self.rows = int(about["generation"]), list(about["rows"])
        self.num_episodes, self.noise_fraction = about.get("episodes"), about.get("noise_fraction")
        self.num_stagnant_evals = about.get("num_stagnant_evals", 0)
        self.best_eval = -math.inf if about["best_eval"] is None else about["best_eval"]
        self.restarts = about.get("restarts", 0)  # the population is part of it
        like = self._make_es(best)
        for _ in range(min(2, int(arrays[".countiter"]))):  # then it has all that it will ever have
            members = like.ask()
            like.tell(members, list(range(len(members))))
        if shapes(arrays) != shapes(snapshot(like)):
            raise ValueError("its numbers are not those of such a search")
        self.es = self._make_es(best)
        restore(self.es, arrays)


def _damaged(path: Path, error: Exception) -> ValueError:
    words = f"{type(error).__name__} {error}".splitlines()[0]
    return ValueError(f"{path} is not a whole evolution state ({words}); remove it to start again")


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


def standardize_per_episode(returns: np.ndarray) -> np.ndarray:
    """Returns (P, n) in units of each episode's standard deviation over the members.

    Episodes whose deviation is below a tenth of the largest are divided by that instead: what hardly differs is no reason to
    prefer anybody.
    """
    spread = returns.std(axis=0)
    if not spread.max():
        return np.zeros_like(returns)
    scaled: np.ndarray = (returns - returns.mean(axis=0)) / np.maximum(spread, MIN_STD_FRACTION * spread.max())
    return scaled


def win_rate(returns: np.ndarray) -> np.ndarray:
    """The share of the other members that each beats in an episode, (P, n) from 0 to 1; equal ones count half."""
    above, equal = returns[:, None] > returns, returns[:, None] == returns
    share: np.ndarray = (above.sum(axis=1) + (equal.sum(axis=1) - 1) / 2) / (len(returns) - 1)
    return share


def score(returns: np.ndarray, normalize_episodes: bool, ranked: bool) -> np.ndarray:
    """The returns (P, n) by which members are compared: plain, `standardize_per_episode` or `win_rate`."""
    return win_rate(returns) if ranked else standardize_per_episode(returns) if normalize_episodes else returns


def differences(before: Any, asked: Any, name: str = "") -> str:
    """All settings that differ, in words; of mappings, each of their settings."""
    if isinstance(before, dict) and isinstance(asked, dict):
        names = dict.fromkeys([*before, *asked])
        inner = (differences(before.get(part), asked.get(part), f"{name}.{part}" if name else part) for part in names)
        return "; ".join(filter(None, inner))
    return "" if before == asked else f"{name} = {before!r}, asked for {asked!r}"
