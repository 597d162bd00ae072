"""SIGTERM as KeyboardInterrupt, raised once and never lost; start reading at `graceful_interrupt`."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

AGAIN_AFTER_S = 0.05
"""Seconds after which a lost interrupt is sent again."""


class InterruptHandler:
    """The first SIGTERM raises `KeyboardInterrupt`; later ones are ignored, because they would interrupt the cleanup."""

    def __init__(self) -> None:
        self._ending = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle a SIGTERM."""
        if not self._ending:
            self._ending = True
            raise KeyboardInterrupt

    def again(self, lost: Any) -> None:
        """Handle an exception that Python cannot raise (`sys.unraisablehook`).

        Python only prints an exception from a finalizer or a callback of the garbage collector, and the program goes on.
        This handler sends a lost interrupt again after `AGAIN_AFTER_S`.
        """
        if lost.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(lost)
            return
        self._ending = False
        # on Windows os.kill would end the process without a signal
        send = partial(os.kill, os.getpid()) if os.name == "posix" else signal.raise_signal
        timer = threading.Timer(AGAIN_AFTER_S, send, (signal.SIGTERM,))
        timer.daemon = True  # must not keep a program alive that ends before
        timer.start()


@contextmanager
def graceful_interrupt(for_good: bool) -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C while a block runs.

    Only the main thread receives signals: in other threads this does nothing.

    Args:
        for_good: Whether the process ends after the block. Then lost interrupts are sent again, and signals after the block
            are ignored. Otherwise the previous handler is restored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = InterruptHandler()
    previous = signal.signal(signal.SIGTERM, handler.interrupt)
    if for_good:
        sys.unraisablehook = handler.again
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if for_good else previous)
