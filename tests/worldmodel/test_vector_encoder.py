"""The encoder of vectors: standardization, its inverse, files, pictures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldmodel import FRMDN, VAE, Memory, VectorEncoder, WorldModel
from worldmodel.io.files import fingerprint

SCALES = np.array([1e-6, 1.0, 40.0, 1e6], np.float32)


class Vectors:
    """A store of two episodes; the last number is constant."""

    def __init__(self, shape=(5,)):
        self.observation_shape = shape
        rng = np.random.default_rng(0)
        parts = [rng.normal(size=(steps, 4)).astype(np.float32) * SCALES + 3 * SCALES for steps in (30, 71)]
        self.parts = [np.concatenate((part, np.full((len(part), 1), 7.7, np.float32)), axis=1) for part in parts]

    def episodes(self):
        return iter([SimpleNamespace(frames=part) for part in self.parts])


def test_latents_are_standardized_and_decode_to_the_observations():
    store = Vectors()
    encoder, data = VectorEncoder.for_store(store), torch.from_numpy(np.concatenate(store.parts))
    posterior = encoder.encode(encoder.to_inputs(data.double()))
    torch.testing.assert_close(posterior.loc.mean(dim=0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(posterior.loc.std(dim=0, unbiased=False), torch.tensor([1, 1, 1, 1, 0.0]))
    assert encoder.scale[4] == 1
    assert (posterior.scale > 0).all()
    torch.testing.assert_close(posterior.sample(), posterior.loc, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.decode(posterior.loc), data, atol=0, rtol=1e-4)


def test_vectors_far_from_the_data_give_finite_half_precision_latents():
    encoder = VectorEncoder.for_store(Vectors())
    assert torch.isfinite(encoder.encode(torch.full((1, 5), 3e38)).loc.half()).all()


@pytest.mark.parametrize("compact", [False, True])
def test_a_world_model_of_vectors_is_the_same_after_saving_and_loading(tmp_path, compact):
    encoder = VectorEncoder.for_store(Vectors())
    world = WorldModel(encoder, Memory(FRMDN(7, 5, hidden_size=8)), discrete=True)
    world.save(tmp_path, compact)
    loaded = WorldModel.load(tmp_path)
    assert repr(loaded) == repr(world)
    assert loaded.observation_shape == (5,)
    assert compact or fingerprint(loaded) == fingerprint(world)
    latents = torch.randn(3, 2, 5)
    assert loaded.decode(latents).shape == (3, 2, 5)
    assert loaded.decode(latents).dtype == np.float32
    np.testing.assert_allclose(loaded.decode(latents), world.decode(latents), rtol=1e-2 if compact else 0)


@pytest.mark.parametrize("size", [1, 3, 8, 64, 200])
def test_pictures_of_vectors_show_the_sign_and_size_of_each_number(size):
    encoder = VectorEncoder(size)
    empty, up, down, full = encoder.draw(torch.tensor([0, 1.0, -1.0, 9.0])[:, None].expand(-1, size)).numpy()
    assert empty.shape == (64, 64, 3)
    assert not empty.any()
    assert up[:32].any()
    assert not up[32:].any()
    assert down[32:].any()
    assert not down[:32].any()
    assert (full > 0).sum() > (up > 0).sum()


def test_observations_of_another_kind_are_refused():
    vectors, frames = torch.zeros(2, 5), torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    for encoder, wrong, cure in ((VectorEncoder(5), frames, "vector"), (VAE(5), vectors, "pixels")):
        with pytest.raises(ValueError, match=cure):
            WorldModel(encoder, Memory(FRMDN(6, 5, hidden_size=8))).encode(wrong)
    for call in (
        lambda: VectorEncoder(0),
        lambda: VectorEncoder.for_store(Vectors(shape=(64, 64, 3))),
        lambda: VectorEncoder(5).encode(torch.zeros(2, 4)),
        lambda: VectorEncoder(5).decode(torch.zeros(2, 4)),
    ):
        with pytest.raises(ValueError, match="vector|frames|latent|observations"):
            call()


class Numbers:
    """A store of one episode."""

    def __init__(self, *columns):
        self.frames = np.stack(columns, axis=1).astype(np.float32)
        self.observation_shape = (len(columns),)

    def episodes(self):
        return iter([SimpleNamespace(frames=self.frames)])


def test_only_numbers_that_do_not_vary_have_the_scale_1():
    signs = np.resize([-1, 1], 3_000)
    tiny = np.zeros(3_000, np.float32)
    tiny[7] = 1e-45
    encoder = VectorEncoder.for_store(Numbers(signs, 1e4 + 0.05 * signs, np.full(3_000, 7.7), tiny))
    assert (encoder.scale == 1).tolist() == [False, False, True, True]
    latents = encoder.encode(torch.from_numpy(Numbers(signs, 1e4 + 0.05 * signs, tiny, tiny).frames)).loc
    assert torch.isfinite(latents).all()
    torch.testing.assert_close(latents[:, :2].std(dim=0), torch.ones(2), atol=0.02, rtol=0)
