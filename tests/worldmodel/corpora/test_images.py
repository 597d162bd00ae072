"""Image corpora: pixel order, dequantisation with its Jacobian, and splits."""

import json
import math

import numpy as np
import pytest
import torch

from tests.worldmodel.corpora import formats
from worldmodel.corpora import open_corpus
from worldmodel.corpora.images import ALPHA, NOISE_LEVELS, Dequantisation, Images

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 6, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
OPTIONS = [{"logit": logit, "pixelwise": pixelwise} for logit in (False, True) for pixelwise in (False, True)]


@pytest.fixture(params=["mnist", "cifar10"])
def kind(request, tmp_path):
    if request.param == "mnist":
        formats.write_mnist(tmp_path, GREY, GREY[:9])
    else:
        formats.write_cifar(tmp_path, COLOUR, COLOUR[:9])
    return f"{request.param}:{tmp_path}"


@pytest.fixture(params=OPTIONS, ids=str)
def corpus(request, kind):
    return open_corpus(kind, **request.param)


def images(corpus):
    return GREY if corpus.name == "mnist" else COLOUR


def test_events_are_rows_or_pixels(kind):
    shape = images(open_corpus(kind)).shape[1:]
    height, width, channels = (*shape, 1)[:3]
    for pixelwise, expected in ((False, (height, width * channels)), (True, (height * width, channels))):
        corpus = open_corpus(kind, pixelwise=pixelwise)
        batch = corpus.train.batch(4, np.random.default_rng(0))
        assert batch.event.shape == (4, *expected)
        assert corpus.event_dim == expected[1]
        assert corpus.dimensions == height * width * channels
        assert (batch.mask == 1).all()


def test_equal_images_have_different_noise():
    black = Images("black", np.zeros((4, 2, 2, 1), np.uint8), Dequantisation(2, 2, 1))
    (batch,) = black.batches(4)
    assert len({tuple(event.flatten().tolist()) for event in batch.event}) == 4


def test_events_are_in_raster_order(kind):
    for pixelwise in (False, True):
        corpus = open_corpus(kind, pixelwise=pixelwise)
        batch = next(corpus.test.batches(9))
        order = np.random.default_rng(0).permutation(9)
        pixels = images(corpus)[order].reshape(9, *batch.event.shape[1:])
        assert np.array_equal((batch.event * 256).floor().byte().numpy(), pixels)


def test_to_data_restores_the_pixels(corpus):
    for split, expected in ((corpus.train, images(corpus)[: len(corpus.train)]), (corpus.test, images(corpus)[:9])):
        restored = torch.cat([corpus.to_data(batch.event) for batch in split.batches(7)])
        assert restored.dtype == torch.uint8
        assert np.array_equal(restored.numpy(), expected[np.random.default_rng(0).permutation(len(expected))])


@pytest.mark.parametrize("logit", [False, True])
def test_to_data_restores_the_ends_of_every_pixel_level(logit):
    scale = Dequantisation(16, 16, 1, logit)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for noise in (0, 1, NOISE_LEVELS // 2, NOISE_LEVELS - 1):
        batch = scale.events(pixels, np.full(pixels.shape, noise))
        assert np.array_equal(scale.to_data(batch.event).numpy(), pixels[..., 0])
        assert torch.isfinite(batch.event).all()


def test_to_data_clips_samples():
    scale = Dequantisation(1, 4, 1)
    events = torch.tensor([[[-0.5, 1.0, 7.0, float("nan")]]])
    assert scale.to_data(events).tolist() == [[[0, 255, 255, 0]]]
    logits = Dequantisation(1, 2, 1, logit=True).to_data(torch.tensor([[[-90.0, 90.0]]]))
    assert logits.tolist() == [[[0, 255]]]


def test_log_jacobian_equals_autograd(corpus):
    logit = corpus.normalizer.logit
    batch = corpus.train.batch(3, np.random.default_rng(4))
    x = batch.event.double()
    x = 256 * ((x.sigmoid() - ALPHA) / (1 - 2 * ALPHA) if logit else x)

    def event(x):
        inside = ALPHA + (1 - 2 * ALPHA) * x / 256
        return (inside / (1 - inside)).log() if logit else x / 256

    x = x.clone().requires_grad_()
    events = event(x)
    assert events.detach().numpy() == pytest.approx(batch.event.numpy(), abs=1e-5)
    slope = torch.autograd.grad(events.sum(), x)[0]  # the Jacobian is diagonal
    assert slope.log().sum(dim=(1, 2)).numpy() == pytest.approx(batch.log_jacobian.numpy(), rel=1e-5)


def test_uniform_density_has_eight_bits(kind):
    corpus = open_corpus(kind)
    batch = corpus.train.batch(5, np.random.default_rng(0))
    assert corpus.bits(torch.zeros(5) + batch.log_jacobian).numpy() == pytest.approx(8)


def test_bits_do_not_depend_on_the_logit(kind):
    """The same density of x, expressed for x / 256 and for its logit."""
    plain, logit = (open_corpus(kind, logit=logit).test for logit in (False, True))
    for of_x, of_logit in zip(plain.batches(4), logit.batches(4), strict=True):
        x = of_x.event.double()
        uniform = -math.log(1 - 2 * ALPHA) + x * 0  # log p of a + (1 - 2a) x, since x is uniform
        inside = ALPHA + (1 - 2 * ALPHA) * x
        log_prob = (uniform + inside.log() + (1 - inside).log()).sum(dim=(1, 2))  # log p of the logits
        assert (log_prob + of_logit.log_jacobian).numpy() == pytest.approx(of_x.log_jacobian.numpy(), rel=1e-5)


def test_noise_is_uniform_and_new_in_every_batch(kind):
    split = open_corpus(kind).train
    rng = np.random.default_rng(1)
    noise = [(split.batch(50, rng).event * 256).double() for _ in range(2)]
    inside = torch.cat(noise).frac().flatten().numpy()
    assert inside.min() > 0 and inside.max() < 1
    counts = np.histogram(inside, bins=10, range=(0, 1))[0]
    assert ((counts - len(inside) / 10) ** 2 / (len(inside) / 10)).sum() < 27.9  # chi-square, 9 degrees, 0.1 %
    assert not noise[0].frac().equal(noise[1].frac())


def test_the_same_generator_draws_the_same_batch(corpus):
    first, again, other = (corpus.train.batch(8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not first.event.equal(other.event)


def test_events_do_not_depend_on_the_batch_size(corpus):
    single_images, batches = (torch.cat([batch.event for batch in corpus.test.batches(size)]) for size in (1, 4))
    assert single_images.equal(batches)
    jacobian = [torch.cat([batch.log_jacobian for batch in corpus.test.batches(size)]) for size in (1, 4)]
    assert jacobian[0].equal(jacobian[1])


def test_splits_are_those_of_the_files(corpus):
    count = len(images(corpus))
    assert [len(split) for split in (corpus.train, corpus.held_out, corpus.test)] == [count * 9 // 10, count // 10, 9]
    assert corpus.held_out.chosen.tolist() == list(range(count * 9 // 10, count))
    assert len({split.identity for split in (corpus.train, corpus.held_out, corpus.test)}) == 3
    assert f"{count // 10}" in corpus.protocol and f"{count}" in corpus.protocol


def test_split_keeps_every_image(corpus):
    training, held_out = corpus.train.split(0.25, seed=7)
    assert len(held_out) == round(0.25 * len(corpus.train))
    assert sorted([*training.chosen, *held_out.chosen]) == list(corpus.train.chosen)
    assert corpus.train.split(0.25, seed=7)[1].chosen.tolist() == held_out.chosen.tolist()
    assert corpus.train.split(0.25, seed=8)[1].chosen.tolist() != held_out.chosen.tolist()


def test_identity_depends_on_pixels_and_options(tmp_path):
    formats.write_mnist(tmp_path / "a", GREY, GREY)
    formats.write_mnist(tmp_path / "b", 255 - GREY, GREY)
    identities = [open_corpus(f"mnist:{tmp_path / 'a'}", **options).train.identity for options in OPTIONS]
    identities.append(open_corpus(f"mnist:{tmp_path / 'b'}").train.identity)
    assert len(set(identities)) == 5
    assert open_corpus(f"mnist:{tmp_path / 'a'}").train.identity == identities[0]


def test_description_has_unit_scale_and_split_sizes(corpus):
    description = json.loads(json.dumps(corpus.describe(), allow_nan=False))
    assert description["unit"].startswith("bits")
    assert description["scale"]["uniform_bits"] == 8
    assert ("alpha" in description["scale"]) == description["scale"]["logit"]
    assert description["parts"]["test"]["images"] == 9


def test_single_image_is_refused(tmp_path):
    formats.write_mnist(tmp_path, GREY[:1], GREY)
    with pytest.raises(ValueError, match="mnist"):
        open_corpus(f"mnist:{tmp_path}")


@pytest.mark.usefixtures("as_users_do")
def test_events_of_another_shape_are_refused(kind):
    corpus = open_corpus(kind)
    with pytest.raises(ValueError, match=r"events"):
        corpus.to_data(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"events"):
        corpus.to_data(torch.zeros(1, 2, corpus.event_dim))
