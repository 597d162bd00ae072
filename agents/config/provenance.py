"""A run folder's ``config.yaml``: the resolved settings, and on what they ran; a run goes on with no others.

Start reading at `save_config`.
"""

import contextlib
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from agents.config.io import flat, read_yaml
from worldmodel import migration
from worldmodel.io import atomic
from worldmodel.migration import renamed_run_options


def save_config(
    settings: Any,
    path: Path,
    may_change: Collection[str] = (),
    frozen: Mapping[str, str] | None = None,
    may_grow: Collection[str] = (),
) -> None:
    """Write the resolved settings, or compare them with those of the run that is to be continued.

    Args:
        settings: a dataclass of settings, nested or not.
        path: the file.
        may_change: settings that a run may be continued with other values of.
        frozen: those that may not in this run, and why.
        may_grow: whole numbers that a run may be continued with more of.

    Raises:
        ValueError: the run in this folder has other settings, or the file is damaged.
    """
    plain, frozen = asdict(settings), frozen or {}
    if path.exists():
        required = [one.name for one in fields(settings) if one.default is one.default_factory is MISSING]
        defaults = type(settings)(**{name: getattr(settings, name) for name in required})
        # settings that an older version did not know had their defaults
        before = flat(asdict(defaults)) | flat(migration.config_file(read_yaml(path)))
        before = renamed_run_options(before)
        for name, value in flat(plain).items():
            was, why = before.get(name), frozen.get(name)
            grows = name in may_grow and isinstance(was, int) and value >= was
            if was != value and (why or not (grows or name in may_change)):
                why = why or ("more go further" if name in may_grow else "")
                raise ValueError(
                    f"{path} holds a run with {name} = {was!r}, asked for {value!r}"
                    f"{f' ({why})' if why else ''}: use another --out, or the same settings"
                )
    with atomic(path) as aside:
        aside.write_text(f"# {versions()}\n{yaml.safe_dump(plain, sort_keys=False)}", encoding="utf-8")


def versions() -> str:
    """What this runs on: our version and commit, and those of the libraries that results depend on."""
    names = ("worldmodel", "torch", "numpy", "gymnasium", "cma")
    words = [f"{name} {metadata.version(name)}" for name in names]
    git = ["git", "-C", str(Path(__file__).parent.parent), "rev-parse", "--short", "HEAD"]
    with contextlib.suppress(OSError):
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
        words += [f"commit {commit}"] if commit else []
    return ", ".join(words)
