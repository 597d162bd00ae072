"""Files that are whole or absent, and weights without pickle."""

import contextlib
import hashlib
import json
import operator
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from worldmodel.paths import file_path, folder_path

Module = TypeVar("Module", bound=nn.Module)
RecordT = TypeVar("RecordT")


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends well it is synced to disk and takes ``path``'s place.

    A crash, a kill or a full disk leaves the old file (or none), never half of a new one.

    Raises:
        OSError: names ``path``, whatever failed.
    """
    path = file_path(path, "path")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        with aside.open("rb+") as file:  # Windows syncs only what may be written
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None  # names the file that was meant
    finally:
        with contextlib.suppress(OSError):  # it took its place; or the disk may not be written, which was told above
            aside.unlink()
    if os.name != "posix":  # Windows opens no folders
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes out of a folder while a block runs. A process that dies lets go of it.

    Raises:
        ValueError: another process works in it.
    """
    folder = folder_path(folder, "folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{folder} is in use by another process: wait for it, or use another folder") from None
    try:
        yield
    finally:
        lock.release()


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write a file, whole or not at all."""
    with atomic(path) as aside:
        aside.write_bytes(content)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all; numpy's integers are numbers, too."""
    with atomic(path) as aside:
        aside.write_text(
            json.dumps(content, indent=1, allow_nan=False, default=operator.index) + "\n", encoding="utf-8"
        )


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON.

    Raises:
        ValueError: the file is missing or is not JSON; the message names it.
    """
    path = file_path(path, "path")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {_first_line(error)}") from None


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read JSON lines, an object each.

    Raises:
        ValueError: the file cannot be read, or a line is something else; the message names both.
    """
    rows, path = [], file_path(path, "path")
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not isinstance(row := json.loads(line), dict):
                raise ValueError(f"line {number} is no object")
            rows.append(row)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON lines: {_first_line(error)}") from None
    return rows


def from_json(kind: type[RecordT], content: Any, path: str | os.PathLike[str]) -> RecordT:
    """Build a dataclass of plain values out of what a file holds; names that it does not have are left out.

    Raises:
        ValueError: a value is missing, or of another type than its annotation says; the message names file and value.
    """
    with error_context(path):
        known = {name: value for name, value in content.items() if name in (hints := get_type_hints(kind))}
        for name, value in known.items():
            if not _is_a(value, hints[name]):
                raise TypeError(f"{name} = {str(value)[:40]!r}")
        return kind(**known)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a type: a plain one, a list or dict of such, a union of such, or literals."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_is_a(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(_is_a(item, parts[0]) for item in value)
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max
    return isinstance(value, origin or kind)


def write_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor]) -> None:
    """Write named tensors as safetensors with a checksum, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as aside:
        aside.write_bytes(save_bytes(plain, {"sha256": _digest(plain)}))


@contextlib.contextmanager
def error_context(path: str | os.PathLike[str], wrap_value_errors: bool = False) -> Iterator[None]:
    """Make what goes wrong with a file's content, whole but not what it should be, one line that names the file.

    Args:
        path: the file.
        wrap_value_errors: whether a ValueError of the block is about this file, too; else it stays as it is.

    Raises:
        ValueError: the block raised one, or stumbled over a missing name, a wrong type or a wrong size.
    """
    try:
        yield
    except ValueError as error:
        if not wrap_value_errors or str(path) in str(error):
            raise
        raise ValueError(f"{path} does not hold what it should: {_first_line(error)}") from None
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        words = f"{type(error).__name__} {_first_line(error)}"
        raise ValueError(f"{path} does not hold what it should: {words}") from None


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a safetensors file; one that tells its checksum, as ours do, must have it.

    Raises:
        ValueError: the file is missing, truncated, damaged or foreign; the message names it.
    """
    path = file_path(path, "path")
    try:
        content = path.read_bytes()
        tensors = load_bytes(content)
        (length,) = struct.unpack("<Q", content[:8])
        about = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except Exception as error:  # whatever safetensors and torch make of kinds of numbers that they do not know
        raise ValueError(f"{path} is not a whole safetensors file: {_first_line(error)}") from None
    if about.get("sha256", found := _digest(tensors)) != found:
        raise ValueError(f"{path} is damaged: its weights do not have the checksum that it tells")
    return tensors


def load_module(
    build: Callable[[], Module],
    path: str | os.PathLike[str],
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors,
) -> Module:
    """Build a module and put the weights of a safetensors file into it.

    It is built without memory first (torch's device "meta"), and compared: whatever sizes a damaged or hostile file of
    settings asks for, no more is allocated than the weights need that are there.

    Args:
        build: makes the module.
        path: the weights.
        prepare: turns what was read into the module's state.

    Raises:
        ValueError: names or shapes do not match, or a weight is not finite; the message names file and weight.
    """
    with error_context(path):
        tensors = prepare(read_tensors(path))
    with torch.device("meta"):
        check_weights(build(), tensors, path)
    module = build()
    module.load_state_dict(tensors)
    return module


def check_weights(module: nn.Module, tensors: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Refuse weights that are not those of ``module``, or not finite.

    Raises:
        ValueError: the message names the file and the weight.
    """
    expected = module.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise ValueError(f"{path} has no weight {missing[0]!r}: it belongs to another kind of model")
    if foreign := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"{path} has a weight {foreign[0]!r} that this model lacks")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            wanted, came = tuple(expected[name].shape), tuple(tensor.shape)
            raise ValueError(f"{path}: weight {name!r} must have shape {wanted}, got {came}")
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"{path}: weight {name!r} must be floating point, got {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: weight {name!r} holds NaN or infinity")


def fingerprint(module: nn.Module) -> str:
    """Sixteen hex digits that change whenever a weight of ``module`` does."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor.detach().cpu()))
    return digest.hexdigest()[:16]


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, kinds, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
