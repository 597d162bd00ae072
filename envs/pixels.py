"""Make any Gymnasium environment with pixels show 64x64 frames and take standard actions.

Start reading at `to_pixels`.
"""

import os
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.envs.env_checker import (
    EnvChecker,
    describe_error,
    is_image_space,
    iter_wrappers,
    summarize_space,
    validate_env,
)
from worldmodel.envs.wrappers import (
    FRAME_SPACE,
    ActionRepeat,
    PixelEnv,
    RescaleBoxAction,
    ResizeFrame,
    ZeroBasedDiscrete,
)

RGB_ARRAY = "rgb_array"


def make_pixel_env(id: str, action_repeat: int = 1, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make a Gymnasium environment with 64x64 frames and standard actions.

    Args:
        id: Gymnasium id ("module:id" imports the module first).
        action_repeat: Number of game frames per step.
        options: Further arguments of `gymnasium.make`.

    Raises:
        ValueError: The environment shows no pixels, its action space is not supported, a dependency is missing, or an
            option is unknown.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    env = _make(id, options)
    game: Any = getattr(env.unwrapped, "game", None)
    if hasattr(game, "set_doom_config_path"):
        from worldmodel.envs.doom import start_game

        start_game(game)
    try:
        return to_pixels(env, action_repeat)
    except ValueError as error:
        env.close()
        raise ValueError(f"{id}: {error}") from None


def _make(id: str, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Call `gymnasium.make`, with ``render_mode`` if the environment takes it."""
    kwargs = {"disable_env_checker": True, **options}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not in the possible render_modes")  # checked in `to_pixels`
            return gymnasium.make(id, **{"render_mode": RGB_ARRAY, **kwargs})
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"{id} needs another package: {error}") from None
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        if "render_mode" not in options and isinstance(error, TypeError | ValueError | AssertionError):
            try:  # an environment with image observations need not render
                return gymnasium.make(id, **kwargs)
            except (Exception, SystemExit) as second:
                error = second if "render_mode" in str(error) else error
        raise ValueError(f"{id} cannot be made with {options or 'its defaults'}: {describe_error(error)}") from error


def to_pixels(env: gymnasium.Env[Any, Any], action_repeat: int = 1) -> gymnasium.Env[Any, Any]:
    """Wrap an environment so that it shows 64x64 frames and takes standard actions.

    An environment that already does, for example from `envs.make`, is returned unchanged.

    Args:
        env: Gymnasium environment with image observations or ``render_mode="rgb_array"``.
        action_repeat: Number of game frames per step.

    Raises:
        ValueError: It is not a Gymnasium environment, it shows no pixels, or its actions are neither Box nor Discrete.
    """
    validate_env(env)
    space = env.action_space
    if (
        any(isinstance(layer, PixelEnv) for layer in iter_wrappers(env))
        and env.observation_space == FRAME_SPACE
        and is_standard_action_space(space)
    ):
        return env if action_repeat == 1 else ActionRepeat(env, action_repeat)
    if renders := not is_image_space(env.observation_space):
        validate_rendering(env)
    env = EnvChecker(env)
    if isinstance(space, spaces.Discrete):
        env = ZeroBasedDiscrete(env) if space.start else env
    elif isinstance(space, spaces.Box):
        env = RescaleBoxAction(env)
    else:
        raise ValueError(f"action space must be Box or Discrete, got {summarize_space(space)}")
    return ResizeFrame(ActionRepeat(env, action_repeat), renders)


def is_standard_action_space(space: gymnasium.Space[Any]) -> bool:
    """Whether an action space is Discrete from 0 on, or a Box (n,) in [-1, 1]."""
    if isinstance(space, spaces.Discrete):
        return int(space.start) == 0
    return isinstance(space, spaces.Box) and space == spaces.Box(-1, 1, (int(np.prod(space.shape)),), np.float32)


def validate_rendering(env: gymnasium.Env[Any, Any]) -> None:
    """Check that an environment without image observations was made with ``render_mode="rgb_array"``.

    Raises:
        ValueError: Names what is missing.
    """
    if env.render_mode == RGB_ARRAY:
        return
    modes = (env.metadata or {}).get("render_modes") or []
    problem = f"no pixels: it observes {summarize_space(env.observation_space)}{_why_not_images(env.observation_space)}"
    if RGB_ARRAY not in modes:
        raise ValueError(f"{problem} and renders {', '.join(map(str, modes)) or 'nothing'}, not {RGB_ARRAY}")
    if env.spec is not None and env.spec.kwargs.get("render_mode") == RGB_ARRAY:
        raise ValueError(f"{problem} and does not set its render mode: self.render_mode = render_mode in __init__")
    raise ValueError(f'{problem} and has the render mode {env.render_mode}: make it with render_mode="{RGB_ARRAY}"')


def _why_not_images(space: gymnasium.Space[Any]) -> str:
    """Return a hint on why a space is not an image space."""
    shape = space.shape or ()
    if isinstance(space, spaces.Dict):
        boxes = [name for name, part in space.spaces.items() if is_image_space(part)]
        return f" (observe {boxes[0]!r} alone: gymnasium.wrappers.TransformObservation)" if boxes else ""
    if len(shape) not in (2, 3) or sorted(shape)[-2] < 16:
        return ""
    if space.dtype != np.uint8:
        return " (images must have dtype uint8, from 0 to 255)"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return " (images must have their channels last: np.moveaxis(image, 0, -1))"
    if len(shape) == 3 and shape[2] not in (1, 3, 4):
        return " (images must have 1, 3 or 4 channels)"
    return " (images must have at least 16x16 pixels and a bound of 255)"
