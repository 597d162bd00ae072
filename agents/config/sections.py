"""Sections of settings, a dataclass each: refused where they are none, and kept in a file of their own.

An iteration keeps those that it began with (`agents.iterative_training`).
"""

from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from agents.config.validate import validate
from agents.parser import plain
from worldmodel import migration
from worldmodel.io import error_context, read_json, write_json


def validate_sections(given: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Refuse what stands for a section of settings and is none, such as the ``game:`` of a file that was cut behind it.

    Raises:
        ValueError: names the section.
    """
    for name, kind in kinds.items():
        value = given.get(name, {})
        if not is_dataclass(kind) or is_dataclass(value) or isinstance(value, Namespace | Mapping):
            continue
        if value is None:
            raise ValueError(f"{name} must have a value, got none")
        raise ValueError(f"{name} must be settings by their names, got {value!r}")


def write_sections(sections: Mapping[str, Any], path: Path) -> None:
    """Keep sections; `read_sections` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {name: asdict(section) for name, section in sections.items()})


def read_sections(kinds: Mapping[str, type], path: Path) -> dict[str, Any]:
    """What `write_sections` kept; a setting that an older version did not know has its default.

    Raises:
        ValueError: the file is damaged, or holds what is no such setting; the message names it.
    """
    with error_context(path, wrap_value_errors=True):
        content = migration.run_config(read_json(path))
        if missing := [name for name in kinds if name not in content]:
            raise ValueError(f"{missing[0]} is missing")
        return from_dict(content, kinds)


def from_dict(content: Mapping[str, Any], kinds: Mapping[str, type]) -> dict[str, Any]:
    """Sections of plain values as dataclasses, checked one by one.

    Raises:
        ValueError: names the setting, what was expected and what came.
    """
    validate_sections(content, kinds)
    parser = ArgumentParser(exit_on_error=False)
    for name, kind in kinds.items():
        parser.add_class_arguments(kind, name)
    try:
        made = parser.instantiate(parser.parse_object(dict(content)))
    except ArgumentError as error:
        raise ValueError(plain(str(error))) from None
    found = {name: made[name] for name in kinds}
    for name, section in found.items():
        validate(section, f"{name}.")
    return found
