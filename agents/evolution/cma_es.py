"""CMA-ES with ask and tell, stopping criteria and a state that is saved without pickle.

Start reading at `CMAES`. `agents.evolution.evolve` evaluates the populations.

References:
    Hansen, The CMA Evolution Strategy: A Tutorial, 2016, https://arxiv.org/abs/1604.00772.
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

from worldmodel.agents.evolution.cma_state import restore, shapes, snapshot
from worldmodel.agents.evolution.controller import Controller
from worldmodel.agents.evolution.whitening import Whitening
from worldmodel.io import migration
from worldmodel.io.files import atomic

FULL_COVARIANCE = 2_000
"""Number of parameters up to which the covariance is full. Above, only the diagonal is adapted."""
MIN_STD_FRACTION = 0.1
"""Smallest standard deviation that `standardize_per_episode` divides by, as a fraction of the largest."""


@dataclass(frozen=True)
class StoppingCriteria:
    """Conditions that stop a search before its last generation.

    Args:
        target_return: Mean return of an evaluation that stops the search; None: none.
        patience: Number of evaluations in a row without a better one that stops the search; None: none.
        min_sigma: Step size below which the search stops.
    """

    target_return: float | None = None
    patience: int | None = None
    min_sigma: float = 0.0


class CMAES:
    """CMA-ES and the log of its generations.

    Args:
        start: Initial mean, (size,).
        settings: All settings of the search; a saved state with other settings is refused. This class reads population,
            sigma, seed, size, sigma_decay, mean_window and eval_fitness.
        stopping: Stopping criteria.
        folder: Path of the folder of the saved state; None: nothing is saved.
        whitening: Coordinates of the search; None: the parameters themselves.
        defaults: Values of settings that an older state does not contain.

    Raises:
        ValueError: The folder holds the state of another search, or a damaged one.
    """

    def __init__(
        self,
        start: np.ndarray,
        settings: dict[str, Any],
        stopping: StoppingCriteria,
        folder: Path | None,
        whitening: Whitening | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.stopping, self.folder = settings, stopping, folder
        self.defaults = dict(defaults or {})
        self.whitening = whitening
        self.generation, self.best_eval, self.num_stagnant_evals = 0, -math.inf, 0
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
        """Return a new strategy with the mean ``start``."""
        options: dict[str, Any] = {
            "popsize": self.settings["population"],
            "randn": lambda *shape: self.rng.standard_normal(shape),
            "seed": math.nan,  # pycma reads 0 as "the clock" and reseeds numpy's global state
            "verbose": -9,
            "CMA_mirrors": 0,  # pycma mirrors tiny populations and keeps the samples, which `snapshot` does not save
            "CMA_diagonal": self.settings["size"] > FULL_COVARIANCE,
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,  # two-point adaptation keeps samples, too
        }
        with warnings.catch_warnings():  # pycma warns about a single parameter
            warnings.simplefilter("ignore")
            return cma.CMAEvolutionStrategy(self._to_coordinates(start), self.settings["sigma"], options)

    @property
    def mean(self) -> np.ndarray:
        """Mean of the distribution, as parameters, (size,)."""
        return self.to_parameters(np.asarray(self.es.mean))

    def _to_coordinates(self, parameters: np.ndarray) -> np.ndarray:
        """Invert `to_parameters`."""
        return parameters if self.whitening is None else self.whitening.to_coordinates(parameters)

    def to_parameters(self, y: np.ndarray) -> np.ndarray:
        """Convert coordinates of the search to parameters, both (..., size)."""
        return y if self.whitening is None else self.whitening.to_parameters(y)

    def ask(self) -> np.ndarray:
        """Sample the coordinates of a generation, (P, size). Evaluate them after `to_parameters`; pass them to `tell`."""
        self.rng = np.random.default_rng([self.settings["seed"], self.generation])
        return np.stack(self.es.ask())

    def tell(self, members: np.ndarray, returns: np.ndarray) -> None:
        """Update the distribution.

        Args:
            members: Coordinates from `ask`, (P, size).
            returns: Returns of the members, (P,); more is better.
        """
        self.es.tell(list(members), list(-returns))  # CMA-ES minimises: the sign flips only here
        self.es.sigma *= self.settings["sigma_decay"]
        self.generation += 1
        window = min(self.generation, self.settings["mean_window"] or 1)
        self.averaged_mean += (self.mean - self.averaged_mean) / window

    def update_best(self, candidates: np.ndarray, evaluated: np.ndarray) -> None:
        """Keep the best candidate if it is better than all earlier ones.

        Args:
            candidates: Parameters, (C, size).
            evaluated: Mean returns in an evaluation, (C,).
        """
        top = int(evaluated.argmax())
        better = evaluated[top] > self.best_eval
        self.num_stagnant_evals = 0 if better else self.num_stagnant_evals + 1
        if better:
            self.best_eval, self.best = float(evaluated[top]), candidates[top].copy()

    @property
    def should_stop(self) -> bool:
        """Whether a stopping criterion is met."""
        reached = self.stopping.target_return is not None and self.best_eval >= self.stopping.target_return
        exhausted = self.stopping.patience is not None and self.num_stagnant_evals >= self.stopping.patience
        return reached or exhausted or self.es.sigma < self.stopping.min_sigma

    def log_generation(self, row: dict[str, Any], controller: Controller) -> None:
        """Append a generation to the log, and save the state and the best controller."""
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
            "best_eval": None if self.best_eval == -math.inf else self.best_eval,
            "num_stagnant_evals": self.num_stagnant_evals,
        }
        with atomic(self.folder / "state.npz") as aside, aside.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), best=self.best, average=self.averaged_mean, **arrays)  # type: ignore[arg-type]
        controller.with_parameters(self.best).save(self.folder / "controller.safetensors")
        mode = "a" if len(self.rows) > 1 else "w"  # a removed state leaves an old log
        with (self.folder / "metrics.jsonl").open(mode, encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as saved:
                about = migration.search_state(json.loads(str(saved["about"])))
                best = saved["best"]
                average = saved.get("average", best)  # older states do not have it
                arrays = {name[3:]: saved[name] for name in saved.files if name.startswith("es.")}
            saved_settings = dict(about["settings"])
        except migration.RemovedSetting as error:
            raise ValueError(f"{path}: {error}") from None
        except Exception as error:
            raise _damaged(path, error) from None
        before = {"controller": self.settings["controller"]} | self.defaults | saved_settings
        if changed := differences({name: before.get(name) for name in self.settings}, self.settings):
            raise ValueError(
                f"{path.parent} holds an evolution with {changed}: use the same settings (the same --preset), or remove "
                "this folder to start again"
            )
        try:
            self._restore(about, best, average, arrays)
        except Exception as error:  # pycma raises many types on wrong values
            raise _damaged(path, error) from None
        with atomic(path.parent / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

    def _restore(
        self, about: dict[str, Any], best: np.ndarray, average: np.ndarray, arrays: dict[str, np.ndarray]
    ) -> None:
        """Set the state of this search to a loaded one."""
        finite = all(np.isfinite(value).all() for name, value in arrays.items() if value.ndim or name == ".sigma")
        finite = finite and bool(np.isfinite(best).all() and np.isfinite(average).all())
        if not best.shape == average.shape == self.best.shape or not finite:
            raise ValueError(f"values must be finite, with {len(self.best)} parameters")
        self.best, self.averaged_mean = best, average
        self.generation, self.rows = int(about["generation"]), list(about["rows"])
        self.num_stagnant_evals = about.get("num_stagnant_evals", 0)
        self.best_eval = -math.inf if about["best_eval"] is None else about["best_eval"]
        template = self._make_es(best)
        for _ in range(min(2, int(arrays[".countiter"]))):  # all attributes exist after two generations
            members = template.ask()
            template.tell(members, list(range(len(members))))
        if shapes(arrays) != shapes(snapshot(template)):
            raise ValueError("array names or shapes differ from those of this search")
        self.es = self._make_es(best)
        restore(self.es, arrays)


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = f"{type(error).__name__} {error}".splitlines()[0]
    return ValueError(f"{path} must be a complete evolution state, got {reason}; remove it to start again")


def standardize_per_episode(returns: np.ndarray) -> np.ndarray:
    """Standardize the returns (P, n) of each episode over the members: zero mean, unit standard deviation.

    A standard deviation below a tenth of the largest is replaced by that tenth, so that tiny differences do not count fully.
    """
    std = returns.std(axis=0)
    if not std.max():
        return np.zeros_like(returns)
    scaled: np.ndarray = (returns - returns.mean(axis=0)) / np.maximum(std, MIN_STD_FRACTION * std.max())
    return scaled


def differences(before: Any, asked: Any, name: str = "") -> str:
    """Return a text that names each different setting with both values; mappings are compared key by key."""
    if isinstance(before, dict) and isinstance(asked, dict):
        keys = dict.fromkeys([*before, *asked])
        inner = (differences(before.get(key), asked.get(key), f"{name}.{key}" if name else key) for key in keys)
        return "; ".join(filter(None, inner))
    return "" if before == asked else f"{name} = {before!r}, asked for {asked!r}"
