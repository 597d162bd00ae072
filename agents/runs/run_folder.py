"""A run folder: the paths of its files, and the seconds that each stage took; start reading at `Run`."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from worldmodel import WorldModel, rollouts
from worldmodel.agents.evaluation import Report
from worldmodel.agents.shell import command
from worldmodel.envs.registration import env_words
from worldmodel.io.files import error_context, locked, read_json, read_jsonl, write_json
from worldmodel.io.migration import DENSITY_STAGES, GENERATION, renamed, training_settings
from worldmodel.io.paths import folder_path
from worldmodel.registry import build_vae
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.store.encoded_dataset import EncodedDataset
from worldmodel.training import distributed
from worldmodel.training.checkpoint import load_trained
from worldmodel.vector_encoder import Encoder

REST = "between stages"
"""Key in ``timings.json`` of the time outside all stages: reading, writing, starting workers."""
QUICK = ("--preset", "quick")
"""Words of a command that suggests the next stage: the defaults of a stage take hours."""

PARTS = {"config.yaml", "rollouts", "vae", "memory", "world", "evolve-dream", "evolve-game", "timings.json"}
"""Files and folders of a run; a run folder has at least one of them."""


@dataclass(frozen=True)
class Run:
    """A run folder: paths of its files, and loaders for what they hold."""

    folder: Path
    searches: Mapping[str, Path] = field(default_factory=dict, hash=False)
    """Folders of the searches in the "dream" and in the "game" that are not in the run folder (`agents.pipeline.phases`)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", folder_path(self.folder, "run"))  # accepts a string, too

    @property
    def rollouts_folder(self) -> Path:
        """Path of the store of real episodes."""
        return self.folder / "rollouts"

    @property
    def world_folder(self) -> Path:
        """Path of the trained world model."""
        return self.folder / "world"

    def store(self) -> rollouts.Store:
        """Open the store of real episodes."""
        if not self.rollouts_folder.is_dir():
            raise self._missing(0)
        return rollouts.Store(self.rollouts_folder)

    def vae(self) -> Encoder:
        """Load the trained VAE, or the encoder of vectors."""
        path = self.folder / "vae" / "weights.safetensors"
        if not path.exists():
            raise self._missing(1)
        return load_trained(path.parent, build_vae)

    def latents(self, world: WorldModel, store: rollouts.Store | None = None) -> EncodedDataset:
        """Encode the episodes of the run, or of another ``store``, with a world model's VAE.

        Idle truncation is termination where the run's memory was trained so (``memory.stall_delay``).
        """
        path = self.folder / "memory" / "settings.json"
        data = training_settings(read_json(path)).get("data") if path.exists() else None
        data = data if isinstance(data, dict) else {}
        delay = None if data.get("terminate_on_stall") is None else data.get("stall_delay", 0)
        return (store or self.store()).latents(world.vae, stall_delay=delay)

    def world(self) -> WorldModel:
        """Load the trained world model."""
        if not (self.world_folder / "config.json").exists():
            raise self._missing(2)
        return WorldModel.load(self.world_folder).eval()

    @property
    def evolved(self) -> str:
        """Where the run's controller was evolved: "dream" if only dreams have one, else "game"."""
        only_dream = not (self.folder / "evolve-game").exists() and (self.folder / "evolve-dream").exists()
        return "dream" if only_dream else "game"

    @property
    def best(self) -> str | None:
        """Where the controller with the highest mean return in the run's tests was evolved; None: there are no tests."""
        means = {where: report.mean for where, report in self.reports().items() if where in ("dream", "game")}
        return max(means, key=lambda where: (means[where], where)) if means else None

    def search(self, where: str) -> Path:
        """Return the folder of the search in the "game" or in the "dream", or of the "clone"."""
        return self.searches.get(where, self.folder / (where if where == "clone" else f"evolve-{where}"))

    def controller(self, where: str) -> Controller:
        """Load the controller evolved in the "game" or in the "dream", or the "clone" of stored actions."""
        path = self.search(where) / "controller.safetensors"
        if not path.exists():
            raise self._missing(3, where)
        return Controller.load(path)

    def validate_folder(self) -> None:
        """Check that the folder is new, empty or a run folder.

        Raises:
            ValueError: The folder has files, and none of a run.
        """
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set[str]()
        names = {name for name in names if not name.startswith(".")}
        if names and not names & PARTS:
            raise ValueError(
                f"{self.folder} is not empty and not a run folder (it has {min(names)}): choose another for --out"
            )

    def existing(self) -> Self:
        """Return this run if its folder exists: a mistyped path must not create one.

        Raises:
            ValueError: The folder does not exist.
        """
        if not self.folder.is_dir():
            raise ValueError(
                f"there is no run folder {self.folder}: "
                f"{command('worldmodel', 'collect', 'ENV', '--out', self.folder)} creates one"
            )
        return self

    def _missing(self, stage: int, where: str = "dream") -> ValueError:
        """Return an error that names the first missing output up to ``stage``, and the command that creates it.

        Raises:
            ValueError: The folder does not exist.
        """
        self.existing()
        outputs: list[tuple[str, Path, tuple[object, ...]]] = [
            ("rollouts", self.rollouts_folder, ("collect", "ENV", "--out", self.folder)),
            ("trained VAE", self.folder / "vae" / "weights.safetensors", ("train", "vae", self.folder, *QUICK)),
            ("trained memory", self.world_folder / "config.json", ("train", "memory", self.folder, *QUICK)),
            (f"controller evolved in the {where}", self.folder, ("evolve", self.folder, "--where", where, *QUICK)),
        ]
        while stage and not outputs[stage - 1][1].exists():
            stage -= 1
        name, _, words = outputs[stage]
        if stage == 3 and where == "clone":
            name, words = "cloned controller", ("train", "controller", self.folder)
        elif stage == 3 and where == "game":  # the quick presets of some games evolve in dreams alone
            words += ("--game.generations", "20")
        if stage == 3 and where != "clone" and self.rollouts_folder.is_dir():
            words += tuple(env_words(self.store().env))
        return ValueError(f"{self.folder} has no {name} yet: {command('worldmodel', *words)}")

    def reports(self) -> dict[str, Report]:
        """Load the reports of the evaluations, by name."""
        return {path.stem: Report.load(path) for path in sorted((self.folder / "tests").glob("*.json"))}

    def searches_of(self, where: str) -> list[Path]:
        """Return the folders of the search in the "game" or in the "dream", or of those of all iterations, with their rows."""
        parts = (
            ("", "candidate-*/")
            if (self.search(where) / "metrics.jsonl").exists()
            else ("iterations/*/", "iterations/*/candidate-*/")
        )
        return sorted(
            path.parent.parent for part in parts for path in self.folder.glob(f"{part}evolve-{where}/metrics.jsonl")
        )

    def evolution_steps(self, where: str) -> int:
        """Count the steps of evolution in the "game" or in the "dream", including evaluations of the mean."""
        parts = ("", "candidate-*/", "iterations/*/", "iterations/*/candidate-*/", "phases/*/")
        steps = 0
        for path in (path for part in parts for path in self.folder.glob(f"{part}evolve-{where}/metrics.jsonl")):
            with error_context(path):
                for row in rows_of(path):
                    steps += int(row.get("steps", 0)) + int(row.get("eval_steps", 0))
        return steps

    @property
    def earlier(self) -> list[Self]:
        """The runs of earlier phases that have a world model of their own (`agents.pipeline.phases`)."""
        return [type(self)(path) for path in sorted(self.folder.glob("runs/*"))]

    @property
    def real_steps(self) -> int:
        """Number of environment steps of the rollouts and of evolution."""
        return self.store().steps + self.evolution_steps("game")

    def timings(self) -> dict[str, float]:
        """Return the seconds of each stage, summed over all calls of the command."""
        path = self.folder / "timings.json"
        with error_context(path, wrap_value_errors=True):
            timings = {name: float(seconds) for name, seconds in read_json(path).items()} if path.exists() else {}
            if not all(0 <= seconds < math.inf for seconds in timings.values()):
                raise TypeError("seconds must be zero or more")
            return renamed(timings, DENSITY_STAGES)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the wall-clock time of a block to a stage in ``timings.json``."""
        began = time.monotonic()
        try:
            yield
        finally:
            if distributed.is_main_process():
                timings = self.timings()
                timings[name] = round(timings.get(name, 0.0) + time.monotonic() - began, 2)
                write_json(self.folder / "timings.json", timings)

    @contextlib.contextmanager
    def session(self) -> Iterator[Callable[[], None]]:
        """Measure the wall-clock time of a block outside its stages, so that all times add up to the total.

        Yields:
            A function that adds this time to ``timings.json``; call it once, at the end. An exception calls it, too.
        """
        began, total_before = time.monotonic(), sum(self.timings().values())

        def add_rest() -> None:
            timings = self.timings()
            rest = time.monotonic() - began - (sum(timings.values()) - total_before)
            timings[REST] = round(timings.get(REST, 0.0) + max(rest, 0.0), 2)
            write_json(self.folder / "timings.json", timings)

        try:
            yield add_rest
        except BaseException:
            add_rest()
            raise

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Lock the folder against other processes while a block runs.

        Raises:
            ValueError: Another process has locked it.
        """
        return locked(self.folder) if distributed.is_main_process() else contextlib.nullcontext()


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a ``metrics.jsonl``, or an empty list if the file does not exist."""
    if not path.exists():
        return []
    return [renamed(row, GENERATION) for row in read_jsonl(path)]
