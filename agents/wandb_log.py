"""A run folder's curves and scores in Weights & Biases: an adapter that reads the files every run has.

Start reading at `send`. Nothing is logged twice: ``wandb.json`` in the folder keeps the run's id and how far it came.
"""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from agents.config.io import read_yaml
from agents.run import Run
from worldmodel.io import error_context, read_json, write_json
from worldmodel.paths import folder_path

STEPS = ("update", "generation", "iteration")
"""What a row of ``metrics.jsonl`` counts in: the horizontal axis of its curves."""


class UploadResult(NamedTuple):
    """What went out, and where to."""

    rows: int
    groups: int
    tests: int
    where: str


def send(folder: Path, project: str = "worldmodel", mode: str = "online") -> UploadResult:
    """Log what a run folder's ``metrics.jsonl`` files and tests hold and was not sent before.

    Args:
        folder: of a run, or of a density's.
        project: of Weights & Biases.
        mode: "online", or "offline": kept in ``folder/wandb`` until ``wandb sync``.

    Raises:
        ValueError: there is nothing to send, or wandb is not installed or not logged in.
    """
    try:
        import wandb  # optional, and slow to import: only where it is needed
    except ModuleNotFoundError as error:
        raise ValueError(f"Weights & Biases needs {error.name}: pip install 'worldmodel[wandb]'") from None
    folder = folder_path(folder, "run")
    files = {
        path.parent.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("metrics.jsonl"))
        if "wandb" not in path.relative_to(folder).parts
    }
    reports = Run(folder).reports()
    if not files and not reports:
        raise ValueError(f"{folder} holds neither metrics nor tests: nothing to send")
    memo = folder / "wandb.json"
    with error_context(memo):
        before: dict[str, Any] = read_json(memo) if memo.exists() else {"id": secrets.token_hex(4), "rows": {}}
        identity, rows = str(before["id"]), {str(name): int(count) for name, count in before["rows"].items()}
    config = folder / "config.yaml"
    settings = read_yaml(config) if config.exists() else {}
    count = 0
    try:
        run = wandb.init(
            project=project,
            id=identity,
            name=folder.resolve().name,
            config=settings,
            dir=folder,
            mode=cast(Any, mode),
            resume="allow",
        )
    except wandb.errors.Error as error:
        raise ValueError(f"Weights & Biases says: {str(error).strip()}; wandb login, or --mode offline") from None
    for group, path in files.items():
        prefix = "" if group == "." else f"{group}/"
        for row in list(_rows(path))[rows.get(group, 0) :]:
            flat = _flat(row, prefix)
            step = next((f"{prefix}{name}" for name in STEPS if name in row), None)
            if step and not rows.get(group):
                run.define_metric(step, hidden=True)
                run.define_metric(f"{prefix}*", step_metric=step)
            run.log(flat)
            rows[group] = rows.get(group, 0) + 1
            count += 1
    for name, report in reports.items():
        run.summary.update({f"tests/{name}/{part}": getattr(report, part) for part in ("mean", "std", "stderr", "n")})
    where = run.url or str(Path(run.dir).parent)
    run.finish()
    write_json(memo, {"id": identity, "rows": rows})
    return UploadResult(count, len(files), len(reports), where)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file; one that is being written is left for the next time."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            with error_context(path):
                yield dict(json.loads(line))


def _flat(row: dict[str, Any], prefix: str) -> dict[str, float]:
    """A row's numbers, with the names of nested ones joined by strokes."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[prefix + name] = value
    return found
