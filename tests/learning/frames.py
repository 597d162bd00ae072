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
    """R2 of a linear read-out of the place, on frames that neither the VAE nor the read-out was fitted to."""
    weights = read_out(vae, *dots(128, 1001, background))
    frames, places = dots(128, 1002, background)
    inputs = latents(vae, frames)
    errors = places - np.c_[inputs, np.ones(len(inputs))] @ weights
    return float(1 - np.square(errors).mean() / places.var())
