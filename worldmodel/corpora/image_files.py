"""The files of MNIST (IDX, gzipped or not) and CIFAR-10 (binary and Python edition): pixels, without the labels.

No header is believed before the file's length agrees with it.

References:
    The MNIST database of handwritten digits, LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist/ (IDX format);
    Learning Multiple Layers of Features from Tiny Images, Krizhevsky, 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html (both CIFAR-10 formats)
"""

import os
import struct
import zlib
from pathlib import Path

import numpy as np

from worldmodel.corpora.safe_pickle import read_batch

IDX_BYTES = 2_051
"""The number that an IDX file of bytes in three dimensions begins with."""
MAX_PIXELS = 2**30
"""No file holds more pixels, in bytes."""
MAX_DEFLATE_RATIO = 1_032
"""Deflate makes at most so many bytes of one."""
SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE
"""An image of CIFAR-10's binary edition: its label, then red, green and blue."""
IDX_PLACES = (".", "raw", "MNIST/raw", "FashionMNIST/raw")
CIFAR_PLACES = (".", "cifar-10-batches-bin", "cifar-10-batches-py")


def mnist_images(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Training and test images (N, H, W, 1) of an MNIST-like folder; None: the files are not there.

    Raises:
        ValueError: a file is damaged, or the two do not fit together.
    """
    found = [_find_idx(folder, part) for part in ("train", "t10k")]
    if found[0] is None or found[1] is None:
        return None
    training, test = read_idx(found[0]), read_idx(found[1])
    if training.shape[1:] != test.shape[1:]:
        raise ValueError(f"{found[1]} must have images of {training.shape[1:]} as {found[0]}, got {test.shape[1:]}")
    return training[..., None], test[..., None]


def cifar10_images(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Training and test images (N, 32, 32, 3) of either edition; None: the files are not there.

    Raises:
        ValueError: a file is damaged.
    """
    for place in CIFAR_PLACES:
        for ending, reader in ((".bin", read_cifar), ("", read_cifar_pickle)):
            names = [f"data_batch_{number}{ending}" for number in range(1, 6)] + [f"test_batch{ending}"]
            paths = [folder / place / name for name in names]
            if all(path.is_file() for path in paths):
                batches = [reader(path) for path in paths]
                return np.concatenate(batches[:-1]), batches[-1]
    return None


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of images, gzipped or not: bytes (N, H, W).

    Raises:
        ValueError: the file cannot be read, is of another kind, or is not as long as its header says.
    """
    content = _content(path)
    if content[:2] == b"\x1f\x8b":
        content = _gunzip(path, content)
    if len(content) < 16 or struct.unpack(">I", content[:4])[0] != IDX_BYTES:
        raise ValueError(
            f"{path} must be an IDX file of images, which begins with {IDX_BYTES}; got {content[:4].hex()}"
        )
    shape = struct.unpack(">III", content[4:16])
    if len(content) - 16 != _pixels(path, shape):
        raise ValueError(
            f"{path} must have {_named(shape)} as its header says, got {len(content) - 16} bytes of pixels"
        )
    return np.frombuffer(content, np.uint8, offset=16).reshape(shape)


def read_cifar(path: Path) -> np.ndarray:
    """A file of CIFAR-10's binary edition: bytes (N, 32, 32, 3).

    Raises:
        ValueError: the file cannot be read, or does not consist of records.
    """
    content = _content(path)
    if not content or len(content) % RECORD_BYTES:
        raise ValueError(f"{path} must consist of images of {RECORD_BYTES} bytes, got {len(content)} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    if records[:, 0].max() > 9:
        raise ValueError(f"{path} must have labels from 0 to 9, got {records[:, 0].max()}: it is not CIFAR-10")
    return _planes_last(records[:, 1:])


def read_cifar_pickle(path: Path) -> np.ndarray:
    """A file of CIFAR-10's Python edition: bytes (N, 32, 32, 3). Nothing in it is executed.

    Raises:
        ValueError: the file cannot be read, or holds anything but a batch of images.
    """
    return _planes_last(read_batch(path, _content(path), RECORD_BYTES - 1))


def _planes_last(rows: np.ndarray) -> np.ndarray:
    # (N, 3 x H x W) -> (N, H, W, 3)
    return np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def _find_idx(folder: Path, part: str) -> Path | None:
    names = [f"{part}-images{mark}idx3-ubyte{ending}" for mark in "-." for ending in ("", ".gz")]
    paths = (folder / place / name for place in IDX_PLACES for name in names)
    return next((path for path in paths if path.is_file()), None)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_PIXELS + 16:
                raise ValueError(f"{path} must have at most {MAX_PIXELS + 16} bytes, got {size}")
            return file.read(size)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None


def _gunzip(path: Path, packed: bytes) -> bytes:
    """As much as the IDX header inside asks for, and one byte more, which should not be there."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        head = unpacker.decompress(packed, 16)
        if len(head) < 16:
            return head
        wanted = _pixels(path, struct.unpack(">III", head[4:16]))
        if wanted > MAX_DEFLATE_RATIO * len(packed):
            raise ValueError(f"{path} is damaged: {len(packed)} bytes cannot hold {wanted} pixels")
        content = head + unpacker.decompress(unpacker.unconsumed_tail, wanted + 1)
        if len(content) == 16 + wanted and not unpacker.eof:
            unpacker.decompress(unpacker.unconsumed_tail, 1)  # reads, and checks, what follows the pixels
    except zlib.error as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if len(content) == 16 + wanted and not unpacker.eof:
        raise ValueError(f"{path} is cut off, or longer than its header says")
    return content


def _pixels(path: Path, shape: tuple[int, ...]) -> int:
    """Bytes of so many images.

    Raises:
        ValueError: there are none, or too many.
    """
    count = int(np.prod(shape, dtype=object))
    if not 0 < count <= MAX_PIXELS:
        raise ValueError(f"{path} must hold from 1 to {MAX_PIXELS} pixels, its header says {_named(shape)}")
    return count


def _named(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} images of {' x '.join(map(str, shape[1:]))}"
