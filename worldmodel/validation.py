"""Bad arguments, told in one line."""

import inspect
import itertools
import math
import operator
from collections.abc import Iterator
from typing import Any

from torch import Tensor

TEST_SEEDS = 2**24
"""Environment seeds below this are for tests: no training draws them."""


def validate_positive_int(**numbers: Any) -> None:
    """Refuse what is no whole number of at least one.

    Raises:
        ValueError: names the argument.
    """
    for name, value in numbers.items():
        if not (_is_int(value) and value >= 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def validate_non_negative_int(**numbers: Any) -> None:
    """Refuse what is no whole number of zero or more.

    Raises:
        ValueError: names the argument.
    """
    for name, value in numbers.items():
        if not (_is_int(value) and value >= 0):
            raise ValueError(f"{name} must be a whole number of zero or more, got {value!r}")


def validate_optional_positive_int(**numbers: Any) -> None:
    """The same for arguments of which None means "not given".

    Raises:
        ValueError: names the argument.
    """
    validate_positive_int(**{name: value for name, value in numbers.items() if value is not None})


def validate_seed(seed: Any, name: str = "seed") -> None:
    """Refuse what is no whole number of zero or more, or one that torch cannot take.

    Raises:
        ValueError: names the argument and what came.
    """
    if not (_is_int(seed) and 0 <= seed < 2**63):
        raise ValueError(f"{name} must be a whole number from 0 to 2**63 - 1, got {seed!r}")


def validate_test_seed(seed: Any, num_episodes: int, name: str = "seed") -> None:
    """Refuse the first seed of a test where an episode would have a seed that training may draw.

    Raises:
        ValueError: names the argument and what came.
    """
    if num_episodes > TEST_SEEDS:
        raise ValueError(f"num_episodes must be at most {TEST_SEEDS}, one for each seed of tests, got {num_episodes}")
    if not (_is_int(seed) and 0 <= seed <= TEST_SEEDS - num_episodes):
        raise ValueError(
            f"{name} must be a whole number from 0 to 2**24 - episodes = {TEST_SEEDS - num_episodes}, got {seed!r}"
        )


def validate_temperature(temperature: Any) -> None:
    """Refuse temperatures, numbers or tensors of such, that are not finite and above zero.

    Raises:
        ValueError: names what came.
    """
    if isinstance(temperature, Tensor):
        if not bool(((temperature > 0) & temperature.isfinite()).all()):
            raise ValueError("temperature must be finite and above zero everywhere")
        return
    try:
        fits = temperature > 0 and math.isfinite(temperature)
    except TypeError:  # a text, or None
        fits = False
    if not fits:
        raise ValueError(f"temperature must be finite and above zero, got {temperature!r}")


def validate_options(**options: Any) -> None:
    """Refuse what is no mapping of texts to what JSON holds: it would not come back from a file as it was.

    Raises:
        ValueError: names the argument, and what is in it that is not plain.
    """
    for name, value in options.items():
        strange = list(_not_plain(value)) if isinstance(value, dict) else [value]
        if strange:
            expected = "texts, flags, finite numbers, lists or such mappings"
            raise ValueError(f"{name} must map texts to {expected}, got {strange[0]!r}")


def constructor_repr(thing: Any, **settings: Any) -> str:
    """The call that builds a module, in one line: settings at their defaults are left out."""
    defaults = {name: one.default for name, one in inspect.signature(type(thing)).parameters.items()}
    said = [f"{name}={value!r}" for name, value in settings.items() if defaults.get(name, defaults) != value]
    return f"{type(thing).__name__}({', '.join(said)})"


def _not_plain(value: Any) -> Iterator[Any]:
    """What within a value JSON does not know, keys that are no texts included."""
    if isinstance(value, dict):
        yield from (key for key in value if not isinstance(key, str))
        yield from itertools.chain.from_iterable(map(_not_plain, value.values()))
    elif isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(map(_not_plain, value))
    elif not (value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))):
        yield value


def _is_int(value: Any) -> bool:
    """Whether a value is an integer, Python's or numpy's; True and False are none."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)
