"""Shared parts of the commands: arguments, settings from options, the environment of a run, presets."""

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from jsonargparse import Namespace

from worldmodel.agents.config.io import flat, nested, read_yaml
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.config.schema import OFFICIAL, RunConfig
from worldmodel.agents.config.sections import STAGE, build, read_sections
from worldmodel.agents.progress import busy, console
from worldmodel.io import migration
from worldmodel.io.paths import expand

Preset = Literal["quick", "standard", "paper"]
"""Presets of every environment and density."""
ENV_ALIASES = {"car-racing": "CarRacing", "mario": "SuperMarioBros-1-1", "doom-take-cover": "DoomTakeCover"}
"""Names of environments with presets of their own; other environment ids use the general presets."""
PRESETS = Path(__file__).parents[2] / "presets"
NAMES = (
    *get_args(Preset),
    *sorted({path.stem.partition(".")[2] for path in PRESETS.glob("*.yaml")} - {*get_args(Preset)}),
)
RunPreset = Literal[NAMES]  # type: ignore[valid-type]
"""All presets of runs; an environment can have presets of its own."""
_COMPILATION = " (the first start compiles the emulator: about 10 s)"
MAX_THREADS = 1_024
"""Maximum number of threads."""
BETTER = "None: the better one in the run's tests; without tests game, or dream if it is the only one."
"""The default of --where where it selects a controller."""


class Command(NamedTuple):
    """A subcommand."""

    build: Callable[[Parser], None]
    """Adds the arguments to a parser; its docstring is the description in the help."""
    run: Callable[[Namespace], int | None]
    """Runs the command by calls of the public API. Returns an exit code; None: 0."""
    preset: Callable[[Parser, list[str]], None] = lambda parser, words: None
    """Sets the defaults to those of a preset, from the words after the command's name."""
    resumes: bool = True
    """Whether the same command continues what was stopped."""


def add_settings(parser: Parser, *names: str) -> None:
    """Add settings and sections of `RunConfig` to a command; a preset sets their defaults (`set_preset`)."""
    parser.add_class_arguments(RunConfig, skip={*RunConfig.__dataclass_fields__} - {*names})
    parser.settings = names


def settings_of(options: Namespace, env: str) -> RunConfig:
    """Build the settings of a run from a command's options; those that the command lacks have their defaults.

    Raises:
        ValueError: A setting is out of range; the message names it, what was expected and what came.
    """
    return build({name: options[name] for name in RunConfig.__dataclass_fields__ if name in options} | {"env": env})


def add_run(parser: Parser, agents: bool = False) -> None:
    """Add the run folder as an argument; ``agents``: whether an agent is accepted, too."""
    if agents:
        parser.add_argument(
            "run", type=str, help="Path of a run folder or of an agent's folder; with --pretrained, an agent's name."
        )
        parser.add_argument(
            "--pretrained",
            action="store_true",
            help="RUN is the name of an agent of this package; output goes to runs/NAME-pretrained.",
        )
    else:
        parser.add_argument("run", type=str, help="Path of the run folder.")
    parser.add_argument("--config", action="config", help="Path of a YAML file with these settings.")


def add_preset(parser: Parser) -> None:
    """Add ``--preset`` to the command of one stage."""
    parser.add_argument(
        "--preset",
        type=Preset | None,
        default=None,
        help="Preset of `worldmodel run` that sets the defaults; presets with phases are only for `worldmodel run`.",
    )


def preset_words(options: Namespace) -> list[str]:
    """Return ``--preset`` for the printed command of the next stage: the preset that was given, else quick."""
    return ["--preset", options.preset or "quick"]


def add_device(parser: Parser) -> None:
    """Add ``--device`` and ``--threads``, which `device_of` reads, to a command that trains or samples."""
    parser.add_argument(
        "--device",
        type=str | None,
        default=None,
        help="Device of trainings: cpu, cuda, cuda:N, mps, or auto (CUDA if available). None: WORLDMODEL_DEVICE, else auto.",
    )
    parser.add_argument(
        "--threads",
        type=int | None,
        default=None,
        help="Number of torch's threads on the CPU. None: one for each core.",
    )


@contextmanager
def device_of(options: Namespace) -> Iterator[None]:
    """Print the device of a command that has ``--device``, and use it in this process and its workers while a block runs.

    Raises:
        ValueError: This machine does not have the device, or the number of threads is below 1.
    """
    if "device" not in options:
        yield
        return
    import torch

    from worldmodel.training.devices import VARIABLE, device_name, resolve_device
    from worldmodel.training.distributed import is_main_process
    from worldmodel.validation import validate_optional_positive_int

    validate_optional_positive_int(threads=options.threads)
    if (options.threads or 1) > MAX_THREADS:
        raise ValueError(f"threads must be at most {MAX_THREADS:,}, got {options.threads:,}")
    device, threads, before = resolve_device(options.device), torch.get_num_threads(), os.environ.get(VARIABLE)
    torch.set_num_threads(options.threads or threads)
    os.environ[VARIABLE] = options.device or before or "auto"
    if is_main_process():
        console.print(f"device: {device_name(device)}", markup=False)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        del os.environ[VARIABLE]
        os.environ.update({} if before is None else {VARIABLE: before})


def add_where(parser: Parser, what: str, *more: str) -> None:
    """Add ``--where``, which selects one of a run's controllers; ``what`` is its help."""
    names = Literal[("game", "dream", *more)]  # type: ignore[valid-type]
    parser.add_argument("--where", type=names | None, default=None, help=what)


def slug(env: str) -> str:
    """Return an environment's id in a form that a file name can hold."""
    return re.sub(r"[/:]", "-", env)


def validate_env(env: str, env_options: dict[str, Any]) -> None:
    """Make the environment once, to find a wrong id or option before a command starts.

    Raises:
        ValueError: The id or an option is wrong; the message names it.
    """
    from worldmodel import envs
    from worldmodel.validation import validate_options

    validate_options(env_options=env_options)
    if "id" in env_options:
        raise ValueError(f"env_options cannot have an id: the environment is {env}")
    try:
        with busy(f"starting {env}{_COMPILATION if env.startswith('SuperMarioBros') else ''}"):
            game = envs.make(env, **env_options)
    except ValueError as error:
        if not (close := difflib.get_close_matches(env, ENV_ALIASES, n=1, cutoff=0.75)):
            raise
        raise ValueError(f"{error} Or {close[0]!r}?") from None
    game.close()


def env_and_options(run: Any, env: str | None, official: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the environment of a command about a run, and the environment options of the run's rollouts.

    Args:
        run: The `Run`.
        env: The environment that was given. None: that of the run's rollouts.
        official: Whether to use the official version of the rollouts' environment.
    """
    store = run.store()
    options = dict(store.metadata.get("env_options") or {})
    kept = game_asked(env, store.env, run.folder)
    return OFFICIAL.get(kept, kept) if official and not env else kept, options


def game_asked(env: str | None, kept: str, folder: Path) -> str:
    """Return the environment that was given, else the one named in a folder's files.

    Raises:
        ValueError: The files name no environment, or making it would import a module: an untrusted folder must not choose
            which code runs.
    """
    from worldmodel.envs.registration import UNKNOWN_ENV, imported_module

    if env:
        return ENV_ALIASES.get(env, env)
    if kept == UNKNOWN_ENV:
        raise ValueError(f"{folder} has imported rollouts of {kept}: name it with --env ENV")
    if module := imported_module(kept):
        raise ValueError(
            f"{folder} names the environment {kept!r}, which imports {module}: if you trust it, add --env {kept}"
        )
    return kept


def env_words(run: Any) -> list[str]:
    """Return ``--env ENV`` for a printed command, if the run's environment is unknown or imports a module; else no words."""
    from worldmodel.envs import registration

    return registration.env_words(run.store().env)


def scan_argv(parser: Parser, words: list[str], options: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Scan a command line before it is parsed, for the words that defaults depend on.

    Returns:
        The positional words, and ``options`` with the values that were given on the command line or else in the file
        after ``--config``.

    Example:
        >>> scan_argv(Parser(), ["runs/mine", "--preset", "quick"], {"--preset": ""})
        (['runs/mine'], {'--preset': 'quick'})
    """
    positional, found, rest, config = list[str](), dict(options), iter(words), ""
    flags = {"--print_config"} | {name for one in parser._actions if one.nargs == 0 for name in one.option_strings}
    for word in rest:
        if not word.startswith("-"):
            positional.append(word)
            continue
        option, equals, value = word.partition("=")
        if not equals and option not in flags:
            value = next(rest, "")
        if option in found:
            found[option] = value
        config = value if option == "--config" else config
    if config:
        with suppress(ValueError):  # the parser reports it
            from_file = flat(read_yaml(config))
            found |= {
                option: str(from_file[option[2:]])
                for option, default in options.items()
                if found[option] == default and from_file.get(option[2:]) is not None
            }
    return positional, found


def preset_of(env: str, preset: str) -> dict[str, Any]:
    """Return the values of a preset: that of the environment, else the general one; empty for no preset and an unknown name.

    Raises:
        ValueError: Only other environments have this preset.
    """
    aliases = {name: name for name in ENV_ALIASES} | {env: name for name, env in ENV_ALIASES.items()}
    alias = aliases.get(OFFICIAL.get(env, env), "any")
    if preset in NAMES and not (PRESETS / f"{alias}.{preset}.yaml").exists():
        present = ", ".join(name for name in NAMES if (PRESETS / f"{alias}.{name}.yaml").exists())
        raise ValueError(f"--preset of {env} must be one of {present}, got {preset}")
    return read_yaml(PRESETS / f"{alias}.{preset}.yaml") if preset in NAMES else {}


def env_of(words: list[str]) -> str:
    """Return the environment of a command from its positional words: that of a run folder's rollouts, else the first word."""
    path = Path(words[0] if words else "") / "rollouts" / "metadata.json"
    try:
        return str(json.loads(path.read_bytes())["env"])
    except (OSError, ValueError, LookupError, TypeError):  # opening the store later reports what is wrong
        return words[0] if words else ""


def set_preset(parser: Parser, words: list[str]) -> None:
    """Set the defaults of a command's settings to those of ``--preset``.

    Args:
        parser: Parser of the command.
        words: Words after the command's name.
    """
    positional, found = scan_argv(parser, words, {"--preset": parser.get_defaults().get("preset") or ""})
    known = NAMES if "phases" in parser.settings else get_args(Preset)
    values = preset_of(env_of(positional), found["--preset"]) if found["--preset"] in known else {}
    given = {word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--")}
    if "phases" in values:  # a setting on the command line is that of all phases
        changes = [{name: value for name, value in flat(one).items() if name not in given} for one in values["phases"]]
        values |= {"phases": [nested(one) for one in changes]}
    parser.set_defaults(flat({name: values[name] for name in parser.settings if name in values}))


def trained(section: str) -> Callable[[Parser, list[str]], None]:
    """Return a function that sets a training command's defaults to the settings of the training in the run folder.

    So the command continues it. With ``--preset``, or without a training, the defaults are those of the preset.

    Args:
        section: Name of the section, which is that of the training's folder.
    """

    def defaults(parser: Parser, words: list[str]) -> None:
        positional, found = scan_argv(parser, words, {"--preset": ""})
        run, names = expand(positional[0] if positional else ""), (section, "training")
        if found["--preset"] or not (run / section / "resume.pt").exists():
            set_preset(parser, words)
            return
        from worldmodel.io.files import read_json  # imports torch, which is slow

        sections: dict[str, Any] = {}
        try:
            if (path := run / section / STAGE).exists():
                sections = read_sections(names, path)
            elif (path := run / "config.yaml").exists():  # of `worldmodel run` of an older version
                settings = build(migration.run_config(read_yaml(path)))
                sections = {name: getattr(settings, name) for name in names}
            training = migration.training_settings(read_json(run / section / "settings.json"))
            values = {"seed": training["seed"], f"{section}.num_updates": training["num_updates"]}
        except (ValueError, LookupError, TypeError) as error:
            parser.error(f"{run}: {error}")
        parser.set_defaults(flat({name: asdict(one) for name, one in sections.items()}) | values)

    return defaults
