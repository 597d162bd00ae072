"""The command ``worldmodel inspect``."""

from jsonargparse import Namespace
from rich.table import Column, Table
from rich.text import Text

from agents.parser import Parser
from agents.progress import LEVEL_STYLES, answers
from worldmodel.paths import file_path, folder_path


def build_inspect(parser: Parser) -> None:
    """Describe a store, a world model, an agent, or a run.

    For rollouts: episodes, steps, returns, size, and a contact sheet of frames.
    """
    parser.add_argument("path", type=str, help="the folder, or a name with --pretrained")
    parser.add_argument("--pretrained", action="store_true", help="PATH names an agent that comes with the package")
    parser.add_argument(
        "--picture",
        type=str | None,
        default=None,
        help="the contact sheet, PNG (default: contact-sheet.png in the folder)",
    )
    parser.add_argument("--minari", type=bool, default=False, help="whether to read the rollouts with Minari, too")


def inspect(options: Namespace) -> None:
    """Describe."""
    from agents.inspect import contact_sheet, describe, is_run, read_with_minari
    from agents.pretrained import pretrained_agent
    from agents.run import Run
    from agents.verdicts import verdicts

    table = Table(Column("what", overflow="fold"), Column("value", overflow="fold", ratio=1), show_header=False)
    folder = pretrained_agent(options.path).folder if options.pretrained else folder_path(options.path, "path")
    rows = describe(folder)
    if options.minari:
        rows += read_with_minari(folder)
    for what, value in rows:
        table.add_row(Text(what), Text(value))
    for verdict in verdicts(Run(folder)) if is_run(folder) else ():
        table.add_row(Text(verdict.part), Text(verdict.text, style=LEVEL_STYLES[verdict.level]))
    answers.print(table)
    picture = file_path(options.picture or folder / "contact-sheet.png", "picture")
    if contact_sheet(folder, picture):
        answers.print(f"{picture} (a row for each episode, from its first frame to its last)", markup=False)
