"""The command ``worldmodel doctor``."""

from jsonargparse import Namespace
from rich.table import Column, Table
from rich.text import Text

from agents.parser import Parser
from agents.progress import answers


def build_doctor(parser: Parser) -> None:
    """Say what is installed, which device there is, whether each game shows frames, and what to do where it fails."""


def doctor(options: Namespace) -> int:
    """Examine."""
    from agents.doctor import run_checks

    checks = run_checks()
    ill = not all(check.ok for check in checks)
    table = Table("what", Column("state", overflow="fold"), *([Column("to do", overflow="fold")] if ill else ()))
    for check in checks:
        state = Text(check.state, style="green" if check.ok else "red")
        table.add_row(Text(check.name), state, *([Text("" if check.ok else check.advice)] if ill else ()))
    answers.print(table)
    return 1 if ill else 0
