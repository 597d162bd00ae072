"""How much of the frames a VAE reconstructs: explained variance of all pixels, and of those that move.

A loss alone does not tell: a VAE that draws the same picture whatever it sees has a loss that falls, too.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from worldmodel.batches import frames_to_float
from worldmodel.vae import VAE

MOTION_THRESHOLD = 0.06
"""A pixel moves where a channel differs from the background by more than this (of 1): codecs and noise differ by less."""

ROUNDING = 1e-6
"""Sums of squares below this are rounding: one byte that changes once gives more."""


class ReconstructionMetrics(NamedTuple):
    """How a VAE reconstructs frames, from the means of its posteriors."""

    explained_variance: float
    """1 - SSE / SS: squared errors over squares around each pixel's mean; nan where no pixel of the data changes."""
    moving_explained_variance: float
    """The same, of the pixels that differ from the background (each pixel's median) alone, and around it; nan without any."""
    reconstruction_std: float
    """Standard deviation of a pixel over the reconstructions, root mean square over pixels; pixels are in [0, 1]."""
    frame_std: float
    """Standard deviation of a pixel over the frames themselves."""
    num_frames: int

    @property
    def relative_std(self) -> float:
        """How much reconstructions vary, relative to frames; nan where frames do not."""
        return self.reconstruction_std / self.frame_std if self.frame_std else math.nan


@torch.no_grad()
def reconstruction_metrics(
    vae: VAE, frames: UInt8[Tensor, "frames 64 64 3"], chunk: int = 128
) -> ReconstructionMetrics:
    """Compare frames with their reconstructions, ``decode(encode(frame).loc)``.

    Args:
        vae: the VAE; its device is where this is computed.
        frames: frames of bytes, best of held-out episodes.
        chunk: number of frames at a time.

    Raises:
        ValueError: there are no frames, or they have another shape.
    """
    if frames.ndim != 4 or frames.shape[1:] != (64, 64, 3) or not len(frames):
        raise ValueError(f"frames must have shape (frames, 64, 64, 3) with at least one, got {tuple(frames.shape)}")
    device, was_training = next(vae.parameters()).device, vae.training
    vae.eval()
    mean = (frames.sum(dim=0, dtype=torch.float64) / (255 * len(frames))).movedim(-1, 0)
    background = frames_to_float(frames.contiguous().median(dim=0).values)  # wrong in torch 2.13 for expanded tensors
    error = moving_error = moving = drawn_sum = drawn_squares = torch.zeros((), dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for part in frames.split(chunk):
        pixels = frames_to_float(part)
        drawn = vae.decode(vae.encode(pixels.to(device)).loc).cpu().double()
        squares = (drawn - pixels).square()
        moves = ((pixels - background).abs() > MOTION_THRESHOLD).any(dim=1, keepdim=True)
        error, total = error + squares.sum(), total + (pixels - mean).square().sum()
        moving_error = moving_error + (squares * moves).sum()
        moving = moving + ((pixels - background).double().square() * moves).sum()
        drawn_sum, drawn_squares = drawn_sum + drawn.sum(dim=0), drawn_squares + drawn.square().sum(dim=0)
    vae.train(was_training)
    variance = (drawn_squares / len(frames) - (drawn_sum / len(frames)).square()).clamp(min=0).mean()
    return ReconstructionMetrics(
        _explained(error, total),
        _explained(moving_error, moving),
        float(variance.sqrt()),
        float((total / frames.numel()).sqrt()),
        len(frames),
    )


def explained_variance(vae: VAE, frames: UInt8[Tensor, "frames 64 64 3"]) -> float:
    """Share of the pixels' variance that a VAE reconstructs: 1 is all, 0 no more than their mean; nan if nothing changes."""
    return reconstruction_metrics(vae, frames).explained_variance


def moving_explained_variance(vae: VAE, frames: UInt8[Tensor, "frames 64 64 3"]) -> float:
    """The same of what moves alone, however small: 0 is a VAE that draws the background; nan if nothing moves."""
    return reconstruction_metrics(vae, frames).moving_explained_variance


def _explained(error: Tensor, total: Tensor) -> float:
    return 1 - float(error / total) if total > ROUNDING else math.nan
