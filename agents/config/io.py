"""Reading of YAML settings: mappings of plain values, without aliases or duplicate keys. Start reading at `read_yaml`."""

import os
from typing import Any

import yaml

from worldmodel.io.paths import file_path


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names; ``*_options`` mappings (arguments of environments) are not flattened.

    Example:
        >>> flat({"vae": {"latent_dim": 32}, "env_options": {"action_repeat": 4}})
        {'vae.latent_dim': 32, 'env_options': {'action_repeat': 4}}
    """
    flattened: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and not name.endswith("_options"):
            flattened |= flat(value, f"{prefix}{name}.")
        else:
            flattened[f"{prefix}{name}"] = value
    return flattened


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Return flat settings with dotted names as nested ones: the inverse of `flat`.

    Example:
        >>> nested({"seed": 1, "game.sigma": 0.1, "game.episodes": 3})
        {'seed': 1, 'game': {'sigma': 0.1, 'episodes': 3}}
    """
    result: dict[str, Any] = {}
    for name, value in settings.items():
        section, _, part = name.rpartition(".")
        (result.setdefault(section, {}) if section else result)[part] = value
    return result


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file with a mapping of plain values.

    Aliases are refused: with them, a few lines expand to more values than fit in RAM.

    Raises:
        ValueError: The file cannot be read or is not a mapping of plain values; the message names the file.
    """
    try:
        content = parse_yaml(file_path(path, "file").read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it must be a mapping")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {_problem(error)}") from None
    return content


def _problem(error: Exception) -> str:
    """Return an error in one line, with the line of a mistake in YAML."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


def parse_yaml(text: str) -> Any:
    """Parse YAML with plain values, without aliases or duplicate keys.

    Raises:
        yaml.YAMLError: The text is not YAML, or has an alias or a duplicate key.
    """
    try:
        return yaml.load(text, _Plain)
    except (ValueError, RecursionError, TypeError) as error:  # a number of 5,000 digits, a thousand brackets
        raise yaml.YAMLError(str(error)) from None


class _Plain(yaml.SafeLoader):
    """A loader that refuses aliases and duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if duplicates := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"duplicate key {min(duplicates)!r}")
        content = super().construct_mapping(node, deep)
        if other := [key for key in content if not isinstance(key, str)]:
            raise yaml.YAMLError(f"a key must be text, got {other[0]!r}")
        return content
