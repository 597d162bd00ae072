"""Any Gymnasium environment that shows pixels."""

import atexit
import contextlib
import os
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from envs.env_checker import EnvChecker, describe_error, is_image_space, iter_wrappers, summarize_space, validate_env
from envs.wrappers import (
    FRAME_SPACE,
    ActionRepeat,
    PixelEnv,
    RenderFrame,
    RescaleBoxAction,
    ResizeFrame,
    ZeroBasedDiscrete,
)

RGB_ARRAY = "rgb_array"


def make_pixel_env(id: str, action_repeat: int = 1, **options: Any) -> gymnasium.Env[Any, Any]:
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
    env = _make(id, options)
    game: Any = getattr(env.unwrapped, "game", None)
    if hasattr(game, "set_doom_config_path"):  # VizDoom writes its settings into the working directory otherwise
        game.set_doom_config_path(str(_temp_dir() / "vizdoom.ini"))
        env = RemoveVizDoomFolder(env)
    try:
        return to_pixels(env, action_repeat)
    except ValueError as error:
        env.close()
        raise ValueError(f"{id}: {error}") from None


class RemoveVizDoomFolder(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Removes the empty folder that VizDoom's emulator makes in the working directory when it begins."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the first one begins the emulator."""
        came = self.env.reset(seed=seed, options=options)
        with contextlib.suppress(OSError):  # there is none, or it is not empty
            Path("_vizdoom").rmdir()
        return came


@cache
def _temp_dir() -> Path:
    """A folder that ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="worldmodel-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _make(id: str, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make`, with ``render_mode`` for those that know it."""
    kwargs = {"disable_env_checker": True, **options}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not in the possible render_modes")  # then it observes pictures
            return gymnasium.make(id, **{"render_mode": RGB_ARRAY, **kwargs})
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"{id} needs another package: {error}") from None
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        if "render_mode" not in options and isinstance(error, TypeError | ValueError | AssertionError):
            try:  # an environment that observes pictures need not render
                return gymnasium.make(id, **kwargs)
            except (Exception, SystemExit) as second:
                error = second if "render_mode" in str(error) else error
        raise ValueError(f"{id} cannot be made with {options or 'its defaults'}: {describe_error(error)}") from error


def to_pixels(env: gymnasium.Env[Any, Any], action_repeat: int = 1) -> gymnasium.Env[Any, Any]:
    """Bring an environment object, such as one of your own, to 64x64 frames and our actions.

    One that was brought there already, such as what `envs.make` gives, is returned as it is.

    Raises:
        ValueError: it is no environment of Gymnasium, it shows no pixels, or its actions are neither Box nor Discrete.
    """
    validate_env(env)
    space = env.action_space
    if (
        any(isinstance(layer, PixelEnv) for layer in iter_wrappers(env))
        and env.observation_space == FRAME_SPACE
        and is_standard_action_space(space)
    ):
        return env if action_repeat == 1 else ActionRepeat(env, action_repeat)
    if not is_image_space(env.observation_space):
        validate_rendering(env)
    wrapper = ResizeFrame if is_image_space(env.observation_space) else RenderFrame
    env = EnvChecker(env)
    if isinstance(space, spaces.Discrete):
        env = ZeroBasedDiscrete(env) if space.start else env
    elif isinstance(space, spaces.Box):
        env = RescaleBoxAction(env)
    else:
        raise ValueError(f"action space must be Box or Discrete, got {summarize_space(space)}")
    return wrapper(ActionRepeat(env, action_repeat))


def is_standard_action_space(space: gymnasium.Space[Any]) -> bool:
    """Whether actions are ours: choices from 0 on, or numbers in [-1, 1]."""
    if isinstance(space, spaces.Discrete):
        return int(space.start) == 0
    return isinstance(space, spaces.Box) and space == spaces.Box(-1, 1, (int(np.prod(space.shape)),), np.float32)


def validate_rendering(env: gymnasium.Env[Any, Any]) -> None:
    """Refuse an environment that neither observes pictures nor was made to render them.

    Raises:
        ValueError: names what is missing.
    """
    if env.render_mode == RGB_ARRAY:
        return
    modes = (env.metadata or {}).get("render_modes") or []
    problem = f"no pixels: it observes {summarize_space(env.observation_space)}{_why_not_images(env.observation_space)}"
    if RGB_ARRAY not in modes:
        raise ValueError(f"{problem} and renders {', '.join(map(str, modes)) or 'nothing'}, not {RGB_ARRAY}")
    if env.spec is not None and env.spec.kwargs.get("render_mode") == RGB_ARRAY:
        raise ValueError(f"{problem} and forgets its render mode: self.render_mode = render_mode in __init__")
    raise ValueError(f'{problem} and has the render mode {env.render_mode}: make it with render_mode="{RGB_ARRAY}"')


def _why_not_images(space: gymnasium.Space[Any]) -> str:
    """Why a space that looks like one of pictures is none."""
    shape = space.shape or ()
    if isinstance(space, spaces.Dict):
        boxes = [name for name, part in space.spaces.items() if is_image_space(part)]
        return f" (observe {boxes[0]!r} alone: gymnasium.wrappers.TransformObservation)" if boxes else ""
    if len(shape) not in (2, 3) or sorted(shape)[-2] < 16:
        return ""
    if space.dtype != np.uint8:
        return " (pictures are bytes from 0 to 255, of dtype uint8)"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return " (channels come last in pictures: np.moveaxis(picture, 0, -1))"
    if len(shape) == 3 and shape[2] not in (1, 3, 4):
        return " (pictures have 1, 3 or 4 channels)"
    return " (pictures are of at least 16x16 pixels, and as bright as 255)"
