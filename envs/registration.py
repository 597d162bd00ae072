"""Make an environment with 64x64 frames and actions in [-1, 1] or Discrete from its id.

Start reading at `make`.
"""

import difflib
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium

from worldmodel.envs.env_checker import describe_error

MARIO_ID = re.compile(r"SuperMarioBros-([1-8])-([1-4])")
REGISTERED_BY = {r"ALE/|\w+NoFrameskip-v\d": "ale_py", "Vizdoom": "vizdoom.gymnasium_wrapper"}
"""Patterns of ids, with the module whose import registers them."""
OWN_ID = re.compile(r"worldmodel\.envs:(worldmodel/(?:Dream-v0|FastCarRacing-v3|SuperMarioBros-v0|DoomTakeCover-v0))")
"""Ids of this package's environments, as Gymnasium takes them."""
OLDER_IDS = {"envs:FastCarRacing": "FastCarRacing"} | {
    f"{module}{name}": f"worldmodel/{name}"
    for module in ("", "envs:")
    for name in ("Dream-v0", "FastCarRacing-v3", "SuperMarioBros-v0")
}
"""Ids of this package's environments in older files, and their present form."""
CAR_RACING_IDS = ("CarRacing", "CarRacing-v3", "FastCarRacing")
UNKNOWN_ENV = "an unknown environment"
"""The environment of a store of imported episodes for which none was named."""
MAX_ACTION_REPEAT = 1000
"""Maximum number of game frames per step; above it, a whole episode of the supported games is one step."""


def make(
    id: str,
    *,
    action_repeat: int | None = None,
    observation: str = "pixels",
    image_key: str | None = None,
    frame_stack: int = 1,
    frame_size: int = 64,
    **options: Any,
) -> gymnasium.Env[Any, Any]:
    """Make an environment with standard observations, and Box actions in [-1, 1] or Discrete ones.

    Observations are frames, uint8 (frame_size, frame_size, 3 frame_stack), or vectors, float32 (n,).

    Args:
        id: "CarRacing", "FastCarRacing" (the same game with a faster renderer), "SuperMarioBros-1-1" (or another world and
            stage), "DoomTakeCover", or any Gymnasium id with image observations or ``rgb_array`` rendering. "MODULE:ID" first
            imports a module, which may be in the working directory. Ids of Atari ("ALE/...") and VizDoom need no module.
        action_repeat: Number of game frames per step; their rewards are summed. None: 4 for Super Mario Bros, else 1.
        observation: "pixels": the environment's image observations, or else what it renders. "vector": the numbers that it
            observes (CartPole: 4), flattened (`gymnasium.spaces.flatten`).
        image_key: Entry of a Dict observation with the images. None: the only one with images.
        frame_stack: Number of frames that an image observation holds.
        frame_size: Height and width of the frames in pixels: 64, 96 or 128.
        options: Further arguments of the environment (Super Mario Bros: ``action_set``, ``noop_max``,
            ``sticky_action_prob``; DoomTakeCover: ``crop``, ``continuous``).

    Raises:
        ValueError: The id is unknown (the message names the nearest ones), the environment shows no pixels, its action
            space is not supported, or an option is unknown.
    """
    if action_repeat is not None and (type(action_repeat) is not int or not 1 <= action_repeat <= MAX_ACTION_REPEAT):
        raise ValueError(f"action_repeat must be a whole number from 1 to {MAX_ACTION_REPEAT}, got {action_repeat!r}")
    id = _without_own_module(id)
    view = observation, image_key, frame_stack
    if view != ("pixels", None, 1) and (id in CAR_RACING_IDS or id == "DoomTakeCover" or MARIO_ID.fullmatch(id)):
        raise ValueError(f"{id} has only pixels of single frames, got observation, image_key and frame_stack = {view}")
    if id in CAR_RACING_IDS:
        from worldmodel.envs.car_racing.env import make_car_racing

        if "fast" in options:
            raise ValueError("CarRacing takes no option fast: use the id FastCarRacing")
        return make_car_racing(action_repeat or 1, fast=id == "FastCarRacing", frame_size=frame_size, **options)
    if stage := MARIO_ID.fullmatch(id):
        from worldmodel.envs.mario.env import make_mario

        return make_mario(int(stage[1]), int(stage[2]), frames_per_step(id, action_repeat), frame_size, **options)
    if id == "DoomTakeCover":
        from worldmodel.envs.doom import make_doom

        return make_doom(action_repeat or 1, frame_size=frame_size, **options)
    _ensure_registered(id)
    from worldmodel.envs.adapters import View, make_adapted

    return make_adapted(id, action_repeat or 1, View(*view, frame_size), **options)


def frames_per_step(id: str, action_repeat: int | None = None) -> int:
    """Return the number of game frames per step of `make`'s environment."""
    return action_repeat or (4 if MARIO_ID.fullmatch(id) else 1)


def imported_module(id: str) -> str | None:
    """Return the module that an id names, such as ``my_package`` of ``my_package:MyGame-v0``; None without one."""
    module, colon, _ = _without_own_module(id).partition(":")
    return module if colon else None


def env_words(env: str) -> list[str]:
    """Return the words with which a printed command names a store's environment, if it is unknown or imports a module."""
    return ["--env", "ENV" if env == UNKNOWN_ENV else env] if env == UNKNOWN_ENV or imported_module(env) else []


def _without_own_module(id: str) -> str:
    """Return the registered id of an environment of this package; the ids of others keep their module."""
    own = OWN_ID.fullmatch(id)
    return own[1] if own else OLDER_IDS.get(id, id)


def _ensure_registered(id: str) -> None:
    """Import the module that registers an environment: the one that the id names, or that of a known package.

    Raises:
        ValueError: The module or the environment does not exist.
    """
    module = imported_module(id)
    if module is None:
        family = next((family for family in REGISTERED_BY if re.match(family, id)), None)
        if _is_registered(id):
            return
        if family is None:
            package = "; if another package registers it, add the package: PACKAGE:" + id
            raise ValueError(f"there is no environment {id!r}{_suggest(id) or package}")
        module = REGISTERED_BY[family]
    try:
        _import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise ValueError(f"{id}: importing {module} fails: {error}") from error
        problem = f"there is no module {module!r}, neither installed nor in {Path.cwd()}"
        if module in REGISTERED_BY.values():
            package = module.partition(".")[0]
            problem = f"it needs {package}: pip install 'worldmodel[{'doom' if package == 'vizdoom' else 'games'}]'"
        raise ValueError(f"{id}: {problem}") from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{id}: importing {module} fails: {describe_error(error)}") from error
    name = id.rpartition(":")[2]
    if not _is_registered(name):
        raise ValueError(f"{module} registers no environment {name!r}{_suggest(name)}")


def _import_module(module: str) -> None:
    """Import a module, which may be in the working directory (installed programs do not search it)."""
    working_folder = str(Path.cwd())
    if working_folder not in sys.path and "" not in sys.path:
        sys.path.append(working_folder)
    importlib.import_module(module)


def _is_registered(id: str) -> bool:
    try:
        gymnasium.spec(id)
    except gymnasium.error.Error:
        return False
    return True


def _suggest(id: str) -> str:
    """Return a question with up to two similar ids; empty if there is none."""
    stages = [f"SuperMarioBros-{world}-{stage}" for world in range(1, 9) for stage in range(1, 5)]
    known = [
        "CarRacing",
        "FastCarRacing",
        "DoomTakeCover",
        *stages,
        *(name for name in gymnasium.registry if not name.startswith("worldmodel/")),
    ]
    lower = {name.lower(): name for name in known}
    similar = difflib.get_close_matches(id.lower(), lower, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(lower[name]) for name in similar)}?" if similar else ""
