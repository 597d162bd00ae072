"""Save and load the folder of a training: its settings, its state and its best weights.

Start reading at `Checkpoint`; `worldmodel.fit` uses it.
"""

import io
import json
import re
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from worldmodel.io.files import (
    Module,
    error_context,
    load_module,
    read_json,
    write_bytes,
    write_json,
    write_tensors,
)
from worldmodel.io.migration import RemovedSetting, training_settings
from worldmodel.training import distributed
from worldmodel.training.trainer import Trainer, TrainingCallback, TrainingDiverged, TrainingState

SAVE_SECONDS = 10.0
"""Shortest time between two saves of the training state, in seconds."""


class Checkpoint(TrainingCallback):
    """The folder of a training. Without a folder, nothing is read or written.

    Args:
        folder: Path of the folder, or None.
        settings: Settings of the training.
    """

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        self.saved, self.is_main = time.monotonic(), folder is not None and distributed.is_main_process()
        self.complete = False  # the folder has the finished training

    def load(self, device: torch.device, form: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the saved state of the training in this folder; None if there is none.

        The settings must be the same, with two exceptions. ``num_updates`` may be larger than before, and the data may differ
        if both have the given ``form``.

        Raises:
            ValueError: the folder has a training with other settings, or its state is damaged.
        """
        if self.folder is None or not (path := self.folder / "resume.pt").exists():
            self._write_settings()
            return None
        saved = _read(path, device)
        settings = saved["settings"]
        for name in settings | self.settings:
            was, asked = settings.get(name), self.settings.get(name)
            if (
                was == asked
                or name == "patience"
                or (  # it only ends a training
                    name == "data" and form is not None and isinstance(was, dict) and form.items() <= was.items()
                )
            ):
                continue
            more = name == "num_updates" and isinstance(was, int) and was >= 1
            if not more or asked < was:
                raise ValueError(
                    f"{self.folder} holds a training with {name} = {was!r}, asked for {asked!r}: use another folder, or "
                    f"{'as many or more' if more else 'the same settings'}, or remove that folder to begin again"
                )
        return saved

    def restore(self, saved: dict[str, Any], trainer: Trainer) -> None:
        """Load a saved state into the model, the optimizer, the progress and the best weights of a training.

        Raises:
            ValueError: the state is invalid.
        """
        try:
            trainer.model.load_state_dict(saved["best"])  # both must match the model
            trainer.model.load_state_dict(saved["model"])
            trainer.optimizer.load_state_dict(saved["optimizer"])
            state = TrainingState(**saved["progress"])
            state.until = state.until or int(saved["settings"]["num_updates"])
            json.dumps(state.history)
            for row in state.history:
                float(row["held_out"]["loss"])
        except Exception as error:  # a complete file with other contents
            assert self.folder is not None
            raise _not_whole(self.folder / "resume.pt", error) from None
        trainer.state, trainer.best = state, saved["best"]
        trainer.sums = {name: torch.tensor(value, device=trainer.device) for name, value in state.sums.items()}
        state.sums = {}

    def set_num_updates(self, num_updates: int) -> None:
        """Set and save the number of updates."""
        self.settings["num_updates"], self.complete = num_updates, False
        self._write_settings()

    def _write_settings(self) -> None:
        if self.folder is not None and self.is_main:
            write_json(self.folder / "settings.json", self.settings)

    def on_start(self, trainer: Trainer) -> None:
        """Note whether this training was finished before."""
        self.complete = trainer.state.finished

    def on_validation(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Save the state, if the last save was `SAVE_SECONDS` ago."""
        if time.monotonic() - self.saved >= SAVE_SECONDS:
            self.save(trainer)

    def on_interrupt(self, trainer: Trainer) -> None:
        """Save the state."""
        self.save(trainer)

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Write the weights of a training that finished or diverged, and the state of one that finished now.

        The weights of a training that was finished before are written again: they may be lost or damaged.
        """
        if self.folder is not None and self.is_main and (error is None or isinstance(error, TrainingDiverged)):
            write_tensors(self.folder / "weights.safetensors", trainer.best)
        if error is None and not self.complete:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the training state, from which training can resume."""
        if self.folder is None or not self.is_main:
            return
        content = {
            "settings": self.settings,
            "progress": asdict(trainer.state),
            "model": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "best": trainer.best,
        }
        if trainer.state.finished:  # later schedules start from the best weights
            content |= {"model": trainer.best, "optimizer": content["optimizer"] | {"state": {}}}
        whole = io.BytesIO()  # torch raises other errors on a full disk
        torch.save(content, whole)
        write_bytes(self.folder / "resume.pt", whole.getbuffer())
        self.saved = time.monotonic()


def load_trained(folder: Path, build: Callable[[dict[str, Any]], Module]) -> Module:
    """Load the best weights of the training in ``folder``, in eval mode.

    Args:
        folder: Path of the folder.
        build: Function that builds the module from its ``config``.

    Raises:
        ValueError: a file is missing, is damaged or belongs to another type of model; the message names it.
    """
    path = folder / "settings.json"
    with error_context(path, wrap_value_errors=True), torch.device("meta"):
        build(config := training_settings(read_json(path))["model_config"])
    return load_module(lambda: build(config), folder / "weights.safetensors").eval()


def unfinished(folder: Path) -> tuple[int, int] | None:
    """Return the current and the last update of an unfinished training in ``folder``; None if it is finished or absent.

    Raises:
        ValueError: its state is damaged.
    """
    path = folder / "resume.pt"
    if not path.exists():
        return None
    saved = _read(path, "cpu")
    try:
        state = TrainingState(**saved["progress"])
        until = state.until or int(saved["settings"]["num_updates"])
    except Exception as error:  # a complete file with other contents
        raise _not_whole(path, error) from None
    return None if state.finished else (state.update, until)


def _read(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Read a saved state, whose ``settings`` are a mapping.

    Raises:
        ValueError: the file is damaged, or has a removed setting.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            if damaged := parts.testzip():  # torch does not compare the checksums
                raise ValueError(f"{damaged} does not have its checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            saved = torch.load(path, map_location=device, weights_only=True)
        return {**saved, "settings": training_settings(saved["settings"])}
    except RemovedSetting as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # torch raises various errors for a damaged file
        raise _not_whole(path, error) from None


def _not_whole(path: Path, error: Exception) -> ValueError:
    """Return an error about a state in one line, without torch's advice to execute the file."""
    first = re.split(r" This file can still be loaded| Re-running", (str(error).strip().splitlines() or [""])[0])[0]
    return ValueError(
        f"{path} is not a whole training state ({first or type(error).__name__}); remove it to start again"
    )
