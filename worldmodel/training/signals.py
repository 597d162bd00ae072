"""Delay Ctrl-C and SIGTERM until the work can be saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class GracefulInterrupt:
    """In this context Ctrl-C, and SIGTERM if the program handles it, sets ``requested``; a second signal interrupts.

    It has an effect in the main thread alone, which receives signals, and only on signals that are not ignored.

    Example:
        >>> with GracefulInterrupt() as stop:
        ...     stop.requested
        False
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "GracefulInterrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(before := signal.getsignal(number)):
                    self._before[number] = before
                    signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self._before[number](number, frame)
        self.requested = True
