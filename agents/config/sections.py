"""Sections of settings as dataclasses: validation, and a JSON file of them; start reading at `from_dict`.

Each iteration has its own file (`agents.pipeline.iterative_training`).
"""

from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from worldmodel.agents.config.parser import plain
from worldmodel.agents.config.validate import validate
from worldmodel.io import migration
from worldmodel.io.files import error_context, read_json, write_json

STAGE = "stage.json"
"""Name of the file with the settings of a training's stage, beside the training."""


def validate_sections(given: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Check that every section is a mapping or a dataclass.

    A truncated file may end with ``game:``, which YAML reads as None.

    Raises:
        ValueError: A section is something else; the message names it.
    """
    for name, kind in kinds.items():
        value = given.get(name, {})
        if not is_dataclass(kind) or is_dataclass(value) or isinstance(value, Namespace | Mapping):
            continue
        if value is None:
            raise ValueError(f"{name} must have a value, got none")
        raise ValueError(f"{name} must be a mapping of settings, got {value!r}")


def write_sections(sections: Mapping[str, Any], path: Path) -> None:
    """Write sections to a JSON file; `read_sections` reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {name: asdict(section) for name, section in sections.items()})


def read_sections(kinds: Mapping[str, type], path: Path) -> dict[str, Any]:
    """Read a file of `write_sections`; a setting that is missing has its default.

    Raises:
        ValueError: The file is damaged or has an unknown setting; the message names it.
    """
    with error_context(path, wrap_value_errors=True):
        content = migration.run_config(read_json(path))
        if missing := [name for name in kinds if name not in content]:
            raise ValueError(f"{missing[0]} is missing")
        return from_dict(content, kinds)


def from_dict(content: Mapping[str, Any], kinds: Mapping[str, type]) -> dict[str, Any]:
    """Build dataclasses from sections of plain values, and validate each.

    Raises:
        ValueError: A setting is out of range; the message names it, what was expected and what came.
    """
    validate_sections(content, kinds)
    parser = ArgumentParser(exit_on_error=False)
    for name, kind in kinds.items():
        parser.add_class_arguments(kind, name)
    try:
        built = parser.instantiate(parser.parse_object(dict(content)))
    except ArgumentError as error:
        raise ValueError(plain(str(error))) from None
    sections = {name: built[name] for name in kinds}
    for name, section in sections.items():
        validate(section, f"{name}.")
    return sections
