"""Frames with one known factor, a VAE trained on them, and measures of how well it encodes the factor."""

import numpy as np
import torch

from tests import toys
from worldmodel import VAE, fit, seeded
from worldmodel.batches import frames_to_float


class Frames:
    """Data for `worldmodel.fit`: the same frames for training and validation."""

    identity = "frames"

    def __init__(self, frames: torch.Tensor) -> None:
        self.frames = frames

    def split(self, fraction, seed):
        return self, self

    def batch(self, size, rng):
        return self.frames[rng.integers(len(self.frames), size=size)]

    def batches(self, size):
        return iter(self.frames[:32].split(size))


def dot_frames(count: int, seed: int, background: int = 0):
    """Frames (count, 64, 64, 3) with a square at random positions on a line, and the positions (count,)."""
    positions = np.random.default_rng(seed).uniform(-1, 1, count)
    return torch.from_numpy(np.stack([toys.dot_frame(x, background=background) for x in positions])), positions


def dot_vae(seed: int = 0, background: int = 0, num_updates: int = 50, learning_rate: float = 3e-3) -> VAE:
    """A VAE with two latents, trained on `dot_frames`."""
    with seeded(seed):
        vae = VAE(latent_dim=2)
    return fit(
        vae,
        Frames(dot_frames(256, seed, background)[0]),
        num_updates=num_updates,
        batch_size=8,
        learning_rate=learning_rate,
        eval_every=num_updates,
        seed=seed,
    )


def latents(vae: VAE, frames: torch.Tensor) -> np.ndarray:
    """Posterior means of frames, (count, latent)."""
    with torch.no_grad():
        return vae.encode(frames_to_float(frames)).loc.double().numpy()


def fit_linear_readout(vae: VAE, frames: torch.Tensor, positions: np.ndarray) -> np.ndarray:
    """Weights and a bias (latent + 1,) that predict positions from latents by least squares."""
    inputs = latents(vae, frames)
    return np.linalg.lstsq(np.c_[inputs, np.ones(len(inputs))], positions, rcond=None)[0]


def position_r2(vae: VAE, background: int = 0) -> float:
    """R2 of a linear readout of the position from sampled latents, on frames that were not used to fit the readout.

    Posterior means of an untrained VAE also explain the position. Samples do so only if the VAE separates positions by more
    than its posterior noise.
    """
    (inputs, targets), (test_inputs, positions) = (
        (posterior_samples(vae, data[0]), data[1])
        for data in (dot_frames(128, 1001, background), dot_frames(128, 1002, background))
    )
    weights = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    return float(1 - np.square(positions - test_inputs @ weights).mean() / positions.var())


def posterior_samples(vae: VAE, frames: torch.Tensor) -> np.ndarray:
    """Posterior samples with a column of ones for the bias, (count, latent + 1)."""
    with torch.no_grad():
        posterior = vae.encode(frames_to_float(frames))
    noise = torch.randn(posterior.loc.shape, generator=torch.Generator().manual_seed(0))
    return np.c_[(posterior.loc + posterior.scale * noise).double().numpy(), np.ones(len(frames))]


def reconstruction_r2(vae: VAE, background: int = 0) -> float:
    """Share of the frames' variance around their mean that the reconstructions explain."""
    frames = frames_to_float(dot_frames(128, 1002, background)[0])
    with torch.no_grad():
        errors = vae.decode(vae.encode(frames).loc) - frames
    return float(1 - errors.square().mean() / (frames - frames.mean(dim=0)).square().mean())
