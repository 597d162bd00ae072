"""How long work reports on itself: a callback that the caller may draw as a bar, log, or ignore."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, note)``; ``note`` is a short text such as ``"loss 31.2"``."""


def silent(done: int, total: int, note: str) -> None:
    """The progress nobody watches."""
