"""Images and videos of frames: PNG, MP4 and GIF."""

import io
import itertools
import os
from collections.abc import Iterable

import av
import numpy as np

from worldmodel.io.files import write_bytes
from worldmodel.rollouts.pictures import gif, png

PREVIEW_FRAMES = 40
"""Largest number of frames of `write_preview`."""


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


def write_mp4(path: str | os.PathLike[str], film: np.ndarray | Iterable[np.ndarray], fps: int = 25) -> None:
    """Write a uint8 video (T, H, W, 3), or its frames one after the other, as H.264 MP4."""
    write_bytes(path, mp4(film, fps))


def mp4(film: np.ndarray | Iterable[np.ndarray], fps: int = 25) -> bytes:
    """Return a uint8 video (T, H, W, 3), or its frames one after the other, as the content of an H.264 MP4 file."""
    frames = iter(film)
    first = next(frames)
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in itertools.chain((first,), frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_gif(path: str | os.PathLike[str], film: np.ndarray, fps: int = 20) -> None:
    """Write a uint8 video (T, H, W, 3) as a looping GIF."""
    write_bytes(path, gif(film, fps))


def write_preview(path: str | os.PathLike[str], film: np.ndarray) -> None:
    """Write the start of a video as a GIF below 1 MB: every third frame, at half the size."""
    write_gif(path, film[: 3 * PREVIEW_FRAMES : 3, ::2, ::2])


def write_png(path: str | os.PathLike[str], picture: np.ndarray | bytes) -> None:
    """Write a uint8 image (H, W, 3), or the content of a PNG file."""
    write_bytes(path, picture if isinstance(picture, bytes) else png(picture))
