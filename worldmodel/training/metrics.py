"""Measure how well a VAE reconstructs frames: explained variance of all pixels, and of moving pixels.

The loss is not enough: it also decreases for a VAE that decodes every latent to the same frame. Start reading at
`reconstruction_metrics`.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from worldmodel.batches import frames_to_float
from worldmodel.vae import VAE

MOTION_THRESHOLD = 0.06
"""A pixel is moving if a channel differs from the background by more than this, in [0, 1]. Codecs and noise differ less."""

ROUNDING = 1e-6
"""Sums of squares below this are rounding errors. One change of one byte gives more."""


class ReconstructionMetrics(NamedTuple):
    """Metrics of reconstructions from the means of the posteriors."""

    explained_variance: float
    """1 - SSE / SS: squared errors over squared deviations from each pixel's mean; nan if no pixel changes."""
    moving_explained_variance: float
    """The same for moving pixels, with deviations from the background (each pixel's median); nan if no pixel moves."""
    reconstruction_std: float
    """Standard deviation over the reconstructions, root mean square over pixels in [0, 1]."""
    frame_std: float
    """Standard deviation over the frames, root mean square over pixels in [0, 1]."""
    num_frames: int


@torch.no_grad()
def reconstruction_metrics(
    vae: VAE, frames: UInt8[Tensor, "frames height width channels"], chunk: int = 128
) -> ReconstructionMetrics:
    """Compare frames with their reconstructions, ``decode(encode(frame).loc)``.

    Args:
        vae: VAE; its device is used.
        frames: uint8 frames, preferably of held-out episodes.
        chunk: Number of frames at a time.

    Raises:
        ValueError: there are no frames, or they have the wrong shape.
    """
    if frames.ndim != 4 or frames.shape[1:] != vae.observation_shape or not len(frames):
        expected = ("frames", *vae.observation_shape)
        raise ValueError(f"frames must have shape {expected} with at least one, got {tuple(frames.shape)}")
    device, was_training = next(vae.parameters()).device, vae.training
    vae.eval()
    mean = (frames.sum(dim=0, dtype=torch.float64) / (255 * len(frames))).movedim(-1, 0)
    background = frames_to_float(frames.contiguous().median(dim=0).values)  # torch 2.13 is wrong for expanded tensors
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


def _explained(error: Tensor, total: Tensor) -> float:
    return 1 - float(error / total) if total > ROUNDING else math.nan
