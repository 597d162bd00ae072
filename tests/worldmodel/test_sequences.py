"""Laws of densities of sequences, over every model that is built by name."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

import worldmodel
from tests.toys import Sequences, autoregressive, whole
from worldmodel import FRMDN, RMDN, SequenceDensity, baselines, fit
from worldmodel.baselines import VRNN, PerDimensionRMDN
from worldmodel.batches import EventBatch
from worldmodel.builders import DENSITIES, NAMES, build, build_density, build_recurrent
from worldmodel.density import LOG_PRECISION_RANGE, State
from worldmodel.sequences import SequenceState, precision_ceiling

MODELS = {
    "rmdn": lambda: SequenceDensity(RMDN(2, 2, hidden=8, mixtures=3)),
    "rmdn rank": lambda: SequenceDensity(RMDN(2, 2, hidden=8, mixtures=2, rank=1)),
    "rmdn full": lambda: SequenceDensity(RMDN(2, 2, hidden=8, mixtures=2, full=True)),
    "rmdn layers": lambda: SequenceDensity(RMDN(2, 2, hidden=8, layers=2)),
    "rmdn gru": lambda: SequenceDensity(RMDN(2, 2, hidden=8, cell="gru")),
    "frmdn": lambda: SequenceDensity(FRMDN(2, 2, hidden=8, mixtures=2)),
    "frmdn conditional": lambda: SequenceDensity(FRMDN(2, 2, hidden=8, conditional=True, spline=True)),
    "per dimension": lambda: SequenceDensity(PerDimensionRMDN(2, 2, hidden=8)),
}
EVERY = MODELS | {
    "rnn-gauss": lambda: build("rnn-gauss", 2, hidden=8),
    "vrnn": lambda: build("vrnn", 2, hidden=8, latent=2, width=8),
    "vrnn-gmm": lambda: build("vrnn-gmm", 2, hidden=8, latent=2, width=8, mixtures=3),
}


def made(name):
    with worldmodel.seeded(0):
        built = EVERY[name]().double()
        for parameter in built.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return built


@pytest.fixture(params=MODELS)
def model(request):
    return made(request.param)


@pytest.fixture(params=EVERY)
def any_model(request):
    return made(request.param)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def events(time=7, batch=4, size=2, seed=1):
    return torch.randn(batch, time, size, dtype=torch.float64, generator=generator(seed))


def padded(batch, real, value):
    """The same sequences behind each other's ends: longer, and filled with ``value`` where they are not."""
    event = torch.full((len(batch.event), batch.event.shape[1] + 3, batch.event.shape[2]), value, dtype=torch.float64)
    mask = torch.zeros(event.shape[:2], dtype=torch.float64)
    for number, length in enumerate(real):
        event[number, :length], mask[number, :length] = batch.event[number, :length], 1
    return EventBatch(event, mask, batch.log_jacobian)


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def test_every_model_is_in_the_battery():
    built = [build() for build in EVERY.values()]
    public = {kind for _, kind in inspect.getmembers(baselines, inspect.isclass)} - {PerDimensionRMDN}
    assert {type(model) for model in built} == {SequenceDensity} | public
    assert {type(model.density) for model in built if isinstance(model, SequenceDensity)} == set(DENSITIES.values())


def test_a_sequence_is_the_product_of_single_steps(model):
    event = events()
    state, steps = model.initial(4), []
    for t in range(event.shape[1]):
        distribution, memory = model.predict(state)
        steps.append(distribution.log_prob(event[:, t]))
        state = SequenceState(event[:, t], memory)
    values, last = model.log_probs(whole(event))
    torch.testing.assert_close(values, torch.stack(steps, dim=1))
    torch.testing.assert_close(model.log_prob(whole(event)), torch.stack(steps).sum(dim=0))
    torch.testing.assert_close(last, state)
    torch.testing.assert_close(model.observe(model.initial(4), event), state)


def test_what_is_read_is_the_event_before_and_zero_at_first():
    """A density that repeats what it reads finds every event but the first where the one before was."""

    class Echo(nn.Module):
        inputs = outputs = 1

        def initial(self, batch):
            return State(torch.zeros(batch, 1, 1), torch.zeros(batch, 1, 1))

        def features(self, x, state):
            return x, state

        def distribution(self, hidden):
            return torch.distributions.Independent(torch.distributions.Normal(hidden, 1.0), 1)

    event = torch.tensor([[[3.0], [5.0], [5.0]]])
    model = SequenceDensity.__new__(SequenceDensity)
    nn.Module.__init__(model)
    model.density, model.truncate = Echo(), None
    values, _ = model.log_probs(whole(event))
    wanted = torch.distributions.Normal(0, 1).log_prob(torch.tensor([[3.0, 2.0, 0.0]]))
    torch.testing.assert_close(values, wanted)


@pytest.mark.parametrize("length", [1, 3, 7])
def test_pieces_equal_one_pass(model, length):
    whole_pass = model.log_prob(whole(events()))
    model.truncate = length
    torch.testing.assert_close(model.log_prob(whole(events())), whole_pass)
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(whole(events())), whole_pass.detach())


def test_without_gradients_long_sequences_pass_in_pieces(model, monkeypatch):
    whole_pass = model.log_prob(whole(events())).detach()
    monkeypatch.setattr("worldmodel.sequences.EVALUATED", 2)
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(whole(events())), whole_pass)


def test_a_cut_behind_the_end_changes_no_gradient(any_model):
    found = {}
    for truncate in (None, 7, 100):
        any_model.truncate = truncate
        found[truncate] = gradients(any_model, any_model.loss(whole(events()), generator()).value)
    torch.testing.assert_close(found[7], found[None], rtol=0, atol=0)
    torch.testing.assert_close(found[100], found[None], rtol=0, atol=0)


def test_truncated_gradients_are_those_of_pieces_with_a_state_that_is_cut(model):
    event = events()
    model.truncate = 3
    found = gradients(model, model.log_prob(whole(event)).sum())
    model.truncate, state, total = None, model.initial(4), 0.0
    for piece in event.split(3, dim=1):
        values, state = model.log_probs(whole(piece), state)
        state = SequenceState(state.event, State(*(part.detach() for part in state.memory)))
        total = total + values.sum()
    torch.testing.assert_close(found, gradients(model, total))
    assert any(
        not torch.allclose(a, b)
        for a, b in zip(found, gradients(model, model.log_prob(whole(event)).sum()), strict=True)
    )


def test_a_state_goes_on(model):
    event = events()
    values, _ = model.log_probs(whole(event))
    first, state = model.log_probs(whole(event[:, :3]))
    second, _ = model.log_probs(whole(event[:, 3:]), state)
    torch.testing.assert_close(torch.cat((first, second), dim=1), values)


def test_the_future_leaves_the_past_bit_equal(model):
    event, changed = events(), events()
    changed[:, 4:] += 100
    before, after = (model.log_probs(whole(y))[0] for y in (event, changed))
    assert before[:, :4].equal(after[:, :4])
    assert not before[:, 4:].isclose(after[:, 4:]).any()


@pytest.mark.parametrize("truncate", [None, 2])
@pytest.mark.parametrize("value", [0.0, 1e6, math.nan, math.inf])
def test_padding_changes_neither_value_nor_gradient(model, value, truncate):
    real, batch = (7, 4, 1, 6), whole(events(), 0.5)
    model.truncate = truncate
    alone = [model.log_prob(whole(batch.event[[n], :length], 0.5))[0] for n, length in enumerate(real)]
    found = model.log_prob(padded(batch, real, value))
    torch.testing.assert_close(found, torch.stack(alone))
    loss = model.loss(padded(batch, real, value))
    expected = -(torch.stack(alone) - 0.5).sum() / sum(real)
    torch.testing.assert_close(loss.value, expected)
    torch.testing.assert_close(loss.parts["nll"], expected.detach())
    wanted = gradients(model, expected)
    torch.testing.assert_close(gradients(model, model.loss(padded(batch, real, value)).value), wanted)


def test_the_jacobian_is_added_and_is_no_part_of_the_loss(any_model):
    def value(batch):
        return any_model.bound(batch, generator()) if isinstance(any_model, VRNN) else any_model.log_prob(batch)

    plain, shifted = whole(events()), whole(events(), -3.5)
    torch.testing.assert_close(value(shifted), value(plain) - 3.5)
    assert any_model.loss(shifted, generator()).value.equal(any_model.loss(plain, generator()).value)


def test_every_parameter_learns(any_model):
    found = gradients(any_model, any_model.loss(whole(events()), generator()).value)
    names = [name for name, _ in any_model.named_parameters()]
    assert [name for name, gradient in zip(names, found, strict=True) if not gradient.abs().sum() > 0] == []


def test_own_samples_have_the_entropy_that_the_densities_say():
    """E[-log p(y)] over own samples = the mean of the conditional entropies, known in closed form for one Gaussian."""
    with worldmodel.seeded(3):
        model = SequenceDensity(RMDN(1, 1, hidden=8, mixtures=1))
        model.density.head.weight.data.mul_(4)
    drawn = model.sample(12, batch=3_000, generator=generator())
    with torch.no_grad():
        hidden, _ = model.density.features(torch.cat((torch.zeros(3_000, 1, 1), drawn[:, :-1]), dim=1))
        entropy = 0.5 * (math.log(2 * math.pi * math.e) - model.density.distribution(hidden).log_precision[..., 0, 0])
        nll = -model.log_prob(whole(drawn))
    differences = nll - entropy.sum(dim=1)
    assert float(differences.mean()) == pytest.approx(0, abs=4 * float(differences.std()) / math.sqrt(3_000))


def learned(model, updates=400, **more):
    data = Sequences(lambda size, seed: autoregressive(size, 15, seed)[0].float())
    settings = {"updates": updates, "batch": 32, "lr": 1e-2, "check_every": 100, "tensorboard": False}
    return fit(model, data, **settings | more)


@pytest.mark.parametrize(
    ("name", "truncate"),
    [("rnn-gauss", None), ("rmdn", None), ("frmdn", None), pytest.param("rmdn", 5, marks=pytest.mark.slow)],
)
def test_learning_approaches_the_exact_likelihood_and_never_beats_it(name, truncate):
    with worldmodel.seeded(0):
        model = build(name, 1, hidden=16, truncate=truncate, **({} if name == "rnn-gauss" else {"mixtures": 2}))
    learned(model)
    event, exact = autoregressive(2_000, 15, 3_000_000)
    with torch.no_grad():
        excess = (exact - model.log_probs(whole(event.float()))[0].double()).mean(dim=1)  # paired: nats a frame
    error = float(excess.std()) / math.sqrt(len(excess))
    assert float(excess.mean()) > -4 * error
    assert float(excess.mean()) < 0.05


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


@pytest.mark.parametrize("name", NAMES)
def test_settings_build_the_same_model(name):
    more = {"latent": 3, "width": 8} if name.startswith("vrnn") else {}
    model = build(name, 2, hidden=8, truncate=5, **more)
    again = build_density(model.settings)
    again.load_state_dict(model.state_dict())
    assert type(again) is type(model) and again.settings == model.settings and again.truncate == 5
    batch = whole(events().float())
    assert again.loss(batch, generator()).value.equal(model.loss(batch, generator()).value)


def test_names_mean_what_the_papers_say():
    assert build("rnn-gauss", 2).density.mixtures == 1 and type(build("rnn-gauss", 2).density) is RMDN
    assert build("rmdn", 2).density.mixtures == build("frmdn", 2).density.base.mixtures == 20
    assert build("vrnn", 2).mixtures == 1 and build("vrnn-gmm", 2).mixtures == 20


@pytest.mark.parametrize("size", [1, 2])
def test_the_smallest_sizes(size):
    for name in NAMES:
        model = build(name, size, hidden=2)
        batch = whole(torch.randn(1, 1, size, generator=generator()))
        assert all(torch.isfinite(g).all() for g in gradients(model, model.loss(batch, generator()).value))
        assert model.sample(1, generator=generator()).shape == (1, 1, size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("truncate", [None, 4])
def test_bfloat16_trains(name, truncate):
    with worldmodel.seeded(0):
        model = build(name, 1, hidden=8, truncate=truncate, mixtures=1)
    held_out = whole(autoregressive(64, 9, 3_000_000)[0].float())
    data = Sequences(lambda size, seed: autoregressive(size, 9, seed)[0].float())
    before = float(model.loss(held_out, generator()).value.detach())
    fit(model, data, updates=40, batch=16, lr=1e-2, check_every=40, precision="bfloat16", tensorboard=False)
    assert float(model.loss(held_out, generator()).value.detach()) < before - 0.2
    assert all(p.dtype == torch.float32 for p in model.parameters())


class Stop(Exception):
    pass


@pytest.mark.parametrize("name", ["frmdn", "vrnn"])
def test_a_stopped_training_ends_as_an_undisturbed_one(tmp_path, monkeypatch, name):
    monkeypatch.setattr("worldmodel.training.SAVE_SECONDS", 0.0)

    def fresh():
        with worldmodel.seeded(0):
            return build(name, 1, hidden=4, truncate=5, mixtures=1)

    def stop(done, total, note):
        if done == 13:
            raise Stop

    undisturbed = learned(fresh(), 20, check_every=5, out=tmp_path / "whole")
    with pytest.raises(Stop):
        learned(fresh(), 20, check_every=5, out=tmp_path / "stopped", progress=stop)
    again = learned(fresh(), 20, check_every=5, out=tmp_path / "stopped")
    for wanted, found in zip(undisturbed.parameters(), again.parameters(), strict=True):
        assert found.equal(wanted)
    files = [(tmp_path / where / "weights.safetensors").read_bytes() for where in ("whole", "stopped")]
    assert files[0] == files[1]


def test_a_training_begins_near_the_data():
    event = 50 + 0.01 * torch.randn(200, 3, 2, generator=generator())
    for name in NAMES:
        model = build(name, 2, hidden=4)
        model.start_from_batch(padded(whole(event.double()), [2] * 200, math.nan))
        drawn = model.sample(1, batch=500, generator=generator())
        assert float((drawn.mean() - 50).abs()) < 1
        assert 0 < float(drawn.std()) < 1


@pytest.mark.parametrize("name", NAMES)
def test_constant_data_stay_finite_and_below_the_ceiling(name):
    """Digital silence: the likelihood rises towards what the clamp of precisions allows, and not beyond."""
    with worldmodel.seeded(0):
        model = build(name, 2, hidden=4)
    silence = whole(torch.zeros(4, 6, 2))
    model.start_from_batch(silence)
    before = float(model.loss(silence, generator()).value.detach())
    data = Sequences(lambda size, seed: torch.zeros(size, 6, 2))
    fit(model, data, updates=100, batch=8, lr=1e-2, check_every=10, tensorboard=False)
    after = float(model.loss(silence, generator()).value.detach())
    assert math.isfinite(after) and -2 * model.ceiling - 1e-5 <= after < before


def test_ceilings():
    top = 0.5 * (LOG_PRECISION_RANGE[1] - math.log(2 * math.pi))
    normal = torch.distributions.Normal(0, math.exp(-0.5 * LOG_PRECISION_RANGE[1]))
    assert precision_ceiling() == pytest.approx(top) == pytest.approx(float(normal.log_prob(torch.tensor(0.0))))
    assert (
        build("rmdn", 3).ceiling
        == build("vrnn", 3).ceiling
        == build("rmdn", 3, full=True).ceiling
        == pytest.approx(top)
    )
    assert build("frmdn", 3, couplings=2).ceiling == pytest.approx(top + 3 * 2 * 2 / 3)
    assert build("frmdn", 3, couplings=0).ceiling == pytest.approx(top)
    assert build("rmdn", 3, rank=1).ceiling == build("frmdn", 3, spline=True).ceiling == math.inf


def test_no_affine_flow_exceeds_its_ceiling():
    model = build("frmdn", 3, hidden=4, mixtures=1)
    for coupling in model.density.flow.couplings:
        coupling.network[-1].bias.data.fill_(100.0)
    model.density.base.head.bias.data.fill_(0.0)
    model.density.base.head.weight.data.fill_(0.0)
    model.density.base.head.bias.data[-3:] = 100.0
    with torch.no_grad():
        best = model.predict(model.initial(1))[0].log_prob(model.sample(1, temperature=1e-12)[:, 0])
    assert float(best) / 3 == pytest.approx(model.ceiling, abs=0.05)


REFUSED = [
    (lambda: SequenceDensity(RMDN(3, 2)), r"density must read what it predicts: .*, got 3 and 2"),
    (lambda: SequenceDensity(RMDN(2, 2), truncate=0), "truncate must be at least 1, got 0"),
    (lambda: build("rnn", 2), "name must be one of rmdn, frmdn, rnn-gauss, vrnn, vrnn-gmm, got 'rnn'"),
    (lambda: build("rnn-gauss", 2, mixtures=3), "mixtures must be 1 for rnn-gauss, got 3"),
    (lambda: build_density({"density": "X"}), "density must be one of RMDN, FRMDN, PerDimensionRMDN, got 'X'"),
    (lambda: build_density({"density": "RMDN", "inputs": 10**9, "outputs": 1}), "inputs is beyond any sensible size"),
    (lambda: build_density({"density": "VRNN", "event": 2, "color": 1}), "settings do not describe .*'color'"),
    (lambda: build_recurrent({}), "density must be one of RMDN, FRMDN, PerDimensionRMDN, got None"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


BATCHES = [
    (whole(torch.zeros(2, 3, 4)), r"batch.event must have shape \(batch > 0, time > 0, 2\), got \(2, 3, 4\)"),
    (whole(torch.zeros(2, 0, 2)), r"batch.event must have shape \(batch > 0, time > 0, 2\), got \(2, 0, 2\)"),
    (whole(torch.zeros(2, 3, 2))._replace(mask=torch.ones(2, 4)), r"batch.mask must have shape \(2, 3\), got \(2, 4\)"),
    (
        whole(torch.zeros(2, 3, 2))._replace(mask=torch.tensor([[1.0, 0, 1]] * 2)),
        "batch.mask must be ones and then zeros",
    ),
    (
        whole(torch.zeros(2, 3, 2))._replace(log_jacobian=torch.zeros(1)),
        r"log_jacobian must have shape \(2,\), got \(1,\)",
    ),
]


@pytest.mark.parametrize("name", ["rmdn", "vrnn"])
@pytest.mark.parametrize(("batch", "message"), BATCHES)
def test_bad_batches_are_refused(as_users_do, batch, message, name):
    with pytest.raises(ValueError, match=message):
        EVERY[name]().loss(batch)


@pytest.mark.parametrize("name", ["rmdn", "vrnn"])
def test_bad_samples_are_refused_when_they_are_asked_for(as_users_do, name):
    model = EVERY[name]()
    with pytest.raises(ValueError, match="temperature must be finite and above zero, got 0"):
        model.stream(temperature=0.0)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        model.sample(0)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        model.sample(1, batch=0)
    with pytest.raises(ValueError, match=r"prefix must have shape \(3 or 1, time > 0, 2\), got \(2, 4, 2\)"):
        model.sample(1, batch=3, prefix=torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match=r"prefix must have shape \(batch > 0, time > 0, 2\), got \(1, 4, 3\)"):
        model.sample(1, prefix=torch.zeros(1, 4, 3))


def test_truncation_bounds_what_is_kept_for_gradients():
    """Numbers kept for the backward pass: twice the time, hardly more of them, when pieces are recomputed."""

    def kept(time, truncate):
        model, total = build("rmdn", 8, hidden=8, truncate=truncate), 0
        parameters = {p.data_ptr() for p in model.parameters()}

        def count(tensor):
            nonlocal total
            total += 0 if tensor.data_ptr() in parameters else tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model.loss(whole(torch.zeros(2, time, 8)))
        return total

    assert kept(80, None) > 10 * kept(80, 10)
    assert np.isclose(kept(80, None), 2 * kept(40, None), rtol=0.1)
