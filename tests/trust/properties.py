"""What hypothesis draws, and what every reader owes whatever it is given."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("TRUST_EXAMPLES", "12"))
"""Of each property; more find more."""
QUICK = settings(deadline=None, max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
"""YAML whose aliases stand for more than any memory holds."""
PLACE = st.integers(0, 2**20), st.integers(0, 7)


def one_line(path, read):
    """What a reader makes of a file; None where it refused it in one line that names the file."""
    try:
        return read(path)
    except ValueError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return None
