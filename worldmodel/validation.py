"""Validate arguments; errors are one line and name the argument."""

import inspect
import itertools
import math
import operator
from collections.abc import Iterator
from typing import Any

from torch import Tensor

TEST_SEEDS = 2**24
"""Environment seeds below this are for evaluation; no training draws them."""


def validate_positive_int(**numbers: Any) -> None:
    """Check that arguments are integers of at least one.

    Raises:
        ValueError: an argument is not; the message names it.
    """
    for name, value in numbers.items():
        if not (_is_int(value) and value >= 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def validate_optional_positive_int(**numbers: Any) -> None:
    """Check that arguments are None or integers of at least one.

    Raises:
        ValueError: an argument is not; the message names it.
    """
    validate_positive_int(**{name: value for name, value in numbers.items() if value is not None})


def validate_seed(seed: Any, name: str = "seed") -> None:
    """Check that a seed is an integer from 0 to 2**63 - 1, the range of torch.

    Raises:
        ValueError: it is not; the message names the argument and its value.
    """
    if not (_is_int(seed) and 0 <= seed < 2**63):
        raise ValueError(f"{name} must be a whole number from 0 to 2**63 - 1, got {seed!r}")


def validate_test_seed(seed: Any, num_episodes: int, name: str = "seed") -> None:
    """Check that the seeds of all evaluation episodes, starting at ``seed``, are below those of training.

    Raises:
        ValueError: they are not; the message names the argument and its value.
    """
    if num_episodes > TEST_SEEDS:
        raise ValueError(
            f"num_episodes must be at most {TEST_SEEDS}, the number of evaluation seeds, got {num_episodes}"
        )
    if not (_is_int(seed) and 0 <= seed <= TEST_SEEDS - num_episodes):
        raise ValueError(
            f"{name} must be a whole number from 0 to 2**24 - episodes = {TEST_SEEDS - num_episodes}, got {seed!r}"
        )


def above_zero(**numbers: Any) -> None:
    """Check that each argument is a finite number above zero.

    Raises:
        ValueError: one is not; the message names the argument and its value.
    """
    for name, number in numbers.items():
        try:
            fits = number > 0 and math.isfinite(number) and not isinstance(number, bool)
        except TypeError:  # a text, or None
            fits = False
        if not fits:
            raise ValueError(f"{name} must be finite and above zero, got {number!r}")


def validate_temperature(temperature: Any) -> None:
    """Check that a temperature, a number or a tensor, is finite and above zero.

    Raises:
        ValueError: it is not; the message has its value.
    """
    if isinstance(temperature, Tensor):
        if not bool(((temperature > 0) & temperature.isfinite()).all()):
            raise ValueError("temperature must be finite and above zero everywhere")
        return
    above_zero(temperature=temperature)


def validate_options(**options: Any) -> None:
    """Check that options are dictionaries of JSON values with string keys, so that files preserve them.

    Raises:
        ValueError: they are not; the message names the argument and the invalid part.
    """
    for name, value in options.items():
        strange = list(_not_plain(value)) if isinstance(value, dict) else [value]
        if strange:
            expected = "strings, booleans, finite numbers, None, lists or dictionaries of these"
            raise ValueError(f"{name} must map strings to {expected}, got {strange[0]!r}")


def constructor_repr(thing: Any, **settings: Any) -> str:
    """Return the constructor call of a module in one line, without arguments at their defaults."""
    defaults = {name: one.default for name, one in inspect.signature(type(thing)).parameters.items()}
    said = [f"{name}={value!r}" for name, value in settings.items() if defaults.get(name, defaults) != value]
    return f"{type(thing).__name__}({', '.join(said)})"


def _not_plain(value: Any) -> Iterator[Any]:
    """Yield the parts of a value that JSON cannot represent, including keys that are not strings."""
    if isinstance(value, dict):
        yield from (key for key in value if not isinstance(key, str))
        yield from itertools.chain.from_iterable(map(_not_plain, value.values()))
    elif isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(map(_not_plain, value))
    elif not (value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))):
        yield value


def _is_int(value: Any) -> bool:
    """Return whether a value is a Python or numpy integer; booleans are not."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)
