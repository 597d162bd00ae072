"""Files that are whole or absent, and weights without pickle."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends well it is synced to disk and takes ``path``'s place.

    A crash, a kill or a full disk leaves the old file (or none), never half of a new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None  # names the file that was meant
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes out of a folder while a block runs.

    Raises:
        ValueError: another process works in it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is in use by another process: wait for it, or use another folder") from None
        yield


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write a file, whole or not at all."""
    with atomic(path) as aside:
        aside.write_bytes(content)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all."""
    with atomic(path) as aside:
        aside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON.

    Raises:
        ValueError: the file is missing or is not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None


def write_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor]) -> None:
    """Write named tensors as safetensors, whole or not at all."""
    with atomic(path) as aside:
        aside.write_bytes(save_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


@contextlib.contextmanager
def understood(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make what goes wrong with a file's content, whole but not what it should be, one line that names the file.

    Raises:
        ValueError: the block raised one, or stumbled over a missing name, a wrong type or a wrong size.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold what it should: {type(error).__name__} {error}") from None


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ValueError: the file is missing, truncated or foreign; the message names it.
    """
    try:
        return load_bytes(Path(path).read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None


def load_weights(
    module: nn.Module,
    path: str | os.PathLike[str],
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors,
) -> None:
    """Put the weights of a safetensors file into ``module``; ``prepare`` turns what was read into its state first.

    Raises:
        ValueError: names or shapes do not match, or a weight is not finite; the message names file and weight.
    """
    tensors = prepare(read_tensors(path))
    expected = module.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise ValueError(f"{path} has no weight {missing[0]!r}: it belongs to another kind of model")
    if foreign := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"{path} has a weight {foreign[0]!r} that this model lacks")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            wanted, came = tuple(expected[name].shape), tuple(tensor.shape)
            raise ValueError(f"{path}: weight {name!r} must have shape {wanted}, got {came}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: weight {name!r} holds NaN or infinity")
    module.load_state_dict(tensors)


def fingerprint(module: nn.Module) -> str:
    """Sixteen hex digits that change whenever a weight of ``module`` does."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
