"""An argument parser whose help keeps its lines, and whose errors are one line and exit code 2."""

import re
import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from agents.display import console


class _Formatter(DefaultHelpFormatter):
    """Help that keeps the line breaks of descriptions."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line.strip() if line[:2] != "  " else indent + line for line in text.splitlines())


class Parser(ArgumentParser):
    """A parser that answers bad input with one line and exit code 2."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, formatter_class=_Formatter, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, without the usage."""
        words = " ".join(message.split())
        words = re.sub(r'Parser key "([^"]+)":', r"--\1:", words)
        words = re.sub(r"Expected a typing\.Literal\[(.*?)\]", r"expected one of \1", words)
        words = words.replace("Expected a <class 'dict'>", """expected JSON such as '{"action_repeat": 4}'""")
        console.print(f"{self.prog}: {words} (--help lists what there is)", style="red", markup=False)
        sys.exit(2)
