"""From an id to an environment that shows 64x64 frames and takes actions in [-1, 1] or a choice."""

import difflib
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium

from envs.env_checker import describe_error

MARIO_ID = re.compile(r"SuperMarioBros-([1-8])-([1-4])")
REGISTERED_BY = {r"ALE/|\w+NoFrameskip-v\d": "ale_py", "Vizdoom": "vizdoom.gymnasium_wrapper"}
"""Patterns of ids, and the module whose import registers them."""
MAX_ACTION_REPEAT = 1000
"""Frames of one step: with more, an episode of any game here is a step."""


def make(id: str, *, action_repeat: int | None = None, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make an environment with observations uint8 (64, 64, 3), and Box actions in [-1, 1] or Discrete ones.

    Args:
        id: "CarRacing", "FastCarRacing" (the same game drawn quickly), "SuperMarioBros-1-1" (every world and stage), or any
            Gymnasium id whose observation is an image or that renders ``rgb_array``. "MODULE:ID" imports a module first,
            also one of the working directory; those of Atari ("ALE/...") and VizDoom are found without.
        action_repeat: frames of the game for each step; rewards add up. None: 4 for Super Mario Bros, 1 elsewhere.
        options: more arguments of the environment (Super Mario Bros: ``action_set``, ``noop_max``, ``sticky_action_prob``).

    Raises:
        ValueError: there is no such id (the nearest are named), it shows no pixels, or its actions are neither Box nor
            Discrete; an option is unknown.
    """
    if action_repeat is not None and (type(action_repeat) is not int or not 1 <= action_repeat <= MAX_ACTION_REPEAT):
        raise ValueError(f"action_repeat must be a whole number from 1 to {MAX_ACTION_REPEAT}, got {action_repeat!r}")
    if id in ("CarRacing", "CarRacing-v3", "FastCarRacing"):
        from envs.car_racing import make_car_racing

        if "fast" in options:
            raise ValueError("CarRacing cannot be made with fast: FastCarRacing is an id of its own")
        return make_car_racing(action_repeat or 1, fast=id == "FastCarRacing", **options)
    if stage := MARIO_ID.fullmatch(id):
        from envs.mario import make_mario

        return make_mario(int(stage[1]), int(stage[2]), frames_per_step(id, action_repeat), **options)
    _ensure_registered(id)
    from envs.pixels import make_pixel_env

    return make_pixel_env(id, action_repeat or 1, **options)


def frames_per_step(id: str, action_repeat: int | None = None) -> int:
    """Frames of the game in a step of `make`'s environment."""
    return action_repeat or (4 if MARIO_ID.fullmatch(id) else 1)


def imported_module(id: str) -> str | None:
    """The module that making an id imports first: ``my_package`` of ``my_package:MyGame-v0``; None: none but ours."""
    module, colon, _ = id.partition(":")
    return module if colon and module != "envs" else None


def _ensure_registered(id: str) -> None:
    """Import what registers an environment: the module that its id names, or a known package.

    Raises:
        ValueError: there is no such module, or no such environment.
    """
    module = imported_module(id)
    if module is None:
        family = next((family for family in REGISTERED_BY if re.match(family, id)), None)
        if _is_registered(id) or id.startswith("envs:"):
            return
        if family is None:
            package = "; if a package of yours registers it, name the package, too: PACKAGE:" + id
            raise ValueError(f"there is no environment {id!r}{_suggest(id) or package}")
        module = REGISTERED_BY[family]
    try:
        _import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise ValueError(f"{id}: importing {module} fails: {error}") from error
        cure = f"there is no module {module!r}, neither installed nor in {Path.cwd()}"
        if module in REGISTERED_BY.values():
            cure = f"it needs {module.partition('.')[0]}: pip install 'worldmodel[games]'"
        raise ValueError(f"{id}: {cure}") from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{id}: importing {module} fails: {describe_error(error)}") from error
    name = id.rpartition(":")[2]
    if not _is_registered(name):
        raise ValueError(f"{module} registers no environment {name!r}{_suggest(name)}")


def _import_module(module: str) -> None:
    """Import a module, also from the working directory, where programs that are installed do not look."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.import_module(module)


def _is_registered(id: str) -> bool:
    try:
        gymnasium.spec(id)
    except gymnasium.error.Error:
        return False
    return True


def _suggest(id: str) -> str:
    """Two ids that look like ``id``."""
    stages = [f"SuperMarioBros-{world}-{stage}" for world in range(1, 9) for stage in range(1, 5)]
    known = [
        "CarRacing",
        "FastCarRacing",
        *stages,
        *(name for name in gymnasium.registry if name != "SuperMarioBros-v0"),
    ]
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(id.lower(), lower, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(lower[name]) for name in close)}?" if close else ""
