import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from torch.distributions import Normal, kl_divergence

from tests.tolerance import assert_same_sums
from worldmodel import FRMDN, VAE, Memory, WorldModel, fit, seeded
from worldmodel.batches import frames_to_float, frames_to_uint8
from worldmodel.metrics import explained_variance
from worldmodel.registry import build_vae
from worldmodel.vae import MAX_ERROR_WEIGHT, MIN_PIXEL_SCALE, MIN_VARIATION


def test_published_size():
    assert sum(parameter.numel() for parameter in VAE(latent_dim=32).parameters()) == 4_348_547


def test_shapes_and_range():
    vae = VAE(latent_dim=5)
    posterior = vae.encode(torch.rand(2, 3, 64, 64))
    assert posterior.loc.shape == posterior.scale.shape == (2, 5)
    picture = vae.decode(posterior.loc).detach()
    assert picture.shape == (2, 3, 64, 64)
    assert float(picture.min()) >= 0
    assert float(picture.max()) <= 1


@pytest.mark.parametrize(("free_bits", "emphasis"), [(0.0, 1.0), (0.5, 1.0), (0.5, 16.0)])
def test_loss_is_squared_error_plus_kl_beyond_free_bits(free_bits, emphasis):
    with seeded(0):
        vae = VAE(4, free_bits, emphasis).double()
    frames = torch.rand(3, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = vae.loss(frames, torch.Generator().manual_seed(1))
    posterior = vae.encode(frames)
    noise = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    squares = (vae.decode(posterior.loc + posterior.scale * noise) - frames).square()
    error = (squares[:, :, :56].sum() + emphasis * squares[:, :, 56:].sum()) / 3
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(loss.value, error + kl.clamp(min=free_bits).sum())
    torch.testing.assert_close(loss.parts["kl"], kl.sum().detach())


def test_free_bits_are_those_of_a_dimension_over_the_whole_batch():
    """A posterior N(c x, 1) of a pixel x that is 0 or 1: KL 0 and c^2 / 2, which lie on both sides of the free bits."""
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


@pytest.mark.parametrize("emphasis", [0.0, -1.0, 1000.1, float("inf"), float("nan")])
def test_emphasis_out_of_range_is_refused(emphasis):
    with pytest.raises(ValueError, match="hud_loss_weight"):
        VAE(hud_loss_weight=emphasis)


def test_emphasis_that_is_no_number_is_refused_where_it_is_read():
    for emphasis in ("16", None, [16], True):
        with pytest.raises((ValueError, TypeCheckError), match=r"hud_loss_weight"):
            build_vae({"latent": 2, "free_bits": 0.5, "emphasis": emphasis})
    most = build_vae({"latent": 2, "free_bits": 0.5, "emphasis": 1000.0})
    assert build_vae(most.config).hud_loss_weight == 1000


def test_settings_build_the_same_again_and_are_those_of_older_files():
    assert VAE(5, 0.25, standardize=False).config == {"latent_dim": 5, "free_bits": 0.25}
    assert not build_vae({"latent": 5, "free_bits": 0.25}).standardize
    assert build_vae(VAE(5).config).standardize
    assert VAE(**VAE(5, 0.25, 16.0).config).hud_loss_weight == 16


def test_without_standardization_the_decoder_is_the_papers():
    vae = VAE(4, standardize=False)
    z = torch.randn(2, 4)
    drawn = vae.decoder[:-1](vae.prepare(z)[..., None, None]).sigmoid()
    torch.testing.assert_close(vae.decode(z), drawn)
    frames = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(vae.encode(frames).loc, vae.posterior(vae.encoder(frames))[:, :4])
    before = {name: part.clone() for name, part in vae.state_dict().items()}
    vae.init_from_data(torch.zeros(8, 64, 64, 3, dtype=torch.uint8))
    assert all(part.equal(before[name]) for name, part in vae.state_dict().items())


def squares(background: int, count: int = 64, side: int = 8) -> torch.Tensor:
    """Frames (count, 64, 64, 3) of one blue square, each at another place, on an even background."""
    places = torch.randint(0, 64 - side, (count, 2), generator=torch.Generator().manual_seed(0)).tolist()
    frames = torch.full((count, 64, 64, 3), background, dtype=torch.uint8)
    for frame, (x, y) in zip(frames, places, strict=True):
        frame[y : y + side, x : x + side] = torch.tensor([30, 60, 220], dtype=torch.uint8)
    return frames


@pytest.mark.parametrize("background", [0, 255])
def test_begins_at_the_mean_picture_with_a_gradient_in_every_weight(background):
    with seeded(0):
        vae = VAE(4)
    frames = squares(background)
    vae.init_from_data(frames)
    mean = frames_to_float(frames).mean(0)
    with torch.no_grad():
        drawn = vae.decode(vae.encode(frames_to_float(frames)).loc)
    assert float((drawn - mean).square().mean()) < 0.1 * float((frames_to_float(frames) - mean).square().mean())
    vae.loss(frames, torch.Generator().manual_seed(0)).value.backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 1e-4, name


def test_a_picture_with_little_in_it_counts_as_much_as_one_with_much():
    def first_error(frames: torch.Tensor) -> float:
        with seeded(0):
            vae = VAE(4)
        vae.init_from_data(frames)
        loss = vae.loss(frames, torch.Generator().manual_seed(0))
        return float(vae.error_weight * loss.parts["reconstruction"])

    small, smaller = (first_error(squares(255, side=side)) for side in (8, 2))
    assert small == pytest.approx(MIN_VARIATION, rel=0.3)
    assert smaller == pytest.approx(MIN_VARIATION, rel=0.3)
    rich = torch.randint(0, 256, (64, 64, 64, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    vae = VAE(4)
    vae.init_from_data(rich)
    assert float(vae.error_weight) == 1.0


def test_frames_that_never_change_are_no_reason_to_fail():
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
def test_learns_where_a_small_square_is_on_an_even_background(background):
    """The faults of a saturated sigmoid: the same picture for every frame, whatever the updates."""
    frames = squares(background, count=512)
    with seeded(0):
        vae = VAE(4)
    fit(vae, Fixed(frames), num_updates=400, batch_size=32, eval_every=400)
    assert explained_variance(vae, frames) > 0.5


class Fixed:
    """The same frames for training and validation."""

    identity = "squares"

    def __init__(self, frames: torch.Tensor) -> None:
        self.frames = frames

    def split(self, fraction: float, seed: int) -> "tuple[Fixed, Fixed]":
        return self, self

    def batch(self, size: int, rng: np.random.Generator) -> torch.Tensor:
        return self.frames[rng.integers(len(self.frames), size=size)]

    def batches(self, size: int):
        return iter(self.frames.split(size))


def test_statistics_of_the_data_are_saved_with_the_weights(tmp_path):
    frames = squares(255)
    vae = fit(VAE(4), Fixed(frames), num_updates=1, batch_size=8, out=tmp_path / "vae")
    world = WorldModel(vae, Memory(FRMDN(input_size=5, output_size=4, hidden_size=8)))
    for compact in (False, True):
        world.save(tmp_path / "world", compact=compact)
        kept = WorldModel.load(tmp_path / "world").vae
        torch.testing.assert_close(kept.pixel_mean, vae.pixel_mean, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(kept.pixel_scale, vae.pixel_scale, atol=1e-3, rtol=1e-3)


def test_bytes_and_floats_convert_without_loss():
    frames = torch.arange(256, dtype=torch.uint8).repeat(48).view(1, 64, 64, 3)
    assert frames_to_uint8(frames_to_float(frames)).equal(frames)
    assert frames_to_float(frames).shape == (1, 3, 64, 64)


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
