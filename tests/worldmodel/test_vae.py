import pytest
import torch
from jaxtyping import TypeCheckError
from torch.distributions import Normal, kl_divergence

from tests.tolerance import assert_same_sums
from worldmodel import VAE, seeded
from worldmodel.batches import frames_to_float, frames_to_uint8
from worldmodel.builders import build_vae


def test_published_size():
    assert sum(parameter.numel() for parameter in VAE(latent=32).parameters()) == 4_348_547


def test_shapes_and_range():
    vae = VAE(latent=5)
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
    vae = VAE(latent=3, free_bits=0.5)
    vae.encoder, vae.posterior = torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 6)
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
    with pytest.raises(ValueError, match="emphasis must be a number above zero, 1000 at most"):
        VAE(emphasis=emphasis)


def test_emphasis_that_is_no_number_is_refused_where_it_is_read():
    for emphasis in ("16", None, [16], True):
        with pytest.raises((ValueError, TypeCheckError), match=r"emphasis"):
            build_vae({"latent": 2, "free_bits": 0.5, "emphasis": emphasis})
    most = build_vae({"latent": 2, "free_bits": 0.5, "emphasis": 1000.0})
    assert build_vae(most.settings).emphasis == 1000


def test_settings_build_the_same_again_and_are_those_of_older_files():
    assert VAE(5, 0.25).settings == {"latent": 5, "free_bits": 0.25}
    assert VAE(**VAE(5, 0.25, 16.0).settings).emphasis == 16


def test_bytes_and_floats_convert_without_loss():
    frames = torch.arange(256, dtype=torch.uint8).repeat(48).view(1, 64, 64, 3)
    assert frames_to_uint8(frames_to_float(frames)).equal(frames)
    assert frames_to_float(frames).shape == (1, 3, 64, 64)


def test_constant_frames_train_without_infinities():
    with seeded(0):
        vae = VAE(latent=3)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    for update in range(8):
        loss = vae.loss(torch.zeros(4, 64, 64, 3, dtype=torch.uint8), torch.Generator().manual_seed(update)).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)


def test_bad_input_is_refused(as_users_do):
    with pytest.raises(ValueError, match=r"frames must have shape \(batch, 3, 64, 64\), got \(1, 3, 32, 32\)"):
        VAE(4).encode(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"latent must have shape \(batch, 4\)"):
        VAE(4).decode(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="latent must be a whole number of at least 1"):
        VAE(0)
