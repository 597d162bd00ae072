"""The folder of a training: how far it is, the best weights, and what the log says.

Start reading at `TrainingCheckpoint`; `worldmodel.fit` is who needs it.
"""

import copy
import io
import json
import math
import time
import warnings
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel import distributed
from worldmodel.io import atomic, write_bytes, write_json, write_tensors
from worldmodel.migration import training_settings


@dataclass
class TrainingState:
    """Everything a training needs to go on, beside the weights.

    Raises:
        ValueError: a number is below zero, or of another kind.
    """

    update: int = 0
    best: float = math.inf
    best_update: int = 0
    stale: int = 0
    norm: float = 0.0  # running average of the gradient's length
    skipped: int = 0  # updates in a row whose gradient was not a number
    finished: bool = False
    began: int = 0  # update at which this schedule began: above zero where a finished training learns on
    until: int = 0  # update at which it ends; 0: of an older version, which knew one schedule
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(
        default_factory=dict
    )  # of losses since the last check, where it was stopped between two

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("update", "best_update", "stale", "skipped", "began", "until")}
        for name, value in {**counts, "norm": self.norm}.items():
            if not isinstance(value, int if name in counts else int | float) or value < 0:
                raise ValueError(f"{name} = {str(value)[:40]}")
        if not isinstance(self.best, float) or not isinstance(self.finished, bool):
            raise ValueError("best or finished of another kind")


class TrainingCheckpoint:
    """A training's folder; or nothing, where there is none."""

    def __init__(self, folder: Path | None, settings: dict[str, Any], tensorboard: bool) -> None:
        self.folder, self.settings, self.note = folder, json.loads(json.dumps(settings)), ""
        self.saved, self.tensorboard, self.is_main = time.monotonic(), tensorboard, distributed.is_main_process()
        self.writer: Any = None

    def load(self, device: torch.device, form: str | None = None) -> dict[str, Any] | None:
        """The state of the training in this folder, if there is one, and if it is this one.

        More updates than it had are no other training. Neither are other data where a ``form`` is given that theirs had, too.
        """
        if self.folder is None:
            return None
        if not (path := self.folder / "resume.pt").exists():
            if self.is_main:
                write_json(self.folder / "settings.json", self.settings)
                # of a training that was stopped before it was saved
                (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            return None
        saved = _read(path, device)
        settings = saved["settings"]
        for name in settings | self.settings:
            was, asked = settings.get(name), self.settings.get(name)
            if was == asked or (name == "data" and form is not None and str(was).endswith(form)):
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
        """Put a loaded state into ``model`` and ``optimizer``; how far it is, and the best weights."""
        if saved is None or self.folder is None:
            return TrainingState(until=self.settings["num_updates"]), copy.deepcopy(model.state_dict())
        try:
            model.load_state_dict(saved["best"])  # both fit, or neither is believed
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            state = TrainingState(**saved["progress"])
            state.until = state.until or int(saved["settings"]["num_updates"])
            rows = "".join(json.dumps(row) + "\n" for row in state.history)
            for row in state.history:
                float(row["held_out"]["loss"])
        except Exception as error:  # whole, but of other contents
            raise _not_whole(self.folder / "resume.pt", error) from None
        if not self.is_main:
            return state, saved["best"]
        with atomic(self.folder / "metrics.jsonl") as aside:  # rows behind the saved state will be made again
            aside.write_text(rows, encoding="utf-8")
        return state, saved["best"]

    def set_num_updates(self, num_updates: int) -> None:
        """Write down that the training goes on up to ``num_updates`` updates."""
        self.settings["num_updates"] = num_updates
        if self.folder is not None and self.is_main:
            write_json(self.folder / "settings.json", self.settings)

    def is_due(self, seconds: float) -> bool:
        """Whether the last save is ``seconds`` ago."""
        return self.folder is not None and time.monotonic() - self.saved >= seconds

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState, best: dict[str, Tensor]
    ) -> None:
        """Write the state to resume from."""
        if self.folder is None or not self.is_main:
            return
        content = {
            "settings": self.settings,
            "progress": asdict(state),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "best": best,
        }
        if state.finished:  # nothing goes on from here: the best weights are enough
            content |= {"model": best, "optimizer": content["optimizer"] | {"state": {}}}
        whole = io.BytesIO()  # torch tells of a full disk in its own way
        torch.save(content, whole)
        write_bytes(self.folder / "resume.pt", whole.getbuffer())
        self.saved = time.monotonic()

    def save_best(self, best: dict[str, Tensor]) -> None:
        """Write the best weights."""
        if self.folder is not None and self.is_main:
            write_tensors(self.folder / "weights.safetensors", best)

    def log(self, row: dict[str, Any]) -> None:
        """Append a check's row to ``metrics.jsonl`` and TensorBoard."""
        self.note = f"held-out {row['held_out']['loss']:.4g}"
        if self.folder is None or not self.is_main:
            return
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.tensorboard:
            if self.writer is None:
                from torch.utils.tensorboard import SummaryWriter  # slow to import: only where it is wanted

                self.writer = SummaryWriter(str(self.folder / "tensorboard"))
            for kind in ("train", "held_out"):
                for name, value in row[kind].items():
                    self.writer.add_scalar(f"{kind}/{name}", value, row["update"])

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self.writer is not None:
            self.writer.close()


def unfinished(folder: Path) -> tuple[int, int] | None:
    """The update that a training in ``folder`` was stopped at, and the one that it ends at; None: it ended, or there is none.

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
    except Exception as error:  # whole, but of other contents
        raise _not_whole(path, error) from None
    return None if state.finished else (state.update, until)


def _read(path: Path, device: torch.device | str) -> dict[str, Any]:
    """A saved state, whose ``settings`` are a mapping.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            if damaged := parts.testzip():  # torch itself does not look at the checksums
                raise ValueError(f"{damaged} does not have its checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            saved = torch.load(path, map_location=device, weights_only=True)
        return {**saved, "settings": training_settings(saved["settings"])}
    except Exception as error:  # whatever torch makes of a damaged file
        raise _not_whole(path, error) from None


def _not_whole(path: Path, error: Exception) -> ValueError:
    """What is wrong with a state, in one line, and without torch's advice to execute it."""
    first = (str(error).strip().splitlines() or [""])[0].partition(" This file can still be loaded")[0]
    return ValueError(
        f"{path} is not a whole training state ({first or type(error).__name__}); remove it to start again"
    )
