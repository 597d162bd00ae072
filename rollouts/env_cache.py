"""Environments are opened here, kept between tasks, and closed.

Start reading at `open_env`. Worker processes live on between calls and keep their environments (`worker_env`): making new
ones for every task leaks memory in some games. `close_envs` closes those of this process, at the latest where it ends.
"""

import atexit
import contextlib
import importlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
from gymnasium.envs import registration
from loky.backend.reduction import dumps

import envs
from envs.env_checker import describe_error
from envs.pixels import to_pixels

MAX_CACHED_KINDS = 2
"""A process keeps the environments of this many (id, options)."""


class Registered(NamedTuple):
    """An id of Gymnasium's registry with its entry: a worker registers it, too."""

    id: str
    spec: registration.EnvSpec


EnvSpec = str | Callable[[], gymnasium.Env[Any, Any]]
"""What names an environment: an id for `envs.make`, or a picklable function that makes one."""
PortableEnv = EnvSpec | Registered
"""The same, as tasks carry it."""


def make_portable(env: EnvSpec) -> PortableEnv:
    """What opens the environment in a worker as well: an id that this process registered takes its entry along.

    Raises:
        ValueError: it names no environment.
    """
    if not isinstance(env, str) and not callable(env):
        cure = ": pass the function that makes it, so that workers make their own" if _is_env(env) else ""
        raise ValueError(f"env must be an id or a function that makes an environment, got {env}{cure}")
    sent: PortableEnv = env
    if isinstance(env, str) and (spec := gymnasium.registry.get(env)) is not None:
        if isinstance(spec.entry_point, str) and spec.entry_point.startswith("__main__:"):
            creator: Any = registration.load_env_creator(spec.entry_point)  # a worker's program is another one
            spec = registration.EnvSpec(**{**_arguments(spec), "entry_point": creator})
        sent = Registered(env, spec)
    return sent


def _arguments(spec: registration.EnvSpec) -> dict[str, Any]:
    """What makes the same entry of the registry again."""
    return {name: getattr(spec, name) for name, field in spec.__dataclass_fields__.items() if field.init}


def _is_env(env: Any) -> bool:
    return isinstance(env, gymnasium.Env)


def env_key(env: PortableEnv, options: dict[str, Any]) -> tuple[bytes, str]:
    """Tells environments apart: the same id and entry, or the same function, with the same options."""
    try:
        name = env.encode() if isinstance(env, str) else bytes(dumps(env))
    except Exception:  # it cannot be sent, and so stays the same object
        name = f"{id(env)}".encode()
    return name, json.dumps(options, sort_keys=True, default=str)


def open_env(env: PortableEnv, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make what an id or a function names, with our frames and actions; only an id takes options.

    Raises:
        ValueError: it cannot be made, or is none that we can play.
    """
    if isinstance(env, Registered):
        if isinstance(env.spec.entry_point, str):  # a module that registers its own does so before
            importlib.import_module(env.spec.entry_point.partition(":")[0])
        gymnasium.registry[env.id] = env.spec
    if isinstance(env, str | Registered):
        return envs.make(env if isinstance(env, str) else env.id, **options)
    try:
        game = env()
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{_name(env)} makes no environment: {describe_error(error)}") from error
    try:
        return to_pixels(game)
    except ValueError as error:
        if _is_env(game):
            _close([game])
        raise ValueError(f"{_name(env)}: {error}") from None


def probe_env(env: PortableEnv, options: dict[str, Any]) -> gymnasium.Space[Any]:
    """Open an environment, try a reset and a step, and close it; its actions.

    Raises:
        ValueError: one of these fails.
    """
    game = open_env(env, options)
    try:
        envs.action_kind(game.action_space)
        game.action_space.seed(0)
        game.reset(seed=0)
        game.step(game.action_space.sample())
        return game.action_space
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{_name(env)} fails in its first steps: {describe_error(error)}") from error
    finally:
        _close([game])


def _name(env: PortableEnv) -> str:
    if isinstance(env, str | Registered):
        return env if isinstance(env, str) else env.id
    return str(getattr(env, "__name__", "") or type(env).__name__)


_cached: dict[tuple[bytes, str], list[gymnasium.Env[Any, Any]]] = {}


def worker_env(env: PortableEnv, options: dict[str, Any], slot: int = 0) -> gymnasium.Env[Any, Any]:
    """This process's environment number ``slot`` of a kind, kept for the next task."""
    key = env_key(env, options)
    games = _cached.pop(key, [])
    _cached[key] = games  # the last key is the one used last
    while len(_cached) > MAX_CACHED_KINDS:
        _close(_cached.pop(next(iter(_cached))))
    while len(games) <= slot:
        games.append(open_env(env, options))
    return games[slot]


def close_envs() -> None:
    """Close the environments that this process keeps."""
    while _cached:
        _close(_cached.popitem()[1])


def _close(games: list[gymnasium.Env[Any, Any]]) -> None:
    for game in games:
        with contextlib.suppress(Exception):  # one that fails must not keep the next one open
            game.close()


atexit.register(close_envs)
