"""Validation of arguments: errors name the argument, and bad values are refused."""

import math

import numpy as np
import pytest

from worldmodel.validation import (
    above_zero,
    validate_optional_positive_int,
    validate_options,
    validate_positive_int,
    validate_seed,
    validate_temperature,
)


@pytest.mark.parametrize("value", [0, 1.0, math.nan, True, np.True_, "7", None])
def test_counts_are_whole_numbers(value):
    with pytest.raises(ValueError, match="^updates ") as error:
        validate_positive_int(updates=value)
    assert repr(value) in str(error.value)


def test_counts_may_be_numpy_integers_and_optional_counts_may_be_none():
    validate_positive_int(updates=1, batch=np.int64(3))
    validate_optional_positive_int(patience=None, stale=2)
    with pytest.raises(ValueError, match="patience"):
        validate_optional_positive_int(patience=math.nan)


@pytest.mark.parametrize("value", [-1, 2**63, 0.5, math.nan, False, "1", None])
def test_seeds_are_whole_numbers(value):
    with pytest.raises(ValueError, match="^seed "):
        validate_seed(value)
    validate_seed(np.uint32(0))


@pytest.mark.parametrize("value", ["hot", None, math.nan, 0, -1.0, math.inf])
def test_temperatures_are_numbers(value):
    with pytest.raises(ValueError, match="^temperature "):
        validate_temperature(value)


@pytest.mark.parametrize("bad_value", [math.nan, -math.inf, b"hello", {1, 2}, np.int64(3), object])
def test_options_are_json_values(bad_value):
    validate_options(env_options={"a": 1, "b": [True, None, "x", {"c": 0.5}], "d": (1, 2)})
    for options in ({"a": bad_value}, {"a": [1, {"b": bad_value}]}):
        with pytest.raises(ValueError, match="^env_options ") as error:
            validate_options(env_options=options)
        assert str(error.value).endswith(f"got {bad_value!r}")


@pytest.mark.parametrize(
    ("options", "received"), [({1: 2}, "1"), ({"a": {None: 2}}, "None"), ([1], "[1]"), (None, "None")]
)
def test_options_are_mappings_with_text_keys(options, received):
    with pytest.raises(ValueError, match="^env_options ") as error:
        validate_options(env_options=options)
    assert str(error.value).endswith(f"got {received}")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "30", None, True])
def test_values_above_zero_are_required(value):
    above_zero(reward_weight=0.5, other=3)
    with pytest.raises(ValueError, match="^reward_weight "):
        above_zero(reward_weight=value)
