"""The command ``worldmodel``: parse the arguments, run a command, and report errors as one line and an exit code.

Start reading at `main`; `agents.cli.commands` has the commands.
"""

import inspect
import io
import os
import signal
import sys
import warnings
from importlib import import_module, metadata
from typing import Any

from jsonargparse import set_parsing_settings

from worldmodel.agents.cli.commands import COMMANDS
from worldmodel.agents.cli.commands.common import device_of
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import busy, console
from worldmodel.agents.shell import command as command_line
from worldmodel.training.signals import graceful_interrupt

GROUPS = {
    "train": ("Train the VAE, the memory or a controller.", "Train a part of a run on stored episodes."),
    "density": (
        "Fit, evaluate and sample densities of speech and images.",
        "The FRMDN and baselines as densities of raw speech and of images read row by row.",
    ),
}
"""Commands of two words: the help line and the description of the first word."""
EPILOG = """Examples:
  worldmodel run car-racing --preset quick            all stages, in minutes
  worldmodel collect CarRacing --out runs/mine        or one stage at a time, in one run folder
  worldmodel train vae runs/mine
  worldmodel train memory runs/mine
  worldmodel dream runs/mine
  worldmodel evolve runs/mine --where dream           in dreams; --where game: in the real environment
  worldmodel evaluate runs/mine
Densities of speech and images need no environment: worldmodel density fit --help
The same command with the same folder continues a stopped run. Every command has --help."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words of the command line without the program's name. None: those of this process, which then ends.

    Returns:
        The exit code: 0, 1 if a check failed, 2 for bad input, 130 after Ctrl-C.
    """
    words = sys.argv[1:] if arguments is None else arguments
    words = [part for word in words for part in (word.split("=") if word == "--help=all" else [word])]
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character that the terminal cannot show must not raise
        sys.stdout.reconfigure(errors="replace")
    warnings.filterwarnings("ignore", category=UserWarning, module="pygame")
    try:
        with graceful_interrupt(for_good=arguments is None):
            try:
                return _run(*_parsed(words))
            finally:
                # only commands with workers import them: the import is slow
                if workers := sys.modules.get("worldmodel.rollouts.executors.workers"):
                    (workers.shutdown_workers if arguments is None else workers.close_all_envs)()
    except KeyboardInterrupt:
        if arguments is None:  # a second Ctrl-C must not interrupt the exit
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if console.is_terminal:
            console.print()  # ends the line of the ^C
        resumes = any(command.resumes and " ".join(words).startswith(name) for name, command in COMMANDS.items())
        again = f"; the same command continues: {command_line('worldmodel', *words)}" if resumes else ""
        console.print(f"Stopped{again}", markup=False)
        return 130


def _parsed(words: list[str]) -> tuple[str, Any]:
    """Parse a command line; returns the command's name and its options."""
    try:
        parser = build_parser(words)
    except ValueError as error:  # a preset of another environment
        Parser(prog="worldmodel").error(str(error))
    try:
        _validate_files(words)
        parsed = parser.parse_args(words)
    except (ValueError, OSError) as error:  # a file that is not text
        parser.error(str(error))
    name = parsed.command
    options = parsed[name]
    if name in GROUPS:
        name = f"{name} {options.command}"
        options = options[options.command]
    return name, options


def _run(name: str, options: Any) -> int:
    """Run a command and return its exit code; print an error as one line."""
    try:
        if name != "doctor":  # doctor reports a missing torch itself
            with busy("loading torch"):
                import_module("torch")
        with device_of(options):
            return COMMANDS[name].run(options) or 0
    except (ValueError, ImportError) as error:
        return _failed(f"worldmodel {name}: {error}")
    except OSError as error:
        return _failed(f"worldmodel {name}: {error.strerror or error}: {error.filename or ''}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(part in str(error) for part in ("allocate memory", "out of memory")):
            first = (str(error).strip().splitlines() or ["the system has none left"])[0]
            return _failed(f"worldmodel {name}: not enough memory: {first}")
        from worldmodel.rollouts import WorkerDied

        if not isinstance(error, WorkerDied):
            raise
        return _failed(f"worldmodel {name}: {error}", code=1)


def _failed(line: str, code: int = 2) -> int:
    console.print(line, style="red", markup=False)
    return code


def _validate_files(words: list[str]) -> None:
    """Check that files of settings are mappings of plain values; the parser's own errors do not name the file.

    Raises:
        ValueError: A file is something else; the message names it.
    """
    for word, following in zip(words, [*words, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        value = value if equals else following
        is_settings = option == "--config" or (option.startswith("--") and value.endswith((".yaml", ".yml")))
        if is_settings and os.path.isfile(os.path.expanduser(value)):  # noqa: PTH111, PTH113 - Path refuses some text
            read_yaml(value)


def build_parser(words: list[str]) -> Parser:
    """Build the parser; ``words`` may have ``--preset``, which sets defaults."""
    set_parsing_settings(add_print_completion_argument=True)
    parser = Parser(
        prog="worldmodel",
        description="World models: collect rollouts, train a VAE and a memory, evolve controllers in dreams.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"worldmodel {metadata.version('worldmodel')}")
    commands = parser.add_subcommands(dest="command", required=True)
    groups: dict[str, Any] = {}
    firsts = [name.split()[:1] for name in COMMANDS]
    for name, command in COMMANDS.items():
        description = inspect.getdoc(command.build) or ""
        sub, name_words = Parser(description=description), name.split()
        if words[:1] not in firsts or words[:1] == name_words[:1]:  # saves the time of building other commands' options
            command.build(sub)
        if words[: len(name_words)] == name_words:
            command.preset(sub, words[len(name_words) :])
        parser.parts[name] = sub
        help_line = description.splitlines()[0]
        group, space, part = name.partition(" ")
        if space:
            if group not in groups:
                group_parser = Parser(description=GROUPS[group][1])
                commands.add_subcommand(group, group_parser, help=GROUPS[group][0])
                groups[group] = group_parser.add_subcommands(dest="command", required=True)
            groups[group].add_subcommand(part, sub, help=help_line)
        else:
            commands.add_subcommand(name, sub, help=help_line)
    return parser


if __name__ == "__main__":
    sys.exit(main())
