"""Strategies and settings of hypothesis, and the property of all readers."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("TRUST_EXAMPLES", "12"))
"""Number of examples of each property."""
QUICK = settings(deadline=None, max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
"""YAML whose aliases expand to more than fits into memory."""
OFFSET_AND_BIT = st.integers(0, 2**20), st.integers(0, 7)


def one_line(path, read):
    """The result of a reader, or None if it refuses the file with a one-line error that names it."""
    try:
        return read(path)
    except ValueError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return None
