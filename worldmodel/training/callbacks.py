"""Callbacks of a training: progress, early stopping, ``metrics.jsonl``, TensorBoard and Weights & Biases.

`worldmodel.training.trainer.TrainingCallback` has their hooks; `worldmodel.training.checkpoint.Checkpoint` is one, too.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from worldmodel.io.files import atomic, error_context, read_json, write_json
from worldmodel.training.progress import Progress
from worldmodel.training.trainer import Trainer, TrainingCallback

STEPS = ("update", "generation", "iteration")
"""Keys of a row of ``metrics.jsonl`` that can be the horizontal axis of its curves."""


class ShowProgress(TrainingCallback):
    """Report the progress to a function ``(update, num_updates, note)``."""

    def __init__(self, report: Progress) -> None:
        self.report, self.resumed = report, ""

    def on_start(self, trainer: Trainer) -> None:
        """Report a finished training; store where another one resumes."""
        update = trainer.state.update
        self.resumed = f"resumed at update {update}, " if update else ""
        if trainer.state.finished:
            self.report(update, update, f"already finished at update {update}")

    def on_update(self, trainer: Trainer) -> None:
        """Report the update with the latest held-out loss and the mean training loss since then."""
        state = trainer.state
        held_out = f"held-out {state.history[-1]['held_out']['loss']:.4g}, " if state.history else ""
        self.report(state.update, state.until, f"{self.resumed}{held_out}loss {trainer.mean_loss:.4g}")
        self.resumed = ""


class EarlyStopping(TrainingCallback):
    """Stop after ``patience`` validations without a lower held-out loss, at a plateau.

    Args:
        patience: Number of validations.
        num_decays: Number of plateaus that only lower the learning rate; the next one stops.
    """

    def __init__(self, patience: int, num_decays: int = 0) -> None:
        self.patience, self.num_decays = patience, num_decays

    def on_start(self, trainer: Trainer) -> None:
        """Stop a training that was interrupted just before it would have stopped."""
        if trainer.state.stale >= self.patience:
            trainer.stop()

    def on_validation(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Lower the learning rate or stop, if the patience is used up."""
        state = trainer.state
        if state.stale >= self.patience and state.decays < self.num_decays:
            state.decays, state.stale = state.decays + 1, 0
        self.on_start(trainer)


class MetricsLog(TrainingCallback):
    """Append each validation as a line of JSON to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, trainer: Trainer) -> None:
        """Drop rows after the saved state: training repeats them."""
        if trainer.is_main:
            with atomic(self.path) as aside:
                aside.write_text("".join(map(_line, trainer.state.history)), encoding="utf-8")

    def on_validation(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Append a line."""
        if trainer.is_main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(row))


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


class TensorBoard(TrainingCallback):
    """Write the losses of each validation as TensorBoard's files into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def on_validation(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Write the losses."""
        if not trainer.is_main:
            return
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # import only if used, because it is slow

            self.writer = SummaryWriter(str(self.folder))
        for name, value in numbers({name: row[name] for name in ("train", "held_out")}).items():
            self.writer.add_scalar(name, value, row["update"])

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Close the file."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class WandB(TrainingCallback):
    """Send rows of metrics to Weights & Biases, each once.

    ``wandb.json`` in the folder of the training has the id of the run and the number of rows sent, so that a resumed training
    continues its curves. Without a folder, each training is a run of its own.

    Args:
        project: Name of the project at Weights & Biases.
        mode: "online", or "offline": saved in the folder's ``wandb`` until ``wandb sync``.
    """

    def __init__(self, project: str = "worldmodel", mode: Literal["online", "offline"] = "online") -> None:
        self.project, self.mode = project, mode
        self.run: Any = None

    def on_start(self, trainer: Trainer) -> None:
        """Open the run, and send the rows of a resumed training that are missing there."""
        if trainer.is_main:
            self.open(trainer.folder, trainer.settings)
            self.send("", trainer.state.history)

    def on_validation(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Send the new rows."""
        if trainer.is_main:
            self.send("", trainer.state.history)

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Close the run."""
        if self.run is not None:
            self.close()

    def open(self, folder: Path | None, config: Mapping[str, Any]) -> None:
        """Open a new run, or the one of ``wandb.json`` in ``folder``.

        Raises:
            ValueError: wandb is not installed or not logged in, or ``wandb.json`` is damaged.
        """
        try:
            import wandb  # optional, and slow to import
        except ModuleNotFoundError as error:
            raise ValueError(f"Weights & Biases needs {error.name}: pip install 'worldmodel[wandb]'") from None
        self.memo = None if folder is None else folder / "wandb.json"
        sent: dict[str, Any] = {"id": secrets.token_hex(4), "rows": {}}
        if self.memo is not None and self.memo.exists():
            sent = read_json(self.memo)
        with error_context(self.memo or "wandb.json"):
            self.id, self.rows = str(sent["id"]), {str(name): int(count) for name, count in sent["rows"].items()}
        name = None if folder is None else folder.resolve().name
        options: dict[str, Any] = {"id": self.id, "name": name, "dir": folder, "config": dict(config)}
        try:
            self.run = wandb.init(project=self.project, mode=self.mode, resume="allow", **options)
        except wandb.errors.Error as error:
            raise ValueError(
                f"Weights & Biases: {str(error).strip()}; run wandb login, or use the mode offline"
            ) from None

    def send(self, group: str, rows: Iterable[dict[str, Any]]) -> int:
        """Send the rows of a group that were not sent before, with its name as a prefix of theirs; return their number."""
        prefix, key = f"{group}/" if group else "", group or "."
        new = list(rows)[self.rows.get(key, 0) :]
        for row in new:
            step = next((f"{prefix}{name}" for name in STEPS if name in row), None)
            if step and not self.rows.get(key):
                self.run.define_metric(step, hidden=True)
                self.run.define_metric(f"{prefix}*", step_metric=step)
            self.run.log(numbers(row, prefix))
            self.rows[key] = self.rows.get(key, 0) + 1
        return len(new)

    def close(self) -> str:
        """End the run and save what was sent; return the run's address or folder."""
        where = self.run.url or str(Path(self.run.dir).parent)
        self.run.finish()
        self.run = None
        if self.memo is not None:
            write_json(self.memo, {"id": self.id, "rows": self.rows})
        return where


def numbers(row: Mapping[str, Any], prefix: str = "") -> dict[str, int | float]:
    """Return the numbers of a row, with the names of nested ones joined by slashes.

    Example:
        >>> numbers({"loss": {"kl": 1.5}, "note": "text"}, "vae/")
        {'vae/loss/kl': 1.5}
    """
    flat: dict[str, int | float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat[prefix + name] = value
    return flat
