"""Paths as people write them: ``~`` is expanded, and a file where a folder is needed is refused, and the other way round."""

import os
from pathlib import Path

AnyPath = str | os.PathLike[str]


def expand(path: AnyPath) -> Path:
    """A path whose leading ``~`` or ``~user`` stands for a home folder, as in a shell.

    Raises:
        ValueError: no such home folder is known.

    Example:
        >>> expand("~/runs") == Path.home() / "runs"
        True
    """
    text = os.fspath(path)
    found = Path(os.path.expanduser(text))  # noqa: PTH111 - it leaves ./~ as it is
    if found.parts[:1] and found.parts[0].startswith("~"):
        if not text.startswith("~"):  # ./~name: pathlib drops the dot
            return Path.cwd() / found
        if not Path(found.parts[0]).exists():
            raise ValueError(f"{text} begins with {found.parts[0]}, and there is no such home folder")
    return found


def folder_path(path: AnyPath, name: str) -> Path:
    """A folder's path, expanded, whether or not it is there.

    Args:
        path: the folder.
        name: the argument that errors name.

    Raises:
        ValueError: it, or a folder that it lies in, is a file.
    """
    found = expand(path)
    for place in (found, *found.parents):
        if place.is_dir():
            break
        if place.exists():
            raise ValueError(f"{name} must be a folder, got {found}: {place} is a file")
    return found


def file_path(path: AnyPath, name: str) -> Path:
    """A file's path, expanded, whether or not it is there.

    Args:
        path: the file.
        name: the argument that errors name.

    Raises:
        ValueError: it is a folder.
    """
    found = expand(path)
    if found.is_dir():
        raise ValueError(f"{name} must be a file, got the folder {found}")
    return found
