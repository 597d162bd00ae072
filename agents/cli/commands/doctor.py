"""The command ``worldmodel doctor``: check the installation."""

from jsonargparse import Namespace
from rich.table import Column, Table
from rich.text import Text

from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers


def build_doctor(parser: Parser) -> None:
    """Check the installed packages, the device and the environments, and print how to fix what fails."""


def doctor(options: Namespace) -> int:
    """Run the checks and print a table; returns 1 if a check failed."""
    from worldmodel.agents.cli.doctor import run_checks

    checks = run_checks()
    failed = not all(check.ok for check in checks)
    table = Table("check", Column("result", overflow="fold"), *([Column("fix", overflow="fold")] if failed else ()))
    for check in checks:
        state = Text(check.state, style="green" if check.ok else "red")
        table.add_row(Text(check.name), state, *([Text("" if check.ok else check.advice)] if failed else ()))
    answers.print(table)
    return 1 if failed else 0
