"""Fidelity of a dream: whether its returns agree with the game's, and whether its frames contain small moving objects.

Start reading at `Fidelity`. `benchmarks.fidelity` measures both in the game and writes them into an agent's folder.
`measure_run` measures the second one on the stored frames of a run, without the game.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import pad, unfold

from worldmodel import VAE, WorldModel, rollouts
from worldmodel.batches import frames_to_float
from worldmodel.io import migration
from worldmodel.io.files import error_context, from_json, read_json, write_json
from worldmodel.messages import format_number
from worldmodel.training.metrics import MOTION_THRESHOLD

FILE = "fidelity.json"
WINDOW = 7
"""Side of a square in pixels; an object that covers less than half of it is small."""
MISSING = 0.3
"""The page reports missing small moving objects if the reconstructed fraction is below this value."""
APART = 2.0
"""Two returns agree if they differ by at most this factor."""
LITTLE = 0.1
"""Two returns also agree if they differ by at most this fraction of the largest real return."""
FRAMES = 64
"""Number of frames of a run that `measure_run` uses, approximately."""


@dataclass(frozen=True)
class Fidelity:
    """Measurements of a dream's fidelity.

    Args:
        small_motion: Fraction of small moving objects that the VAE reconstructs (`small_moving`). None: there are none, or
            it was not measured.
        horizon: Number of steps of each return.
        num_start_states: Number of real start states, the same for dreams and the game.
        behaviors: Names of the behaviours.
        dream_returns: Mean return of each behaviour in dreams.
        real_returns: Mean return of each behaviour in the game.
    """

    small_motion: float | None = None
    horizon: int = 0
    num_start_states: int = 0
    behaviors: list[str] = field(default_factory=list)
    dream_returns: list[float] = field(default_factory=list)
    real_returns: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not len(self.behaviors) == len(self.dream_returns) == len(self.real_returns):
            raise ValueError("behaviors, dream_returns and real_returns must have the same length")

    @classmethod
    def of(cls, folder: Path) -> "Fidelity | None":
        """Return the measurements in an agent's folder; None: there are none.

        Raises:
            ValueError: The file is damaged.
        """
        if not (path := folder / FILE).exists():
            return None
        with error_context(path, wrap_value_errors=True):
            return from_json(cls, migration.renamed(read_json(path), migration.FIDELITY), path)

    def save(self, folder: Path) -> None:
        """Write ``fidelity.json``."""
        write_json(folder / FILE, asdict(self))

    def notes(self, speed: float) -> tuple[str, ...]:
        """Return the measurements as sentences for the page; ``speed`` is in steps per second."""
        sentences = []
        rows = list(zip(self.behaviors, self.dream_returns, self.real_returns, strict=True))
        if rows:
            returns = "; ".join(
                f"{behavior} {format_number(dream, 0)} ({format_number(real, 0)})" for behavior, dream, real in rows
            )
            sentences.append(
                f"Mean return in the dream, with the real return in brackets, over {self.horizon} steps "
                f"({self.horizon / speed:.1f} s) from {self.num_start_states} real start states: {returns}."
            )
        scale = max(map(abs, self.real_returns), default=0.0)
        if wrong := [behavior for behavior, dream, real in rows if not agree(dream, real, scale)]:
            sentences.append(f"The dream's returns differ by more than a factor of {APART:g} for: {'; '.join(wrong)}.")
        if self.small_motion is not None and self.small_motion < MISSING:
            fraction = f"{max(self.small_motion, 0):.0%}"
            sentences.append(f"The dream lacks small moving objects: its frames contain {fraction} of them.")
        return tuple(sentences)


def agree(dreamed: float, real: float, scale: float = 0.0) -> bool:
    """Whether two returns differ by at most a factor of `APART`, or by at most `LITTLE` of ``scale``, the largest return."""
    low, high = sorted((abs(dreamed), abs(real)))
    return (dreamed * real > 0 and high <= APART * low) or abs(dreamed - real) <= LITTLE * scale


@torch.no_grad()
def small_moving(vae: VAE, frames: UInt8[Tensor, "frames height width channels"], chunk: int = 16) -> float | None:
    """Return the fraction of small moving objects that a VAE reconstructs.

    Pixels are used that differ from the median of their `WINDOW` (small) and from their own median over time (moving), by
    more than `MOTION_THRESHOLD`. The fraction is 1 - SSE / SS. SSE is the squared error of the reconstruction, SS the squared
    difference from the median of the window.

    Args:
        vae: VAE.
        frames: Frames of one or more episodes, (frames, 64, 64, 3).
        chunk: Number of frames that the VAE processes at once.

    Returns:
        1 if the objects are complete, 0 if the VAE draws only their surroundings. None: no small object moves.
    """
    background = frames_to_float(frames.contiguous().median(dim=0).values)  # wrong in torch 2.13 for expanded tensors
    error = total = 0.0
    for part in frames.split(chunk):
        pixels = frames_to_float(part)
        drawn = vae.decode(vae.encode(pixels.to(next(vae.parameters()).device)).loc).cpu()
        around = _window_median(pixels)
        small = ((pixels - around).abs() > MOTION_THRESHOLD).any(dim=1, keepdim=True)
        moving = ((pixels - background).abs() > MOTION_THRESHOLD).any(dim=1, keepdim=True)
        error += float(((drawn - pixels).square() * (small & moving)).sum())
        total += float(((pixels - around).square() * (small & moving)).sum())
    return 1 - error / total if total else None


def _window_median(pixels: Tensor) -> Tensor:
    """Return the median of the square around each pixel, (frames, 3, 64, 64)."""
    frames, channels, height, width = pixels.shape
    edge = WINDOW // 2
    patches = unfold(pad(pixels, (edge,) * 4, mode="replicate"), WINDOW)
    return patches.view(frames, channels, WINDOW * WINDOW, height, width).median(dim=2).values


def measure_run(store: rollouts.Store, world: WorldModel) -> Fidelity:
    """Measure `small_moving` on evenly spaced frames of up to 8 stored episodes; vectors have none."""
    if not isinstance(world.vae, VAE):
        return Fidelity()
    indices = np.linspace(0, len(store) - 1, min(len(store), 8)).astype(int)
    frames = []
    for index in indices:
        episode = store.episode(int(index)).frames
        frames.append(episode[:: max(1, math.ceil(len(episode) * len(indices) / FRAMES))])
    return Fidelity(small_moving(world.vae, torch.from_numpy(np.concatenate(frames))))
