"""What several commands share: a folder to work on, settings from options, the game of a run, presets."""

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from jsonargparse import Namespace

from agents.config.io import flat
from agents.config.schema import OFFICIAL, Preset
from agents.config.validate import validate
from agents.parser import Parser
from agents.progress import busy

ENV_ALIASES = {"car-racing": "CarRacing", "mario": "SuperMarioBros-1-1"}
"""Names of environments that have presets of their own; any other environment id uses the general ones."""
PRESETS = Path(__file__).parent.parent / "presets"
_ONCE = " (the first time its emulator is compiled: about 10 s)"
WHERE = "(default: where the run's controller was evolved: in the game if there, else in dreams; game if there is none)"
"""The default of --where, the same in every command."""


class Command(NamedTuple):
    """A subcommand."""

    build: Callable[[Parser], None]
    """Says what it takes; its docstring is the help."""
    run: Callable[[Namespace], int | None]
    """Does it; a thin layer over the public API. Returns an exit code, where that is not 0."""


@dataclass(frozen=True)
class Common:
    """Where and how.

    Args:
        seed: of everything.
        workers: processes that play the game.
        backend: where they are: "loky" (this machine), "ray" (a Ray cluster) or "ray://HOST:PORT".
    """

    seed: int = 1
    workers: int = 2
    backend: str = "loky"


def add_run(parser: Parser, agents: bool = False) -> None:
    """The folder that a command works on; some take an agent's folder or the name of a pretrained agent, too."""
    if agents:
        parser.add_argument("run", type=str, help="a run folder, an agent's folder, or a name with --pretrained")
        parser.add_argument(
            "--pretrained",
            action="store_true",
            help="RUN names an agent that comes with the package; what is written goes to runs/NAME-pretrained",
        )
    else:
        parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument("--config", action="config", help="a YAML file with these settings")


def add_preset(parser: Parser) -> None:
    """The preset that a command of one stage takes its defaults from."""
    parser.add_argument(
        "--preset",
        type=Preset | None,
        default=None,
        help="take the defaults of `worldmodel run` with this preset and environment: quick, standard or paper",
    )


def preset_words(options: Namespace) -> list[str]:
    """What a printed command of the next stage takes its sizes from: the preset that was given, or the one of minutes."""
    return ["--preset", options.preset or "quick"]


def add_where(parser: Parser, what: str) -> None:
    """Which of a run's controllers a command is about."""
    parser.add_argument("--where", type=Literal["game", "dream"] | None, default=None, help=f"{what} {WHERE}")


def slug(env: str) -> str:
    """An environment's id as part of a file's name."""
    return re.sub(r"[/:]", "-", env)


def settings_of(kind: type, options: Namespace, prefix: str = "") -> Any:
    """Build a settings dataclass from parsed options, and check it."""
    built = kind(**{name: options[name] for name in kind.__dataclass_fields__})  # type: ignore[attr-defined]
    validate(built, prefix)
    return built


def validate_env(env: str, env_options: dict[str, Any]) -> None:
    """Make the environment once, so that a wrong id or option is told before anything starts.

    Raises:
        ValueError: names what is wrong.
    """
    import envs
    from worldmodel.validation import validate_options

    validate_options(env_options=env_options)
    if "id" in env_options:
        raise ValueError(f"env_options cannot have an id: the environment is {env}")
    try:
        with busy(f"starting {env}{_ONCE if env.startswith('SuperMarioBros') else ''}"):
            game = envs.make(env, **env_options)
    except ValueError as error:
        if not (close := difflib.get_close_matches(env, ENV_ALIASES, n=1, cutoff=0.75)):
            raise
        raise ValueError(f"{error} Or {close[0]!r}, which has presets of its own?") from None
    game.close()


def game_of(run: Any, env: str | None, official: bool = False) -> tuple[str, dict[str, Any]]:
    """The environment that a run's rollouts come from (or its official one), or the one asked for; the same options."""
    store = run.store()
    options = dict(store.metadata.get("env_options") or {})
    kept = game_asked(env, store.env, run.folder)
    return OFFICIAL.get(kept, kept) if official and not env else kept, options


def game_asked(env: str | None, kept: str, folder: Path) -> str:
    """The environment that was typed, or else the one that a folder's files name.

    Raises:
        ValueError: making that one would import a module: files of somebody else's must not choose what is run.
    """
    from envs.registration import imported_module

    if env:
        return ENV_ALIASES.get(env, env)
    if module := imported_module(kept):
        raise ValueError(
            f"{folder} names the environment {kept!r}, which imports {module}: if you trust it, add --env {kept}"
        )
    return kept


def env_words(run: Any) -> list[str]:
    """What a printed command about a run's game needs behind it: its environment, where that imports a module."""
    from envs.registration import imported_module

    env = run.store().env
    return ["--env", env] if imported_module(env) else []


def scan_argv(words: list[str], options: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """What defaults depend on, before anything is parsed: the positional words, and ``options`` with the values given.

    Every option but `FLAGS` takes a value.
    """
    positional, found, rest = list[str](), dict(options), iter(words)
    for word in rest:
        if not word.startswith("-"):
            positional.append(word)
            continue
        option, equals, value = word.partition("=")
        if not equals and option not in FLAGS:
            value = next(rest, "")
        if option in found:
            found[option] = value
    return positional, found


FLAGS = ("--help", "-h", "--pretrained")
"""Options without a value."""


def set_preset(parser: Parser, path: Path) -> None:
    """Make the values of a preset, if there is such a one, the defaults."""
    if path.exists():
        parser.set_defaults(flat(yaml.safe_load(path.read_text(encoding="utf-8"))))


def preset_of(env: str, preset: str) -> dict[str, Any]:
    """The values of a preset: that of the environment, or else the general one; none where there is no such preset."""
    games = {name: name for name in ENV_ALIASES} | {env: name for name, env in ENV_ALIASES.items()}
    game = games.get(OFFICIAL.get(env, env), "any")
    path = PRESETS / f"{game}.{preset}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}


def env_of(words: list[str]) -> str:
    """The environment that a command is about, as far as it is known without reading rollouts: of a run folder, or a name."""
    path = Path(words[0] if words else "") / "rollouts" / "metadata.json"
    try:
        return str(json.loads(path.read_bytes())["env"])
    except (OSError, ValueError, LookupError, TypeError):  # what is wrong with it is said when it is opened
        return words[0] if words else ""


def staged(*sections: str, nested: bool = False) -> Callable[[Parser, list[str]], None]:
    """Sets the defaults of a command about a run folder to a preset's ``sections``, if --preset names one.

    ``nested``: whether the command's options have the sections' names before them.
    """

    def preset(parser: Parser, words: list[str]) -> None:
        positional, found = scan_argv(words, {"--preset": ""})
        values = preset_of(env_of(positional), found["--preset"])
        chosen = {name: values[name] for name in sections if name in values}
        if chosen:
            parser.set_defaults(flat(chosen if nested else dict(*chosen.values())))

    return preset
