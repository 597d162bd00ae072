"""Any Gymnasium environment that shows pixels."""

import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.frames import FromZero, Normalised, Rendered, Repeated, Shrunk


def make_pixels(id: str, action_repeat: int = 1, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make a Gymnasium environment and bring its frames and actions to ours.

    Args:
        id: a Gymnasium id ("module:id" imports the module first).
        action_repeat: frames of the game for each step.
        options: arguments of `gymnasium.make`.

    Raises:
        ValueError: no pixels, an unsupported action space, a missing dependency or an unknown option.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        env = gymnasium.make(id, **{"render_mode": "rgb_array", "disable_env_checker": True, **options})
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"{id} needs another package: {error}") from None
    except (gymnasium.error.Error, ModuleNotFoundError, TypeError) as error:
        raise ValueError(f"{id} cannot be made with {options or 'its defaults'}: {error}") from None
    try:
        return as_pixels(env, action_repeat)
    except ValueError as error:
        env.close()
        raise ValueError(f"{id}: {error}") from None


def as_pixels(env: gymnasium.Env[Any, Any], action_repeat: int = 1) -> gymnasium.Env[Any, Any]:
    """Bring an environment object, such as one of your own, to 64x64 frames and our actions.

    Raises:
        ValueError: it shows no pixels, or its actions are neither Box nor Discrete.
    """
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        env = FromZero(env) if space.start else env
    elif isinstance(space, spaces.Box):
        env = Normalised(env)
    else:
        raise ValueError(f"action space must be Box or Discrete, got {space}")
    env = Repeated(env, action_repeat)
    if _is_picture(env.observation_space):
        return Shrunk(env)
    if env.render_mode != "rgb_array" or "rgb_array" not in env.metadata.get("render_modes", []):
        modes = env.metadata.get("render_modes", [])
        raise ValueError(
            f"no pixels: it observes {env.observation_space} and renders {', '.join(map(str, modes)) or 'nothing'}, "
            "not rgb_array"
        )
    return Rendered(env)


def _is_picture(space: gymnasium.Space[Any]) -> bool:
    """Bytes in (H, W) or (H, W, 1 to 4 channels)."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    shape = space.shape
    return len(shape) in (2, 3) and min(shape[:2]) >= 16 and (len(shape) == 2 or shape[2] in (1, 3, 4))
