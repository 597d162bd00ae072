"""SIGTERM as Ctrl-C: raised once, and never lost."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

AGAIN_AFTER_S = 0.05
"""When an interrupt that got lost comes again."""

_ending = False


def answer_sigterm() -> None:
    """From now on the first SIGTERM raises `KeyboardInterrupt`; more of them would only break into the end, and do nothing."""
    global _ending
    _ending = False
    signal.signal(signal.SIGTERM, _interrupt)


def ignore_sigterm() -> None:
    """The end has come: nothing shall break into it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def keep_interrupts() -> None:
    """Let an interrupt come again that was raised in a finalizer or a callback of the garbage collector.

    Python prints what is raised there and goes on as if nothing had happened: the program would not stop.
    """
    sys.unraisablehook = _again


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _ending
    if not _ending:
        _ending = True
        raise KeyboardInterrupt


def _again(lost: Any) -> None:
    global _ending
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    _ending = False
    timer = threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True  # where the program ends before, it has stopped
    timer.start()
