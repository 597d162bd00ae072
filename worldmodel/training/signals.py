"""End work once after Ctrl-C or SIGTERM, and only where it can be saved; start reading at `graceful_interrupt`."""

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


class Interrupt:
    """The signals of one `graceful_interrupt`.

    Args:
        delay: Whether the first signal is only recorded.
    """

    def __init__(self, delay: bool = False) -> None:
        self.delay, self.requested = delay, False
        self.previous: dict[int, Any] = {}
        """Handlers of the signals outside the block."""

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first one is recorded or raises `KeyboardInterrupt`.

        Later ones reach the handler outside the block if the first one is only recorded. Otherwise they are ignored, because
        they would interrupt the cleanup.
        """
        first, self.requested = not self.requested, True
        if self.delay and not first:
            self.previous[number](number, frame)
        elif first and not self.delay:
            raise KeyboardInterrupt

    def again(self, lost: Any) -> None:
        """Handle an exception that Python cannot raise (`sys.unraisablehook`).

        Python only prints an exception from a finalizer or a callback of the garbage collector, and the program goes on.
        This handler sends a lost interrupt again after `AGAIN_AFTER_S`.
        """
        if lost.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(lost)
            return
        self.requested = False
        # on Windows os.kill would end the process without a signal
        send = partial(os.kill, os.getpid()) if os.name == "posix" else signal.raise_signal
        timer = threading.Timer(AGAIN_AFTER_S, send, (signal.SIGTERM,))
        timer.daemon = True  # must not keep a program alive that ends before
        timer.start()


@contextmanager
def graceful_interrupt(*, delay: bool = False, for_good: bool = False) -> Iterator[Interrupt]:
    """Treat SIGTERM as Ctrl-C while a block runs: one `KeyboardInterrupt`, or one that waits until the work is saved.

    Only the main thread receives signals: in other threads this does nothing.

    Args:
        delay: Whether the first Ctrl-C or SIGTERM only sets ``requested``, for a block that then saves its work and raises
            `KeyboardInterrupt` itself; the second one interrupts. Signals that the program ignores, and SIGTERM if it has no
            handler, stay as they are.
        for_good: Whether the process ends after the block. Then lost interrupts are sent again, and SIGTERM after the block
            is ignored. Otherwise the previous handlers are restored.

    Example:
        >>> with graceful_interrupt(delay=True) as interrupt:
        ...     interrupt.requested
        False
    """
    interrupt = Interrupt(delay)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM) if delay else (signal.SIGTERM,):
            if callable(previous := signal.getsignal(number)) or not delay:
                interrupt.previous[number] = previous
                signal.signal(number, interrupt.handle)
        if for_good:
            sys.unraisablehook = interrupt.again
    try:
        yield interrupt
    finally:
        for handled, before in interrupt.previous.items():
            signal.signal(handled, signal.SIG_IGN if for_good else before)
