"""Reference of the command line in Markdown, generated from the parser of the commands."""

import inspect
import sys
from argparse import SUPPRESS, Action
from collections.abc import Callable
from typing import Any

from worldmodel.agents.cli.commands import COMMANDS
from worldmodel.agents.config.parser import Parser

MARK = "<!-- every command, from the parser -->"
"""Line of ``command-line.md`` that `page` replaces."""


def page() -> str:
    """Return the description of every command, and a table of its arguments with values and defaults."""
    return "\n".join(_command(name, command.build) for name, command in COMMANDS.items())


def _command(name: str, build: Callable[[Parser], None]) -> str:
    parser = Parser(prog=f"worldmodel {name}")
    build(parser)
    # leave out arguments without a default: --help, and --dream FILE beside --dream.NAME
    actions = [action for action in parser._actions if action.default != SUPPRESS]
    given = [action for action in actions if not action.option_strings]
    flags = [action for action in actions if action.option_strings]
    words = [f"worldmodel {name}", *(action.dest.upper() for action in given), *(["[OPTIONS]"] if flags else [])]
    lines = [f"## worldmodel {name}", "", "```text", " ".join(words), "```", "", *_description(build), ""]
    if actions:
        lines += ["| Argument | Values | Default | Description |", "|---|---|---|---|", *map(_row, given + flags), ""]
    return "\n".join(lines)


def _description(build: Callable[[Parser], None]) -> list[str]:
    """Return the lines of the docstring; indented lines are commands."""
    lines = inspect.cleandoc(build.__doc__ or "").splitlines()
    return [f"    {line.strip()}" if line.startswith("  ") else line for line in lines]


def _row(action: Action) -> str:
    flag = bool(action.option_strings)
    name = ", ".join(word for word in action.option_strings if not word.endswith("+")) or action.dest.upper()
    default = f"`{_shown(action.default)}`" if flag and not action.required and action.nargs != 0 else ""
    words = " ".join(str(action.help or "").replace("``", "`").split()).replace("|", "\\|")
    return f"| `{name}` | {_values(action)} | {default} | {words} |"


def _values(action: Action) -> str:
    """Return the type or the choices of an argument."""
    if action.nargs == 0:
        return "a switch"
    kind = getattr(action, "_typehint", None)
    if kind is None:
        return "a file"
    words = kind.__name__ if type(kind) is type else str(kind).replace("typing.", "")
    if words.startswith("Literal["):
        words = words[len("Literal[") : -1].replace("'", "").replace(", ", " | ")
    words = words.replace("None", "null").replace("str", "text").replace("|", "\\|")
    return f"`{words}`"


def _shown(value: Any) -> str:
    """Format a default as a user types it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


if __name__ == "__main__":
    sys.stdout.write(page())
