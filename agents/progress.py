"""Progress on the terminal: a bar with rate and time left, or plain lines in a log. Start reading at `bar`."""

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

from worldmodel.agents.shell import command
from worldmodel.messages import format_number
from worldmodel.training.progress import LINE_SECONDS, Lines, Task
from worldmodel.training.progress import Progress as Callback
from worldmodel.training.progress import duration as duration

if TYPE_CHECKING:  # agents.analysis.verdicts imports torch, which is slow
    from worldmodel.agents.analysis.verdicts import Verdict

LEVEL_STYLES = {"good": "", "weak": "yellow", "bad": "red"}

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Standard error: progress and errors."""
answers = Console(highlight=False, soft_wrap=True)
"""Standard output: a command's results."""


def next_hint(*words: object) -> None:
    """Print the command that is useful next."""
    answers.print(f"Next: {command(*words)}", markup=False)


def print_verdict(verdict: "Verdict", to: Console | None = None) -> None:
    """Print a verdict, in red if it is bad and in yellow if it is weak; None: to standard error."""
    to = to or console
    lines = textwrap.wrap(str(verdict), max(to.width, 20), subsequent_indent="  ") if to.is_terminal else [str(verdict)]
    to.print("\n".join(lines), style=LEVEL_STYLES[verdict.level], markup=False)


def quiet_other_processes() -> None:
    """Under torchrun, print from the main process only."""
    from worldmodel.training.distributed import is_main_process  # imports torch, which is slow

    console.quiet = answers.quiet = not is_main_process()


@contextmanager
def quiet() -> Iterator[None]:
    """Print nothing on standard error while a block runs."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


@contextmanager
def busy(title: str) -> Iterator[None]:
    """Show a title while a block runs; in a log, only if it takes longer than `LINE_SECONDS`."""
    if console.is_terminal:
        with console.status(title):
            yield
        return
    timer = threading.Timer(LINE_SECONDS, console.print, [f"{title} ..."], {"markup": False})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Stages:
    """Callback that prints the current stage, for example ``stage 3 of 7: train memory``."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, name: str) -> None:
        """Print the number and the name of a stage."""
        console.print(f"stage {self.names.index(name) + 1} of {len(self.names)}: {name}", markup=False)


@contextmanager
def bar(title: str, unit: str = "") -> Iterator[Callback]:
    """Show progress while a block runs; yields a callback for ``progress`` arguments, with the finished and total units."""
    if console.is_terminal:
        with _live(Task(title, unit)) as callback:
            yield callback
    else:
        yield _lines(title, unit)


def _lines(title: str, unit: str) -> Lines:
    """Return a progress callback that prints lines, for a log."""
    return Lines(title, unit, lambda line: console.print(line, markup=False))


@contextmanager
def late_bar(title: str, unit: str = "", words: str = "") -> Iterator[Callback]:
    """Show a bar below a line of ``words``, from the first call of the callback: an error before it leaves no bar."""
    with ExitStack() as stack:
        bars: list[Callback] = []

        def progress(done: int, total: int, note: str) -> None:
            if not bars:
                if words:
                    console.print(words, markup=False)
                bars.append(stack.enter_context(bar(title, unit)))
            bars[0](done, total, note)

        yield progress


ROWS = 12
"""Largest number of generations in the live table."""


class EvolutionProgress:
    """Callbacks of an evolution: generations, their metrics, and the episodes of the current generation."""

    def __init__(self, bar: Callback, show: Callable[[deque[dict[str, Any]]], None]) -> None:
        self._bar, self._show = bar, show
        self._latest = (0, 0, "")
        self._rows: deque[dict[str, Any]] = deque(maxlen=ROWS)

    def progress(self, done: int, total: int, note: str) -> None:
        """Update the number of finished generations, for `agents.evolve`."""
        self._latest = (done, total, note)
        self._bar(done, total, note)

    def on_generation(self, row: dict[str, Any]) -> None:
        """Add the metrics of a generation to the table, for `agents.evolve`."""
        self._rows.append(row)
        self._show(self._rows)

    def episodes(self, done: int, total: int, note: str) -> None:
        """Update the number of finished episodes of the generation, for `rollouts.EnvFitness`."""
        generation, generations, last_note = self._latest
        self._bar(generation, generations, f"{done}/{total} episodes; {last_note}".removesuffix("; "))


@contextmanager
def generations(title: str) -> Iterator[EvolutionProgress]:
    """Show an evolution while a block runs: a live table of the last generations above a bar, or lines in a log.

    Yields:
        The callbacks for the library.
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
    "steps",
    "steps/s",
    "time",
)
"""Columns of the table of generations; columns without values are left out."""
OPTIONAL_COLUMNS = (
    "steps/s",
    "hard episodes",
    "std",
    "steps",
    "time",
    "sigma",
    "max",
    "eval",
)
"""Columns that a narrow terminal leaves out, in this order."""


def table_of(rows: Iterable[dict[str, Any]], width: int | None = None) -> Table:
    """Build a table of generations.

    Args:
        rows: Rows of ``metrics.jsonl``.
        width: Largest width in characters; `OPTIONAL_COLUMNS` are left out to reach it. None: unlimited.
    """
    table, cells_of_rows = Table(box=None, pad_edge=False, header_style="dim"), [_cells(row) for row in rows]
    heads = [head for head in COLUMNS if any(head in cells for cells in cells_of_rows)]
    widths = {head: max([len(head), *(len(cells.get(head, "")) for cells in cells_of_rows)]) for head in heads}
    for head in OPTIONAL_COLUMNS:
        if width is not None and sum(widths[name] + 2 for name in heads) - 2 > width and head in heads:
            heads.remove(head)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for cells in cells_of_rows:
        table.add_row(*(cells.get(head, "") for head in heads))
    return table


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """Format the metrics of a generation; returns the cells by column."""
    numbers = ("mean", "std", "max", "hard_episodes")
    cells: dict[str, str] = {name.replace("_", " "): format_number(row[name]) for name in numbers if name in row}
    cells |= {"generation": f"{row['generation']}", "sigma": f"{row['sigma']:.3g}", "time": f"{row['seconds']:.1f} s"}
    if "eval" in row:
        cells["eval"] = f"{format_number(row['eval'])} ± {format_number(row['eval_std'])} ({row['eval_n']})"
    if steps := row.get("steps", 0) + row.get("eval_steps", 0):
        cells |= {"steps": f"{steps:,}", "steps/s": f"{steps / max(row['seconds'], 1e-3):,.0f}"}
    return cells


class _Row:
    """A rich renderable of a bar that fits the width of the terminal at each refresh."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render one line, with 3 free columns for the ^C that a terminal adds."""
        row = self.task.row(options.max_width - 3, *(("#", "-") if options.ascii_only else ()))
        styles = ("", "bar.finished" if self.task.finished else "bar.complete", "bar.back", "progress.remaining", "dim")
        yield Text.assemble(*zip(row, styles, strict=True), no_wrap=True, overflow="crop")


@contextmanager
def _live(task: Task, above: Callable[[int], RenderableType] | None = None) -> "Iterator[Callback]":
    """Show a task while a block runs; the bar appears at the first progress, and disappears if the block raises.

    Args:
        task: Task.
        above: Function from a width in characters to a renderable above the bar. None: only the bar.
    """
    renderable = Group(_Above(above), _Row(task)) if above else _Row(task)
    with Live(console=console, refresh_per_second=8) as live:

        def callback(done: int, total: int, note: str) -> None:
            first = not task.clock.ticks
            if line := task.update(done, total, note):
                console.print(line, markup=False)
            if first:
                live.update(renderable)

        try:
            yield callback
        except BaseException:
            live.transient = True
            raise


class _Above:
    """A rich renderable above a bar that fits the width of the terminal at each refresh."""

    def __init__(self, make: Callable[[int], RenderableType]) -> None:
        self.make = make

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the part for the current width."""
        yield self.make(options.max_width)


def size(count: float) -> str:
    """Format a number of bytes.

    Example:
        >>> size(500), size(2_500_000)
        ('500 B', '2.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
