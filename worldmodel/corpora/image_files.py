"""The files of MNIST (IDX, gzipped or not) and CIFAR-10 (binary and Python edition): pixels, without the labels.

A header is used only after the length of the file confirms it. Start reading at `mnist_images` and `cifar10_images`.

References:
    The MNIST database of handwritten digits, LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist/ (IDX format);
    Learning Multiple Layers of Features from Tiny Images, Krizhevsky, 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html (both CIFAR-10 formats).
"""

import os
import struct
import zlib
from pathlib import Path

import numpy as np

from worldmodel.corpora.safe_pickle import read_batch

IDX_MAGIC = 2_051
"""First four bytes of an IDX file of bytes in three dimensions, as a big-endian integer."""
MAX_PIXELS = 2**30
"""Largest number of pixels of a file, one byte each."""
MAX_DEFLATE_RATIO = 1_032
"""Largest number of bytes that Deflate makes of one byte."""
SIDE = 32
"""Height and width of a CIFAR-10 image, in pixels."""
RECORD_BYTES = 1 + 3 * SIDE * SIDE
"""Number of bytes of an image in CIFAR-10's binary edition: label, then red, green and blue planes."""
IDX_FOLDERS = (".", "raw", "MNIST/raw", "FashionMNIST/raw")
"""Folders of the IDX files inside the corpus folder."""
CIFAR_FOLDERS = (".", "cifar-10-batches-bin", "cifar-10-batches-py")
"""Folders of the CIFAR-10 files inside the corpus folder."""


def mnist_images(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the training and test images (N, H, W, 1) of an MNIST-like folder; return None if a file is missing.

    Raises:
        ValueError: a file is damaged, or training and test images differ in size.
    """
    paths = [_find_idx(folder, part) for part in ("train", "t10k")]
    if paths[0] is None or paths[1] is None:
        return None
    training, test = read_idx(paths[0]), read_idx(paths[1])
    if training.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"{paths[1]} must have images of size {training.shape[1:]} as {paths[0]}, got {test.shape[1:]}"
        )
    return training[..., None], test[..., None]


def cifar10_images(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the training and test images (N, 32, 32, 3) of either edition; return None if a file is missing.

    Raises:
        ValueError: a file is damaged.
    """
    for subfolder in CIFAR_FOLDERS:
        for ending, reader in ((".bin", read_cifar), ("", read_cifar_pickle)):
            names = [f"data_batch_{number}{ending}" for number in range(1, 6)] + [f"test_batch{ending}"]
            paths = [folder / subfolder / name for name in names]
            if all(path.is_file() for path in paths):
                batches = [reader(path) for path in paths]
                return np.concatenate(batches[:-1]), batches[-1]
    return None


def read_idx(path: Path) -> np.ndarray:
    """Read the bytes (N, H, W) of an IDX file of images, gzipped or not.

    Raises:
        ValueError: the file cannot be read, is of another kind, or its length does not match its header.
    """
    content = _read_file(path)
    if content[:2] == b"\x1f\x8b":
        content = _gunzip(path, content)
    if len(content) < 16 or struct.unpack(">I", content[:4])[0] != IDX_MAGIC:
        raise ValueError(
            f"{path} must be an IDX file of images, which starts with {IDX_MAGIC}, got {content[:4].hex()}"
        )
    shape = struct.unpack(">III", content[4:16])
    if len(content) - 16 != _num_pixels(path, shape):
        raise ValueError(
            f"{path} must have {_format_shape(shape)} as in its header, got {len(content) - 16} bytes of pixels"
        )
    return np.frombuffer(content, np.uint8, offset=16).reshape(shape)


def read_cifar(path: Path) -> np.ndarray:
    """Read the bytes (N, 32, 32, 3) of a file of CIFAR-10's binary edition.

    Raises:
        ValueError: the file cannot be read, or does not consist of records.
    """
    content = _read_file(path)
    if not content or len(content) % RECORD_BYTES:
        raise ValueError(f"{path} must consist of images of {RECORD_BYTES} bytes, got {len(content)} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    if records[:, 0].max() > 9:
        raise ValueError(f"{path} must have labels from 0 to 9, got {records[:, 0].max()}, which is not CIFAR-10")
    return _channels_last(records[:, 1:])


def read_cifar_pickle(path: Path) -> np.ndarray:
    """Read the bytes (N, 32, 32, 3) of a file of CIFAR-10's Python edition, without executing code from it.

    Raises:
        ValueError: the file cannot be read, or has other content than a batch of images.
    """
    return _channels_last(read_batch(path, _read_file(path), RECORD_BYTES - 1))


def _channels_last(rows: np.ndarray) -> np.ndarray:
    """Convert rows (N, 3 x H x W) to images (N, H, W, 3)."""
    return np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def _find_idx(folder: Path, part: str) -> Path | None:
    """Return the path of the IDX file of a part, or None."""
    names = [f"{part}-images{mark}idx3-ubyte{ending}" for mark in "-." for ending in ("", ".gz")]
    paths = (folder / subfolder / name for subfolder in IDX_FOLDERS for name in names)
    return next((path for path in paths if path.is_file()), None)


def _read_file(path: Path) -> bytes:
    """Read a file of limited size."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_PIXELS + 16:
                raise ValueError(f"{path} must have at most {MAX_PIXELS + 16} bytes, got {size}")
            return file.read(size)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None


def _gunzip(path: Path, packed: bytes) -> bytes:
    """Decompress as many bytes as the IDX header inside announces, and one more, which must not exist."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        head = unpacker.decompress(packed, 16)
        if len(head) < 16:
            return head
        expected = _num_pixels(path, struct.unpack(">III", head[4:16]))
        if expected > MAX_DEFLATE_RATIO * len(packed):
            raise ValueError(f"{path} is damaged: {len(packed)} bytes cannot hold {expected} pixels")
        content = head + unpacker.decompress(unpacker.unconsumed_tail, expected + 1)
        if len(content) == 16 + expected and not unpacker.eof:
            unpacker.decompress(unpacker.unconsumed_tail, 1)  # reads the end of the stream, which verifies the checksum
    except zlib.error as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if len(content) == 16 + expected and not unpacker.eof:
        raise ValueError(f"{path} is truncated, or longer than in its header")
    return content


def _num_pixels(path: Path, shape: tuple[int, ...]) -> int:
    """Return the number of pixels of images of this shape.

    Raises:
        ValueError: there are none or too many.
    """
    count = int(np.prod(shape, dtype=object))
    if not 0 < count <= MAX_PIXELS:
        raise ValueError(f"{path} must have from 1 to {MAX_PIXELS} pixels, got {_format_shape(shape)} in its header")
    return count


def _format_shape(shape: tuple[int, ...]) -> str:
    """Format the shape of images for a message."""
    return f"{shape[0]} images of {' x '.join(map(str, shape[1:]))}"
