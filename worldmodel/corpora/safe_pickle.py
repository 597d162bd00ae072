"""A safe reader for the pickled files of CIFAR-10's Python edition: a pickle can run any code, and this reader runs none of it.

It has two stages. First, `pickletools` lists the opcodes without executing them; only those of numbers, strings, lists, dicts
and arrays are allowed. Then an unpickler replaces seven names of NumPy by our own stand-ins and refuses all others. The array
is built, and its size checked, only after the whole pickle is read. Start reading at `read_batch`.

References:
    "Restricting Globals", documentation of Python's module pickle.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_SAFE_OPCODES = """
PROTO FRAME STOP MARK POP POP_MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE DICT LIST TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS
APPEND APPENDS NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 STRING BINSTRING SHORT_BINSTRING BINBYTES
SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET
LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
"""
SAFE_OPCODES = frozenset(_SAFE_OPCODES.split())
"""Opcodes of numbers, strings, lists, dicts and arrays; only REDUCE and BUILD create objects."""
MAX_TUPLES, MAX_MEMO_READS = 16, 32
"""Largest number of tuples, and of reads of earlier values, in a batch. Without a limit, tuples of the same tuples, nested many
times, would take endless time to hash."""


class _Array:
    """Stand-in for numpy.ndarray that stores the pickled state of an array."""

    def __init__(self, shape: Any = None, dtype: Any = None, raw: Any = None) -> None:
        self.shape, self.dtype, self.raw = shape, dtype, raw

    def __setstate__(self, state: tuple[int, Any, Any, bool, Any]) -> None:
        _, self.shape, self.dtype, fortran, self.raw = state
        if fortran:
            raise ValueError("it has an array in Fortran order")

    def rows(self, width: int) -> np.ndarray:
        """Return the bytes of the array (N, width)."""
        kind = self.dtype.name if isinstance(self.dtype, _Dtype) else self.dtype
        raw = self.raw.encode("latin-1") if isinstance(self.raw, str) else self.raw
        if kind not in ("u1", b"u1") or not isinstance(raw, bytes | bytearray):
            raise ValueError(f"'data' must be an array of bytes (u1), got {_shorten(kind)}")
        shape = self.shape if isinstance(self.shape, tuple) and all(type(side) is int for side in self.shape) else None
        if not raw or len(raw) % width or shape != (len(raw) // width, width):
            found = _shorten(self.shape) if shape is None else f"({', '.join(map(_shorten, shape[:4]))})"
            raise ValueError(f"'data' must have shape (N, {width}), got {found} in {len(raw)} bytes")
        return np.frombuffer(raw, np.uint8).reshape(-1, width)


class _Dtype:
    """Stand-in for numpy.dtype that stores its name."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Ignore the byte order and other state, which single bytes do not have."""


class _Function:
    """A function that a pickle can call but not change."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it sets the state of a function")


@_Function
def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """Stand-in for numpy.core.multiarray._reconstruct."""
    return _Array()


@_Function
def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Stand-in for numpy.core.numeric._frombuffer."""
    if order != "C":
        raise ValueError("it has an array in Fortran order")
    return _Array(shape, dtype, raw)


@_Function
def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Stand-in for _codecs.encode, only for Latin-1."""
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ValueError(f"it has a text in {_shorten(encoding)}")
    return text.encode("latin-1")


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
} | {
    (f"numpy.{core}.{module}", name): stand_in
    for core in ("core", "_core")
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("numeric", "_frombuffer", _frombuffer),
    )
}
"""Stand-ins for the allowed names, by module and name."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that finds only the stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise ValueError(f"it refers to {module}.{name}, which a batch of images does not need")
        return STAND_INS[module, name]


def read_batch(path: Path, content: bytes, width: int) -> np.ndarray:
    """Read the array 'data' (N, ``width``) of bytes from a pickled dict.

    Args:
        path: Path of the file, for messages.
        content: Content of the file.
        width: Number of bytes of an image.

    Returns:
        The bytes (N, width).

    Raises:
        ValueError: the pickle has anything but numbers, strings, lists, dicts and arrays, or has no such array.
    """
    try:
        _validate_opcodes(content)
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        data = batch.get(b"data", batch.get("data")) if isinstance(batch, dict) else None
        if not isinstance(data, _Array):
            raise ValueError("it must be a dict with an array 'data'")
        return data.rows(width)
    except Exception as error:  # a damaged pickle can raise any error
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is not a safe batch of CIFAR-10: {reason[:200]}") from None


def _shorten(value: Any) -> str:
    """Format a value for a message; nested values could be endless, so only their type is named."""
    return repr(value)[:40] if isinstance(value, str | bytes | int) else type(value).__name__


def _validate_opcodes(content: bytes) -> None:
    """Refuse opcodes that images do not need, too many tuples, and memo indices that would reserve much memory."""
    tuples = memo_reads = 0
    for number, (opcode, argument, position) in enumerate(pickletools.genops(content)):
        if opcode.name not in SAFE_OPCODES:
            raise ValueError(f"it has opcode {opcode.name} at byte {position}")
        tuples += opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
        if tuples > MAX_TUPLES:
            raise ValueError(f"it has more than {MAX_TUPLES} tuples")
        memo_reads += "GET" in opcode.name
        if memo_reads > MAX_MEMO_READS:
            raise ValueError(f"it reads earlier values more than {MAX_MEMO_READS} times")
        if isinstance(argument, int) and "PUT" in opcode.name and argument > number:
            raise ValueError(f"it has memo index {argument} at byte {position}")
