"""What a training came to: which update's weights are kept, and whether it went on to overfit."""

import os
from dataclasses import dataclass
from pathlib import Path

from agents.html import rows_of
from worldmodel.io import error_context

RISE = 0.01
"""Overfitting: the held-out loss rises by more than this share of all that it fell before."""


@dataclass(frozen=True)
class TrainingSummary:
    """A training's losses, in nats an event.

    Args:
        best_update: update whose weights are kept: those with the lowest held-out loss.
        last_update: update that the training ended at.
        best: lowest held-out loss.
        last: held-out loss at the end.
        fell: by how much the held-out loss fell, from the first look at it to the best one.
        train_at_best: training loss before the best update.
        train_at_last: training loss before the last update.
    """

    best_update: int
    last_update: int
    best: float
    last: float
    fell: float
    train_at_best: float
    train_at_last: float

    @classmethod
    def of(cls, folder: str | os.PathLike[str]) -> "TrainingSummary | None":
        """Read a run's ``metrics.jsonl``; None: there is none.

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
        """Whether the held-out loss rose from its best while the training loss fell."""
        rise = self.last - self.best
        return (
            self.best_update < self.last_update and rise > RISE * self.fell and self.train_at_last < self.train_at_best
        )

    def sentences(self, event: str) -> list[str]:
        """Sentences on it; ``event``: what a loss is counted for, as "frame"."""
        found = [
            f"Scored and drawn: the weights of update {self.best_update:,} of {self.last_update:,}, "
            f"the best on held-out data ({self.best:.4g} nats a {event})."
        ]
        if self.overfits:
            found.append(
                f"Overfitting: from update {self.best_update:,} to {self.last_update:,} the held-out loss rises by "
                f"{self.last - self.best:.4g} to {self.last:.4g} nats a {event}, while the training loss falls from "
                f"{self.train_at_best:.4g} to {self.train_at_last:.4g}."
            )
        return found


def event_name(kind: str, pixelwise: bool | None) -> str:
    """What an event of a corpus is called."""
    return "frame" if kind == "speech" else "pixel" if pixelwise else "row"
