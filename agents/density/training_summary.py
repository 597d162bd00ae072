"""Summary of a density's training: the update of the stored weights, and whether the training overfits."""

import os
from dataclasses import dataclass
from pathlib import Path

from worldmodel.agents.runs.run_folder import rows_of
from worldmodel.io.files import error_context

MIN_RISE = 0.01
"""A training overfits if its held-out loss rises by more than this fraction of its decrease before."""


@dataclass(frozen=True)
class TrainingSummary:
    """Losses of a training, in nats per event.

    Args:
        best_update: Update of the stored weights, which have the lowest held-out loss.
        last_update: Last validated update.
        best: Lowest held-out loss.
        last: Last held-out loss.
        decrease: Decrease of the held-out loss from the first validation to the best one.
        train_at_best: Training loss before the best update.
        train_at_last: Training loss before the last update.
    """

    best_update: int
    last_update: int
    best: float
    last: float
    decrease: float
    train_at_best: float
    train_at_last: float

    @classmethod
    def from_run(cls, folder: str | os.PathLike[str]) -> "TrainingSummary | None":
        """Read the summary from ``metrics.jsonl`` of a run folder; return None without that file.

        Raises:
            ValueError: the file is damaged.
        """
        path = Path(folder) / "metrics.jsonl"
        with error_context(path, wrap_value_errors=True):
            rows = [
                (int(row["update"]), float(row["held_out"]["loss"]), float(row["train"]["loss"]))
                for row in rows_of(path)
            ]
        if not rows:
            return None
        best, last = min(rows, key=lambda row: row[1]), rows[-1]
        return cls(best[0], last[0], best[1], last[1], rows[0][1] - best[1], best[2], last[2])

    @property
    def overfits(self) -> bool:
        """Whether the held-out loss rises after its minimum while the training loss falls."""
        rise = self.last - self.best
        return (
            self.best_update < self.last_update
            and rise > MIN_RISE * self.decrease
            and self.train_at_last < self.train_at_best
        )

    def sentences(self, event: str) -> list[str]:
        """Describe the training in sentences; ``event`` is the name of an event, such as "frame"."""
        sentences = [
            f"Evaluation and samples use the weights of update {self.best_update:,} of {self.last_update:,}, "
            f"which have the lowest held-out loss ({self.best:.4g} nats per {event})."
        ]
        if self.overfits:
            sentences.append(
                f"Overfitting: from update {self.best_update:,} to {self.last_update:,} the held-out loss rises by "
                f"{self.last - self.best:.4g} to {self.last:.4g} nats per {event}, while the training loss falls from "
                f"{self.train_at_best:.4g} to {self.train_at_last:.4g}."
            )
        return sentences
