"""Samples and streams of sequence densities, with and without a prefix."""

import math

import pytest
import torch

from tests.toys import whole
from tests.worldmodel.sequence_models import ALL_MODELS, MODELS, build_model, events, generator, gradients


@pytest.fixture(params=MODELS)
def model(request):
    return build_model(request.param)


@pytest.fixture(params=ALL_MODELS)
def any_model(request):
    return build_model(request.param)


def test_samples_are_conditioned_on_the_prefix(model):
    """The event after a prefix has the predictive distribution of the density."""
    prefix = events(time=5, batch=1)
    drawn = model.sample(1, batch=4_000, generator=generator(), prefix=prefix)[:, 0]
    with torch.no_grad():
        state = model.observe(model.initial(1), prefix)
        following = model.predict(state)[0]
        expected = following.sample((4_000,), generator=generator(7))[:, 0]
    assert drawn.shape == (4_000, 2)
    for quantile in (0.1, 0.5, 0.9):  # each share within 5 standard errors
        share = (drawn < expected.quantile(quantile, dim=0)).double().mean(dim=0)
        torch.testing.assert_close(share, torch.full_like(share, quantile), atol=5 * 0.5 * math.sqrt(2 / 4_000), rtol=0)


def test_sampling_after_a_prefix_continues_the_stream(model):
    rng = generator(5)
    drawn = torch.stack(list(model.stream(6, 3, generator=rng)), dim=1)
    rng = generator(5)
    first = model.sample(2, 3, generator=rng)
    torch.testing.assert_close(torch.cat((first, model.sample(4, 3, generator=rng, prefix=first)), dim=1), drawn)


def test_prefix_is_given_per_sequence_or_shared(any_model):
    prefix = events(time=3)
    assert any_model.sample(2, prefix=prefix, generator=generator()).shape == (4, 2, 2)
    assert any_model.sample(2, batch=4, prefix=prefix, generator=generator()).shape == (4, 2, 2)
    assert any_model.sample(2, batch=5, prefix=prefix[:1], generator=generator()).shape == (5, 2, 2)


def test_stream_equals_the_sample_of_the_same_generator(any_model):
    sample = any_model.sample(6, batch=3, temperature=0.7, generator=generator())
    stream = any_model.stream(batch=3, temperature=0.7, generator=generator())
    assert sample.shape == (3, 6, 2)
    assert torch.stack([next(stream) for _ in range(6)], dim=1).equal(sample)
    assert not any_model.sample(6, batch=3, temperature=0.7, generator=generator(1)).equal(sample)
    assert len(list(any_model.stream(4))) == 4


def test_stream_does_not_change_gradient_mode_or_global_randomness(any_model):
    before = torch.get_rng_state()
    stream = any_model.stream(generator=generator())
    event = next(stream)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert not event.is_inference() and not event.requires_grad
    gradients(any_model, any_model.loss(whole(event[:, None]), generator()).value)  # samples can be training data
    assert torch.get_rng_state().equal(before)


def test_samples_at_low_temperature_approach_the_mode():
    model = build_model("rmdn")
    cold = model.sample(3, batch=2, temperature=1e-12, generator=generator())
    with torch.no_grad():
        mode = model.predict(model.initial(2))[0].mode
    torch.testing.assert_close(cold[:, 0], mode, atol=1e-4, rtol=0)
    torch.testing.assert_close(cold[0], cold[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["rmdn", "vrnn"])
def test_bad_sampling_arguments_are_refused_at_the_call(as_users_do, name):
    model = ALL_MODELS[name]()
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
