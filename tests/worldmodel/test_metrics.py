"""Reconstruction metrics of VAEs with known errors."""

import math

import pytest
import torch
from torch.distributions import Normal

from worldmodel import VAE
from worldmodel.training.metrics import reconstruction_metrics


class FakeVAE(VAE):
    """A VAE whose reconstructions are ``reconstruct(frames)``."""

    def __init__(self, reconstruct) -> None:
        super().__init__(latent_dim=2)
        self.reconstruct = reconstruct

    def encode(self, frames):
        self.pixels = frames
        return Normal(frames.new_zeros(len(frames), 2), 1.0)

    def decode(self, latent):
        return self.reconstruct(self.pixels)


def ball(count: int = 40, background: int = 255) -> torch.Tensor:
    """A ball of 2 by 2 pixels that moves over a plain background."""
    frames = torch.full((count, 64, 64, 3), background, dtype=torch.uint8)
    for time in range(count):
        frames[time, 30:32, time : time + 2] = 128
    return frames


def test_perfect_reconstruction_explains_all_variance():
    metrics = reconstruction_metrics(FakeVAE(lambda pixels: pixels), ball())
    assert metrics.explained_variance == pytest.approx(1)
    assert metrics.moving_explained_variance == pytest.approx(1)
    assert metrics.reconstruction_std == pytest.approx(metrics.frame_std, rel=1e-4)
    assert metrics.num_frames == 40


def test_constant_reconstruction_explains_no_variance():
    frames = torch.randint(0, 256, (30, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean = frames.float().mean(dim=0).movedim(-1, 0) / 255
    metrics = reconstruction_metrics(FakeVAE(lambda pixels: mean.expand(len(pixels), -1, -1, -1)), frames)
    assert metrics.explained_variance == pytest.approx(0, abs=1e-5)
    assert metrics.reconstruction_std < 1e-5 * metrics.frame_std
    black = reconstruction_metrics(FakeVAE(lambda pixels: torch.zeros_like(pixels)), frames)
    assert black.explained_variance < -1


def test_moving_explained_variance_detects_a_small_ball():
    """Noise in all pixels outweighs the ball in the explained variance of all pixels."""
    generator = torch.Generator().manual_seed(0)
    frames = ball(background=100)
    frames += torch.randint(0, 10, frames.shape, dtype=torch.uint8, generator=generator)
    background = frames.median(dim=0).values.movedim(-1, 0) / 255
    without_ball = FakeVAE(lambda pixels: background.expand(len(pixels), -1, -1, -1))
    with_ball = FakeVAE(lambda pixels: torch.where(pixels > 115 / 255, pixels, background))
    without, with_ = (reconstruction_metrics(vae, frames) for vae in (without_ball, with_ball))
    assert without.moving_explained_variance == pytest.approx(0, abs=1e-6)
    assert with_.moving_explained_variance > 0.9
    assert abs(with_.explained_variance - without.explained_variance) < 0.2


def test_explained_variance_of_constant_frames_is_nan():
    metrics = reconstruction_metrics(VAE(latent_dim=2), torch.full((5, 64, 64, 3), 37, dtype=torch.uint8))
    assert math.isnan(metrics.explained_variance)
    assert math.isnan(metrics.moving_explained_variance)
    assert math.isfinite(metrics.reconstruction_std)
    one_changed = torch.full((5, 64, 64, 3), 37, dtype=torch.uint8)
    one_changed[0, 0, 0, 0] = 38
    assert math.isfinite(reconstruction_metrics(VAE(latent_dim=2), one_changed).explained_variance)


def test_metrics_do_not_depend_on_the_chunk_size_and_restore_the_mode():
    modes = []

    def blurred(pixels):
        modes.append(vae.training)
        return 0.9 * pixels

    vae = FakeVAE(blurred)
    vae.train()
    whole, parts = (reconstruction_metrics(vae, ball(), chunk=chunk) for chunk in (40, 7))
    assert vae.training
    assert not any(modes)
    assert len(modes) == 1 + 6
    assert parts == pytest.approx(whole, rel=1e-6)
    assert whole.explained_variance < 0.9


@pytest.mark.parametrize("shape", [(0, 64, 64, 3), (64, 64, 3), (2, 32, 32, 3)])
def test_frames_of_another_shape_are_refused(shape):
    with pytest.raises((ValueError, TypeError), match="frames"):
        reconstruction_metrics(VAE(latent_dim=2), torch.zeros(shape, dtype=torch.uint8))
