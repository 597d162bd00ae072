"""Check that user environments follow Gymnasium's interface, when they are opened and in each step.

Start reading at `EnvChecker`. Each error is a ValueError of one line that says how to fix it.
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
MAX_FLOAT32 = float(np.finfo(np.float32).max)
MAX_SPACE_CHARS = 160
"""Maximum number of characters of a space in a message."""
PACKAGES = ("worldmodel", "envs", "rollouts", "agents")
INSTALL_PATHS = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


class EnvChecker(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Wraps an environment and checks the results of each reset and step against Gymnasium's interface and the spaces.

    Raises:
        ValueError: The environment has no spaces, or its ``reset`` takes no seed.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        validate_env(env)
        super().__init__(env)
        self._has_reset = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; check the first observation against the observation space."""
        result: Any = self.env.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(f"reset must return (observation, info), got {_describe(result)}")
        if not isinstance(result[1], dict):
            raise ValueError(f"reset must return (observation, info) with a dict of info, got {_describe(result[1])}")
        validate_observation(self.env.observation_space, result[0])
        self._has_reset = True
        return result

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step; check that the reward is a finite number and that the flags are bools."""
        if not self._has_reset:
            raise ValueError("step must come after reset")
        try:
            result: Any = self.env.step(action)
        except (TypeError, ValueError) as error:
            if "unpack" in str(error):  # a wrapper unpacks a result of the wrong length
                _validate_step_result(self.env.unwrapped.step(action))
            raise
        _validate_step_result(result)
        observation, reward, terminated, truncated, info = result
        validate_flag("terminated", terminated)
        validate_flag("truncated", truncated)
        return observation, validate_reward(reward), bool(terminated), bool(truncated), info

    def close(self) -> None:
        """Close the environment; errors are ignored, since it is no longer needed."""
        with contextlib.suppress(Exception):
            self.env.close()


def validate_env(env: Any) -> None:
    """Check that an object is a Gymnasium environment.

    Raises:
        ValueError: Names what is missing.
    """
    if not isinstance(env, gymnasium.Env):
        is_old_gym = any(kind.__module__.partition(".")[0] == "gym" for kind in type(env).__mro__)
        hint = " (a class of the old gym: derive it from gymnasium.Env)" if is_old_gym else ""
        raise ValueError(f"env must be a gymnasium.Env, got {_describe(env)}{hint}")
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
    """Yield an environment's wrappers, the outermost first, and the environment itself."""
    yield env
    while isinstance(env, gymnasium.Wrapper):
        env = env.env
        yield env


def summarize_space(space: gymnasium.Space[Any]) -> str:
    """Return a space as a short text."""
    text = " ".join(str(space).split())
    return text if len(text) <= MAX_SPACE_CHARS else f"{text[:MAX_SPACE_CHARS]} ..."


def validate_observation(space: gymnasium.Space[Any], observation: Any) -> None:
    """Check that an observation is in its space; a Box accepts any numeric dtype.

    Raises:
        ValueError: Names the space and the observation.
    """
    if isinstance(space, spaces.Box):
        values = np.asarray(observation)
        if values.shape != space.shape or values.dtype.kind not in "biuf":
            raise ValueError(
                f"observation must be {space.shape} {space.dtype} as in its space, got {_describe(values)}"
            )
        if np.isnan(values).any():
            raise ValueError("observation holds NaN")
        values = values.astype(space.dtype)  # a float64 at a float32 bound may exceed it by rounding
        if (values < space.low).any() or (values > space.high).any():
            actual = f"{values.min():g} to {values.max():g}"
            raise ValueError(f"observation must be in its space {summarize_space(space)}, got {actual}")
    elif isinstance(space, spaces.Dict) and isinstance(observation, dict) and set(observation) == set(space.spaces):
        for name, part in space.spaces.items():
            validate_observation(part, observation[name])
    elif not space.contains(observation):
        raise ValueError(f"observation must be in its space {summarize_space(space)}, got {str(observation)[:40]}")


def validate_reward(reward: Any) -> float:
    """Return a reward as a float; it must fit into float32, as in files. An array with one number counts as a number.

    Raises:
        ValueError: The reward is not a number, not finite, or beyond float32.
    """
    try:
        number = reward.item() if hasattr(reward, "item") else reward
    except (ValueError, RuntimeError):  # an array or tensor of several numbers
        number = None
    if isinstance(number, int | float | np.floating) and bool(-MAX_FLOAT32 <= number <= MAX_FLOAT32):
        return float(number)
    result = _describe(reward if number is None else number)
    raise ValueError(f"reward must be a finite number below {MAX_FLOAT32:.2g}, got {result}")


def validate_flag(name: str, flag: Any) -> None:
    """Check that a flag is True or False.

    Raises:
        ValueError: Names the flag.
    """
    if not isinstance(flag, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {_describe(flag)}")


def describe_error(error: BaseException) -> str:
    """Describe an exception of user code in one line: class, message, file and line.

    The line is the innermost one outside of this package and of installed packages. A ValueError of this package is returned
    as its message alone.
    """
    locations = [(frame.f_globals.get("__name__", ""), frame.f_code.co_filename, line)
              for frame, line in traceback.walk_tb(error.__traceback__)]  # fmt: skip
    external = [location for location in locations if location[0].partition(".")[0] not in PACKAGES]
    if isinstance(error, ValueError) and locations and locations[-1] not in external:
        return str(error)
    user_code = [location for location in external if not location[1].startswith(INSTALL_PATHS)]
    where = "".join(f" ({path}:{line})" for _, path, line in (user_code or external or locations)[-1:])
    message = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if message else ''}{message}{where}"


def _validate_step_result(result: Any) -> None:
    if not isinstance(result, tuple) or len(result) != 5:
        four = isinstance(result, tuple) and len(result) == 4
        old = " (4 values are the old gym's interface, whose done is now terminated or truncated)" if four else ""
        raise ValueError(f"step must return {STEP_RESULT}, got {_describe(result)}{old}")
    if not isinstance(result[4], dict):
        raise ValueError(f"step must return {STEP_RESULT} with a dict of info, got {_describe(result[4])}")


def _describe(value: Any) -> str:
    """Return a short description of a value."""
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} {value.dtype}"
    if isinstance(value, tuple):
        return f"{len(value)} values"
    if isinstance(value, np.number):
        return f"{value}"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)[:40]
    return f"a {type(value).__name__}"
