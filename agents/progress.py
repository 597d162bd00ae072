"""What a person sees of long work: one calm bar with rate and time left, or plain lines where there is no screen."""

import textwrap
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agents.shell import command
from worldmodel.formatting import format_number
from worldmodel.progress import LINE_SECONDS, Lines, Task
from worldmodel.progress import Progress as Callback
from worldmodel.progress import duration as duration

if TYPE_CHECKING:  # torch would come with it
    from agents.verdicts import Verdict

LEVEL_STYLES = {"good": "", "weak": "yellow", "bad": "red"}

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress and errors."""
answers = Console(highlight=False, soft_wrap=True)
"""What a command was asked for: it can be piped."""


def next_hint(*words: object) -> None:
    """The command that comes next, to be copied into a shell."""
    answers.print(f"Next: {command(*words)}", markup=False)


def print_verdict(verdict: "Verdict", to: Console | None = None) -> None:
    """A verdict in a line: red where something failed, yellow where it is weak."""
    to = to or console
    lines = textwrap.wrap(str(verdict), max(to.width, 20), subsequent_indent="  ") if to.is_terminal else [str(verdict)]
    to.print("\n".join(lines), style=LEVEL_STYLES[verdict.level], markup=False)


def quiet_other_processes() -> None:
    """Under torchrun, let the first process speak alone."""
    from worldmodel.distributed import is_main_process  # slow to import: only trainings need it

    console.quiet = answers.quiet = not is_main_process()


@contextmanager
def busy(title: str) -> Iterator[None]:
    """Show what is done now, where nothing can be counted; in a log, only if it takes more than some seconds."""
    if console.is_terminal:
        with console.status(title):
            yield
        return
    late = threading.Timer(LINE_SECONDS, console.print, [f"{title} ..."], {"markup": False})
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()


class Stages:
    """Says which stage of several begins: ``stage 3 of 7: train memory``."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, name: str) -> None:
        """A stage begins."""
        console.print(f"stage {self.names.index(name) + 1} of {len(self.names)}: {name}", markup=False)


@contextmanager
def bar(title: str, unit: str = "") -> Iterator[Callback]:
    """Show progress while a block runs; yields the callback to hand to the library."""
    if console.is_terminal:
        with _live(Task(title, unit)) as callback:
            yield callback
    else:
        yield _lines(title, unit)


def _lines(title: str, unit: str) -> Lines:
    """Progress for a log."""
    return Lines(title, unit, lambda line: console.print(line, markup=False))


@contextmanager
def late_bar(title: str, unit: str = "", words: str = "") -> Iterator[Callback]:
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


class EvolutionProgress:
    """What an evolution tells of itself: its generations, their rows, and the lives of the one that is under way."""

    def __init__(self, bar: Callback, shown: Callable[[deque[dict[str, Any]]], None]) -> None:
        self._bar, self._shown = bar, shown
        self._latest = (0, 0, "")
        self._rows: deque[dict[str, Any]] = deque(maxlen=ROWS)

    def progress(self, done: int, total: int, note: str) -> None:
        """For `agents.evolve`: so many generations are done."""
        self._latest = (done, total, note)
        self._bar(done, total, note)

    def on_generation(self, row: dict[str, Any]) -> None:
        """For `agents.evolve`: what a generation came to."""
        self._rows.append(row)
        self._shown(self._rows)

    def episodes(self, done: int, total: int, note: str) -> None:
        """For `rollouts.EnvFitness`: so many of a generation's lives are over."""
        generation, generations, before = self._latest
        self._bar(generation, generations, f"{done}/{total} episodes; {before}".removesuffix("; "))


@contextmanager
def generations(title: str) -> Iterator[EvolutionProgress]:
    """Show an evolution while a block runs: a live table of its last generations above the bar; lines where there is no screen.

    Yields the callbacks for the library.
    """
    if not console.is_terminal:
        yield EvolutionProgress(_lines(title, "generations"), lambda rows: None)
        return
    shown: list[dict[str, Any]] = []

    def show(rows: Iterable[dict[str, Any]]) -> None:
        shown[:] = rows

    with _live(Task(title, "generations"), lambda width: table_of(shown, width)) as callback:
        yield EvolutionProgress(callback, show)


COLUMNS = (
    "generation",
    "mean",
    "std",
    "max",
    "hard episodes",
    "sigma",
    "eval",
    "episodes",
    "noise fraction",
    "steps",
    "steps/s",
    "time",
)
"""Columns of the table of generations; those that no row has are left out."""


OPTIONAL_COLUMNS = (
    "steps/s",
    "noise fraction",
    "episodes",
    "hard episodes",
    "std",
    "steps",
    "time",
    "sigma",
    "max",
    "eval",
)
"""Columns that a narrow terminal does without, the first one first."""


def table_of(rows: Iterable[dict[str, Any]], width: int | None = None) -> Table:
    """Generations as a table, from rows of an evolution's ``metrics.jsonl``, in at most ``width`` characters."""
    table, shown = Table(box=None, pad_edge=False, header_style="dim"), [_cells(row) for row in rows]
    heads = [head for head in COLUMNS if any(head in cells for cells in shown)]
    widths = {head: max([len(head), *(len(cells.get(head, "")) for cells in shown)]) for head in heads}
    for head in OPTIONAL_COLUMNS:
        if width is not None and sum(widths[name] + 2 for name in heads) - 2 > width and head in heads:
            heads.remove(head)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for cells in shown:
        table.add_row(*(cells.get(head, "") for head in heads))
    return table


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """A generation's figures as they are shown."""
    cells: dict[str, str] = {
        name: format_number(row[name]) for name in ("mean", "std", "max", "hard_episodes") if name in row
    }
    cells |= {name: f"{row[name]}" for name in ("generation", "episodes", "noise_fraction") if name in row}
    cells |= {"sigma": f"{row['sigma']:.3g}", "time": f"{row['seconds']:.1f} s"}
    if "eval" in row:
        cells["eval"] = f"{format_number(row['eval'])} ± {format_number(row['eval_std'])} ({row['eval_n']})"
    if steps := row.get("steps", 0) + row.get("eval_steps", 0):
        cells |= {"steps": f"{steps:,}", "steps/s": f"{steps / max(row['seconds'], 1e-3):,.0f}"}
    return cells


class _Row:
    """A bar as rich draws it, as wide as the terminal at that moment."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line, with room for the ^C that a terminal writes behind it."""
        row = self.task.row(options.max_width - 3, *(("#", "-") if options.ascii_only else ()))
        styles = ("", "bar.finished" if self.task.finished else "bar.complete", "bar.back", "progress.remaining", "dim")
        yield Text.assemble(*zip(row, styles, strict=True), no_wrap=True, overflow="crop")


@contextmanager
def _live(task: Task, above: Callable[[int], RenderableType] | None = None) -> "Iterator[Callback]":
    """Draw a task while a block runs; what is cut short, or never reports anything, leaves no bar behind.

    ``above``: what is drawn above the bar, from the width that there is.
    """
    drawn = Group(_Above(above), _Row(task)) if above else _Row(task)
    with Live(console=console, refresh_per_second=8) as live:

        def callback(done: int, total: int, note: str) -> None:
            first = task.clock.first is None
            if going_on := task.update(done, total, note):
                console.print(going_on, markup=False)
            if first:
                live.update(drawn)

        try:
            yield callback
        except BaseException:
            live.transient = True
            raise


class _Above:
    """What is drawn above a bar."""

    def __init__(self, made: Callable[[int], RenderableType]) -> None:
        self.made = made

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As wide as the terminal at that moment."""
        yield self.made(options.max_width)


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
