"""A run folder: what lies where in it, and how long each chapter of its story took."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

import rollouts
from agents.controller import Controller, load_controller
from agents.evaluation import Report
from agents.shell import command
from envs.registration import imported_module
from rollouts.encoded_dataset import EncodedDataset
from rollouts.stall_termination import STALL_TERMINATED
from worldmodel import VAE, WorldModel, distributed
from worldmodel.io import error_context, load_module, locked, read_json, read_jsonl, write_json
from worldmodel.migration import training_settings
from worldmodel.paths import folder_path
from worldmodel.registry import build_vae

REST = "between stages"
"""Wall clock that belongs to no stage: reading, writing, starting workers."""


PARTS = {"config.yaml", "rollouts", "vae", "memory", "world", "evolve-dream", "evolve-game", "timings.json"}
"""What lies in a run folder; one of them at least."""


@dataclass(frozen=True)
class Run:
    """A run folder and what lies where in it."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", folder_path(self.folder, "run"))  # a text will do, too

    @property
    def rollouts_folder(self) -> Path:
        """The store of real episodes."""
        return self.folder / "rollouts"

    @property
    def world_folder(self) -> Path:
        """The trained world model."""
        return self.folder / "world"

    def store(self) -> rollouts.Store:
        """The real episodes."""
        if not self.rollouts_folder.is_dir():
            raise self._missing(0)
        return rollouts.Store(self.rollouts_folder)

    def vae(self) -> VAE:
        """The trained eye."""
        path = self.folder / "vae" / "weights.safetensors"
        if not path.exists():
            raise self._missing(1)
        with error_context(about := path.with_name("settings.json"), wrap_value_errors=True), torch.device("meta"):
            build_vae(settings := training_settings(read_json(about))["model_config"])
        return load_module(lambda: build_vae(settings), path).eval()

    def latents(self, world: WorldModel, store: rollouts.Store | None = None) -> EncodedDataset:
        """Episodes (the run's, or another ``store``) as a world model's eye sees them, ended where its memory was told so."""
        path = self.folder / "memory" / "settings.json"
        told = path.exists() and STALL_TERMINATED in str(read_json(path).get("data"))
        return (store or self.store()).latents(world.vae, terminate_on_stall=told)

    def world(self) -> WorldModel:
        """The trained world model."""
        if not (self.world_folder / "config.json").exists():
            raise self._missing(2)
        return WorldModel.load(self.world_folder).eval()

    @property
    def evolved(self) -> str:
        """Where its controller was evolved: "game", or "dream" where there is no other."""
        alone = not (self.folder / "evolve-game").exists() and (self.folder / "evolve-dream").exists()
        return "dream" if alone else "game"

    def controller(self, where: str) -> Controller:
        """The controller evolved in the "game" or in the "dream"."""
        path = self.folder / f"evolve-{where}" / "controller.safetensors"
        if not path.exists():
            raise self._missing(3, where)
        return load_controller(path)

    def validate_folder(self) -> None:
        """Refuse a folder in which something else lies.

        Raises:
            ValueError: the folder holds files, and none of a run.
        """
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set[str]()
        names = {name for name in names if not name.startswith(".")}
        if names and not names & PARTS:
            raise ValueError(
                f"{self.folder} is not empty and not a run folder (it holds {min(names)}): choose another for --out"
            )

    def existing(self) -> Self:
        """This run, whose folder must be there: a mistyped one is not made.

        Raises:
            ValueError: there is no such folder.
        """
        if not self.folder.is_dir():
            raise ValueError(
                f"there is no run folder {self.folder}: "
                f"{command('worldmodel', 'collect', 'ENV', '--out', self.folder)} makes one"
            )
        return self

    def _missing(self, stage: int, where: str = "dream") -> ValueError:
        """Names what a stage would have made, or the first one before it that is missing, too; with its command.

        Unless the folder is another one than was meant.
        """
        self.existing()
        made: list[tuple[str, Path, tuple[object, ...]]] = [
            ("rollouts", self.rollouts_folder, ("collect", "ENV", "--out", self.folder)),
            ("trained VAE", self.folder / "vae" / "weights.safetensors", ("train", "vae", self.folder)),
            ("trained memory", self.world_folder / "config.json", ("train", "memory", self.folder)),
            (f"controller evolved in the {where}", self.folder, ("evolve", self.folder, "--where", where)),
        ]
        while stage and not made[stage - 1][1].exists():
            stage -= 1
        name, _, words = made[stage]
        if stage == 3 and self.rollouts_folder.is_dir() and imported_module(env := self.store().env):
            words += ("--env", env)
        return ValueError(f"{self.folder} has no {name} yet: {command('worldmodel', *words)}")

    def reports(self) -> dict[str, Report]:
        """The tests that were made, by name."""
        return {path.stem: Report.load(path) for path in sorted((self.folder / "tests").glob("*.json"))}

    def evolution_steps(self, where: str) -> int:
        """Steps that evolution in the "game" or in the "dream" took, tests of its mean included."""
        paths = [self.folder / f"evolve-{where}" / "metrics.jsonl"]
        paths += sorted(self.folder.glob(f"iterations/*/evolve-{where}/metrics.jsonl"))
        steps = 0
        for path in paths:
            with error_context(path):
                for row in read_jsonl(path) if path.exists() else []:
                    steps += int(row.get("steps", 0)) + int(row.get("eval_steps", row.get("check_steps", 0)))
        return steps

    def timings(self) -> dict[str, float]:
        """Seconds that each chapter took, over all sittings."""
        path = self.folder / "timings.json"
        with error_context(path, wrap_value_errors=True):
            timings = {name: float(seconds) for name, seconds in read_json(path).items()} if path.exists() else {}
            if not all(0 <= seconds < math.inf for seconds in timings.values()):
                raise TypeError("seconds must be zero or more")
            return timings

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add a block's wall clock to ``timings.json``."""
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
        """Add the wall clock of a block that no stage has, so that all add up; yields what does so before its end."""
        began, before = time.monotonic(), sum(self.timings().values())

        def add() -> None:
            timings = self.timings()
            rest = time.monotonic() - began - (sum(timings.values()) - before)
            timings[REST] = round(timings.get(REST, 0.0) + max(rest, 0.0), 2)
            write_json(self.folder / "timings.json", timings)

        try:
            yield add
        except BaseException:
            add()
            raise

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes out of the folder while a block runs.

        Raises:
            ValueError: another process works in it.
        """
        return locked(self.folder) if distributed.is_main_process() else contextlib.nullcontext()
