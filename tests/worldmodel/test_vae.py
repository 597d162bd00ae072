"""The VAE: shapes, loss, initialisation from data, saving, and training on frames that vary little."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from torch.distributions import Normal, kl_divergence

from tests.tolerance import assert_same_sums
from worldmodel import FRMDN, VAE, Memory, WorldModel, fit, seeded
from worldmodel.batches import frames_to_float, frames_to_uint8
from worldmodel.registry import build_vae
from worldmodel.training.metrics import reconstruction_metrics
from worldmodel.vae import MAX_ERROR_WEIGHT, MIN_PIXEL_SCALE, MIN_VARIATION

PUBLISHED_VAE = True


def test_num_parameters_match_the_published_model():
    assert sum(parameter.numel() for parameter in VAE(latent_dim=32).parameters()) == 4_348_547


def test_shapes_and_range_of_reconstructions():
    vae = VAE(latent_dim=5)
    posterior = vae.encode(torch.rand(2, 3, 64, 64))
    assert posterior.loc.shape == posterior.scale.shape == (2, 5)
    reconstruction = vae.decode(posterior.loc).detach()
    assert reconstruction.shape == (2, 3, 64, 64)
    assert float(reconstruction.min()) >= 0
    assert float(reconstruction.max()) <= 1


@pytest.mark.parametrize(("free_bits", "hud_loss_weight"), [(0.0, 1.0), (0.5, 1.0), (0.5, 16.0)])
def test_loss_is_squared_error_plus_kl_beyond_free_bits(free_bits, hud_loss_weight):
    with seeded(0):
        vae = VAE(4, free_bits, hud_loss_weight).double()
    frames = torch.rand(3, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = vae.loss(frames, torch.Generator().manual_seed(1))
    posterior = vae.encode(frames)
    noise = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    squared_errors = (vae.decode(posterior.loc + posterior.scale * noise) - frames).square()
    error = (squared_errors[:, :, :56].sum() + hud_loss_weight * squared_errors[:, :, 56:].sum()) / 3
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(loss.value, error + kl.clamp(min=free_bits).sum())
    torch.testing.assert_close(loss.parts["kl"], kl.sum().detach())


def test_free_bits_apply_to_the_batch_mean_of_each_dimension():
    """For a pixel x of 0 or 1 and the posterior N(c x, 1), the KL is 0 or c^2 / 2, on both sides of the free bits."""
    vae = VAE(latent_dim=3, free_bits=0.5)
    vae.encoder, vae.posterior = torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 6)
    vae.pixel_mean.zero_()
    vae.pixel_scale.fill_(1.0)
    vae.posterior.weight.data.zero_()[:3, 0] = torch.tensor([1.2, 2.0, 0.5])
    vae.posterior.bias.data.zero_()
    frames = torch.zeros(2, 3, 64, 64)
    frames[1, 0, 0, 0] = 1.0
    loss = vae.loss(frames, torch.Generator().manual_seed(0))
    divergence = torch.tensor([0.36, 1.0, 0.0625])  # the mean of both frames: c^2 / 4
    torch.testing.assert_close(loss.parts["kl"], divergence.sum())
    error = loss.parts["reconstruction"]
    assert_same_sums(loss.value - error, 0.5 + 1.0 + 0.5, count=2, terms=error)


@pytest.mark.parametrize("hud_loss_weight", [0.0, -1.0, 1000.1, float("inf"), float("nan")])
def test_hud_loss_weight_out_of_range_is_refused(hud_loss_weight):
    with pytest.raises(ValueError, match="hud_loss_weight"):
        VAE(hud_loss_weight=hud_loss_weight)


def test_hud_loss_weight_that_is_not_a_number_is_refused():
    for hud_loss_weight in ("16", None, [16], True):
        with pytest.raises((ValueError, TypeCheckError), match=r"hud_loss_weight"):
            build_vae({"latent_dim": 2, "free_bits": 0.5, "hud_loss_weight": hud_loss_weight})
    most = build_vae({"latent_dim": 2, "free_bits": 0.5, "hud_loss_weight": 1000.0})
    assert build_vae(most.config).hud_loss_weight == 1000


def test_config_rebuilds_the_vae_and_older_files_are_read():
    assert VAE(5, 0.25, standardize=False).config == {"latent_dim": 5, "free_bits": 0.25}
    assert not build_vae({"latent_dim": 5, "free_bits": 0.25}).standardize
    assert build_vae(VAE(5).config).standardize
    assert VAE(**VAE(5, 0.25, 16.0).config).hud_loss_weight == 16


def test_vae_without_standardization_is_that_of_the_paper():
    vae = VAE(4, standardize=False)
    z = torch.randn(2, 4)
    reconstruction = vae.decoder[:-1](vae.prepare(z)[..., None, None]).sigmoid()
    torch.testing.assert_close(vae.decode(z), reconstruction)
    frames = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(vae.encode(frames).loc, vae.posterior(vae.encoder(frames))[:, :4])
    before = {name: part.clone() for name, part in vae.state_dict().items()}
    vae.init_from_data(torch.zeros(8, 64, 64, 3, dtype=torch.uint8))
    assert all(part.equal(before[name]) for name, part in vae.state_dict().items())


def square_frames(background: int, count: int = 64, side: int = 8) -> torch.Tensor:
    """Frames (count, 64, 64, 3) of one blue square at random positions on a uniform background."""
    positions = torch.randint(0, 64 - side, (count, 2), generator=torch.Generator().manual_seed(0)).tolist()
    frames = torch.full((count, 64, 64, 3), background, dtype=torch.uint8)
    for frame, (x, y) in zip(frames, positions, strict=True):
        frame[y : y + side, x : x + side] = torch.tensor([30, 60, 220], dtype=torch.uint8)
    return frames


@pytest.mark.parametrize("background", [0, 255])
def test_init_from_data_starts_at_the_mean_frame_with_a_gradient_in_every_weight(background):
    with seeded(0):
        vae = VAE(4)
    frames = square_frames(background)
    vae.init_from_data(frames)
    mean = frames_to_float(frames).mean(0)
    with torch.no_grad():
        reconstruction = vae.decode(vae.encode(frames_to_float(frames)).loc)
    assert float((reconstruction - mean).square().mean()) < 0.1 * float(
        (frames_to_float(frames) - mean).square().mean()
    )
    vae.loss(frames, torch.Generator().manual_seed(0)).value.backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 1e-4, name


def test_error_weight_raises_the_error_of_frames_that_vary_little():
    def first_error(frames: torch.Tensor) -> float:
        with seeded(0):
            vae = VAE(4)
        vae.init_from_data(frames)
        loss = vae.loss(frames, torch.Generator().manual_seed(0))
        return float(vae.error_weight * loss.parts["reconstruction"])

    small, smaller = (first_error(square_frames(255, side=side)) for side in (8, 2))
    assert small == pytest.approx(MIN_VARIATION, rel=0.3)
    assert smaller == pytest.approx(MIN_VARIATION, rel=0.3)
    rich = torch.randint(0, 256, (64, 64, 64, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    vae = VAE(4)
    vae.init_from_data(rich)
    assert float(vae.error_weight) == 1.0


def test_init_from_constant_frames_gives_finite_gradients():
    vae = VAE(4)
    frames = torch.full((64, 64, 64, 3), 255, dtype=torch.uint8)
    vae.init_from_data(frames)
    assert float(vae.pixel_scale) == pytest.approx(MIN_PIXEL_SCALE)
    assert float(vae.error_weight) == MAX_ERROR_WEIGHT
    loss = vae.loss(frames, torch.Generator().manual_seed(0))
    loss.value.backward()
    assert torch.isfinite(loss.value)
    assert all(torch.isfinite(parameter.grad).all() for parameter in vae.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("background", [0, 128, 255])
def test_fit_reconstructs_a_small_square_on_a_uniform_background(background):
    """A saturated sigmoid would reconstruct the same image for every frame, after any number of updates."""
    frames = square_frames(background, count=512)
    with seeded(0):
        vae = VAE(4)
    fit(vae, FixedFrames(frames), num_updates=400, batch_size=32, eval_every=400)
    assert reconstruction_metrics(vae, frames).explained_variance > 0.5


class FixedFrames:
    """The same frames for training and validation."""

    identity = "squares"

    def __init__(self, frames: torch.Tensor) -> None:
        self.frames = frames

    def split(self, fraction: float, seed: int) -> "tuple[FixedFrames, FixedFrames]":
        return self, self

    def batch(self, size: int, rng: np.random.Generator) -> torch.Tensor:
        return self.frames[rng.integers(len(self.frames), size=size)]

    def batches(self, size: int):
        return iter(self.frames.split(size))


@pytest.mark.slow
def test_statistics_of_the_data_are_saved_with_the_weights(tmp_path):
    frames = square_frames(255)
    vae = fit(VAE(4), FixedFrames(frames), num_updates=1, batch_size=8, out=tmp_path / "vae")
    world = WorldModel(vae, Memory(FRMDN(input_size=5, output_size=4, hidden_size=8)))
    for compact in (False, True):
        world.save(tmp_path / "world", compact=compact)
        loaded = WorldModel.load(tmp_path / "world").vae
        torch.testing.assert_close(loaded.pixel_mean, vae.pixel_mean, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(loaded.pixel_scale, vae.pixel_scale, atol=1e-3, rtol=1e-3)


def test_bytes_and_floats_convert_without_loss():
    frames = torch.arange(256, dtype=torch.uint8).repeat(48).view(1, 64, 64, 3)
    assert frames_to_uint8(frames_to_float(frames)).equal(frames)
    assert frames_to_float(frames).shape == (1, 3, 64, 64)


@pytest.mark.slow
def test_constant_frames_train_without_infinities():
    with seeded(0):
        vae = VAE(latent_dim=3)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    for update in range(8):
        loss = vae.loss(torch.zeros(4, 64, 64, 3, dtype=torch.uint8), torch.Generator().manual_seed(update)).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)


def test_bad_input_is_refused(as_users_do):
    with pytest.raises(ValueError, match=r"frames"):
        VAE(4).encode(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"latent"):
        VAE(4).decode(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="latent"):
        VAE(0)
