"""The command line's entrance: parse the words, run the command, and turn what went wrong into one line and an exit code."""

import io
import os
import signal
import sys
import warnings
from importlib import import_module, metadata
from typing import Any

from jsonargparse import set_parsing_settings

from agents.commands import COMMANDS, PRESETS
from agents.config.io import read_yaml
from agents.config.validate import validate_seeds
from agents.parser import Parser
from agents.progress import busy, console
from agents.shell import command as command_line
from agents.signals import graceful_interrupt

GROUPS = {
    "train": ("Train the VAE or the memory.", "Train a part of the world model on a run folder's rollouts."),
    "density": (
        "Learn, judge and sample densities of speech and images.",
        "The FRMDN and its rivals as densities of raw speech and of images read row by row.",
    ),
}
"""Commands of two words: what the first one stands for, in short and at length."""
EPILOG = """The story: collect, encode, remember, dream, evolve.
  worldmodel run car-racing --preset quick            all of it, in minutes
  worldmodel collect CarRacing --out runs/mine        or chapter by chapter, on one run folder
  worldmodel train vae runs/mine
  worldmodel train memory runs/mine
  worldmodel dream runs/mine
  worldmodel evolve runs/mine --where dream           in dreams; --where game: in the real game
  worldmodel evaluate runs/mine
A density of speech or images needs no game: worldmodel density fit --help
The same command with the same folder continues what was stopped. Every command has --help."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 1 where a check failed, 2 for bad input, 130 after Ctrl-C."""
    words = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # a sign that the terminal lacks is no reason to fail
        sys.stdout.reconfigure(errors="replace")
    warnings.filterwarnings("ignore", category=UserWarning, module="pygame")
    try:
        with graceful_interrupt(for_good=arguments is None):
            try:
                return _run(*_parsed(words))
            finally:
                if "rollouts.workers" in sys.modules:  # it is slow to import, and so only where the command did
                    workers = sys.modules["rollouts.workers"]
                    (workers.end_workers if arguments is None else workers.close_all_envs)()
    except KeyboardInterrupt:
        if arguments is None:  # nothing breaks into the end any more
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        again = command_line("worldmodel", *words)
        if console.is_terminal:
            console.print()  # behind the ^C
        console.print(f"Stopped. What was finished is kept; to go on: {again}", markup=False)
        return 130


def _parsed(words: list[str]) -> tuple[str, Any]:
    """The command that some words name, and its options."""
    parser = build_parser(words)
    try:
        _validate_files(words)
        parsed = parser.parse_args(words)
    except (ValueError, OSError) as error:  # of a file that is no text
        parser.error(str(error))
    name = parsed.command
    options = parsed[name]
    if name in GROUPS:
        name = f"{name} {options.command}"
        options = options[options.command]
    return name, options


def _run(name: str, options: Any) -> int:
    """Run a command, and say in one line what went wrong."""
    try:
        if name != "doctor":  # which says what is not there
            with busy("loading torch"):
                import_module("torch")
        validate_seeds(dict(options.items()), test=name == "evaluate")
        return COMMANDS[name].run(options) or 0
    except (ValueError, ImportError) as error:
        return _failed(f"worldmodel {name}: {error}")
    except OSError as error:
        return _failed(f"worldmodel {name}: {error.strerror or error}: {error.filename or ''}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(part in str(error) for part in ("allocate memory", "out of memory")):
            first = (str(error).strip().splitlines() or ["all of it is in use"])[0]
            return _failed(f"worldmodel {name}: not enough memory: {first}")
        from rollouts import WorkerDied

        if not isinstance(error, WorkerDied):
            raise
        return _failed(f"worldmodel {name}: {error}", code=1)


def _failed(line: str, code: int = 2) -> int:
    console.print(line, style="red", markup=False)
    return code


def _validate_files(words: list[str]) -> None:
    """Refuse files of settings that are no mappings of plain values, by name, before the parser takes them for more.

    Raises:
        ValueError: names the file.
    """
    for word, following in zip(words, [*words, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        value = value if equals else following
        asked = option == "--config" or (option.startswith("--") and value.endswith((".yaml", ".yml")))
        if asked and os.path.isfile(os.path.expanduser(value)):  # noqa: PTH111, PTH113 - any text
            read_yaml(value)


def build_parser(words: list[str]) -> Parser:
    """The parser; ``words`` are looked at for ``--preset``, which sets defaults."""
    set_parsing_settings(add_print_completion_argument=True)  # shells complete our words: `--print_completion`
    parser = Parser(
        prog="worldmodel", description="World models: collect, encode, remember, dream, evolve.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"worldmodel {metadata.version('worldmodel')}")
    commands = parser.add_subcommands(dest="command", required=True)
    groups: dict[str, Any] = {}
    firsts = [name.split()[:1] for name in COMMANDS]
    for name, command in COMMANDS.items():
        description = (command.build.__doc__ or "").strip()
        sub, called = Parser(description=description), name.split()
        if words[:1] not in firsts or words[:1] == called[:1]:  # options of other commands are never looked at
            command.build(sub)
        if name in PRESETS and words[: len(called)] == called:
            PRESETS[name](sub, words[len(called) :])
        parser.parts[name] = sub
        help_line = description.splitlines()[0]
        group, space, part = name.partition(" ")
        if space:
            if group not in groups:
                within = Parser(description=GROUPS[group][1])
                commands.add_subcommand(group, within, help=GROUPS[group][0])
                groups[group] = within.add_subcommands(dest="command", required=True)
            groups[group].add_subcommand(part, sub, help=help_line)
        else:
            commands.add_subcommand(name, sub, help=help_line)
    return parser


if __name__ == "__main__":
    sys.exit(main())
