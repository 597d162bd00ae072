"""Upload of a run folder's metrics and scores to Weights & Biases; start reading at `send`.

``wandb.json`` in the folder has the id of the run and the number of rows sent, so that each row is logged once.
"""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.pipeline.run_folder import Run
from worldmodel.io import migration
from worldmodel.io.files import error_context, read_json, write_json
from worldmodel.io.paths import folder_path

STEPS = ("update", "generation", "iteration")
"""Keys of a row of ``metrics.jsonl`` that can be the horizontal axis of its curves."""


class UploadResult(NamedTuple):
    """Number of rows, metrics files and evaluations of an upload, and its address or folder."""

    rows: int
    groups: int
    tests: int
    where: str


def send(folder: Path, project: str = "worldmodel", mode: str = "online") -> UploadResult:
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
    try:
        import wandb  # optional, and slow to import
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
        raise ValueError(f"{folder} has neither metrics nor evaluations: nothing to send")
    memo = folder / "wandb.json"
    with error_context(memo):
        sent: dict[str, Any] = read_json(memo) if memo.exists() else {"id": secrets.token_hex(4), "rows": {}}
        identity, rows = str(sent["id"]), {str(name): int(count) for name, count in sent["rows"].items()}
    config = folder / "config.yaml"
    settings = migration.config_file(read_yaml(config)) if config.exists() else {}
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
        raise ValueError(f"Weights & Biases: {str(error).strip()}; run wandb login, or use --mode offline") from None
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
    """Yield the rows of a file; an incomplete last line, which a run is writing, is skipped."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            with error_context(path):
                yield migration.renamed(json.loads(line), migration.GENERATION)


def _flat(row: dict[str, Any], prefix: str) -> dict[str, float]:
    """Return the numbers of a row, with the names of nested ones joined by slashes.

    Example:
        >>> _flat({"loss": {"kl": 1.5}, "note": "text"}, "vae/")
        {'vae/loss/kl': 1.5}
    """
    flattened: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flattened |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flattened[prefix + name] = value
    return flattened
