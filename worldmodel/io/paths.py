"""Expand ``~`` in paths, and check that a path is not a file where a folder is needed, or the reverse."""

import os
from pathlib import Path

AnyPath = str | os.PathLike[str]


def expand(path: AnyPath) -> Path:
    """Expand a leading ``~`` or ``~user`` to a home folder, as in a shell.

    Raises:
        ValueError: the home folder is unknown.

    Example:
        >>> expand("~/runs") == Path.home() / "runs"
        True
    """
    text = os.fspath(path)
    found = Path(os.path.expanduser(text))  # noqa: PTH111 - it keeps ./~
    if found.parts[:1] and found.parts[0].startswith("~"):
        if not text.startswith("~"):  # ./~name: pathlib drops the dot
            return Path.cwd() / found
        if not Path(found.parts[0]).exists():
            raise ValueError(f"{text} begins with {found.parts[0]}, which is not a known home folder")
    return found


def folder_path(path: AnyPath, name: str) -> Path:
    """Expand the path of a folder, which need not exist.

    Args:
        path: Path of the folder.
        name: Name of the argument in errors.

    Raises:
        ValueError: the path or one of its parents is a file.
    """
    found = expand(path)
    for place in (found, *found.parents):
        if place.is_dir():
            break
        if place.exists():
            raise ValueError(f"{name} must be a folder, got {found}: {place} is a file")
    return found


def file_path(path: AnyPath, name: str) -> Path:
    """Expand the path of a file, which need not exist.

    Args:
        path: Path of the file.
        name: Name of the argument in errors.

    Raises:
        ValueError: the path is a folder.
    """
    found = expand(path)
    if found.is_dir():
        raise ValueError(f"{name} must be a file, got the folder {found}")
    return found
