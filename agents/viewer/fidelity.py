"""What is known of a dream before anybody steers it: whether it pays as the game does, and whether it shows what is small.

`Fidelity` lies in an agent's folder; `benchmarks.fidelity` makes it, and needs the game. Of a run, what needs no game is
measured at once.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import pad, unfold

import rollouts
from worldmodel import VAE, WorldModel, migration
from worldmodel.batches import frames_to_float
from worldmodel.formatting import format_number
from worldmodel.io import error_context, from_json, read_json, write_json
from worldmodel.metrics import MOTION_THRESHOLD

FILE = "fidelity.json"
WINDOW = 7
"""Pixels: what covers less than half of such a square is small."""
MISSING = 0.3
"""Below this share of what is small and moves, the page says that it is missing."""
APART = 2.0
"""Returns that differ by more than this factor disagree."""
LITTLE = 0.1
"""Nor do those that differ by less than this share of the largest real one."""
FRAMES = 64
"""Number of a run's frames that are looked at."""


@dataclass(frozen=True)
class Fidelity:
    """What is known of a dream.

    Args:
        small_motion: share of what is small and moves that the VAE reconstructs (`small_moving`); None: nothing is, or not
            measured.
        horizon: number of steps of each return.
        num_start_states: number of real moments, the same for dream and game.
        behaviors: names of ways to act.
        dream_returns: mean returns in dreams, one for each way.
        real_returns: mean returns in the game.
    """

    small_motion: float | None = None
    horizon: int = 0
    num_start_states: int = 0
    behaviors: list[str] = field(default_factory=list)
    dream_returns: list[float] = field(default_factory=list)
    real_returns: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not len(self.behaviors) == len(self.dream_returns) == len(self.real_returns):
            raise ValueError("ways, dreamed and real must be lists of one length")

    @classmethod
    def of(cls, folder: Path) -> "Fidelity | None":
        """What was measured for an agent's folder; None: nothing.

        Raises:
            ValueError: the file is damaged.
        """
        if not (path := folder / FILE).exists():
            return None
        with error_context(path, wrap_value_errors=True):
            return from_json(cls, migration.renamed(read_json(path), migration.FIDELITY), path)

    def save(self, folder: Path) -> None:
        """Write ``fidelity.json``."""
        write_json(folder / FILE, asdict(self))

    def notes(self, speed: float) -> tuple[str, ...]:
        """Sentences for the page; ``speed``: steps a second."""
        found = []
        rows = list(zip(self.behaviors, self.dream_returns, self.real_returns, strict=True))
        if rows:
            each = "; ".join(
                f"{way} {format_number(dreamed, 0)} ({format_number(real, 0)})" for way, dreamed, real in rows
            )
            found.append(
                f"Dreamed return, and in brackets the real one, of {self.horizon} steps ({self.horizon / speed:.1f} s) "
                f"from {self.num_start_states} real moments: {each}."
            )
        scale = max(map(abs, self.real_returns), default=0.0)
        if apart := [way for way, dreamed, real in rows if not agree(dreamed, real, scale)]:
            found.append(f"The dream's rewards are wrong by more than a factor of {APART:g} for: {'; '.join(apart)}.")
        if self.small_motion is not None and self.small_motion < MISSING:
            share = f"{max(self.small_motion, 0):.0%}"
            found.append(f"Small moving things are missing in the dream: its pictures show {share} of them.")
        return tuple(found)


def agree(dreamed: float, real: float, scale: float = 0.0) -> bool:
    """Whether two returns differ by no more than a factor of `APART`, or by little beside ``scale``, the largest return."""
    low, high = sorted((abs(dreamed), abs(real)))
    return (dreamed * real > 0 and high <= APART * low) or abs(dreamed - real) <= LITTLE * scale


@torch.no_grad()
def small_moving(vae: VAE, frames: UInt8[Tensor, "frames 64 64 3"], chunk: int = 16) -> float | None:
    """Share of what is small and moves that a VAE reconstructs: 1 is all, 0 is no more than the surroundings.

    A pixel counts where it differs from the median of its `WINDOW` (small) and from its own median over time (moving). The
    share is 1 - SSE / SS, with squares around the median of the window.

    Returns:
        None: nothing small moves.
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
    """Each pixel's median over a square around it; (frames, 3, 64, 64)."""
    frames, channels, height, width = pixels.shape
    edge = WINDOW // 2
    patches = unfold(pad(pixels, (edge,) * 4, mode="replicate"), WINDOW)
    return patches.view(frames, channels, WINDOW * WINDOW, height, width).median(dim=2).values


def of_run(store: rollouts.Store, world: WorldModel) -> Fidelity:
    """What a run's own frames tell: some of each of some episodes."""
    few = np.linspace(0, len(store) - 1, min(len(store), 8)).astype(int)
    frames = []
    for index in few:
        episode = store.episode(int(index)).frames
        frames.append(episode[:: max(1, math.ceil(len(episode) * len(few) / FRAMES))])
    return Fidelity(small_moving(world.vae, torch.from_numpy(np.concatenate(frames))))
