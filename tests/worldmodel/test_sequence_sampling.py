"""Samples and streams of densities of sequences, and what comes behind given events."""

import math

import pytest
import torch

from tests.toys import whole
from tests.worldmodel.sequence_models import EVERY, MODELS, events, generator, gradients, made


@pytest.fixture(params=MODELS)
def model(request):
    return made(request.param)


@pytest.fixture(params=EVERY)
def any_model(request):
    return made(request.param)


def test_a_prefix_is_conditioned_on(model):
    """The next event after a prefix has the distribution that the sequence's density gives it."""
    prefix = events(time=5, batch=1)
    drawn = model.sample(1, batch=4_000, generator=generator(), prefix=prefix)[:, 0]
    with torch.no_grad():
        state = model.observe(model.initial(1), prefix)
        following = model.predict(state)[0]
        again = following.sample((4_000,), generator=generator(7))[:, 0]
    assert drawn.shape == (4_000, 2)
    for quantile in (0.1, 0.5, 0.9):  # each within 5 standard errors of the other's share
        share = (drawn < again.quantile(quantile, dim=0)).double().mean(dim=0)
        torch.testing.assert_close(share, torch.full_like(share, quantile), atol=5 * 0.5 * math.sqrt(2 / 4_000), rtol=0)


def test_a_prefix_goes_on_as_if_its_events_had_been_drawn(model):
    source = generator(5)
    drawn = torch.stack(list(model.stream(6, 3, generator=source)), dim=1)
    source = generator(5)
    first = model.sample(2, 3, generator=source)
    torch.testing.assert_close(torch.cat((first, model.sample(4, 3, generator=source, prefix=first)), dim=1), drawn)


def test_a_prefix_for_each_or_for_all(any_model):
    prefix = events(time=3)
    assert any_model.sample(2, prefix=prefix, generator=generator()).shape == (4, 2, 2)
    assert any_model.sample(2, batch=4, prefix=prefix, generator=generator()).shape == (4, 2, 2)
    assert any_model.sample(2, batch=5, prefix=prefix[:1], generator=generator()).shape == (5, 2, 2)


def test_a_stream_is_the_sample_of_the_same_generator(any_model):
    sample = any_model.sample(6, batch=3, temperature=0.7, generator=generator())
    stream = any_model.stream(batch=3, temperature=0.7, generator=generator())
    assert sample.shape == (3, 6, 2)
    assert torch.stack([next(stream) for _ in range(6)], dim=1).equal(sample)
    assert not any_model.sample(6, batch=3, temperature=0.7, generator=generator(1)).equal(sample)
    assert len(list(any_model.stream(4))) == 4


def test_a_stream_leaves_gradients_and_global_randomness_alone(any_model):
    before = torch.get_rng_state()
    stream = any_model.stream(generator=generator())
    event = next(stream)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert not event.is_inference() and not event.requires_grad
    gradients(any_model, any_model.loss(whole(event[:, None]), generator()).value)  # samples may be learned from
    assert torch.get_rng_state().equal(before)


def test_towards_no_temperature_samples_are_modes():
    model = made("rmdn")
    cold = model.sample(3, batch=2, temperature=1e-12, generator=generator())
    with torch.no_grad():
        mode = model.predict(model.initial(2))[0].mode
    torch.testing.assert_close(cold[:, 0], mode, atol=1e-4, rtol=0)
    torch.testing.assert_close(cold[0], cold[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["rmdn", "vrnn"])
def test_bad_samples_are_refused_when_they_are_asked_for(as_users_do, name):
    model = EVERY[name]()
    with pytest.raises(ValueError, match="temperature"):
        model.stream(temperature=0.0)
    with pytest.raises(ValueError, match="length"):
        model.sample(0)
    with pytest.raises(ValueError, match="batch"):
        model.sample(1, batch=0)
    with pytest.raises(ValueError, match=r"prefix"):
        model.sample(1, batch=3, prefix=torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match=r"prefix"):
        model.sample(1, prefix=torch.zeros(1, 4, 3))
