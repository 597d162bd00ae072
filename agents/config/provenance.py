"""A run folder's ``config.yaml``: the resolved settings and the versions of the libraries; start reading at `save_config`."""

import contextlib
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from worldmodel.agents.config.io import flat, read_yaml
from worldmodel.io import migration
from worldmodel.io.files import atomic, error_context


def save_config(settings: Any, path: Path, may_grow: Collection[str] = ()) -> None:
    """Write the resolved settings; if the file exists, first compare them with its settings.

    Args:
        settings: A dataclass of settings; its fields may be dataclasses, too.
        path: Path of the file.
        may_grow: Names of integer settings that a continued run can increase.

    Raises:
        ValueError: The run in this folder has other settings, or the file is damaged.
    """
    if path.exists():
        required = [one.name for one in fields(settings) if one.default is one.default_factory is MISSING]
        defaults = type(settings)(**{name: getattr(settings, name) for name in required})
        # a file of an older version lacks newer settings: they have their defaults
        with error_context(path, wrap_value_errors=True):
            saved = flat(asdict(defaults)) | flat(migration.config_file(read_yaml(path)))
        validate_changes(saved, settings, str(path), may_grow=may_grow)
    write_config(settings, path)


def validate_changes(
    saved: Mapping[str, Any],
    settings: Any,
    label: str,
    may_change: Collection[str] = (),
    frozen: Mapping[str, str] | None = None,
    may_grow: Collection[str] = (),
) -> None:
    """Compare flat saved settings with new ones.

    Args:
        saved: Saved settings by name.
        settings: New settings, a dataclass.
        label: Name of the saved ones in messages.
        may_change: Names of settings that a continued run can change.
        frozen: Settings that this run cannot change, with the reason.
        may_grow: Names of integer settings that a continued run can increase.

    Raises:
        ValueError: A setting differs that cannot change.
    """
    frozen = frozen or {}
    for name, value in flat(asdict(settings)).items():
        both: list[Any] = [list(one) if isinstance(one, tuple) else one for one in (saved.get(name), value)]
        (old, value), reason = both, frozen.get(name)
        grows = name in may_grow and isinstance(value, int) and value >= (old or 0)
        if old != value and (reason or not (grows or name in may_change)):
            reason = reason or ("it can only increase" if name in may_grow else "")
            raise ValueError(
                f"{label} has {name} = {old!r}, got {value!r}"
                f"{f' ({reason})' if reason else ''}: use another --out or the same settings"
            )


def write_config(settings: Any, path: Path) -> None:
    """Write the resolved settings and the versions of the libraries."""
    with atomic(path) as temporary:
        text = yaml.safe_dump(asdict(settings), sort_keys=False)
        temporary.write_text(f"# {versions()}\n{text}", encoding="utf-8")


def versions() -> str:
    """Return the versions of this package and of the libraries that results depend on, and the commit if there is one."""
    names = ("worldmodel", "torch", "numpy", "gymnasium", "cma")
    parts = [f"{name} {metadata.version(name)}" for name in names]
    git = ["git", "-C", str(Path(__file__).parent.parent), "rev-parse", "--short", "HEAD"]
    with contextlib.suppress(OSError):
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
        parts += [f"commit {commit}"] if commit else []
    return ", ".join(parts)
