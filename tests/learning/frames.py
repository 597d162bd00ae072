"""Frames with a known factor, a VAE that learns from them, and how much of the factor its latents hold."""

import numpy as np
import torch

from tests import toys
from worldmodel import VAE, fit, seeded
from worldmodel.batches import frames_to_float


class Frames:
    """Data for `worldmodel.fit`: these frames, for training and validation."""

    identity = "frames"

    def __init__(self, frames: torch.Tensor) -> None:
        self.frames = frames

    def split(self, fraction, seed):
        return self, self

    def batch(self, size, rng):
        return self.frames[rng.integers(len(self.frames), size=size)]

    def batches(self, size):
        return iter(self.frames[:32].split(size))


def dots(count: int, seed: int, background: int = 0):
    """Frames (count, 64, 64, 3) with a square at random places on a line, and the places (count,)."""
    places = np.random.default_rng(seed).uniform(-1, 1, count)
    return torch.from_numpy(np.stack([toys.dot_frame(x, background=background) for x in places])), places


def dot_vae(seed: int = 0, background: int = 0, updates: int = 50, lr: float = 3e-3) -> VAE:
    """A VAE of two latents, trained on `dots`."""
    with seeded(seed):
        vae = VAE(latent_dim=2)
    return fit(
        vae,
        Frames(dots(256, seed, background)[0]),
        num_updates=updates,
        batch_size=8,
        learning_rate=lr,
        eval_every=updates,
        seed=seed,
    )


def latents(vae: VAE, frames: torch.Tensor) -> np.ndarray:
    """The posterior's means."""
    with torch.no_grad():
        return vae.encode(frames_to_float(frames)).loc.double().numpy()


def read_out(vae: VAE, frames: torch.Tensor, places: np.ndarray) -> np.ndarray:
    """Weights and a bias (latent + 1,) that predict the places from the latents, by least squares."""
    inputs = latents(vae, frames)
    return np.linalg.lstsq(np.c_[inputs, np.ones(len(inputs))], places, rcond=None)[0]


def explained(vae: VAE, background: int = 0) -> float:
    """R2 of a linear read-out of the place from sampled latents, on frames that nothing was fitted to.

    Means of an untrained VAE explain the place, too; samples do where the VAE tells places apart beyond its own noise.
    """
    (inputs, known), (tested, places) = (
        (sampled(vae, one[0]), one[1]) for one in (dots(128, 1001, background), dots(128, 1002, background))
    )
    weights = np.linalg.lstsq(inputs, known, rcond=None)[0]
    return float(1 - np.square(places - tested @ weights).mean() / places.var())


def sampled(vae: VAE, frames: torch.Tensor) -> np.ndarray:
    """Samples of the posterior and a one, (count, latent + 1)."""
    with torch.no_grad():
        posterior = vae.encode(frames_to_float(frames))
    noise = torch.randn(posterior.loc.shape, generator=torch.Generator().manual_seed(0))
    return np.c_[(posterior.loc + posterior.scale * noise).double().numpy(), np.ones(len(frames))]


def redrawn(vae: VAE, background: int = 0) -> float:
    """The share of the frames' variance around their mean that is in what the VAE draws of their latents."""
    frames = frames_to_float(dots(128, 1002, background)[0])
    with torch.no_grad():
        errors = vae.decode(vae.encode(frames).loc) - frames
    return float(1 - errors.square().mean() / (frames - frames.mean(dim=0)).square().mean())
