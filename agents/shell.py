"""Command lines for a shell: a printed command runs as it is printed. Start reading at `command`."""

import os
import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "worldmodel"


def command(*words: object) -> str:
    """Quote words as a command line for a shell.

    If the shell would not find this program as "worldmodel" or "python", the first word becomes its path.

    Example:
        >>> command("ls", "my folder")
        "ls 'my folder'"
    """
    first, *rest = map(str, words)
    resolve = {PROGRAM: _program, "python": _python}.get(first)
    return shlex.join([*(resolve() if resolve else [first]), *rest])


def _program() -> list[str]:
    """Return the words that start this program in a shell."""
    script = Path(sys.argv[0])
    if script.stem == PROGRAM and script.is_file():
        path: str | None = str(script.absolute())
    else:  # started as a module or from Python: the script that pip installed beside this Python
        path = shutil.which(PROGRAM, path=str(Path(sys.executable).parent))
    if path is None:
        return [*_python(), "-m", "worldmodel.agents.cli.main"]
    return [PROGRAM if _same(shutil.which(PROGRAM), path) else _short(path)]


def _python() -> list[str]:
    """Return the word that starts this Python in a shell."""
    return ["python" if _same(shutil.which("python"), sys.executable) else _short(sys.executable)]


def _same(one: str | None, other: str) -> bool:
    """Return whether two paths are the same; links are not followed."""
    return one is not None and os.path.abspath(one) == os.path.abspath(other)  # noqa: PTH100 - links are not followed


def _short(path: str) -> str:
    """Return a program's path, relative to the current directory if it is inside."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - links are not followed
    cwd = Path.cwd()
    if not absolute.is_relative_to(cwd):
        return str(absolute)
    relative = absolute.relative_to(cwd)
    if len(relative.parts) > 1:
        return str(relative)
    return os.path.join(".", relative)  # noqa: PTH118 - a Path would drop the dot
