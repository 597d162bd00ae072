"""Settings of a run from plain values: start reading at `build`.

Each iteration has a file of its own settings (`agents.pipeline.iterative_training`).
"""

from argparse import ArgumentError
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from worldmodel.agents.config.parser import plain
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.config.validate import validate
from worldmodel.io import migration

STAGE = "stage.json"
"""Name of the file with the settings of a training's stage, beside the training."""
PER_ITERATION = ("iterate", "search", "dream")
"""Sections of settings that each iteration saves, because a resumed run can have other settings."""


def build(content: Mapping[str, Any]) -> RunConfig:
    """Build the settings of a run from nested plain values, and check their names, types and ranges.

    Raises:
        ValueError: A setting is unknown or out of range; the message names it, what was expected and what came.
    """
    for name, kind in get_type_hints(RunConfig).items():
        value = content.get(name, {})
        if is_dataclass(kind) and not isinstance(value, Namespace | Mapping):  # a truncated file may end with "game:"
            raise ValueError(
                f"{name} must have a value, got none"
                if value is None
                else f"{name} must be a mapping of settings, got {value!r}"
            )
    parser = _parser()
    try:
        built = parser.instantiate(parser.parse_object(dict(content)))
    except ArgumentError as error:
        raise ValueError(plain(str(error))) from None
    settings = RunConfig(**{name: built[name] for name in RunConfig.__dataclass_fields__})
    validate(settings)
    return settings


@cache
def _parser() -> ArgumentParser:
    """Return the parser of the settings of a run, which takes a quarter of a second to build."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RunConfig)
    return parser


def write_sections(settings: RunConfig, names: Iterable[str], path: Path) -> None:
    """Write sections of settings to a JSON file; `read_sections` reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    from worldmodel.io.files import write_json  # imports torch, which is slow

    write_json(path, {name: asdict(getattr(settings, name)) for name in names})


def read_sections(names: Iterable[str], path: Path) -> dict[str, Any]:
    """Read a file of `write_sections`; a setting that is missing has its default.

    Raises:
        ValueError: The file is damaged or has an unknown setting; the message names it.
    """
    from worldmodel.io.files import error_context, read_json  # imports torch, which is slow

    with error_context(path, wrap_value_errors=True):
        content = migration.run_config(read_json(path))
        settings = build({"env": "", **content})
        content = dict.fromkeys({"search", "training"} & {*names}) | content  # older files lack these
        if wrong := sorted({*content} ^ {*names}):
            raise ValueError(f"the sections must be {', '.join(names)}, got {wrong[0]} too much or too little")
    return {name: getattr(settings, name) for name in names}
