"""What a person sees of long work: one calm bar with rate and time left, or plain lines where there is no screen."""

import shlex
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:  # torch would come with it
    from worldmodel.progress import Progress as Callback

LINE_SECONDS = 5.0
"""Without a terminal a line is printed at most this often."""

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress and errors."""
answers = Console(highlight=False, soft_wrap=True)
"""What a command was asked for: it can be piped."""


def say_next(*words: object) -> None:
    """The command that comes next, to be copied into a shell."""
    answers.print(f"Next: {shlex.join(map(str, words))}", markup=False)


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


ROWS = 12
"""Generations that the live table shows."""


@contextmanager
def generations(title: str) -> "Iterator[tuple[Callback, Callable[[dict[str, Any]], None]]]":
    """Show an evolution while a block runs: a live table of its last generations above the bar; lines where there is no screen.

    Yields the callbacks ``progress`` and ``watch`` for `agents.evolve`.
    """
    if not console.is_terminal:
        yield _Lines(title, "generations"), lambda row: None
        return
    rows: deque[dict[str, Any]] = deque(maxlen=ROWS)
    progress = Progress(*_COLUMNS, console=console)
    callback = _callback(progress, title, "generations")
    with Live(progress, console=console, refresh_per_second=4) as live:

        def watch(row: dict[str, Any]) -> None:
            rows.append(row)
            live.update(Group(table_of(rows), progress))

        yield callback, watch


def table_of(rows: Iterable[dict[str, Any]]) -> Table:
    """Generations as a table, from rows of an evolution's ``metrics.jsonl``."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("generation", "mean", "std", "max", "sigma", "check", "episodes", "noise", "steps", "steps/s", "time"):
        table.add_column(name, justify="right")
    for row in rows:
        steps = row.get("steps", 0) + row.get("check_steps", 0)
        tested = f"{row['check']:.1f} ± {row['check_std']:.1f} ({row['check_n']})" if "check" in row else ""
        cells = [f"{row['generation']}", f"{row['mean']:.1f}", f"{row['std']:.1f}", f"{row['max']:.1f}"]
        cells += [f"{row['sigma']:.3g}", tested, str(row.get("episodes", "")), f"{row.get('noise', '')}"]
        cells += [f"{steps:,}", f"{steps / max(row['seconds'], 1e-3):,.0f}"] if steps else ["", ""]
        table.add_row(*cells, f"{row['seconds']:.1f} s")
    return table


_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(bar_width=24),
    MofNCompleteColumn(),
    TextColumn("{task.fields[rate]}"),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
    TextColumn("[dim]{task.fields[note]}"),
)


@contextmanager
def _live(title: str, unit: str) -> "Iterator[Callback]":
    with Progress(*_COLUMNS, console=console) as progress:
        yield _callback(progress, title, unit)


def _callback(progress: Progress, title: str, unit: str) -> "Callback":
    """What the library calls, as a task of rich's."""
    task = progress.add_task(title, total=None, note="", rate="")
    clock = _Clock()

    def callback(done: int, total: int, note: str) -> None:
        rate = clock.rate(done)
        progress.update(task, completed=done, total=total, note=note, rate=f"{rate:,.3g} {unit}/s" if rate else "")

    return callback


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
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
