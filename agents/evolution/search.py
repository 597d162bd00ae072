"""The state of a search: its distribution, its best controller and its log, in memory and in a folder.

Start reading at `Search`. `agents.evolution.evolve` runs it, `agents.evolution.callbacks` act on it after each generation.
"""

import json
import math
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.agents.evolution.cma_es import CMAES
from worldmodel.agents.evolution.whitening import Whitening
from worldmodel.io import migration
from worldmodel.io.files import atomic
from worldmodel.rollouts.fitness import FitnessResult
from worldmodel.rollouts.policy.controllers import Controller


@dataclass
class Search:
    """A search by CMA-ES for the parameters of a controller.

    Args:
        controller: Initial controller.
        settings: All settings of the search, for JSON; a saved state with other settings is refused.
        whitening: Coordinates of the search; None: the parameters themselves.
        folder: Path of the folder of the saved state; None: nothing is saved.
    """

    controller: Controller
    settings: dict[str, Any]
    whitening: Whitening | None = None
    folder: Path | None = None
    es: CMAES = field(init=False)
    """Distribution, over coordinates of the search."""
    best: np.ndarray = field(init=False)
    """Parameters of the controller that the search returns, (size,)."""
    average: np.ndarray = field(init=False)
    """Exponential average of the mean (`agents.evolution.callbacks.MeanWindow`), as parameters, (size,)."""
    best_eval: float = field(default=-math.inf, init=False)
    """Mean return of the best evaluation so far."""
    rows: list[dict[str, Any]] = field(default_factory=list, init=False)
    """The log, a row for each generation; callbacks extend the last one."""
    members: np.ndarray = field(init=False)
    """Parameters of the members of the current generation, (P, size)."""
    scores: np.ndarray = field(init=False)
    """What CMA-ES compares of each member, (P,)."""
    result: FitnessResult = field(init=False)
    """Returns of the members."""

    def __post_init__(self) -> None:
        self.settings = json.loads(json.dumps(self.settings))  # as a saved state has them
        self.best = self.average = start = self.controller.parameters.double().numpy()
        coordinates = start if self.whitening is None else self.whitening.to_coordinates(start)
        self.es = CMAES(coordinates, *(self.settings[name] for name in ("sigma", "population", "seed")))

    @property
    def generation(self) -> int:
        """Number of finished generations."""
        return self.es.generation

    @property
    def mean(self) -> np.ndarray:
        """Mean of the distribution, as parameters, (size,)."""
        return self._to_parameters(self.es.mean)

    def _to_parameters(self, coordinates: np.ndarray) -> np.ndarray:
        return coordinates if self.whitening is None else self.whitening.to_parameters(coordinates)

    def ask(self) -> np.ndarray:
        """Sample the parameters of the next generation, (P, size)."""
        self._start_time = time.monotonic()
        self._coordinates = self.es.ask()
        self.members = self._to_parameters(self._coordinates)
        return self.members

    def tell(self, result: FitnessResult, scores: np.ndarray) -> None:
        """Update the distribution with the scores (P,) of the last `ask`, and begin a row of the log."""
        self.es.tell(self._coordinates, scores)
        self.result, self.scores = result, scores
        self.rows.append({"generation": self.generation})

    def episode_seed(self, stream: int = 0) -> int:
        """Return the seed of the next episodes: stream 0 is for populations, 1 for evaluations."""
        words = [self.settings["seed"], stream, self.generation]
        return int(np.random.SeedSequence(words).generate_state(1)[0]) >> 1  # 31 bits, which every environment takes

    def save(self) -> None:
        """Complete the row of the log, and write the state, the best controller and the row."""
        self.rows[-1]["seconds"] = round(time.monotonic() - self._start_time, 3)
        if self.folder is None:
            return
        arrays: dict[str, Any] = {f"es.{name}": value for name, value in self.es.state_dict().items()}
        about = {
            "settings": self.settings,
            "generation": self.generation,
            "rows": self.rows,
            "best_eval": None if self.best_eval == -math.inf else self.best_eval,
        }
        with atomic(self.folder / "state.npz") as aside, aside.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), best=self.best, average=self.average, **arrays)
        self.save_controller()
        mode = "a" if len(self.rows) > 1 else "w"  # a removed state leaves an old log
        with (self.folder / "metrics.jsonl").open(mode, encoding="utf-8") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")

    def save_controller(self) -> None:
        """Write the best controller."""
        if self.folder is not None:
            self.controller.with_parameters(self.best).save(self.folder / "controller.safetensors")

    def save_mean(self, generation: int) -> None:
        """Write the mean, or with ``generation`` 0 the initial controller, to ``means/<generation>.safetensors``."""
        if self.folder is not None:
            controller = self.controller.with_parameters(self.mean) if generation else self.controller
            controller.save(self.folder / "means" / f"{generation:06d}.safetensors")

    def resume(self) -> None:
        """Continue from the state in the folder, if there is one.

        Raises:
            ValueError: It is damaged, or of a search with other settings.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (path := self.folder / "state.npz").exists():
            return
        try:
            with zipfile.ZipFile(path) as archive:  # np.savez does not compress: a larger content is not ours
                if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                    raise ValueError("a compressed archive")
            with np.load(path, allow_pickle=False) as saved:
                arrays = dict(saved)
            about = migration.search_state(json.loads(str(arrays.pop("about"))))
            before = {"controller": self.settings["controller"]} | about["settings"]
            changed = differences({name: before.get(name) for name in self.settings}, self.settings)
            if not changed:
                self._load(about, arrays)
        except migration.RemovedSetting as error:
            raise ValueError(f"{path}: {error}") from None
        except Exception as error:  # pycma raises many types on wrong values
            reason = f"{type(error).__name__} {error}".splitlines()[0]
            raise ValueError(
                f"{path} must be a complete evolution state, got {reason}; remove it to start again"
            ) from None
        if changed:
            raise ValueError(
                f"{self.folder} holds an evolution with {changed}: use the same settings (the same --preset) or "
                "another folder"
            )
        with atomic(self.folder / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

    def _load(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        best = arrays.pop("best")
        average = arrays.pop("average", best)  # older states do not have it
        for value in (best, average):
            if value.shape != self.best.shape or not np.isfinite(value).all():
                raise ValueError(f"values must be finite, with {len(self.best)} parameters")
        self.es.load_state_dict({name.removeprefix("es."): value for name, value in arrays.items()})
        if self.generation != about["generation"]:
            raise ValueError(f"generation must be {self.generation}, got {about['generation']}")
        self.best, self.average, self.rows = best, average, list(about["rows"])
        self.best_eval = -math.inf if about["best_eval"] is None else about["best_eval"]


def differences(before: Any, asked: Any, name: str = "") -> str:
    """Return a text that names each different setting with both values; mappings are compared key by key."""
    if isinstance(before, dict) and isinstance(asked, dict):
        keys = dict.fromkeys([*before, *asked])
        inner = (differences(before.get(key), asked.get(key), f"{name}.{key}" if name else key) for key in keys)
        return "; ".join(filter(None, inner))
    return "" if before == asked else f"{name} = {before!r}, asked for {asked!r}"
