"""Write files atomically, and read JSON and weights safely, without pickle.

Start reading at `atomic` and `load_module`.
"""

import contextlib
import hashlib
import json
import operator
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from worldmodel.io.paths import file_path, folder_path

Module = TypeVar("Module", bound=nn.Module)
RecordT = TypeVar("RecordT")


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; after the block, sync the file to disk and move it to ``path``.

    After a crash, a kill or a full disk the old file (or none) is there, never a partial new one.

    Raises:
        OSError: an operation failed; the error names ``path``.
    """
    path = file_path(path, "path")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        with aside.open("rb+") as file:  # Windows syncs only writable files
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        # name the requested file, not the temporary one
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        with contextlib.suppress(OSError):  # it was moved, or the disk is not writable, which raised an error above
            aside.unlink()
    if os.name != "posix":  # Windows cannot open folders
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str], timeout: float = 0) -> Iterator[None]:
    """Hold an exclusive lock on a folder while a block runs. The lock of a dead process is released.

    Args:
        folder: Path of the folder, which is made.
        timeout: Number of seconds to wait for another process.

    Raises:
        ValueError: another process holds the lock.
    """
    folder = folder_path(folder, "folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise ValueError(f"{folder} is in use by another process: wait for it, or use another folder") from None
    try:
        yield
    finally:
        lock.release()


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write a file atomically."""
    with atomic(path) as aside:
        aside.write_bytes(content)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON, atomically; numpy integers are allowed."""
    with atomic(path) as aside:
        aside.write_text(
            json.dumps(content, indent=1, allow_nan=False, default=operator.index) + "\n", encoding="utf-8"
        )


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON.

    Raises:
        ValueError: the file is missing or is not JSON; the message names the file.
    """
    path = file_path(path, "path")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {_first_line(error)}") from None


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read JSON lines, one object per line.

    Raises:
        ValueError: the file cannot be read, or a line is not an object; the message names the file and the line.
    """
    rows, path = [], file_path(path, "path")
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not isinstance(row := json.loads(line), dict):
                raise ValueError(f"line {number} is not an object")
            rows.append(row)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON lines: {_first_line(error)}") from None
    return rows


def from_json(kind: type[RecordT], content: Any, path: str | os.PathLike[str]) -> RecordT:
    """Build a dataclass of plain values, other dataclasses and lists of them from a file's content; ignore unknown names.

    Raises:
        ValueError: a value is missing, or differs from its annotated type; the message names the file and the value.
    """
    with error_context(path):
        known = {name: value for name, value in content.items() if name in (hints := get_type_hints(kind))}
        known = {name: _nested(value, hints[name], path) for name, value in known.items()}
        for name, value in known.items():
            if not _is_a(value, hints[name]):
                raise TypeError(f"{name} = {str(value)[:40]!r}")
        return kind(**known)


def _nested(value: Any, kind: Any, path: str | os.PathLike[str]) -> Any:
    """Return a value, or the dataclass, or the list of dataclasses, that an annotation ``kind`` asks for."""
    parts = [part for part in (kind, *get_args(kind)) if isinstance(part, type) and is_dataclass(part)]
    if parts and isinstance(value, dict):
        return from_json(parts[0], value, path)
    return [_nested(item, parts[0], path) for item in value] if parts and isinstance(value, list) else value


def _is_a(value: Any, kind: Any) -> bool:
    """Return whether a value has a type: a plain type, a list, a dict, a union or literals."""
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
    """Write named tensors as safetensors with a checksum, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as aside:
        aside.write_bytes(save_bytes(plain, {"sha256": _digest(plain)}))


@contextlib.contextmanager
def error_context(path: str | os.PathLike[str], wrap_value_errors: bool = False) -> Iterator[None]:
    """Convert errors about the content of a file to a ValueError of one line that names the file.

    Args:
        path: Path of the file.
        wrap_value_errors: Whether to convert a ValueError of the block, too. False: it is raised unchanged.

    Raises:
        ValueError: the block raised a ValueError, or an error about a missing name, a wrong type or a wrong size.
    """
    try:
        yield
    except ValueError as error:
        if not wrap_value_errors or str(path) in str(error):
            raise
        raise ValueError(f"{path} has invalid content: {_first_line(error)}") from None
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        words = f"{type(error).__name__} {_first_line(error)}"
        raise ValueError(f"{path} has invalid content: {words}") from None


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a safetensors file; compare the checksum if the file has one, as those of `write_tensors` do.

    Raises:
        ValueError: the file is missing, truncated, damaged or in another format; the message names the file.
    """
    path = file_path(path, "path")
    try:
        content = path.read_bytes()
        tensors = load_bytes(content)
        (length,) = struct.unpack("<Q", content[:8])
        about = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except Exception as error:  # safetensors and torch raise various errors for unknown number types
        raise ValueError(f"{path} is not a whole safetensors file: {_first_line(error)}") from None
    if about.get("sha256", found := _digest(tensors)) != found:
        raise ValueError(f"{path} is damaged: its weights do not match its checksum")
    return tensors


def load_module(
    build: Callable[[], Module],
    path: str | os.PathLike[str],
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors,
) -> Module:
    """Build a module and load the weights of a safetensors file into it.

    A module on torch's device "meta", which allocates no memory, is compared with the weights first. A damaged or hostile
    config file thus cannot allocate more than the existing weights need.

    Args:
        build: Function that builds the module.
        path: Path of the weights.
        prepare: Function that converts the tensors of the file to the module's state.

    Raises:
        ValueError: names or shapes do not match, or a weight is not finite; the message names the file and the weight.
    """
    with error_context(path):
        tensors = prepare(read_tensors(path))
    with torch.device("meta"):
        validate_weights(build(), tensors, path)
    module = build()
    module.load_state_dict(tensors)
    return module


def validate_weights(module: nn.Module, tensors: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Check that weights match ``module`` and are finite.

    Raises:
        ValueError: they do not match or are not finite; the message names the file and the weight.
    """
    expected = module.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise ValueError(f"{path} has no weight {missing[0]!r}: it belongs to another type of model")
    if foreign := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"{path} has a weight {foreign[0]!r} that this model does not have")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            wanted, came = tuple(expected[name].shape), tuple(tensor.shape)
            raise ValueError(f"{path}: weight {name!r} must have shape {wanted}, got {came}")
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"{path}: weight {name!r} must be floating point, got {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: weight {name!r} holds NaN or infinity")


def fingerprint(module: nn.Module) -> str:
    """Return a hash of the weights of ``module``, sixteen hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor.detach().cpu()))
    return digest.hexdigest()[:16]


def array_digest(*arrays: np.ndarray, digits: int = 16) -> str:
    """Return the first hex digits of the SHA-256 of the numbers of ``arrays``."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:digits]


def _digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
