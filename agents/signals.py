"""SIGTERM as Ctrl-C: raised once, and never lost."""

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
"""When an interrupt that got lost comes again."""


class InterruptHandler:
    """The first SIGTERM raises `KeyboardInterrupt`; those after it are as one with it: they would only break into the end."""

    def __init__(self) -> None:
        self._ending = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Answer a SIGTERM."""
        if not self._ending:
            self._ending = True
            raise KeyboardInterrupt

    def again(self, lost: Any) -> None:
        """Answer what Python cannot raise (`sys.unraisablehook`).

        What is raised in a finalizer or a callback of the garbage collector is printed, and the program goes on as if nothing
        had happened. An interrupt comes again a moment later instead.
        """
        if lost.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(lost)
            return
        self._ending = False
        # on Windows os.kill would end the process at once
        again = partial(os.kill, os.getpid()) if os.name == "posix" else signal.raise_signal
        timer = threading.Timer(AGAIN_AFTER_S, again, (signal.SIGTERM,))
        timer.daemon = True  # where the program ends before, it has stopped
        timer.start()


@contextmanager
def graceful_interrupt(for_good: bool) -> Iterator[None]:
    """Within it SIGTERM is Ctrl-C.

    ``for_good``: the process is ours and ends with this. Interrupts that got lost come again, and once one has come, nothing
    breaks into the process's end. Else all is as it was before, afterwards; and in any thread but the main one, where no signal
    arrives, nothing changes at all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts = InterruptHandler()
    before = signal.signal(signal.SIGTERM, interrupts.interrupt)
    if for_good:
        sys.unraisablehook = interrupts.again
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if for_good else before)
