import math

import pytest
import torch
from torch.distributions import Normal

from worldmodel import VAE
from worldmodel.metrics import explained_variance, moving_explained_variance, reconstruction_metrics


class Fake(VAE):
    """A VAE that draws what ``draw`` makes of its frames."""

    def __init__(self, draw) -> None:
        super().__init__(latent_dim=2)
        self.draw = draw

    def encode(self, frames):
        self.pixels = frames
        return Normal(frames.new_zeros(len(frames), 2), 1.0)

    def decode(self, latent):
        return self.draw(self.pixels)


def ball(count: int = 40, ground: int = 255) -> torch.Tensor:
    """A ball of 2 by 2 pixels that moves over a plain background."""
    frames = torch.full((count, 64, 64, 3), ground, dtype=torch.uint8)
    for time in range(count):
        frames[time, 30:32, time : time + 2] = 128
    return frames


def test_a_perfect_vae_explains_everything():
    found = reconstruction_metrics(Fake(lambda pixels: pixels), ball())
    assert found.explained_variance == pytest.approx(1)
    assert found.moving_explained_variance == pytest.approx(1)
    assert found.relative_std == pytest.approx(1, rel=1e-4)
    assert found.num_frames == 40


def test_a_constant_picture_explains_nothing_and_does_not_vary():
    frames = torch.randint(0, 256, (30, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean = frames.float().mean(dim=0).movedim(-1, 0) / 255
    found = reconstruction_metrics(Fake(lambda pixels: mean.expand(len(pixels), -1, -1, -1)), frames)
    assert found.explained_variance == pytest.approx(0, abs=1e-5)
    assert found.relative_std < 1e-5
    assert explained_variance(Fake(lambda pixels: torch.zeros_like(pixels)), frames) < -1


def test_moving_pixels_alone_tell_whether_a_small_ball_is_drawn():
    """Noise everywhere outweighs the ball among all pixels."""
    generator = torch.Generator().manual_seed(0)
    frames = ball(ground=100)
    frames += torch.randint(0, 10, frames.shape, dtype=torch.uint8, generator=generator)
    background = frames.median(dim=0).values.movedim(-1, 0) / 255
    without = Fake(lambda pixels: background.expand(len(pixels), -1, -1, -1))
    drawn = Fake(lambda pixels: torch.where(pixels > 115 / 255, pixels, background))
    assert moving_explained_variance(without, frames) == pytest.approx(0, abs=1e-6)
    assert moving_explained_variance(drawn, frames) > 0.9
    assert abs(explained_variance(drawn, frames) - explained_variance(without, frames)) < 0.2


def test_data_that_never_change_have_no_variance_to_explain():
    found = reconstruction_metrics(VAE(latent_dim=2), torch.full((5, 64, 64, 3), 37, dtype=torch.uint8))
    assert math.isnan(found.explained_variance)
    assert math.isnan(found.moving_explained_variance)
    assert math.isfinite(found.reconstruction_std)
    one = torch.full((5, 64, 64, 3), 37, dtype=torch.uint8)
    one[0, 0, 0, 0] = 38
    assert math.isfinite(explained_variance(VAE(latent_dim=2), one))


def test_the_number_of_frames_at_a_time_changes_nothing_and_the_mode_comes_back():
    modes = []

    def blurred(pixels):
        modes.append(vae.training)
        return 0.9 * pixels

    vae = Fake(blurred)
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
