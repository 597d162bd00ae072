"""Open environments, keep them between tasks, and close them.

Start reading at `open_env`. Worker processes stay alive between calls and keep their environments (`worker_env`), because
some games leak memory with each new environment. `close_envs` closes those of this process, at the latest at its exit.
"""

import atexit
import contextlib
import importlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs import registration
from loky.backend.reduction import dumps

from worldmodel import envs
from worldmodel.envs.adapters import View, adapt
from worldmodel.envs.env_checker import describe_error

MAX_CACHED_KINDS = 2
"""Number of (id, options) pairs whose environments a process keeps."""


class Registered(NamedTuple):
    """An id of Gymnasium's registry with its entry, which a worker registers, too."""

    id: str
    spec: registration.EnvSpec


EnvSpec = str | Callable[[], gymnasium.Env[Any, Any]]
"""An environment: an id for `envs.make`, or a picklable function that makes one."""
PortableEnv = EnvSpec | Registered
"""An `EnvSpec` in the form that tasks carry."""


def make_portable(env: EnvSpec) -> PortableEnv:
    """Make an environment specification that a worker can open; an id of this process's registry carries its entry.

    Raises:
        ValueError: ``env`` is neither an id nor a function.
    """
    if not isinstance(env, str) and not callable(env):
        hint = ": pass the function that makes it, so that workers make their own" if _is_env(env) else ""
        raise ValueError(f"env must be an id or a function that makes an environment, got {env}{hint}")
    portable: PortableEnv = env
    if isinstance(env, str) and (spec := gymnasium.registry.get(env)) is not None:
        if isinstance(spec.entry_point, str) and spec.entry_point.startswith("__main__:"):
            creator: Any = registration.load_env_creator(spec.entry_point)  # a worker has another __main__ module
            spec = registration.EnvSpec(**{**_arguments(spec), "entry_point": creator})
        portable = Registered(env, spec)
    return portable


def _arguments(spec: registration.EnvSpec) -> dict[str, Any]:
    """Return the arguments that make the same registry entry."""
    return {name: getattr(spec, name) for name, field in spec.__dataclass_fields__.items() if field.init}


def _is_env(env: Any) -> bool:
    return isinstance(env, gymnasium.Env)


def env_key(env: PortableEnv, options: dict[str, Any]) -> tuple[bytes, str]:
    """Return a key that identifies an environment: its id and entry, or its function, and its options."""
    try:
        name = env.encode() if isinstance(env, str) else bytes(dumps(env))
    except Exception:  # not picklable, so it never leaves this process and its id is unique
        name = f"{id(env)}".encode()
    return name, json.dumps(options, sort_keys=True, default=str)


def open_env(env: PortableEnv, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make an environment with the package's observations and actions; a function takes the options of `View`.

    Raises:
        ValueError: The environment cannot be made, or its observations or actions are not supported.
    """
    if isinstance(env, Registered):
        if isinstance(env.spec.entry_point, str):  # the module may register the id itself, so import it first
            with contextlib.suppress(Exception, SystemExit):  # making the environment imports it again, and reports why
                importlib.import_module(env.spec.entry_point.partition(":")[0])
        gymnasium.registry[env.id] = env.spec
    if isinstance(env, str | Registered):
        return envs.make(env if isinstance(env, str) else env.id, **options)
    try:
        environment = env()
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{_name(env)} fails to make an environment: {describe_error(error)}") from error
    try:
        return adapt(environment, view=View.of(options))
    except ValueError as error:
        if _is_env(environment):
            _close([environment])
        raise ValueError(f"{_name(env)}: {error}") from None


def probe_env(env: PortableEnv, options: dict[str, Any]) -> tuple[gymnasium.Space[Any], tuple[int, ...]]:
    """Open an environment, take a reset and a step, and close it.

    Returns:
        Its action space, and the shape of its observations.

    Raises:
        ValueError: One of these fails.
    """
    environment = open_env(env, options)
    try:
        envs.action_kind(environment.action_space)
        environment.action_space.seed(0)
        environment.reset(seed=0)
        observation = environment.step(environment.action_space.sample())[0]
        return environment.action_space, np.shape(observation)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{_name(env)} fails in its first steps: {describe_error(error)}") from error
    finally:
        _close([environment])


def _name(env: PortableEnv) -> str:
    if isinstance(env, str | Registered):
        return env if isinstance(env, str) else env.id
    return str(getattr(env, "__name__", "") or type(env).__name__)


_cached: dict[tuple[bytes, str], list[gymnasium.Env[Any, Any]]] = {}


def worker_env(env: PortableEnv, options: dict[str, Any], slot: int = 0) -> gymnasium.Env[Any, Any]:
    """Return this process's environment with index ``slot`` of a kind; it is kept for later tasks."""
    key = env_key(env, options)
    environments = _cached.pop(key, [])
    _cached[key] = environments  # reinserted: the last key is the most recently used one
    while len(_cached) > MAX_CACHED_KINDS:
        _close(_cached.pop(next(iter(_cached))))
    while len(environments) <= slot:
        environments.append(open_env(env, options))
    return environments[slot]


def close_envs() -> None:
    """Close the environments that this process keeps."""
    while _cached:
        _close(_cached.popitem()[1])


def _close(environments: list[gymnasium.Env[Any, Any]]) -> None:
    for environment in environments:
        with contextlib.suppress(Exception):  # close the remaining ones even if this one fails
            environment.close()


atexit.register(close_envs)
