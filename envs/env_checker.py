"""What Gymnasium asks of an environment, checked where one of somebody else's is opened and played.

Start reading at `EnvChecker`. Each slip is a ValueError of one line that names the cure.
"""

import contextlib
import inspect
import sysconfig
import traceback
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

STEP_RESULT = "(observation, reward, terminated, truncated, info)"
MIN_IMAGE_SIDE = 16
"""Pixels of the lower or narrower side of a picture; with fewer, an array of bytes is taken for something else."""
MAX_FLOAT32 = float(np.finfo(np.float32).max)
MAX_SPACE_CHARS = 160
"""Letters of a space in a message."""
MIN_IMAGE_HIGH = 128
"""A picture's space reaches this far at least; bytes that stay below are numbers of things."""
PACKAGES = ("worldmodel", "envs", "rollouts", "agents")
INSTALL_PATHS = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


class EnvChecker(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment whose every reset and step keeps to Gymnasium's interface and to its own spaces.

    Raises:
        ValueError: it has no spaces, or its ``reset`` takes no seed.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        validate_env(env)
        super().__init__(env)
        space = env.observation_space
        self._image_shape = space.shape if is_image_space(space) else None
        self._has_reset = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; what is observed first lies in the observation space."""
        result: Any = self.env.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(f"reset must return (observation, info), got {_describe(result)}")
        if not isinstance(result[1], dict):
            raise ValueError(f"reset must return (observation, info) with a dict of info, got {_describe(result[1])}")
        if self._image_shape is None:
            validate_observation(self.env.observation_space, result[0])
        else:
            self._validate_image(result[0])
        self._has_reset = True
        return result

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step; its reward is a finite number, and its ends are flags."""
        if not self._has_reset:
            raise ValueError("step must come after reset")
        try:
            result: Any = self.env.step(action)
        except (TypeError, ValueError) as error:
            if "unpack" in str(error):  # of a wrapper, or of the environment's own
                _validate_step_result(self.env.unwrapped.step(action))
            raise
        _validate_step_result(result)
        observation, reward, terminated, truncated, info = result
        if self._image_shape is not None:
            self._validate_image(observation)
        validate_flag("terminated", terminated)
        validate_flag("truncated", truncated)
        return observation, validate_reward(reward), bool(terminated), bool(truncated), info

    def close(self) -> None:
        """Close; one that fails at that has done its work."""
        with contextlib.suppress(Exception):
            self.env.close()

    def _validate_image(self, image: Any) -> None:
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != self._image_shape:
            raise ValueError(f"observation must be {self._image_shape} uint8 as its space says, got {_describe(image)}")


def validate_env(env: Any) -> None:
    """Refuse what is no environment of Gymnasium.

    Raises:
        ValueError: names what is missing.
    """
    if not isinstance(env, gymnasium.Env):
        old = any(kind.__module__.partition(".")[0] == "gym" for kind in type(env).__mro__)
        more = " (it is one of the old gym: derive it from gymnasium.Env)" if old else ""
        raise ValueError(f"env must be a gymnasium.Env, got {_describe(env)}{more}")
    for name in ("action_space", "observation_space"):
        space = getattr(env, name, None)
        if not isinstance(space, spaces.Space):
            raise ValueError(f"{name} must be a space of gymnasium.spaces, got {_describe(space)}: set it in __init__")
    for layer in iter_wrappers(env):
        parameters = inspect.signature(layer.reset).parameters.values()
        names = {parameter.name for parameter in parameters}
        if not {"seed", "options"} <= names and inspect.Parameter.VAR_KEYWORD not in {p.kind for p in parameters}:
            raise ValueError(f"reset of {type(layer).__name__} must be reset(self, *, seed=None, options=None)")


def iter_wrappers(env: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Env[Any, Any]]:
    """An environment's wrappers, the outermost first, and the environment itself."""
    yield env
    while isinstance(env, gymnasium.Wrapper):
        env = env.env
        yield env


def is_image_space(space: gymnasium.Space[Any]) -> bool:
    """Bytes up to at least 128 in (H, W) or (H, W, 1, 3 or 4 channels)."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    shape = space.shape
    if len(shape) not in (2, 3) or min(shape[:2]) < MIN_IMAGE_SIDE or space.high.max() < MIN_IMAGE_HIGH:
        return False
    return len(shape) == 2 or shape[2] in (1, 3, 4)


def summarize_space(space: gymnasium.Space[Any]) -> str:
    """A space in a few words, however many bounds it has."""
    words = " ".join(str(space).split())
    return words if len(words) <= MAX_SPACE_CHARS else f"{words[:MAX_SPACE_CHARS]} ..."


def validate_observation(space: gymnasium.Space[Any], observation: Any) -> None:
    """Refuse an observation outside of its space; a Box of numbers does not ask which kind of float they are.

    Raises:
        ValueError: says what came.
    """
    if isinstance(space, spaces.Box):
        values = np.asarray(observation)
        if values.shape != space.shape or values.dtype.kind not in "biuf":
            raise ValueError(
                f"observation must be {space.shape} {space.dtype} as its space says, got {_describe(values)}"
            )
        if np.isnan(values).any():
            raise ValueError("observation holds NaN")
        values = values.astype(space.dtype)  # float64 numbers at a bound of float32 may be a rounding beyond it
        if (values < space.low).any() or (values > space.high).any():
            reach = f"{values.min():g} to {values.max():g}"
            raise ValueError(f"observation leaves its space {summarize_space(space)}: it is from {reach}")
    elif isinstance(space, spaces.Dict) and isinstance(observation, dict) and set(observation) == set(space.spaces):
        for name, part in space.spaces.items():
            validate_observation(part, observation[name])
    elif not space.contains(observation):
        raise ValueError(f"observation must lie in its space {summarize_space(space)}, got {str(observation)[:40]}")


def validate_reward(reward: Any) -> float:
    """A reward as a float that 32 bits hold, as they do in files; one number in an array is a number.

    Raises:
        ValueError: it is no number, or no finite one, or one beyond 32 bits.
    """
    try:
        number = reward.item() if hasattr(reward, "item") else reward
    except (ValueError, RuntimeError):  # an array, or a tensor, of several
        number = None
    if isinstance(number, int | float | np.floating) and bool(-MAX_FLOAT32 <= number <= MAX_FLOAT32):
        return float(number)
    result = _describe(reward if number is None else number)
    raise ValueError(f"reward must be a finite number below {MAX_FLOAT32:.2g}, got {result}")


def validate_flag(name: str, flag: Any) -> None:
    """Refuse what is neither True nor False.

    Raises:
        ValueError: names the flag.
    """
    if not isinstance(flag, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {_describe(flag)}")


def describe_error(error: BaseException) -> str:
    """What somebody else's code raised, in one line: its class, its message, and the file and line it comes from.

    The place is the deepest one outside of this package and of what is installed. What we refuse ourselves is its message.
    """
    places = [(frame.f_globals.get("__name__", ""), frame.f_code.co_filename, line)
              for frame, line in traceback.walk_tb(error.__traceback__)]  # fmt: skip
    foreign = [place for place in places if place[0].partition(".")[0] not in PACKAGES]
    if isinstance(error, ValueError) and places and places[-1] not in foreign:
        return str(error)
    own = [place for place in foreign if not place[1].startswith(INSTALL_PATHS)]
    where = "".join(f" ({path}:{line})" for _, path, line in (own or foreign or places)[-1:])
    said = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if said else ''}{said}{where}"


def _validate_step_result(result: Any) -> None:
    if not isinstance(result, tuple) or len(result) != 5:
        four = isinstance(result, tuple) and len(result) == 4
        old = " (four are of the old gym, whose done is terminated or truncated)" if four else ""
        raise ValueError(f"step must return {STEP_RESULT}, got {_describe(result)}{old}")
    if not isinstance(result[4], dict):
        raise ValueError(f"step must return {STEP_RESULT} with a dict of info, got {_describe(result[4])}")


def _describe(value: Any) -> str:
    """What came, in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} {value.dtype}"
    if isinstance(value, tuple):
        return f"{len(value)} values"
    if isinstance(value, np.number):
        return f"{value}"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)[:40]
    return f"a {type(value).__name__}"
