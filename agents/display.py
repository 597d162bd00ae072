"""What a person sees of long work: one calm bar with rate and time left, or plain lines where there is no screen."""

import shlex
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

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
def busy(title: str) -> Iterator[None]:
    """Show what is done now, where nothing can be counted; nothing where there is no screen."""
    with console.status(title) if console.is_terminal else nullcontext():
        yield


@contextmanager
def bar(title: str, unit: str = "") -> "Iterator[Callback]":
    """Show progress while a block runs; yields the callback to hand to the library."""
    if console.is_terminal:
        with _live(title, unit) as callback:
            yield callback
    else:
        yield _Lines(title, unit)


@contextmanager
def late_bar(title: str, unit: str = "", words: str = "") -> "Iterator[Callback]":
    """A bar that shows, below a line of ``words``, only when something is done, so that bad input is one line."""
    with ExitStack() as stack:
        shown: list[Callback] = []

        def progress(done: int, total: int, note: str) -> None:
            if not shown:
                if words:
                    console.print(words, markup=False)
                shown.append(stack.enter_context(bar(title, unit)))
            shown[0](done, total, note)

        yield progress


ROWS = 12
"""Generations that the live table shows."""
SLOW = 0.5
"""Where less is done in a second, it is said how long one takes."""


class Evolving:
    """What an evolution tells of itself: its generations, their rows, and the lives of the one that is under way."""

    def __init__(self, bar: "Callback", shown: Callable[[deque[dict[str, Any]]], None]) -> None:
        self._bar, self._shown = bar, shown
        self._latest = (0, 0, "")
        self._rows: deque[dict[str, Any]] = deque(maxlen=ROWS)

    def progress(self, done: int, total: int, note: str) -> None:
        """For `agents.evolve`: so many generations are done."""
        self._latest = (done, total, note)
        self._bar(done, total, note)

    def watch(self, row: dict[str, Any]) -> None:
        """For `agents.evolve`: what a generation came to."""
        self._rows.append(row)
        self._shown(self._rows)

    def lives(self, done: int, total: int, note: str) -> None:
        """For `rollouts.played`: so many of a generation's lives are over."""
        generation, generations, before = self._latest
        self._bar(generation, generations, f"{before} [{done}/{total} episodes]".strip())


@contextmanager
def generations(title: str) -> Iterator[Evolving]:
    """Show an evolution while a block runs: a live table of its last generations above the bar; lines where there is no screen.

    Yields the callbacks for the library.
    """
    if not console.is_terminal:
        yield Evolving(_Lines(title, "generations"), lambda rows: None)
        return
    progress = Progress(*_COLUMNS, console=console)
    with Live(progress, console=console, refresh_per_second=4) as live:
        callback = _callback(progress, title, "generations")
        yield Evolving(callback, lambda rows: live.update(Group(table_of(rows), progress)))


HEADS = (
    "generation",
    "mean",
    "std",
    "max",
    "scouted",
    "sigma",
    "check",
    "episodes",
    "noise",
    "steps",
    "steps/s",
    "time",
)
"""Columns of the table of generations; those that no row has are left out."""


def table_of(rows: Iterable[dict[str, Any]]) -> Table:
    """Generations as a table, from rows of an evolution's ``metrics.jsonl``."""
    table, shown = Table(box=None, pad_edge=False, header_style="dim"), [_cells(row) for row in rows]
    heads = [head for head in HEADS if any(head in cells for cells in shown)]
    for head in heads:
        table.add_column(head, justify="right")
    for cells in shown:
        table.add_row(*(cells.get(head, "") for head in heads))
    return table


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """A generation's figures as they are shown."""
    cells: dict[str, str] = {name: f"{row[name]:.1f}" for name in ("mean", "std", "max", "scouted") if name in row}
    cells |= {name: f"{row[name]}" for name in ("generation", "episodes", "noise") if name in row}
    cells |= {"sigma": f"{row['sigma']:.3g}", "time": f"{row['seconds']:.1f} s"}
    if "check" in row:
        cells["check"] = f"{row['check']:.1f} ± {row['check_std']:.1f} ({row['check_n']})"
    if steps := row.get("steps", 0) + row.get("check_steps", 0):
        cells |= {"steps": f"{steps:,}", "steps/s": f"{steps / max(row['seconds'], 1e-3):,.0f}"}
    return cells


class _Times(ProgressColumn):
    """How long it has taken, and how long it will."""

    def render(self, task: Task) -> Text:
        words, clock = duration(task.elapsed or 0), task.fields["clock"]
        if not task.finished and task.total is not None and (left := clock.left(task.total)) is not None:
            words += f", {duration(left)} left"
        return Text(words, style="progress.remaining")


_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(bar_width=24),
    MofNCompleteColumn(),
    TextColumn("{task.fields[speed]}"),
    _Times(),
    TextColumn("[dim]{task.fields[note]}"),
)


@contextmanager
def _live(title: str, unit: str) -> "Iterator[Callback]":
    with Progress(*_COLUMNS, console=console) as progress:
        yield _callback(progress, title, unit)


def _callback(progress: Progress, title: str, unit: str) -> "Callback":
    """What the library calls, as a task of rich's."""
    clock = _Clock()
    task = progress.add_task(title, total=None, note="", speed="", clock=clock)

    def callback(done: int, total: int, note: str) -> None:
        clock.tick(done)
        progress.update(task, completed=done, total=total, note=note, speed=clock.speed(unit))

    return callback


class _Clock:
    """How fast work goes, from the first tick on, which comes before the work: a resumed job does not count what was there."""

    def __init__(self) -> None:
        self.began = self.latest = time.monotonic()
        self.first: int | None = None
        self.done = 0

    def tick(self, done: int) -> None:
        """So much is done by now."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.began = done, now
        if done != self.done:
            self.done, self.latest = done, now

    @property
    def rate(self) -> float:
        """Units a second, when the latest one was done."""
        return 0.0 if self.first is None else (self.done - self.first) / max(self.latest - self.began, 1e-9)

    def speed(self, unit: str) -> str:
        """The rate in words; of slow work, how long one takes."""
        if not self.rate:
            return ""
        return f"{self.rate:,.3g} {unit}/s" if self.rate >= SLOW else f"{1 / self.rate:,.3g} s/{unit.removesuffix('s')}"

    def left(self, total: float) -> float | None:
        """Seconds until all is done; None where nothing tells yet."""
        since = time.monotonic() - self.latest
        return max((total - self.done) / self.rate - since, 0.0) if self.rate else None


class _Lines:
    """Progress for a log file: a line when work begins, then now and then, and one at the end.

    The first call begins: what is refused before it, such as a folder of other settings, is told in one line.
    """

    def __init__(self, title: str, unit: str) -> None:
        self.title, self.unit, self.clock, self.shown = title, unit, _Clock(), float("-inf")

    def __call__(self, done: int, total: int, note: str) -> None:
        self.clock.tick(done)
        now = time.monotonic()
        if self.shown == float("-inf"):
            console.print(f"{self.title} ...")
            self.shown = now
        if now - self.shown < LINE_SECONDS and done < total:
            return
        if done >= total and self.shown == float("inf"):
            return
        self.shown = float("inf") if done >= total else now
        left = self.clock.left(total) if done < total else None
        parts = [self.clock.speed(self.unit), "" if left is None else f"{duration(left)} left", note.strip()]
        console.print(f"{self.title}: {', '.join(filter(None, [f'{done}/{total}', *parts]))}")


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
