"""YAML as settings are written in it: plain values, nested by names."""

import os
from pathlib import Path
from typing import Any

import yaml


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
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Plain)
        if not isinstance(content, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return content


class _Plain(yaml.SafeLoader):
    """YAML without aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases have no place here")
        return super().compose_node(parent, index)
