"""The VRNN: exact marginals on grids, the order of its bounds, padding and randomness."""

import math

import numpy as np
import pytest
import torch

import worldmodel
from tests.toys import Sequences, autoregressive, whole
from tests.worldmodel.sequence_models import gradients
from worldmodel import fit
from worldmodel.baselines import VRNN
from worldmodel.baselines.diagonal_gaussian import DiagonalGaussian
from worldmodel.baselines.vrnn import VRNNState
from worldmodel.batches import EventBatch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def vrnn(event=1, latent=1, num_components=1, spread=0.6, **more):
    """A small VRNN in float64 with perturbed weights, so that its latent matters."""
    with worldmodel.seeded(4):
        model = VRNN(
            event, hidden_size=4, latent_dim=latent, num_components=num_components, width=6, depth=1, **more
        ).double()
        for parameter in model.parameters():
            parameter.data += spread * torch.randn_like(parameter)
    return model


def random_events(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


@torch.no_grad()
def exact_log_prob(model, event, state=None, points=121):
    """Log p of short sequences (B, T, D) by quadrature over a one-dimensional z at each step."""
    state = state or model.initial(len(event))
    p = model._normal(model.prior, state.hidden)  # (B, 1)
    noise = torch.linspace(-7, 7, points, dtype=torch.float64)
    batch = len(event)

    def repeat(x):
        return x.repeat_interleave(points, dim=0)

    z_features = model.phi_z(
        DiagonalGaussian(repeat(p.loc), repeat(p.log_precision)).rsample_from_noise(noise.repeat(batch)[:, None])
    )
    value = model._decode(z_features, repeat(state.hidden)).log_prob(repeat(event[:, 0]))
    if event.shape[1] > 1:
        after = model._advance(VRNNState(*map(repeat, state)), model.phi_x(repeat(event[:, 0])), z_features)
        value = value + exact_log_prob(model, repeat(event[:, 1:]), after, points)
    weight = -0.5 * noise.square() - 0.5 * math.log(2 * math.pi) + math.log(14 / (points - 1))
    return (value.view(batch, points) + weight).logsumexp(dim=1)


@pytest.mark.slow
@pytest.mark.parametrize(("time", "num_components"), [(1, 1), pytest.param(1, 3, marks=pytest.mark.slow), (2, 3)])
def test_iwae_bound_approaches_the_exact_marginal(time, num_components):
    model, event = vrnn(num_components=num_components), random_events(3, time, 1)
    found = model.iwae_bound(whole(event), 40_000, generator())
    torch.testing.assert_close(found, exact_log_prob(model, event), atol=0.03, rtol=0)


def test_the_exact_marginal_integrates_to_one():
    """The quadrature itself gives a density over x_1."""
    model = vrnn(spread=0.3)
    grid = torch.linspace(-12, 12, 401, dtype=torch.float64)
    total = exact_log_prob(model, grid[:, None, None]).exp().sum() * (24 / 400)
    assert float(total) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("time", [1, 2])
def test_bounds_are_ordered_below_the_exact_marginal(time):
    """E[ELBO] <= E[IWAE bound of S samples] <= log p, increasing in S (Burda et al., theorem 1)."""
    model, event = vrnn(spread=0.8), random_events(1, time, 1)
    repeated, source = whole(event.expand(4_000, -1, -1)), generator()
    draws = [model.elbo(repeated, source).detach()]
    draws += [model.iwae_bound(repeated, samples, source) for samples in (1, 4, 16)]
    means, errors = [float(d.mean()) for d in draws], [float(d.std()) / math.sqrt(4_000) for d in draws]
    assert means[0] == pytest.approx(
        means[1], abs=4 * (errors[0] + errors[1])
    )  # S = 1 is another estimator of the ELBO
    assert means[1] < means[2] - 2 * errors[1] and means[2] < means[3] - 2 * errors[2]
    assert means[3] < float(exact_log_prob(model, event)) + 4 * errors[3]


def test_bounds_are_exact_if_the_posterior_is_the_prior():
    """If nothing depends on z, the posterior is the prior, and every bound is exact for any draw."""
    model, event = vrnn(event=2, latent=2, num_components=2), random_events(3, 5, 2)
    model.decoder.layers[0][0].weight.data[:, : model.width] = 0
    model.lstm.weight_ih.data[:, model.width :] = 0
    for network in (model.prior, model.encoder):
        network.last.weight.data.zero_()
    model.encoder.last.bias.data.copy_(model.prior.last.bias.data)
    values = [model.elbo(whole(event), generator(seed)).detach() for seed in (0, 1)]
    values += [model.iwae_bound(whole(event), samples, generator()) for samples in (1, 3)]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])
    assert float(model.loss(whole(event)).parts["kl"]) == pytest.approx(0)


def test_samples_of_two_events_follow_the_exact_marginal():
    """E[r(x) / p(x)] = 1 over x ~ p for any density r: sequences of two events against the exact marginal."""
    model = vrnn(num_components=2, spread=0.3)
    drawn = model.sample(2, batch=600, generator=generator())
    rival = torch.distributions.Normal(drawn.mean(dim=0), 0.7 * drawn.std(dim=0))  # thinner tails: a bounded ratio
    ratio = torch.exp(rival.log_prob(drawn).sum(dim=(1, 2)) - exact_log_prob(model, drawn, points=41))
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * float(ratio.std()) / math.sqrt(600))
    assert float(ratio.std()) < 3


def test_temperature_scales_the_variance_of_the_latent_and_of_the_event():
    model = vrnn(spread=0.3)
    with torch.no_grad():
        p = model._normal(model.prior, model.initial(1).hidden)
        mode = model._decode(model.phi_z(p.loc), model.initial(1).hidden).mode
    cold = model.sample(1, batch=3, temperature=1e-12, generator=generator())
    torch.testing.assert_close(cold[:, 0], mode.expand(3, 1), atol=1e-4, rtol=0)
    spreads = [float(model.sample(1, 2_000, t, generator()).std()) for t in (0.25, 1.0)]
    assert spreads[0] < 0.7 * spreads[1]


def test_temperature_multiplies_the_variance_of_the_latent_noise(monkeypatch):
    """60,000 values of the noise that z is computed from have variance 0.25 within 4.5 standard errors."""
    noises, original = [], DiagonalGaussian.rsample_from_noise
    monkeypatch.setattr(
        DiagonalGaussian, "rsample_from_noise", lambda normal, noise: noises.append(noise) or original(normal, noise)
    )
    with worldmodel.seeded(0):
        model = VRNN(event_dim=2, hidden_size=4, latent_dim=3, width=4)
    model.sample(1, batch=20_000, temperature=0.25, generator=generator())
    (noise,) = noises
    assert noise.shape == (20_000, 3)
    assert float(noise.square().mean()) == pytest.approx(0.25, rel=4.5 * math.sqrt(2 / 60_000))
    assert float(noise.mean()) == pytest.approx(0, abs=4.5 * 0.5 / math.sqrt(60_000))


def test_first_events_follow_the_exact_marginal():
    """20,000 draws of x_1 against the quadrature over z, Kolmogorov-Smirnov at the 0.1 % level."""
    model = vrnn(num_components=2, spread=0.6)
    model.prior.last.bias.data = torch.tensor([0.7, -1.0], dtype=torch.float64)  # far from a standard Normal
    drawn = model.sample(1, batch=20_000, generator=generator())[:, 0, 0].sort().values
    low, high = float(drawn[0]) - 3, float(drawn[-1]) + 3
    grid = torch.linspace(low, high, 1_001, dtype=torch.float64)
    density = exact_log_prob(model, grid[:, None, None], points=241).exp()
    cdf = torch.cat((density.new_zeros(1), torch.cumulative_trapezoid(density, grid)))
    assert float(cdf[-1]) == pytest.approx(1, abs=1e-3)
    even = (torch.arange(20_000) + 0.5) / 20_000
    distance = np.abs(np.interp(drawn, grid, cdf) - even.numpy()).max() + 0.5 / 20_000
    assert distance * math.sqrt(20_000) < 1.95


def padded(event, lengths, value, extra_steps):
    filled = torch.cat((event, torch.full_like(event[:, :extra_steps], value)), dim=1)
    mask = torch.zeros(filled.shape[:2], dtype=torch.float64)
    for number, length in enumerate(lengths):
        filled[number, length:], mask[number, :length] = value, 1
    return EventBatch(filled, mask, torch.zeros(len(event), dtype=torch.float64))


@pytest.mark.parametrize("bptt_length", [None, 3])
@pytest.mark.parametrize("value", [0.0, 1e6, math.nan])
def test_padding_changes_neither_value_nor_gradient(value, bptt_length):
    model = vrnn(event=2, num_components=2, bptt_length=bptt_length)
    event, lengths = random_events(4, 6, 2), (6, 3, 1, 5)
    with torch.no_grad():
        log_event, divergence, _ = model._terms(event, generator())
    expected = torch.stack([(log_event - divergence)[n, :length].sum() for n, length in enumerate(lengths)])
    found = model.elbo(padded(event, lengths, value, 2), generator())
    torch.testing.assert_close(found.detach(), expected)
    gradients = []
    for batch in (padded(event, lengths, 0.0, 0), padded(event, lengths, value, 2)):
        model.zero_grad()
        loss = model.loss(batch, generator())
        loss.value.backward()
        torch.testing.assert_close(loss.value.detach(), -expected.sum() / sum(lengths))
        torch.testing.assert_close(loss.parts["nll_bound"], loss.value.detach())
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_padding_does_not_change_the_iwae_bound():
    model, event = vrnn(event=2), random_events(3, 4, 2)
    found = model.iwae_bound(padded(event, (4, 4, 4), math.nan, 3), 5, generator())
    torch.testing.assert_close(found, model.iwae_bound(whole(event), 5, generator()))


def test_the_future_leaves_the_past_bit_equal():
    model, event = vrnn(event=2), random_events(3, 6, 2)
    changed = event.clone()
    changed[:, 4:] += 10
    for before, after in zip(model._terms(event, generator()), model._terms(changed, generator()), strict=True):
        assert before[:, :4].equal(after[:, :4])
        assert not before[:, 4:].equal(after[:, 4:])


@pytest.mark.parametrize("length", [1, 2, 6])
def test_chunks_equal_one_pass(length):
    model, event = vrnn(event=2), random_events(3, 6, 2)
    one_pass = model.elbo(whole(event), generator()).detach()
    model.bptt_length = length
    torch.testing.assert_close(model.elbo(whole(event), generator()).detach(), one_pass)
    with torch.no_grad():
        torch.testing.assert_close(model.elbo(whole(event), generator()), one_pass)


def test_truncated_gradients_equal_those_of_chunks_with_a_detached_state():
    model, event = vrnn(event=2, num_components=2), random_events(3, 7, 2)
    model.bptt_length = 3
    found = gradients(model, model.elbo(whole(event), generator()).sum())
    state, total = model.initial(3), 0.0
    noise = model._noise(event, generator())
    for chunk, chunk_noise in zip(event.split(3, dim=1), noise.split(3, dim=1), strict=True):
        (log_event, divergence, _), state = model._chunk(state, chunk, chunk_noise)
        state = VRNNState(*(part.detach() for part in state))
        total = total + (log_event - divergence).sum()
    torch.testing.assert_close(found, gradients(model, total))
    model.bptt_length = None
    uncut = gradients(model, model.elbo(whole(event), generator()).sum())
    assert any(not torch.allclose(a, b) for a, b in zip(found, uncut, strict=True))


def test_iwae_bound_does_not_depend_on_groups_of_samples(monkeypatch):
    model, batch = vrnn(), whole(random_events(2, 2, 1))
    monkeypatch.setattr("worldmodel.baselines.vrnn.MAX_ROWS", 400)  # groups of 200 samples, the last one smaller
    found = model.iwae_bound(batch, 3_001, generator())
    torch.testing.assert_close(found, exact_log_prob(model, batch.event), atol=0.15, rtol=0)


def test_randomness_comes_from_the_generator_alone():
    model, batch = vrnn(event=2), whole(random_events(3, 4, 2))
    before = torch.get_rng_state()
    calls = [
        lambda g: model.elbo(batch, g),
        lambda g: model.loss(batch, g).value,
        lambda g: model.iwae_bound(batch, 3, g),
        lambda g: model.sample(3, 2, generator=g),
        lambda g: model.sample(3, prefix=batch.event, generator=g),
    ]
    for call in calls:
        assert call(generator()).equal(call(generator()))
        assert not call(generator()).equal(call(generator(1)))
    assert torch.get_rng_state().equal(before)


def test_iwae_bound_has_no_gradient():
    assert not vrnn().iwae_bound(whole(random_events(2, 2, 1)), 2, generator()).requires_grad


@pytest.mark.slow
def test_training_approaches_the_exact_likelihood_and_never_beats_it():
    with worldmodel.seeded(0):
        model = VRNN(1, hidden_size=16, latent_dim=2, width=16, depth=1)
    data = Sequences(lambda size, seed: autoregressive(size, 12, seed)[0].float())
    fit(model, data, num_updates=150, batch_size=32, learning_rate=2e-2, eval_every=50, tensorboard=False)
    event, log_prob = autoregressive(1_000, 12, 3_000_000)
    excess = (log_prob.sum(dim=1) - model.elbo(whole(event.float()), generator()).detach().double()) / 12
    error = float(excess.std()) / math.sqrt(len(excess))
    assert -4 * error < float(excess.mean()) < 0.08


@pytest.mark.slow
def test_latent_models_two_modes_with_one_gaussian():
    """Events near -1 or 1: one Gaussian needs log 2 pi e / 2 = 1.42 nats, two need 0.09; z gives VRNN-Gauss two modes."""

    def draw(size, seed):
        rng = generator(seed)
        sign = torch.randint(0, 2, (size, 8, 1), generator=rng) * 2 - 1
        return sign + 0.13 * torch.randn(size, 8, 1, generator=rng)

    with worldmodel.seeded(0):
        model = VRNN(1, hidden_size=8, latent_dim=1, width=32, depth=1)
    fit(model, Sequences(draw), num_updates=1_500, batch_size=64, learning_rate=5e-3, eval_every=100, tensorboard=False)
    batch = whole(draw(200, 3_000_000))
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.13**2) + math.log(2)
    values = -model.iwae_bound(batch, 100, generator()) / 8
    assert entropy - 4 * float(values.std()) / math.sqrt(200) < float(values.mean()) < 0.8


def test_bad_arguments_are_refused(as_users_do):
    with pytest.raises(ValueError, match="latent"):
        VRNN(2, latent_dim=0)
    with pytest.raises(ValueError, match="bptt_length"):
        VRNN(2, bptt_length=0)
    with pytest.raises(ValueError, match="samples"):
        vrnn().iwae_bound(whole(random_events(2, 2, 1)), 0)
