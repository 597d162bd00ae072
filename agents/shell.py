"""Commands as a shell takes them: every one that is printed runs as printed."""

import os
import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "worldmodel"


def command(*words: object) -> str:
    """A command line, to be copied into a shell.

    A first word "worldmodel" or "python" becomes a path where the shell would start another program, or none.
    """
    first, *rest = map(str, words)
    starts = {PROGRAM: _program, "python": _python}.get(first)
    return shlex.join([*(starts() if starts else [first]), *rest])


def _program() -> list[str]:
    """How a shell starts this program."""
    script = Path(sys.argv[0])
    if script.stem == PROGRAM and script.is_file():
        here: str | None = str(script.absolute())
    else:  # started in another way: the script that was installed beside this Python
        here = shutil.which(PROGRAM, path=str(Path(sys.executable).parent))
    if here is None:
        return [*_python(), "-m", "agents.cli"]
    return [PROGRAM if _same(shutil.which(PROGRAM), here) else _short(here)]


def _python() -> list[str]:
    """How a shell starts this Python."""
    return ["python" if _same(shutil.which("python"), sys.executable) else _short(sys.executable)]


def _same(one: str | None, other: str) -> bool:
    """Whether a shell would start the other program under one's name; links count as what they are, not where they lead."""
    return one is not None and os.path.abspath(one) == os.path.abspath(other)  # noqa: PTH100 - links are not followed


def _short(path: str) -> str:
    """A program's path, relative to the current directory where it lies below."""
    place = Path(os.path.abspath(path))  # noqa: PTH100 - links are not followed
    cwd = Path.cwd()
    if not place.is_relative_to(cwd):
        return str(place)
    below = place.relative_to(cwd)
    return str(below) if len(below.parts) > 1 else os.path.join(".", below)  # noqa: PTH118 - a Path would drop the dot
