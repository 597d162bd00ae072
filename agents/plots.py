"""Plots as PNG: curves, histograms, dots, sounds."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


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
