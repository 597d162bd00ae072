"""Report the progress of long work to a callback: a bar in a terminal or a notebook, or plain lines in a log.

Start reading at `bar`; the command line uses it through `agents.progress`. `shows_progress` gives functions ``progress=True``.
"""

import functools
import html
import inspect
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.text import Text

Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, note)``; ``note`` is a short text such as ``"loss 31.2"``."""

LINE_SECONDS = 5.0
"""Shortest time between two lines without a terminal, in seconds."""
BAR_WIDTH, MIN_BAR_WIDTH, MIN_NOTE_WIDTH, MIN_TITLE_WIDTH = 24, 8, 10, 24
"""Width of a bar in characters, and smallest widths of a bar, a note and a title beside other parts."""
NOTEBOOK_SECONDS = 0.25
"""Shortest time between two changes of a bar in a notebook, in seconds."""
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
        slow = self.rate < SLOW_RATE
        value = 1 / self.rate if slow else self.rate
        number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        return f"{number} s/{unit.removesuffix('s')}" if slow else f"{number} {unit}/s"

    def seconds_left(self, total: int) -> float | None:
        """Return the estimated seconds until the end; None before the first unit."""
        if not self.rate:
            return None
        latest, done = self.ticks[-1]
        return max((total - done) / self.rate - (time.monotonic() - latest), 0.0)


class Task:
    """Work that reports its progress, as a bar for rich.

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
        resumed = not self.clock.ticks and 1 < done < total  # a new training reports after its first update
        self.clock.tick(done)
        self.done, self.total, self.note = done, total, " ".join(note.split())
        unit = self.unit.removesuffix("s") or "step"
        return f"{self.title}: resumed at {unit} {done} of {total}" if resumed else None

    @property
    def time_left(self) -> str:
        """Formatted time left; empty if unknown or finished."""
        seconds = None if 0 < self.total <= self.done else self.clock.seconds_left(self.total)
        return "" if seconds is None else f"{duration(seconds)} left"

    def line(self) -> str:
        """Format the progress as a line of a log."""
        parts = [f"{self.done}/{self.total}", self.clock.speed(self.unit), self.time_left, self.note]
        return f"{self.title}: {', '.join(filter(None, parts))}"

    def parts(self, width: int) -> dict[str, str]:
        """Return the parts of a bar of at most ``width`` characters; with too little room, some are shorter or empty."""
        passed, left = duration(time.monotonic() - self.started), self.time_left
        parts = {
            "title": self.title,
            "bar": " " * MIN_BAR_WIDTH if self.total else "",
            "count": f"{self.done}/{self.total}" if self.total else "",
            "speed": self.clock.speed(self.unit),
            "passed": left and f"{passed},",
            "left": left or passed,
            "note": self.note,
        }
        widths = {"title": min(len(self.title), MIN_TITLE_WIDTH), "note": min(len(self.note), MIN_NOTE_WIDTH)}

        def room() -> int:
            used = (min(len(text), widths.get(name, len(text))) + 1 for name, text in parts.items() if text)
            return width + 1 - sum(used)

        for name in ("passed", "note", "bar", "speed", "count"):
            if room() < 0:
                parts[name] = ""
        for name in widths:
            widths[name] = max(widths[name] + room(), 0)
            parts[name] = shorten(parts[name], widths[name])
        if parts["bar"]:
            parts["bar"] = " " * min(MIN_BAR_WIDTH + room(), BAR_WIDTH)
        return parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Render one line, with 3 free columns for the ^C that a terminal adds."""
        parts, marks = self.parts(options.max_width - 3), "#-" if options.ascii_only else "━─"
        filled = round(len(parts["bar"]) * min(self.done / self.total, 1)) if self.total else 0
        parts["bar"] = marks[0] * filled + marks[1] * (len(parts["bar"]) - filled)
        line = Text(no_wrap=True, overflow="crop")
        for name, text in parts.items():
            style = {"title": "", "note": "dim", "bar": "bar.back"}.get(name, "progress.remaining")
            line.append(f"{' ' if line and text else ''}{text}", style)
        start = len(parts["title"]) + 1
        line.stylize("bar.finished" if 0 < self.total <= self.done else "bar.complete", start, start + filled)
        yield line


def shorten(text: str, width: int) -> str:
    """Shorten a text to at most ``width`` characters; a shortened text ends with dots."""
    return text if len(text) <= width else f"{text[: max(width - 2, 0)]}.."[:width]


class Lines:
    """Progress for a log: a line at the start, one every few seconds, and one at the end.

    The first call writes the first line, so that an error before it is the only line.
    """

    def __init__(self, task: Task, write: Callable[[str], None]) -> None:
        self.task, self.write = task, write
        self.shown = float("-inf")
        self.written: tuple[int, int, str] | None = None

    def __call__(self, done: int, total: int, note: str) -> None:
        """Report progress; unchanged progress is not written again."""
        if (done, total, note) == self.written:
            return
        resumed, now = self.task.update(done, total, note), time.monotonic()
        if self.shown == float("-inf"):
            self.write(resumed or f"{self.task.title} ...")
            self.shown, self.written = now, (done, total, note)
        if (now - self.shown < LINE_SECONDS and done < total) or (done >= total and self.shown == float("inf")):
            return
        self.shown, self.written = float("inf") if done >= total else now, (done, total, note)
        self.write(self.task.line())


@contextmanager
def bar(title: str, unit: str, console: Console, above: RenderableType | None = None) -> Iterator[Progress]:
    """Show progress while a block runs: a bar in a terminal, else lines.

    Both appear at the first progress: an error before it leaves nothing. The bar disappears if the block raises.

    Args:
        title: Name of the work.
        unit: Name of the counted units, in the plural.
        console: Where to show it.
        above: What to show above the bar. None: nothing.

    Yields:
        The function that takes the progress.
    """
    task = Task(title, unit)

    def write(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(task, write)
        return
    with Live(console=console, refresh_per_second=8, redirect_stdout=sys.stdout.isatty()) as live:

        def report(done: int, total: int, note: str) -> None:
            first = not task.clock.ticks
            if resumed := task.update(done, total, note):
                write(resumed)
            if first:
                live.update(task if above is None else Group(above, task))

        try:
            yield report
        except BaseException:
            live.transient = True
            raise


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")


@contextmanager
def notebook_bar(title: str, unit: str) -> Iterator[Progress]:
    """Show progress in a notebook's cell while a block runs: one bar, which changes at most four times a second."""
    display = sys.modules["IPython"].display.display
    task, shown, handle = Task(title, unit), -math.inf, None

    def report(done: int, total: int, note: str) -> None:
        nonlocal shown, handle
        task.update(done, total, note)
        if time.monotonic() - shown < NOTEBOOK_SECONDS and done < total:
            return
        shown, line = time.monotonic(), task.line()
        picture = f'<progress value="{done}" max="{max(total, 1)}"></progress> {html.escape(line)}'
        data = {"text/plain": line, "text/html": picture}
        if handle is None:
            handle = display(data, raw=True, display_id=True)
        else:
            handle.update(data, raw=True)

    yield report


_shown: ContextVar[bool] = ContextVar("shown", default=False)
"""Whether a function shows its progress now; those that it calls are silent by default."""


def shows_progress(title: str, unit: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let the argument ``progress`` of a function also be True (a bar, or lines of a log, on stderr) or False (silent).

    The default is True in a notebook, where the outermost function shows the only bar.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # raises the error with the function's own name
            notebook = in_notebook()
            progress = bound.arguments.get("progress", silent)
            if progress is silent and notebook and not _shown.get():
                progress = True
            shown: AbstractContextManager[Any] = nullcontext(silent if progress is False else progress)
            if progress is True:
                stderr = Console(stderr=True, highlight=False, emoji=False, force_jupyter=False)
                shown = notebook_bar(title, unit) if notebook else bar(title, unit, stderr)
            token = _shown.set(True)
            try:
                with shown as bound.arguments["progress"]:
                    return function(*bound.args, **bound.kwargs)
            finally:
                _shown.reset(token)

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
