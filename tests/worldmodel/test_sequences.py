"""Laws of sequence densities, tested on every model that is built by name."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.toys import whole
from tests.worldmodel.sequence_models import ALL_MODELS, MODELS, build_model, events, generator, gradients, padded
from worldmodel import SequenceDensity, baselines
from worldmodel.baselines import VRNN, AutoregressiveRNN, PerDimensionRMDN
from worldmodel.mdn_rnn import LOG_PRECISION_RANGE, State
from worldmodel.registry import DENSITIES, build
from worldmodel.sequences import SequenceState, precision_ceiling


@pytest.fixture(params=MODELS)
def model(request):
    return build_model(request.param)


@pytest.fixture(params=ALL_MODELS)
def any_model(request):
    return build_model(request.param)


def test_every_model_is_in_the_battery():
    built = [build() for build in ALL_MODELS.values()]
    public = {kind for _, kind in inspect.getmembers(baselines, inspect.isclass)} - {
        PerDimensionRMDN,
        AutoregressiveRNN,
    }
    assert {type(model) for model in built} == {SequenceDensity} | public
    assert {type(model.density) for model in built if isinstance(model, SequenceDensity)} == set(DENSITIES.values())


def test_log_prob_is_the_sum_over_single_steps(model):
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


def test_input_is_the_previous_event_and_zero_at_first():
    """With a density that repeats its input, every event is predicted by the one before it."""

    class Echo(nn.Module):
        input_size = output_size = 1

        def initial(self, batch):
            return State(torch.zeros(batch, 1, 1), torch.zeros(batch, 1, 1))

        def unroll(self, x, state):
            return x, state

        def distribution(self, hidden):
            return torch.distributions.Independent(torch.distributions.Normal(hidden, 1.0), 1)

    event = torch.tensor([[[3.0], [5.0], [5.0]]])
    model = SequenceDensity.__new__(SequenceDensity)
    nn.Module.__init__(model)
    model.density, model.bptt_length, model.event_dim = Echo(), None, 1
    values, _ = model.log_probs(whole(event))
    expected = torch.distributions.Normal(0, 1).log_prob(torch.tensor([[3.0, 2.0, 0.0]]))
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("length", [1, 3, 7])
def test_chunks_equal_one_pass(model, length):
    whole_pass = model.log_prob(whole(events()))
    model.bptt_length = length
    torch.testing.assert_close(model.log_prob(whole(events())), whole_pass)
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(whole(events())), whole_pass.detach())


def test_long_sequences_are_evaluated_in_chunks(model, monkeypatch):
    whole_pass = model.log_prob(whole(events())).detach()
    monkeypatch.setattr("worldmodel.sequences.EVAL_CHUNK", 2)
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(whole(events())), whole_pass)


def test_bptt_length_beyond_the_sequence_changes_no_gradient(any_model):
    found = {}
    for bptt_length in (None, 7, 100):
        any_model.bptt_length = bptt_length
        found[bptt_length] = gradients(any_model, any_model.loss(whole(events()), generator()).value)
    torch.testing.assert_close(found[7], found[None], rtol=0, atol=0)
    torch.testing.assert_close(found[100], found[None], rtol=0, atol=0)


def test_truncated_gradients_equal_those_of_chunks_with_a_detached_state(model):
    event = events()
    model.bptt_length = 3
    found = gradients(model, model.log_prob(whole(event)).sum())
    model.bptt_length, state, total = None, model.initial(4), 0.0
    for chunk in event.split(3, dim=1):
        values, state = model.log_probs(whole(chunk), state)
        state = SequenceState(state.event, State(*(part.detach() for part in state.memory)))
        total = total + values.sum()
    torch.testing.assert_close(found, gradients(model, total))
    assert any(
        not torch.allclose(a, b)
        for a, b in zip(found, gradients(model, model.log_prob(whole(event)).sum()), strict=True)
    )


def test_log_probs_continue_from_a_state(model):
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


@pytest.mark.parametrize(("bptt_length", "value"), [(None, math.nan), (2, math.inf)])
def test_padding_changes_neither_value_nor_gradient(model, value, bptt_length):
    lengths, batch = (7, 4, 1, 6), whole(events(), 0.5)
    model.bptt_length = bptt_length
    alone = [model.log_prob(whole(batch.event[[n], :length], 0.5))[0] for n, length in enumerate(lengths)]
    found = model.log_prob(padded(batch, lengths, value))
    torch.testing.assert_close(found, torch.stack(alone))
    loss = model.loss(padded(batch, lengths, value))
    expected = -(torch.stack(alone) - 0.5).sum() / sum(lengths)
    torch.testing.assert_close(loss.value, expected)
    torch.testing.assert_close(loss.parts["nll"], expected.detach())
    expected_gradients = gradients(model, expected)
    torch.testing.assert_close(gradients(model, model.loss(padded(batch, lengths, value)).value), expected_gradients)


def test_log_jacobian_is_added_to_log_prob_but_not_to_the_loss(any_model):
    def value(batch):
        return any_model.elbo(batch, generator()) if isinstance(any_model, VRNN) else any_model.log_prob(batch)

    plain, shifted = whole(events()), whole(events(), -3.5)
    torch.testing.assert_close(value(shifted), value(plain) - 3.5)
    assert any_model.loss(shifted, generator()).value.equal(any_model.loss(plain, generator()).value)


def test_every_parameter_receives_a_gradient(any_model):
    found = gradients(any_model, any_model.loss(whole(events()), generator()).value)
    names = [name for name, _ in any_model.named_parameters()]
    assert [name for name, gradient in zip(names, found, strict=True) if not gradient.abs().sum() > 0] == []


def test_ceiling_is_the_largest_log_density_per_dimension():
    top = 0.5 * (LOG_PRECISION_RANGE[1] - math.log(2 * math.pi))
    normal = torch.distributions.Normal(0, math.exp(-0.5 * LOG_PRECISION_RANGE[1]))
    assert precision_ceiling() == pytest.approx(top) == pytest.approx(float(normal.log_prob(torch.tensor(0.0))))
    assert (
        build("rmdn", 3).ceiling
        == build("vrnn", 3).ceiling
        == build("rmdn", 3, full=True).ceiling
        == pytest.approx(top)
    )
    assert build("frmdn", 3, num_couplings=2).ceiling == pytest.approx(top + 3 * 2 * 2 / 3)
    assert build("frmdn", 3, num_couplings=0).ceiling == pytest.approx(top)
    assert build("rmdn", 3, rank=1).ceiling == build("frmdn", 3, spline=True).ceiling == math.inf


def test_affine_flow_reaches_its_ceiling():
    model = build("frmdn", 3, hidden_size=4, num_components=1)
    for coupling in model.density.flow.couplings:
        coupling.network[-1].bias.data.fill_(100.0)
    model.density.base.head.bias.data.fill_(0.0)
    model.density.base.head.weight.data.fill_(0.0)
    model.density.base.head.bias.data[-3:] = 100.0
    with torch.no_grad():
        best = model.predict(model.initial(1))[0].log_prob(model.sample(1, temperature=1e-12)[:, 0])
    assert float(best) / 3 == pytest.approx(model.ceiling, abs=0.05)


BAD_BATCHES = [
    ("event", whole(torch.zeros(2, 3, 4))),
    ("event", whole(torch.zeros(2, 0, 2))),
    ("mask", whole(torch.zeros(2, 3, 2))._replace(mask=torch.ones(2, 4))),
    ("mask", whole(torch.zeros(2, 3, 2))._replace(mask=torch.tensor([[1.0, 0, 1]] * 2))),
    ("log_jacobian", whole(torch.zeros(2, 3, 2))._replace(log_jacobian=torch.zeros(1))),
]


@pytest.mark.parametrize("name", ["rmdn", "vrnn"])
@pytest.mark.parametrize(("field", "batch"), BAD_BATCHES)
def test_bad_batches_are_refused(as_users_do, field, batch, name):
    with pytest.raises(ValueError, match=rf"^(batch\.)?{field} "):
        ALL_MODELS[name]().loss(batch)


def test_truncation_bounds_the_tensors_saved_for_gradients():
    """The numbers saved for the backward pass grow with the sequence; chunks are recomputed and save far fewer."""

    def num_saved(time, bptt_length):
        model, total = build("rmdn", 8, hidden_size=8, bptt_length=bptt_length), 0
        parameters = {p.data_ptr() for p in model.parameters()}

        def count(tensor):
            nonlocal total
            total += 0 if tensor.data_ptr() in parameters else tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model.loss(whole(torch.zeros(2, time, 8)))
        return total

    assert num_saved(80, None) > 10 * num_saved(80, 10)
    assert np.isclose(num_saved(80, None), 2 * num_saved(40, None), rtol=0.1)
