"""Plots as PNG: curves, returns of episodes, groups of values, sounds."""

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
    """Plot curves.

    Args:
        series: x and y values of each curve, by name.
        xlabel: Label of the x axis.
        ylabel: Label of the y axis.
        lines: Values of horizontal lines, by name.
        title: Title of the plot.

    Returns:
        The content of a PNG file.
    """
    figure, axes = _subplots(6, 3.4)
    for name, (x, y) in series.items():
        axes.plot(x, y, label=name, marker="." if len(x) < 20 else None)
    for name, level in (lines or {}).items():
        axes.axhline(level, linestyle="--", color="grey", linewidth=1)
        axes.annotate(name, (0.01, level), xycoords=("axes fraction", "data"), fontsize=8, va="bottom")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(series) > 1:
        axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return _to_png(figure)


def histogram(returns: Mapping[str, Sequence[float]], xlabel: str = "return", title: str = "") -> bytes:
    """Plot the returns of several controllers: one dot per episode, and a bar at the mean.

    Args:
        returns: Returns of each controller, by name.
        xlabel: Label of the x axis.
        title: Title of the plot.

    Returns:
        The content of a PNG file.
    """
    figure, axes = _subplots(6, 1.4 + 0.6 * len(returns))
    for row, values in enumerate(returns.values()):
        jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(values))
        axes.scatter(values, row + jitter, s=14, alpha=0.6)
        axes.plot([np.mean(values)] * 2, [row - 0.35, row + 0.35], color="black")
    axes.set_yticks(range(len(returns)), list(returns))
    axes.set(xlabel=xlabel, ylim=(len(returns) - 0.5, -0.5), title=title)
    axes.grid(alpha=0.3, axis="x")
    return _to_png(figure)


def profiles(returns: Mapping[str, Sequence[float]], xlabel: str = "return") -> bytes:
    """Plot performance profiles: the fraction of values above each threshold.

    Args:
        returns: Values of each curve, by name.
        xlabel: Label of the x axis.

    Returns:
        The content of a PNG file.
    """
    figure, axes = _subplots(6, 3.4)
    for name, values in returns.items():
        x = np.sort(values)
        axes.step(x, 1 - np.arange(1, len(x) + 1) / len(x), where="post", label=name)
    axes.set(xlabel=xlabel, ylabel="fraction above", ylim=(0, 1.02))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return _to_png(figure)


def dots(values: Mapping[str, Sequence[float]], xlabel: str, lines: Mapping[str, float] | None = None) -> bytes:
    """Plot groups of values: one dot per value, and a bar at the mean of each group.

    Args:
        values: Values of each group, by name.
        xlabel: Label of the x axis.
        lines: Values of vertical lines, by name.

    Returns:
        The content of a PNG file.
    """
    figure, axes = _subplots(6.5, 0.8 + 0.32 * len(values))
    for row, group in enumerate(values.values()):
        axes.scatter(group, [row] * len(group), s=18, alpha=0.7)
        axes.plot([float(np.mean(group))] * 2, [row - 0.3, row + 0.3], color="black")
    for name, level in (lines or {}).items():
        axes.axvline(level, linestyle="--", color="grey", linewidth=1)
        axes.annotate(name, (level, -0.6), fontsize=8, ha="left")
    axes.set_yticks(range(len(values)), list(values))
    axes.set(xlabel=xlabel, ylim=(len(values) - 0.5, -1 if lines else -0.5))
    axes.grid(alpha=0.3, axis="x")
    return _to_png(figure, dpi=110)


def sounds(named: Mapping[str, np.ndarray], rate: int) -> bytes:
    """Plot the waveform and the spectrogram of each sound.

    Args:
        named: Samples of each sound in [-1, 1], by name.
        rate: Sample rate in Hz.

    Returns:
        The content of a PNG file.
    """
    from matplotlib.figure import Figure  # slow to import, and only plots need it

    figure = Figure(figsize=(9, 1.2 * len(named)), layout="constrained")
    loudest = max(float(np.abs(sound).max(initial=0.01)) for sound in named.values())
    for (left, right), (name, sound) in zip(figure.subplots(len(named), 2, squeeze=False), named.items(), strict=True):
        left.plot(np.arange(len(sound)) / rate, sound, linewidth=0.4)
        left.set(ylim=(-loudest, loudest))
        left.set_title(name, fontsize=8, loc="left")
        window = min(256, len(sound))
        samples = np.asarray(sound, np.float64) + 1e-8  # avoids the logarithm of zero
        right.specgram(samples, NFFT=window, noverlap=window * 3 // 4, Fs=rate, vmin=-140, vmax=-40)
        right.set_ylabel("Hz", fontsize=7)
        for axes in (left, right):
            axes.tick_params(labelsize=6)
    for axes in figure.axes[-2:]:
        axes.set_xlabel("seconds", fontsize=7)
    return _to_png(figure, dpi=90)


def _subplots(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of a size in inches, and its axes."""
    from matplotlib.figure import Figure  # slow to import, and only plots need it

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _to_png(figure: Any, dpi: int = 120) -> bytes:
    """Return a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
