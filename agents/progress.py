"""Output of the command line: progress (`worldmodel.training.progress`), hints and results. Start reading at `bar`."""

import textwrap
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions
from rich.table import Table

from worldmodel.agents.shell import command
from worldmodel.messages import format_number
from worldmodel.training import progress
from worldmodel.training.progress import Progress
from worldmodel.training.progress import duration as duration

if TYPE_CHECKING:  # agents.analysis.verdicts imports torch, which is slow
    from worldmodel.agents.analysis.verdicts import Verdict

LEVEL_STYLES = {"good": "", "weak": "yellow", "bad": "red"}

console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
"""Standard error: progress and errors."""
answers = Console(highlight=False, emoji=False, soft_wrap=True)
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
    """Show a title while a block runs; in a log, only if it takes longer than `progress.LINE_SECONDS`."""
    if console.is_terminal:
        with console.status(title):
            yield
        return
    timer = threading.Timer(progress.LINE_SECONDS, console.print, [f"{title} ..."], {"markup": False})
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


def bar(title: str, unit: str = "") -> AbstractContextManager[Progress]:
    """Show progress while a block runs; yields a callback for ``progress`` arguments, with the finished and total units."""
    return progress.bar(title, unit, console)


ROWS = 12
"""Largest number of generations in the live table."""


class EvolutionProgress:
    """Callbacks of an evolution: generations, their metrics, and the episodes of the current generation."""

    def __init__(self) -> None:
        self.bar: Progress = progress.silent
        self._latest = (0, 0, "")
        self._rows: deque[dict[str, Any]] = deque(maxlen=ROWS)

    def progress(self, done: int, total: int, note: str) -> None:
        """Update the number of finished generations, for `agents.evolve`."""
        self._latest = (done, total, note)
        self.bar(done, total, note)

    def on_generation(self, row: dict[str, Any]) -> None:
        """Add the metrics of a generation to the table, for `agents.evolve`."""
        self._rows.append(row)

    def episodes(self, done: int, total: int, note: str) -> None:
        """Update the number of finished episodes of the generation, for `rollouts.EnvFitness`."""
        generation, generations, last_note = self._latest
        self.bar(generation, generations, f"{done}/{total} episodes; {last_note}".removesuffix("; "))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Render the table for the current width."""
        yield table_of(list(self._rows), options.max_width)


@contextmanager
def generations(title: str) -> Iterator[EvolutionProgress]:
    """Show an evolution while a block runs: a live table of the last generations above a bar, or lines in a log.

    Yields:
        The callbacks for the library.
    """
    shown = EvolutionProgress()
    with progress.bar(title, "generations", console, above=shown) as shown.bar:
        yield shown


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
