"""Upload of a run folder's metrics and scores to Weights & Biases; start reading at `send`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io import migration
from worldmodel.io.files import error_context
from worldmodel.io.paths import folder_path
from worldmodel.training.callbacks import WandB


class UploadResult(NamedTuple):
    """Number of rows, metrics files and evaluations of an upload, and its address or folder."""

    rows: int
    groups: int
    tests: int
    where: str


def send(folder: Path, project: str = "worldmodel", mode: Literal["online", "offline"] = "online") -> UploadResult:
    """Send the new rows of a run folder's ``metrics.jsonl`` files, and the scores of its evaluations.

    Args:
        folder: Path of the folder of a run or of a density.
        project: Name of the project at Weights & Biases.
        mode: "online", or "offline": saved in ``folder/wandb`` until ``wandb sync``.

    Returns:
        What was sent.

    Raises:
        ValueError: There is nothing to send, or wandb is not installed or not logged in.
    """
    folder = folder_path(folder, "run")
    files = {
        path.parent.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("metrics.jsonl"))
        if "wandb" not in path.relative_to(folder).parts
    }
    reports = Run(folder).reports()
    if not files and not reports:
        raise ValueError(f"{folder} has neither metrics nor evaluations: nothing to send")
    config = folder / "config.yaml"
    upload = WandB(project, mode)
    upload.open(folder, migration.config_file(read_yaml(config)) if config.exists() else {})
    count = sum(upload.send("" if group == "." else group, _rows(path)) for group, path in files.items())
    for name, report in reports.items():
        scores = {f"tests/{name}/{part}": getattr(report, part) for part in ("mean", "std", "stderr", "n")}
        upload.run.summary.update(scores)
    return UploadResult(count, len(files), len(reports), upload.close())


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; an incomplete last line, which a run is writing, is skipped."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            with error_context(path):
                yield migration.renamed(json.loads(line), migration.GENERATION)
