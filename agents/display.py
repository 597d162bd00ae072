"""What a person sees of long work: one calm bar with rate and time left, or plain lines where there is no screen."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:  # torch would come with it
    from worldmodel.progress import Progress as Callback

LINE_SECONDS = 5.0
"""Without a terminal a line is printed at most this often."""

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress and errors."""
answers = Console(highlight=False, soft_wrap=True)
"""What a command was asked for: it can be piped."""


def one_voice() -> None:
    """Under torchrun, let the first process speak alone."""
    from worldmodel.parallel import leader  # slow to import: only trainings need it

    console.quiet = answers.quiet = not leader()


@contextmanager
def bar(title: str, unit: str = "") -> "Iterator[Callback]":
    """Show progress while a block runs; yields the callback to hand to the library."""
    if console.is_terminal:
        with _live(title, unit) as callback:
            yield callback
    else:
        yield _Lines(title, unit)


@contextmanager
def _live(title: str, unit: str) -> "Iterator[Callback]":
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=None, note="", rate="")
        clock = _Clock()

        def callback(done: int, total: int, note: str) -> None:
            rate = clock.rate(done)
            progress.update(task, completed=done, total=total, note=note, rate=f"{rate:,.3g} {unit}/s" if rate else "")

        yield callback


class _Clock:
    """How fast work goes, from where this process began (a resumed job does not count what was there)."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.first: int | None = None

    def rate(self, done: int) -> float:
        if self.first is None:
            self.first, self.began = done, time.monotonic()
        return (done - self.first) / max(time.monotonic() - self.began, 1e-9)


class _Lines:
    """Progress for a log file: a line now and then, and one at the end."""

    def __init__(self, title: str, unit: str) -> None:
        self.title, self.unit, self.clock, self.shown = title, unit, _Clock(), time.monotonic()
        console.print(f"{title} ...")

    def __call__(self, done: int, total: int, note: str) -> None:
        rate, now = self.clock.rate(done), time.monotonic()
        if now - self.shown < LINE_SECONDS and done < total:
            return
        if done >= total and self.shown == float("inf"):
            return
        self.shown = float("inf") if done >= total else now
        left = f", {duration((total - done) / rate)} left" if rate and done < total else ""
        speed = f", {rate:,.3g} {self.unit}/s" if rate else ""
        console.print(f"{self.title}: {done}/{total}{speed}{left}{', ' + note.strip() if note.strip() else ''}")


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
