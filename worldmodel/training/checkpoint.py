"""Save and load the folder of a training: the training state, the best weights and the log.

Start reading at `TrainingCheckpoint`; `worldmodel.fit` uses it.
"""

import copy
import io
import json
import math
import re
import time
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.io.files import atomic, write_bytes, write_json, write_tensors
from worldmodel.io.migration import RemovedSetting, training_settings
from worldmodel.training import distributed


@dataclass
class TrainingState:
    """Progress of a training, besides the weights and the optimizer.

    Raises:
        ValueError: a number is negative or of the wrong type.
    """

    update: int = 0
    best: float = math.inf
    best_update: int = 0
    stale: int = 0
    norm: float = 0.0  # running average of the gradient norm
    skipped: int = 0  # number of consecutive updates with a NaN or infinite gradient
    finished: bool = False
    began: int = 0  # update at which this schedule started; above zero after a finished schedule
    until: int = 0  # update at which it ends; 0 in older files, which have one schedule
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)  # of losses since the last validation, if stopped between two

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("update", "best_update", "stale", "skipped", "began", "until")}
        for name, value in {**counts, "norm": self.norm}.items():
            if not isinstance(value, int if name in counts else int | float) or value < 0:
                raise ValueError(f"{name} = {str(value)[:40]}")
        if not isinstance(self.best, float) or not isinstance(self.finished, bool):
            raise ValueError("best or finished has the wrong type")


class TrainingCheckpoint:
    """The folder of a training. Without a folder, nothing is read or written."""

    def __init__(self, folder: Path | None, settings: dict[str, Any], tensorboard: bool) -> None:
        self.folder, self.settings, self.note = folder, json.loads(json.dumps(settings)), ""
        self.saved, self.tensorboard, self.is_main = time.monotonic(), tensorboard, distributed.is_main_process()
        self.writer: Any = None

    def load(self, device: torch.device, form: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the saved state of the training in this folder; None if there is none.

        The settings must be the same, with two exceptions. ``num_updates`` may be larger than before, and the data may differ
        if both have the given ``form``.

        Raises:
            ValueError: the folder has a training with other settings, or its state is damaged.
        """
        if self.folder is None:
            return None
        if not (path := self.folder / "resume.pt").exists():
            if self.is_main:
                write_json(self.folder / "settings.json", self.settings)
                # from a training that was stopped before its first save
                (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            return None
        saved = _read(path, device)
        settings = saved["settings"]
        for name in settings | self.settings:
            was, asked = settings.get(name), self.settings.get(name)
            if was == asked or (
                name == "data" and form is not None and isinstance(was, dict) and form.items() <= was.items()
            ):
                continue
            more = name == "num_updates" and isinstance(was, int) and was >= 1
            if not more or asked < was:
                raise ValueError(
                    f"{self.folder} holds a training with {name} = {was!r}, asked for {asked!r}: use another folder, or "
                    f"{'as many or more' if more else 'the same settings'}, or remove that folder to begin again"
                )
        return saved

    def restore(
        self, saved: dict[str, Any] | None, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[TrainingState, dict[str, Tensor]]:
        """Load a saved state into ``model`` and ``optimizer``; return the progress and the best weights.

        Raises:
            ValueError: the state is invalid.
        """
        if saved is None or self.folder is None:
            return TrainingState(until=self.settings["num_updates"]), copy.deepcopy(model.state_dict())
        try:
            model.load_state_dict(saved["best"])  # both must match the model
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            state = TrainingState(**saved["progress"])
            state.until = state.until or int(saved["settings"]["num_updates"])
            rows = "".join(json.dumps(row) + "\n" for row in state.history)
            for row in state.history:
                float(row["held_out"]["loss"])
        except Exception as error:  # a complete file with other contents
            raise _not_whole(self.folder / "resume.pt", error) from None
        if not self.is_main:
            return state, saved["best"]
        with atomic(self.folder / "metrics.jsonl") as aside:  # drop rows after the saved state: training repeats them
            aside.write_text(rows, encoding="utf-8")
        return state, saved["best"]

    def set_num_updates(self, num_updates: int) -> None:
        """Set and save the number of updates."""
        self.settings["num_updates"] = num_updates
        if self.folder is not None and self.is_main:
            write_json(self.folder / "settings.json", self.settings)

    def is_due(self, seconds: float) -> bool:
        """Return whether the last save is at least ``seconds`` ago."""
        return self.folder is not None and time.monotonic() - self.saved >= seconds

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState, best: dict[str, Tensor]
    ) -> None:
        """Write the training state, from which training can resume."""
        if self.folder is None or not self.is_main:
            return
        content = {
            "settings": self.settings,
            "progress": asdict(state),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "best": best,
        }
        if state.finished:  # later schedules start from the best weights
            content |= {"model": best, "optimizer": content["optimizer"] | {"state": {}}}
        whole = io.BytesIO()  # torch raises other errors on a full disk
        torch.save(content, whole)
        write_bytes(self.folder / "resume.pt", whole.getbuffer())
        self.saved = time.monotonic()

    def save_best(self, best: dict[str, Tensor]) -> None:
        """Write the best weights."""
        if self.folder is not None and self.is_main:
            write_tensors(self.folder / "weights.safetensors", best)

    def log(self, row: dict[str, Any]) -> None:
        """Append a validation's row to ``metrics.jsonl`` and TensorBoard."""
        self.note = f"held-out {row['held_out']['loss']:.4g}"
        if self.folder is None or not self.is_main:
            return
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.tensorboard:
            if self.writer is None:
                from torch.utils.tensorboard import SummaryWriter  # import only if used, because it is slow

                self.writer = SummaryWriter(str(self.folder / "tensorboard"))
            for kind in ("train", "held_out"):
                for name, value in row[kind].items():
                    self.writer.add_scalar(f"{kind}/{name}", value, row["update"])

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self.writer is not None:
            self.writer.close()


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
