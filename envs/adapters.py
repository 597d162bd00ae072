"""Make any Gymnasium environment show 64x64 frames, or vectors of numbers, and take standard actions.

Start reading at `to_pixels` and `to_vector`.
"""

import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.envs.choices import Choices, EncodeChoices
from worldmodel.envs.env_checker import (
    EnvChecker,
    describe_error,
    iter_wrappers,
    summarize_space,
    validate_env,
)
from worldmodel.envs.images import find_image, is_frame_shape, why_not
from worldmodel.envs.wrappers import (
    FRAME_SIZE,
    ActionRepeat,
    RescaleBoxAction,
    ResizeFrame,
    StandardEnv,
    VectorObservation,
    ZeroBasedDiscrete,
    frame_space,
    is_vector_space,
    why_not_vector,
)

RGB_ARRAY = "rgb_array"


OBSERVATIONS = ("pixels", "vector")
"""What an environment may show."""


class View(NamedTuple):
    """What a standard environment shows; options of `envs.make`."""

    observation: str = "pixels"
    """"pixels" or "vector"."""
    image_key: str | None = None
    """Entry of a Dict observation with the images. None: the only one with images."""
    frame_stack: int = 1
    """Number of frames that an image observation holds."""
    frame_size: int = FRAME_SIZE
    """Height and width of the frames in pixels."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "View":
        """Return what the options of an environment that a function makes ask for.

        Raises:
            ValueError: One is unknown.
        """
        for name in options:
            if name not in cls._fields:
                expected = ", ".join(cls._fields)
                raise ValueError(f"a function that makes the environment takes the options {expected}, got {name}")
        return cls(**options)


PIXELS = View()


def make_adapted(id: str, action_repeat: int = 1, view: View = PIXELS, /, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make a Gymnasium environment with standard observations and actions.

    Args:
        id: Gymnasium id ("module:id" imports the module first).
        action_repeat: Number of game frames per step.
        view: What it shows.
        options: Further arguments of `gymnasium.make`.

    Raises:
        ValueError: The environment does not show what ``view`` asks for, its action space is not supported, a
            dependency is missing, or an option is unknown.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    env = _make(id, options, renders=view.observation == "pixels")
    game: Any = getattr(env.unwrapped, "game", None)
    if hasattr(game, "set_doom_config_path"):
        from worldmodel.envs.doom import start_game

        start_game(game)
    try:
        return adapt(env, action_repeat, view)
    except ValueError as error:
        env.close()
        raise ValueError(f"{id}: {error}") from None


def _make(id: str, options: dict[str, Any], renders: bool) -> gymnasium.Env[Any, Any]:
    """Call `gymnasium.make`; if it ``renders``, with ``render_mode`` if the environment takes it."""
    kwargs = {"disable_env_checker": True, **options}
    render_mode = {"render_mode": RGB_ARRAY} if renders else {}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not in the possible render_modes")  # checked in `to_pixels`
            return gymnasium.make(id, **(render_mode | kwargs))
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"{id} needs another package: {error}") from None
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        if render_mode.keys() - options and isinstance(error, TypeError | ValueError | AssertionError):
            try:  # an environment with image observations need not render
                return gymnasium.make(id, **kwargs)
            except (Exception, SystemExit) as second:
                error = second if "render_mode" in str(error) else error
        raise ValueError(f"{id} cannot be made with {options or 'its defaults'}: {describe_error(error)}") from error


def adapt(env: gymnasium.Env[Any, Any], action_repeat: int = 1, view: View = PIXELS) -> gymnasium.Env[Any, Any]:
    """Wrap an environment with `to_pixels` or `to_vector`.

    Raises:
        ValueError: As these functions do.
    """
    if view.observation not in OBSERVATIONS:
        raise ValueError(f"observation must be one of {', '.join(OBSERVATIONS)}, got {view.observation!r}")
    if view.observation == "pixels":
        return to_pixels(env, action_repeat, *view[1:])
    if view[1:] != PIXELS[1:]:
        raise ValueError(f"image_key, frame_stack and frame_size need pixels, got observation = {view.observation!r}")
    return to_vector(env, action_repeat)


def to_pixels(
    env: gymnasium.Env[Any, Any],
    action_repeat: int = 1,
    image_key: str | None = None,
    frame_stack: int = 1,
    frame_size: int = FRAME_SIZE,
) -> gymnasium.Env[Any, Any]:
    """Wrap an environment so that it shows 64x64 frames and takes standard actions.

    An environment that already does, for example from `envs.make`, is returned unchanged.

    Args:
        env: Gymnasium environment with image observations or ``render_mode="rgb_array"``.
        action_repeat: Number of game frames per step.
        image_key: Entry of a Dict observation with the images. None: the only one with images.
        frame_stack: Number of frames that an image observation holds; frames are then (64, 64, 3 frame_stack), the newest last.
        frame_size: Height and width of the frames in pixels: 64, 96 or 128.

    Raises:
        ValueError: It is not a Gymnasium environment, it shows no pixels, or its action space is not supported.
    """
    validate_env(env)
    unasked = (image_key, frame_stack, frame_size) == PIXELS[1:] and not is_vector_space(env.observation_space)
    if is_standard(env) and (unasked or env.observation_space == frame_space(frame_stack, frame_size)):
        return env if action_repeat == 1 else ActionRepeat(env, action_repeat)
    if find_image(env.observation_space, image_key, frame_stack) is None:
        validate_rendering(env)
    repeated = ActionRepeat(standard_actions(EnvChecker(env)), action_repeat)
    return ResizeFrame(repeated, image_key, frame_stack, frame_size)


def to_vector(env: gymnasium.Env[Any, Any], action_repeat: int = 1) -> gymnasium.Env[Any, Any]:
    """Wrap an environment so that it observes one vector of numbers, float32 (n,), and takes standard actions.

    A Discrete observation becomes one-hot, the parts of a Dict or a Tuple follow each other (`gymnasium.spaces.flatten`).

    Args:
        env: Gymnasium environment.
        action_repeat: Number of game frames per step.

    Raises:
        ValueError: It is not a Gymnasium environment, it observes images or no fixed amount of numbers, or its
            action space is not supported.
    """
    validate_env(env)
    if is_vector_space(env.observation_space) and is_standard(env):
        return env if action_repeat == 1 else ActionRepeat(env, action_repeat)
    return VectorObservation(ActionRepeat(standard_actions(EnvChecker(env)), action_repeat))


def frame_source(env: gymnasium.Env[Any, Any]) -> str:
    """Return what the frames of an adapted environment show, for people; empty if it has vectors or frames of its own."""
    return next((layer.source for layer in iter_wrappers(env) if isinstance(layer, ResizeFrame)), "")


def is_standard(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment already has standard actions and observations."""
    space = env.observation_space
    shown = is_vector_space(space) or (space.dtype == np.uint8 and is_frame_shape(space.shape or ()))
    is_marked = any(isinstance(layer, StandardEnv) for layer in iter_wrappers(env))
    return shown and is_marked and is_standard_action_space(env.action_space)


def standard_actions(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Wrap an environment so that its actions are Discrete from 0 on, or a Box (n,) in [-1, 1] (perhaps a `ChoiceSpace`).

    Raises:
        ValueError: They are of another kind, or a Box has infinite bounds.
    """
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        return ZeroBasedDiscrete(env) if space.start else env
    if isinstance(space, Choices):
        return EncodeChoices(env)
    if isinstance(space, spaces.Box):
        return RescaleBoxAction(env)
    kinds = "Box, Discrete, MultiDiscrete or MultiBinary"
    raise ValueError(
        f"action space must be {kinds}, got {summarize_space(space)}: wrap it in gymnasium.wrappers.TransformAction"
    )


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
    draws = type(env.unwrapped).render is not gymnasium.Env.render
    if draws and env.render_mode == RGB_ARRAY:
        return
    modes = ((env.metadata or {}).get("render_modes") or []) if draws else []
    space = env.observation_space
    problem = (
        f"no pixels: it observes {summarize_space(space)}{f' ({why_not(space)})' if len(space.shape or ()) > 1 else ''}"
    )
    if RGB_ARRAY not in modes:
        cure = "" if why_not_vector(env.observation_space) else '; observation="vector" learns from its numbers'
        raise ValueError(f"{problem} and renders {', '.join(map(str, modes)) or 'nothing'}, not {RGB_ARRAY}{cure}")
    if env.spec is not None and env.spec.kwargs.get("render_mode") == RGB_ARRAY:
        raise ValueError(f"{problem} and does not set its render mode: self.render_mode = render_mode in __init__")
    raise ValueError(f'{problem} and has the render mode {env.render_mode}: make it with render_mode="{RGB_ARRAY}"')
