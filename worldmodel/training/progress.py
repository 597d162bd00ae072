"""Report the progress of long work to a callback; ``True`` shows a bar on stderr.

Start reading at `shows_progress`. `agents.progress` uses `Task` for the bars of the command line.
"""

import functools
import inspect
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, note)``; ``note`` is a short text such as ``"loss 31.2"``."""

LINE_SECONDS = 5.0
"""Shortest time between two lines without a terminal, in seconds."""
REFRESH_SECONDS = 0.1
"""Shortest time between two updates of a bar in a terminal, in seconds."""
BAR_WIDTH, MIN_BAR_WIDTH, MIN_NOTE_WIDTH, MIN_TITLE_WIDTH = 24, 8, 10, 8
"""Width of a bar in characters, and smallest widths of a bar, a note and a title."""
SLOW_RATE = 0.5
"""Rate per second below which the seconds per unit are shown."""

P = ParamSpec("P")
R = TypeVar("R")


def silent(done: int, total: int, note: str) -> None:
    """Ignore progress."""


def duration(seconds: int | float) -> str:
    """Format seconds as seconds, minutes or hours."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


class Clock:
    """Rate and time left over the later half of the time since the first tick.

    Work before a resumed job does not count, and the start of workers or a compilation does not distort the rate for long.
    """

    def __init__(self) -> None:
        self.ticks: deque[tuple[float, int]] = deque()
        """Times and finished units, from the last tick before the later half on."""
        self.started = 0.0

    def tick(self, done: int) -> None:
        """Record the number of finished units."""
        if self.ticks and done == self.ticks[-1][1]:
            return
        now = time.monotonic()
        if not self.ticks:
            self.started = now
        self.ticks.append((now, done))
        while len(self.ticks) > 2 and self.ticks[1][0] <= (self.started + now) / 2:
            self.ticks.popleft()

    @property
    def rate(self) -> float:
        """Number of units per second, up to the latest unit."""
        if len(self.ticks) < 2:
            return 0.0
        (since, first), (latest, done) = self.ticks[0], self.ticks[-1]
        return (done - first) / max(latest - since, 1e-9)

    def speed(self, unit: str) -> str:
        """Format the rate; for slow work, the seconds per unit."""
        if not self.rate:
            return ""
        rate, seconds = self.rate, 1 / self.rate
        if rate >= SLOW_RATE:
            return f"{rate:,.0f} {unit}/s" if rate >= 100 else f"{rate:.3g} {unit}/s"
        return (
            f"{seconds:,.0f} s/{unit.removesuffix('s')}"
            if seconds >= 100
            else f"{seconds:.3g} s/{unit.removesuffix('s')}"
        )

    def seconds_left(self, total: int) -> float | None:
        """Return the estimated seconds until the end; None before the first unit."""
        if not self.rate:
            return None
        latest, done = self.ticks[-1]
        return max((total - done) / self.rate - (time.monotonic() - latest), 0.0)


class Row(NamedTuple):
    """Parts of a bar, each with its leading space."""

    title: str
    filled: str
    empty: str
    numbers: str
    """Count, rate and times."""
    note: str


class Task:
    """Work that reports its progress.

    Args:
        title: Name of the work.
        unit: Name of the counted units, in the plural.
    """

    def __init__(self, title: str, unit: str = "") -> None:
        self.title, self.unit, self.clock = title, unit, Clock()
        self.started = time.monotonic()
        self.done, self.total, self.note = 0, 0, ""

    def update(self, done: int, total: int, note: str) -> str | None:
        """Record progress; on the first tick of resumed work, return a line with the update or step where it resumed."""
        first = not self.clock.ticks
        self.clock.tick(done)
        self.done, self.total, self.note = done, total, " ".join(note.split())
        going_on = first and 1 < done < total  # a new training reports after its first update
        return (
            f"{self.title}: resumed at {self.unit.removesuffix('s') or 'step'} {done} of {total}" if going_on else None
        )

    @property
    def finished(self) -> bool:
        """Whether all units are finished."""
        return 0 < self.total <= self.done

    @property
    def time_left(self) -> str:
        """Formatted time left; empty if unknown or finished."""
        seconds = None if self.finished else self.clock.seconds_left(self.total)
        return "" if seconds is None else f"{duration(seconds)} left"

    def line(self) -> str:
        """Format the progress as a line of a log."""
        parts = [f"{self.done}/{self.total}", self.clock.speed(self.unit), self.time_left, self.note]
        return f"{self.title}: {', '.join(filter(None, parts))}"

    def row(self, width: int, filled: str = "━", empty: str = "─") -> Row:
        """Format a bar of at most ``width`` characters.

        With too little room, parts are shortened or removed in this order: the note, the elapsed time, most of the bar, the
        end of the title, the bar, the rate, the count, the time left.
        """
        count, speed = f"{self.done}/{self.total}" if self.total else "", self.clock.speed(self.unit)
        passed = duration(time.monotonic() - self.started)
        left, least = self.time_left or passed, min(len(self.title), MIN_TITLE_WIDTH)
        times = ", ".join(filter(None, (passed, self.time_left)))
        wanted = [
            " ".join(filter(None, parts)) for parts in ((count, speed, times), (count, speed, left), (count, left))
        ]
        note = min(len(self.note), MIN_NOTE_WIDTH) + 1 if self.note else 0
        beside = len(self.title) + 1 + (MIN_BAR_WIDTH + 1 if self.total else 0) + note
        numbers = wanted[0]
        if beside + len(numbers) > width:
            numbers = next((text for text in wanted[1:] if least + 1 + len(text) <= width), left)
        room = width - len(numbers) - 1  # width of title, bar and note
        title = shorten(
            self.title, max(room, 0) if room < least + MIN_BAR_WIDTH + 1 else max(room - MIN_BAR_WIDTH - 1, least)
        )
        room -= len(title)
        bar = 0
        if self.total and room > MIN_BAR_WIDTH:
            bar = max(min(BAR_WIDTH, room - 1 - (len(self.note) + 1 if self.note else 0)), MIN_BAR_WIDTH)
            room -= bar + 1
        note = room - 1 if room > MIN_NOTE_WIDTH or room > len(self.note) else 0
        whole = round(bar * min(self.done / self.total, 1)) if bar else 0
        return Row(
            title,
            f" {filled * whole}" if bar else "",
            empty * (bar - whole),
            shorten(f" {numbers}" if title else numbers, width),
            f" {shorten(self.note, note)}" if note and self.note else "",
        )


def shorten(text: str, width: int) -> str:
    """Shorten a text to at most ``width`` characters; a shortened text ends with dots."""
    return text if len(text) <= width else f"{text[: max(width - 2, 0)]}.."[: max(width, 0)]


class Lines:
    """Progress for a log: a line at the start, one every few seconds, and one at the end.

    The first call writes the first line, so that an error before it is the only line.
    """

    def __init__(self, title: str, unit: str, write: Callable[[str], None]) -> None:
        self.task, self.write = Task(title, unit), write
        self.shown = float("-inf")
        self.written: tuple[int, int, str] | None = None

    def __call__(self, done: int, total: int, note: str) -> None:
        """Report progress; unchanged progress is not written again."""
        if (done, total, note) == self.written:
            return
        going_on, now = self.task.update(done, total, note), time.monotonic()
        if self.shown == float("-inf"):
            self.write(going_on or f"{self.task.title} ...")
            self.shown, self.written = now, (done, total, note)
        if (now - self.shown < LINE_SECONDS and done < total) or (done >= total and self.shown == float("inf")):
            return
        self.shown, self.written = float("inf") if done >= total else now, (done, total, note)
        self.write(self.task.line())


class TextBar:
    """A bar in the terminal of stderr that is redrawn in its line."""

    def __init__(self, title: str, unit: str) -> None:
        self.task, self.stream = Task(title, unit), sys.stderr
        self.shown, self.open = float("-inf"), False

    def __call__(self, done: int, total: int, note: str) -> None:
        """Report progress."""
        if going_on := self.task.update(done, total, note):
            self.stream.write(f"{going_on}\n")
        if time.monotonic() - self.shown < REFRESH_SECONDS and done < total:
            return
        self.shown = time.monotonic()
        width = shutil.get_terminal_size().columns - 3  # room for ^C
        plain = (self.stream.encoding or "").lower().replace("-", "") != "utf8"
        self.stream.write(f"\r\x1b[K{''.join(self.task.row(width, *(('#', '-') if plain else ())))}")
        self.open = True
        self.stream.flush()

    def close(self) -> None:
        """End the bar's line; keep a finished bar and remove an unfinished one."""
        if self.open:
            self.stream.write("\n" if self.task.finished else "\r\x1b[K")
            self.stream.flush()


def shows_progress(title: str, unit: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let the argument ``progress`` of a function also be True (a bar, or lines of a log, on stderr) or False (silent)."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # raises the error with the function's own name
            progress = bound.arguments.get("progress")
            if not isinstance(progress, bool):
                return function(*args, **kwargs)
            if not progress:
                bound.arguments["progress"] = silent
                return function(*bound.args, **bound.kwargs)
            if not sys.stderr.isatty():
                bound.arguments["progress"] = Lines(title, unit, lambda line: print(line, file=sys.stderr, flush=True))
                return function(*bound.args, **bound.kwargs)
            bar = bound.arguments["progress"] = TextBar(title, unit)
            try:
                return function(*bound.args, **bound.kwargs)
            finally:
                bar.close()

        return wrapped

    return decorate


def callback(progress: Any) -> Progress:
    """Return the progress callback that `shows_progress` passes to a function.

    Raises:
        ValueError: ``progress`` is not callable.
    """
    if not callable(progress):
        raise ValueError(f"progress must be True, False or a function (done, total, note), got {progress!r}")
    report: Progress = progress
    return report
