"""An argument parser: its help keeps line breaks, and its errors are one line and exit code 2. Start at `Parser`."""

import re
import sys
from argparse import SUPPRESS, Action, HelpFormatter
from collections.abc import Iterable
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace, get_loader, set_loader

from worldmodel.agents.config.io import parse_yaml
from worldmodel.agents.progress import console
from worldmodel.io import migration
from worldmodel.messages import did_you_mean

_REWORDINGS = (
    (r'Parser key "([^"]+)":', r"--\1:"),
    (r"Expected a typing\.Literal\[(.*?)\]", r"expected one of \1"),
    (r"Expected a <class 'dict'>", """expected JSON such as '{"action_repeat": 4}'"""),
    (r"Expected a <class 'int'>", "expected a whole number"),
    (r"Expected a <class 'float'>", "expected a number"),
    (r"Expected a <class 'bool'>", "expected true or false"),
    (r"Expected a <class 'tuple'>", "expected a list such as '[1, 2]'"),
    (r"\. Got value: ", ", got "),
    (r" - Expected a <class 'NoneType'>", " or null"),
    (
        r"Does not validate against any of the Union subtypes.*?Errors: - (.*?) Given value type: .*? Given value: ",
        r"\1, got ",
    ),
    (r" - expected (a|one of) ", r" or \1 "),
    (r'expected "[\w.]*command" to be one of \{(.*?)\}, but it was not provided\.', r"a command is missing, one of \1"),
    (r"argument command: invalid choice: ('.*?') \(choose from (.*)\)", r"there is no command \1 (\2)"),
    (r"Subcommand '.*?' does not accept option '(.*?)'", r"there is no setting \1"),
    (r"Unable to load config '(.*?)' - --\S+: Unable to load config \"\1\"", r"there is no file '\1'"),
    (r"Unable to load config '(.*?)' - ", r"'\1' cannot be read: "),
)
"""Patterns in messages of jsonargparse, and their replacements."""


_load_yaml = get_loader("yaml")


def _load_plain(text: str, path: str = "") -> Any:
    """Read a value or a file; refuse what `parse_yaml` refuses.

    Args:
        text: YAML.
        path: Name of the file of ``--config`` that has this text; empty: the text is a value, or a file of one section.
    """
    if text == "~":  # the home folder, which YAML reads as null
        return text
    parse_yaml(text)
    value = _load_yaml(text)
    return migration.config_file(value) if path and isinstance(value, dict) else value


set_loader("yaml", _load_plain, (yaml.YAMLError,))
LONGEST = 500
"""Largest number of characters of a message: a value on the command line can be as long as a file."""


def plain(message: str) -> str:
    """Reword a message of jsonargparse as one line of plain English."""
    line = " ".join(message.split())
    for pattern, replacement in _REWORDINGS:
        line = re.sub(pattern, replacement, line)
    return line


def _unknown_key(error: Exception | None) -> str:
    """Return the message about an unknown key of a nested command: jsonargparse 4 fails while it writes this message."""
    trace = error.__traceback__ if type(error) is KeyError else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(key := trace.tb_frame.f_locals.get("key"), str):
        return ""
    return f"there is no setting {key.split('.', 2)[-1]}"  # train.vae.KEY


class _Formatter(DefaultHelpFormatter):
    """Help with a short usage, the default of each setting, and the line breaks of descriptions."""

    def add_usage(self, usage: str | None, actions: Iterable[Action], *groups: Any, **options: Any) -> None:
        """Show the positional arguments only: a command has up to a hundred options, and each has its lines below."""
        shown = [action for action in actions if not action.option_strings]
        words = [action.metavar or (action.dest.upper() if action.choices is None else "COMMAND") for action in shown]
        prog = self._prog.replace(" [options]", "")
        super().add_usage(" ".join([prog, *map(str, words), "[options]"]), shown, *groups, **options)

    def _get_help_string(self, action: Action) -> str:
        """Return the help and the default; the type is plain from both."""
        text = action.help or ""
        if isinstance(action, ActionConfigFile) or not action.option_strings or action.nargs == 0:
            return text
        if action.required:
            return f"{text} Required."
        return text if action.default in (None, SUPPRESS) else f"{text} (default: %(default)s)"

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        """Return the choices where there are some, such as {game,dream}; else the name of the setting."""
        hint = getattr(action, "_typehint", None)
        types = (hint, *get_args(hint))
        choices = [str(choice) for kind in types if get_origin(kind) is Literal for choice in get_args(kind)]
        return f"{{{','.join(choices)}}}" if choices else super()._get_default_metavar_for_optional(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line.strip() if line[:2] != "  " else indent + line for line in text.splitlines())


class Parser(ArgumentParser):
    """A parser that answers bad input with one line and exit code 2."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, formatter_class=_Formatter, allow_abbrev=False, **options)
        self.hidden: frozenset[str] = frozenset()
        """Names of settings that the help leaves out."""
        self.settings: tuple[str, ...] = ()
        """Names of the settings and sections of `RunConfig` that the command has."""
        self.parts: dict[str, Parser] = {}
        """Parsers of the commands by name: the main parser reports errors in the arguments of a command."""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Return the help without the hidden settings."""
        helps = {action: action.help for action in self._actions if action.dest in self.hidden}
        try:
            for action in helps:
                action.help = SUPPRESS
            return super().format_help(formatter)
        finally:
            for action, text in helps.items():
                action.help = text

    def _apply_actions(self, cfg: Any, parent_key: str = "", *arguments: Any, **options: Any) -> Namespace:
        """Assign values to settings; those of a file of one section, such as ``--dream FILE``, get their current names."""
        if parent_key and isinstance(cfg, dict) and "__path__" in cfg:
            converted = migration.run_config({parent_key: cfg})
            cfg = converted.pop(parent_key)
            if moved := [f"{section}.{name}" for section, content in converted.items() for name in content]:
                raise ValueError(f"{parent_key} has no {moved[0].rpartition('.')[2]}: it is {moved[0]} now")
        return super()._apply_actions(cfg, parent_key, *arguments, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error without the usage, and exit with code 2."""
        words, prog = plain(_unknown_key(ex) or message), self.prog.replace(" [options]", "")
        if missing := re.match(r"the following arguments are required: (.*?)\.?(\w+)$", words):
            command = missing[1].replace(".", " ")
            prog = f"{prog} {command}".strip()
            words = self.parts.get(command, self).missing_argument(missing[2])
        elif seed := re.search(r"--(\S*seed): expected a whole number", words):
            maximum = "2**24 - episodes" if seed[1] == "eval.seed" else "2**63 - 1"
            words = words.replace("a whole number", f"a whole number from 0 to {maximum}", 1)
        elif unknown := re.match(r"unrecognized arguments: (-\S*?)(=|\s|$)", words):
            words += did_you_mean(unknown[1], self._option_string_actions)
        elif unknown := re.match(r"there is no setting (\S+)", words):
            options = {option for part in self.parts.values() for option in part._option_string_actions}
            words += did_you_mean(unknown[1], {option[2:] for option in options if option.startswith("--")})
        elif unknown := re.match(r"there is no command '(.*?)' \((.*)\)", words):
            words += did_you_mean(unknown[1], re.findall(r"\w+", unknown[2]))
        elif unknown := re.search(r"expected one of (.*?)(?: or null)?, got (\S+)$", words):
            words += did_you_mean(unknown[2], re.findall(r"'(.*?)'", unknown[1]))
        words = words if len(words) <= LONGEST else f"{words[:LONGEST]} ..."
        console.print(f"{prog}: {words} (see --help)", style="red", markup=False)
        sys.exit(2)

    def missing_argument(self, name: str) -> str:
        """Return the message about a missing argument: its name and its help."""
        for action in self._actions:
            if action.dest == name:
                shown = action.option_strings[0] if action.option_strings else str(action.metavar or name.upper())
                about = re.sub(r"(?<!\.)\.$", "", " ".join((action.help or "").split()))  # "..." stays
                return f"{shown} is missing" + (f": {about}" if about else "")
        return f"{name} is missing"
