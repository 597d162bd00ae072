"""Images of frames as the content of PNG and GIF files, for pages and notebooks."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

SCALE = 4
"""Default scale factor of `enlarge`, for frames of 64 x 64 pixels."""


def enlarge(frames: np.ndarray, scale: int = SCALE) -> np.ndarray:
    """Enlarge frames (*batch, H, W, 3) by an integer factor, without interpolation."""
    return frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


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


def gif(film: np.ndarray, fps: int = 20) -> bytes:
    """Return a uint8 video (T, H, W, 3) as the content of a looping GIF file with one palette of 128 colours."""
    pictures, buffer = [Image.fromarray(frame) for frame in film], io.BytesIO()
    sample = np.concatenate(list(film[:: max(1, len(film) // 8)]))
    palette = Image.fromarray(sample).quantize(128)
    first, *others = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=1000 // fps, loop=0, optimize=True)
    return buffer.getvalue()


def with_picture(text: str, picture: bytes | None) -> str:
    """Return HTML of a line of text above an image in PNG or GIF; None: the line alone."""
    line = f"<p><code>{html.escape(text)}</code></p>"
    if picture is None:
        return line
    kind = "gif" if picture.startswith(b"GIF") else "png"
    return f'{line}<img src="data:image/{kind};base64,{base64.b64encode(picture).decode()}">'
