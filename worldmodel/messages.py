"""Numbers and suggestions in tables and messages."""

import difflib
from collections.abc import Iterable

MAX_SUGGESTIONS = 3
"""Largest number of suggested words."""


def format_number(value: float | int, decimals: int = 1) -> str:
    """Format a return, or another number of any size, with few digits.

    Example:
        >>> format_number(21.04), format_number(1234567.8), format_number(1e30), format_number(-2e-9, decimals=0)
        ('21.0', '1234567.8', '1e+30', '0')
    """
    if abs(value) >= 1e7:
        return f"{value:.3g}"
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the nearest known words, or nothing.

    Args:
        word: Unknown word.
        known: Known words. The last part of a dotted word is also matched alone.

    Example:
        >>> did_you_mean("--episdes", ["--episodes", "--seed"])
        ', did you mean --episodes?'
        >>> did_you_mean("--generation", ["--dream.generations", "--game.generations", "--seed"])
        ', did you mean --dream.generations or --game.generations?'
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75) if "." in word else []
    if not close:
        lasts: dict[str, list[str]] = {}
        for name in known:
            lasts.setdefault(name.lstrip("-").rpartition(".")[2], []).append(name)
        [last] = difflib.get_close_matches(word.lstrip("-").rpartition(".")[2], lasts, n=1) or [""]
        close = lasts.get(last, []) or [name for name in known if len(word) > 1 and name.startswith(word)]
    return f", did you mean {' or '.join(close[:MAX_SUGGESTIONS])}?" if close else ""
