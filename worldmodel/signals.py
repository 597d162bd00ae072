"""Stops that wait for a moment at which all can be saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class GracefulInterrupt:
    """Within it Ctrl-C, and SIGTERM where the program handles it, only sets ``asked``; a second one interrupts.

    Only in the main thread, where signals arrive; elsewhere, and where they are ignored, nothing changes.

    Example:
        >>> with Stopping() as stop:
        ...     stop.asked
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
