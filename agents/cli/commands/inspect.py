"""The command ``worldmodel inspect``: describe a folder."""

from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.table import Column, Table
from rich.text import Text

from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import LEVEL_STYLES, answers, busy, print_verdict
from worldmodel.io.paths import file_path, folder_path

if TYPE_CHECKING:
    from worldmodel.agents.runs.run_folder import Run

MAX_NEWEST = 3
"""Number of the newest iterations in the table of report cards; the first one is also in it."""


def build_inspect(parser: Parser) -> None:
    """Describe a store, a world model, an agent, or a run.

    For rollouts: episodes, steps, returns, size, and a contact sheet of frames.
    """
    parser.add_argument("path", type=str, help="Path of the folder; with --pretrained, an agent's name.")
    parser.add_argument("--pretrained", action="store_true", help="PATH is the name of an agent of this package.")
    parser.add_argument(
        "--picture",
        type=str | None,
        default=None,
        help="Path of the contact sheet, a PNG file. None: contact-sheet.png in the folder.",
    )
    parser.add_argument(
        "--world",
        action="store_true",
        help="Print the report card of the world model (of each iteration) instead; measures it if needed.",
    )
    parser.add_argument("--minari", type=bool, default=False, help="Whether to read the rollouts with Minari, too.")


def inspect(options: Namespace) -> None:
    """Print a table about the folder and write the contact sheet."""
    from worldmodel.agents.analysis.inspect import contact_sheet, describe, is_run, read_with_minari
    from worldmodel.agents.analysis.verdicts import verdicts
    from worldmodel.agents.pretrained import pretrained_agent
    from worldmodel.agents.runs.run_folder import Run

    folder = pretrained_agent(options.path).folder if options.pretrained else folder_path(options.path, "path")
    if options.world:
        _print_cards(Run(folder).existing())
        return
    table = Table(Column("name", overflow="fold"), Column("value", overflow="fold", ratio=1), show_header=False)
    rows = describe(folder)
    if options.minari:
        rows += read_with_minari(folder)
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    for verdict in verdicts(Run(folder)) if is_run(folder) else ():
        table.add_row(Text(verdict.part), Text(verdict.text, style=LEVEL_STYLES[verdict.level]))
    answers.print(table)
    picture = file_path(options.picture or folder / "contact-sheet.png", "picture")
    try:
        written = contact_sheet(folder, picture)
    except OSError as error:
        if options.picture:
            raise
        answers.print(
            f"There is no contact sheet: {error.strerror}: {picture}; --picture writes another file", markup=False
        )
        return
    if written:
        answers.print(f"{picture} (one row an episode, from the first frame to the last)", markup=False)


def _print_cards(run: "Run") -> None:
    """Print the report cards of a run as a table, and the verdicts on the newest one."""
    from worldmodel.agents.analysis.diagnostics import cards
    from worldmodel.agents.analysis.report_card import table_of
    from worldmodel.agents.analysis.verdicts import verdicts_of_card

    with busy("measuring the world model"):
        found = cards(run)
    names = list(found)
    heads, *rows = table_of({name: found[name] for name in dict.fromkeys([*names[:1], *names[-MAX_NEWEST:]])})
    table = Table(*(Column(head, overflow="fold") for head in heads))
    for row in rows:
        table.add_row(*map(Text, row))
    answers.print(table)
    for verdict in verdicts_of_card(next(reversed(found.values()))):
        print_verdict(verdict, answers)
