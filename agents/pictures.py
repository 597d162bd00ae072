"""Pictures and films: plots as PNG, videos as MP4 and GIF."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import av
import numpy as np
from PIL import Image

from worldmodel.io import atomic, write_bytes

SCALE = 4
"""Frames of 64x64 are enlarged this many times."""
PREVIEW_FRAMES = 40


def enlarge(frames: np.ndarray, scale: int = SCALE) -> np.ndarray:
    """Frames (*batch, H, W, 3) with every pixel ``scale`` times as wide and high."""
    return frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


def side_by_side(*films: np.ndarray, gap: int = 8) -> np.ndarray:
    """Films (T, H, W, 3) of one height beside each other, with a white gap; cut to the shortest."""
    length = min(len(film) for film in films)
    white = np.full((length, films[0].shape[1], gap, 3), 255, np.uint8)
    parts = [part for film in films for part in (white, film[:length])][1:]
    return np.concatenate(parts, axis=2)


def write_mp4(path: str | os.PathLike[str], film: np.ndarray, fps: int = 25) -> None:
    """Write a film (T, H, W, 3) of bytes as H.264 MP4."""
    write_bytes(path, mp4(film, fps))


def mp4(film: np.ndarray, fps: int = 25) -> bytes:
    """A film (T, H, W, 3) of bytes as the content of an H.264 MP4 file."""
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
    """Write a film (T, H, W, 3) of bytes as an endless GIF with one palette of 128 colours."""
    pictures = [Image.fromarray(frame) for frame in film]
    sample = np.concatenate(list(film[:: max(1, len(film) // 8)]))
    palette = Image.fromarray(sample).quantize(128)
    reduced = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    with atomic(path) as aside:
        reduced[0].save(
            aside, format="GIF", save_all=True, append_images=reduced[1:], duration=1000 // fps, loop=0, optimize=True
        )


def write_preview(path: str | os.PathLike[str], film: np.ndarray) -> None:
    """Write the beginning of a film as a GIF below 1 MB: every third frame, at half the size."""
    write_gif(path, film[: 3 * PREVIEW_FRAMES : 3, ::2, ::2])


def write_png(path: str | os.PathLike[str], picture: np.ndarray | bytes) -> None:
    """Write a picture (H, W, 3) of bytes, or a plot that is PNG already."""
    write_bytes(path, picture if isinstance(picture, bytes) else png(picture))


def png(picture: np.ndarray) -> bytes:
    """A picture (H, W, 3) of bytes as a PNG file's content."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def grid(rows: Sequence[np.ndarray], scale: int = 2, gap: int = 2) -> np.ndarray:
    """Rows of pictures, each (N, H, W, 3), as one picture."""
    lines = []
    for row in rows:
        white = np.full((row.shape[1], gap, 3), 255, np.uint8)
        lines.append(np.concatenate([part for picture in row for part in (picture, white)][:-1], axis=1))
    bar = np.full((gap, lines[0].shape[1], 3), 255, np.uint8)
    return enlarge(np.concatenate([part for line in lines for part in (line, bar)][:-1], axis=0), scale)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    lines: Mapping[str, float] | None = None,
    title: str = "",
) -> bytes:
    """A plot of named curves (x, y), and named horizontal lines, as PNG."""
    figure, axes = _plot(6, 3.4)
    for name, (x, y) in series.items():
        axes.plot(x, y, label=name, marker="." if len(x) < 20 else None)
    for name, level in (lines or {}).items():
        axes.axhline(level, linestyle="--", color="grey", linewidth=1)
        axes.annotate(name, (0.01, level), xycoords=("axes fraction", "data"), fontsize=8, va="bottom")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(series) > 1:
        axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return _drawn(figure)


def histogram(returns: Mapping[str, Sequence[float]], xlabel: str = "return of an episode", title: str = "") -> bytes:
    """Returns of several controllers, every episode a dot and the mean a bar, as PNG."""
    figure, axes = _plot(6, 1.4 + 0.6 * len(returns))
    for row, values in enumerate(returns.values()):
        jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(values))
        axes.scatter(values, row + jitter, s=14, alpha=0.6)
        axes.plot([np.mean(values)] * 2, [row - 0.35, row + 0.35], color="black")
    axes.set_yticks(range(len(returns)), list(returns))
    axes.set(xlabel=xlabel, ylim=(len(returns) - 0.5, -0.5), title=title)
    axes.grid(alpha=0.3, axis="x")
    return _drawn(figure)


def dots(values: Mapping[str, Sequence[float]], xlabel: str, lines: Mapping[str, float] | None = None) -> bytes:
    """Named groups of numbers, every one a dot and their mean a bar, and named vertical lines, as PNG."""
    figure, axes = _plot(6.5, 0.8 + 0.32 * len(values))
    for row, group in enumerate(values.values()):
        axes.scatter(group, [row] * len(group), s=18, alpha=0.7)
        axes.plot([float(np.mean(group))] * 2, [row - 0.3, row + 0.3], color="black")
    for name, level in (lines or {}).items():
        axes.axvline(level, linestyle="--", color="grey", linewidth=1)
        axes.annotate(name, (level, -0.6), fontsize=8, ha="left")
    axes.set_yticks(range(len(values)), list(values))
    axes.set(xlabel=xlabel, ylim=(len(values) - 0.5, -1 if lines else -0.5))
    axes.grid(alpha=0.3, axis="x")
    return _drawn(figure, dpi=110)


def sounds(named: Mapping[str, np.ndarray], rate: int) -> bytes:
    """Waveforms, and spectrograms beside them, as PNG; samples with full scale from -1 to 1."""
    from matplotlib.figure import Figure  # slow to import, and only plots need it

    figure = Figure(figsize=(9, 1.2 * len(named)), layout="constrained")
    loudest = max(float(np.abs(sound).max(initial=0.01)) for sound in named.values())
    for (left, right), (name, sound) in zip(figure.subplots(len(named), 2, squeeze=False), named.items(), strict=True):
        left.plot(np.arange(len(sound)) / rate, sound, linewidth=0.4)
        left.set(ylim=(-loudest, loudest))
        left.set_title(name, fontsize=8, loc="left")
        window = min(256, len(sound))
        quiet = np.asarray(sound, np.float64) + 1e-8  # digital silence has no logarithm
        right.specgram(quiet, NFFT=window, noverlap=window * 3 // 4, Fs=rate, vmin=-140, vmax=-40)
        right.set_ylabel("Hz", fontsize=7)
        for axes in (left, right):
            axes.tick_params(labelsize=6)
    for axes in figure.axes[-2:]:
        axes.set_xlabel("seconds", fontsize=7)
    return _drawn(figure, dpi=90)


def _plot(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches, and its axes."""
    from matplotlib.figure import Figure  # slow to import, and only plots need it

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _drawn(figure: Any, dpi: int = 120) -> bytes:
    """A figure as a PNG file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
