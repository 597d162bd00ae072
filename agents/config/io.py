"""YAML as settings are written in it: plain values, nested by names."""

import os
from typing import Any

import yaml

from worldmodel.paths import file_path


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names; options of environments stay whole."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and not name.endswith("_options"):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a mapping of plain values, without aliases: a few lines of them stand for more than any memory holds.

    Raises:
        ValueError: the file cannot be read, or holds something else; the message names it.
    """
    try:
        content = parse_yaml(file_path(path, "file").read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return content


def parse_yaml(text: str) -> Any:
    """Plain values of a text: without aliases, and every name once.

    Raises:
        yaml.YAMLError: it is something else.
    """
    try:
        return yaml.load(text, _Plain)
    except (ValueError, RecursionError, TypeError) as error:  # numbers of 5,000 digits, a thousand brackets, ...
        raise yaml.YAMLError(str(error)) from None


class _Plain(yaml.SafeLoader):
    """YAML without aliases, where no name stands twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases have no place here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise yaml.YAMLError(f"{min(twice)!r} stands there twice")
        return super().construct_mapping(node, deep)
