"""Images and videos of frames: PNG, MP4 and GIF."""

import io
import os
from collections.abc import Sequence

import av
import numpy as np
from PIL import Image

from worldmodel.io.files import atomic, write_bytes

SCALE = 4
"""Default scale factor of `enlarge`, for frames of 64 x 64 pixels."""
PREVIEW_FRAMES = 40
"""Largest number of frames of `write_preview`."""


def enlarge(frames: np.ndarray, scale: int = SCALE) -> np.ndarray:
    """Enlarge frames (*batch, H, W, 3) by an integer factor, without interpolation."""
    return frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


def side_by_side(*films: np.ndarray, gap: int = 8) -> np.ndarray:
    """Join videos (T, H, W, 3) of equal height from left to right.

    Args:
        films: Videos. Longer ones are cut to the length of the shortest.
        gap: Width of the white space between them, in pixels.
    """
    length = min(len(film) for film in films)
    white = np.full((length, films[0].shape[1], gap, 3), 255, np.uint8)
    parts = [part for film in films for part in (white, film[:length])][1:]
    return np.concatenate(parts, axis=2)


def write_mp4(path: str | os.PathLike[str], film: np.ndarray, fps: int = 25) -> None:
    """Write a uint8 video (T, H, W, 3) as H.264 MP4."""
    write_bytes(path, mp4(film, fps))


def mp4(film: np.ndarray, fps: int = 25) -> bytes:
    """Return a uint8 video (T, H, W, 3) as the content of an H.264 MP4 file."""
    height, width = film.shape[1] // 2 * 2, film.shape[2] // 2 * 2
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in film:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_gif(path: str | os.PathLike[str], film: np.ndarray, fps: int = 20) -> None:
    """Write a uint8 video (T, H, W, 3) as a looping GIF with one palette of 128 colours."""
    pictures = [Image.fromarray(frame) for frame in film]
    sample = np.concatenate(list(film[:: max(1, len(film) // 8)]))
    palette = Image.fromarray(sample).quantize(128)
    reduced = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    with atomic(path) as draft:
        reduced[0].save(
            draft, format="GIF", save_all=True, append_images=reduced[1:], duration=1000 // fps, loop=0, optimize=True
        )


def write_preview(path: str | os.PathLike[str], film: np.ndarray) -> None:
    """Write the start of a video as a GIF below 1 MB: every third frame, at half the size."""
    write_gif(path, film[: 3 * PREVIEW_FRAMES : 3, ::2, ::2])


def write_png(path: str | os.PathLike[str], picture: np.ndarray | bytes) -> None:
    """Write a uint8 image (H, W, 3), or the content of a PNG file."""
    write_bytes(path, picture if isinstance(picture, bytes) else png(picture))


def png(picture: np.ndarray) -> bytes:
    """Return a uint8 image (H, W, 3) as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def grid(rows: Sequence[np.ndarray], scale: int = 2, gap: int = 2) -> np.ndarray:
    """Join rows of images, each (N, H, W, 3), into one image.

    Args:
        rows: Rows from top to bottom; white fills shorter ones.
        scale: Scale factor of the result.
        gap: Width of the white space between images, in pixels before scaling.
    """
    lines, width = [], max(map(len, rows))
    for row in rows:
        row = np.concatenate([row, np.full((width - len(row), *row.shape[1:]), 255, np.uint8)])
        white = np.full((row.shape[1], gap, 3), 255, np.uint8)
        lines.append(np.concatenate([part for picture in row for part in (picture, white)][:-1], axis=1))
    bar = np.full((gap, lines[0].shape[1], 3), 255, np.uint8)
    return enlarge(np.concatenate([part for line in lines for part in (line, bar)][:-1], axis=0), scale)
