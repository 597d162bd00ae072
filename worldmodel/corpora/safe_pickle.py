"""CIFAR-10's Python edition is pickled, and a pickle is a program: here nothing of it runs.

Two gates. First every opcode is looked at, without executing any: only those that numbers, strings, lists, dicts and
arrays are made of pass. Then an unpickler runs that knows seven names of numpy's, and gives stand-ins of ours for them:
an array is built, and its size checked, only after the pickle has been read. Start reading at `read_batch`.

References:
    "Restricting Globals", documentation of Python's module pickle
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
"""What a pickle of numbers, strings, lists, dicts and arrays needs; objects come about through REDUCE and BUILD alone."""
MAX_TUPLES, MAX_MEMO_READS = 16, 32
"""A batch has at most so many tuples, and mentions so often what was there before: tuples of the same tuples, and so on, would
be hashed without end."""


class _Array:
    """Stands for numpy.ndarray: keeps what the pickle says of an array."""

    def __init__(self, shape: Any = None, dtype: Any = None, raw: Any = None) -> None:
        self.shape, self.dtype, self.raw = shape, dtype, raw

    def __setstate__(self, state: tuple[int, Any, Any, bool, Any]) -> None:
        _, self.shape, self.dtype, fortran, self.raw = state
        if fortran:
            raise ValueError("an array in Fortran's order")

    def rows(self, width: int) -> np.ndarray:
        """The array (N, width) of bytes that was meant."""
        kind = self.dtype.name if isinstance(self.dtype, _Dtype) else self.dtype
        raw = self.raw.encode("latin-1") if isinstance(self.raw, str) else self.raw
        if kind not in ("u1", b"u1") or not isinstance(raw, bytes | bytearray):
            raise ValueError(f"'data' must be an array of bytes (u1), got {_short(kind)}")
        shape = self.shape if isinstance(self.shape, tuple) and all(type(side) is int for side in self.shape) else None
        if not raw or len(raw) % width or shape != (len(raw) // width, width):
            told = _short(self.shape) if shape is None else f"({', '.join(map(_short, shape[:4]))})"
            raise ValueError(f"'data' must have shape (N, {width}), got {told} in {len(raw)} bytes")
        return np.frombuffer(raw, np.uint8).reshape(-1, width)


class _Dtype:
    """Stands for numpy.dtype: keeps its name."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: a byte has none."""


class _Function:
    """A function that a pickle may call and do nothing else to."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a state for a function")


@_Function
def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array()


@_Function
def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if order != "C":
        raise ValueError("an array in Fortran's order")
    return _Array(shape, dtype, raw)


@_Function
def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ValueError(f"a text in {_short(encoding)}")
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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise ValueError(f"it asks for {module}.{name}, which has no place in a batch of images")
        return STAND_INS[module, name]


def read_batch(path: Path, content: bytes, width: int) -> np.ndarray:
    """The array 'data' (N, ``width``) of bytes out of a pickled dict.

    Args:
        path: the file, for messages.
        content: what it holds.
        width: bytes of an image.

    Raises:
        ValueError: the pickle holds anything but numbers, strings, lists, dicts and arrays, or no such array.
    """
    try:
        _check_opcodes(content)
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        data = found.get(b"data", found.get("data")) if isinstance(found, dict) else None
        if not isinstance(data, _Array):
            raise ValueError("it must be a dict with an array 'data'")
        return data.rows(width)
    except Exception as error:  # a damaged pickle raises whatever its opcodes do
        told = str(error) or type(error).__name__
        raise ValueError(f"{path} is refused as a batch of CIFAR-10: {told[:200]}") from None


def _short(value: Any) -> str:
    """A value in a message: what is nested could be endless."""
    return repr(value)[:40] if isinstance(value, str | bytes | int) else type(value).__name__


def _check_opcodes(content: bytes) -> None:
    """Refuse opcodes that images do not need, too many tuples, and memo numbers for which much memory would be reserved."""
    tuples = again = 0
    for number, (opcode, argument, place) in enumerate(pickletools.genops(content)):
        if opcode.name not in SAFE_OPCODES:
            raise ValueError(f"opcode {opcode.name} at byte {place}")
        tuples += opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
        if tuples > MAX_TUPLES:
            raise ValueError(f"more than {MAX_TUPLES} tuples")
        again += "GET" in opcode.name
        if again > MAX_MEMO_READS:
            raise ValueError(f"more than {MAX_MEMO_READS} mentions of what was there before")
        if isinstance(argument, int) and "PUT" in opcode.name and argument > number:
            raise ValueError(f"entry {argument} of the memo at byte {place}")
