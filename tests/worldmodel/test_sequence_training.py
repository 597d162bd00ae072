"""Training of sequence densities: known processes, constant data, bfloat16 and resuming."""

import json
import math

import pytest
import torch

import worldmodel
from tests.toys import Sequences, autoregressive, whole
from tests.worldmodel.sequence_models import generator, padded
from worldmodel import FRMDN, RMDN, SequenceDensity, fit
from worldmodel.baselines import PerDimensionRMDN
from worldmodel.batches import EventBatch
from worldmodel.registry import MODEL_NAMES, build
from worldmodel.sequences import precision_ceiling


def test_samples_have_the_conditional_entropy_of_the_density():
    """E[-log p(y)] over samples equals the mean conditional entropy, which one Gaussian has in closed form."""
    with worldmodel.seeded(3):
        model = SequenceDensity(RMDN(1, 1, hidden_size=8, num_components=1))
        model.density.head.weight.data.mul_(4)
    drawn = model.sample(12, batch=3_000, generator=generator())
    with torch.no_grad():
        hidden, _ = model.density.unroll(torch.cat((torch.zeros(3_000, 1, 1), drawn[:, :-1]), dim=1))
        entropy = 0.5 * (math.log(2 * math.pi * math.e) - model.density.distribution(hidden).log_precision[..., 0, 0])
        nll = -model.log_prob(whole(drawn))
    differences = nll - entropy.sum(dim=1)
    assert float(differences.mean()) == pytest.approx(0, abs=4 * float(differences.std()) / math.sqrt(3_000))


def train(model, updates=400, **more):
    data = Sequences(lambda size, seed: autoregressive(size, 15, seed)[0].float())
    settings = {
        "num_updates": updates,
        "batch_size": 32,
        "learning_rate": 1e-2,
        "eval_every": 100,
        "tensorboard": False,
    }
    return fit(model, data, **settings | more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bptt_length"),
    [
        ("frmdn", None),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("rnn-gauss", None), ("rmdn", None), ("rmdn", 5))),
    ],
)
def test_training_approaches_the_exact_likelihood_and_never_beats_it(name, bptt_length):
    more = {"rnn-gauss": {}, "rmdn": {"num_components": 2}, "frmdn": {"num_components": 2, "num_couplings": 1}}[name]
    with worldmodel.seeded(0):
        model = build(name, 1, hidden_size=16, bptt_length=bptt_length, **more)
    train(model, 250, learning_rate=2e-2)
    event, exact = autoregressive(2_000, 15, 3_000_000)
    with torch.no_grad():
        # Paired differences in nats per event.
        excess = (exact - model.log_probs(whole(event.float()))[0].double()).mean(dim=1)
    error = float(excess.std()) / math.sqrt(len(excess))
    assert float(excess.mean()) > -4 * error
    assert float(excess.mean()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bptt_length"),
    [
        pytest.param(
            name, bptt_length, marks=[pytest.mark.slow] * ((name, bptt_length) not in (("frmdn", None), ("vrnn", 4)))
        )
        for name in MODEL_NAMES
        for bptt_length in (None, 4)
    ],
)
def test_bfloat16_trains(name, bptt_length):
    with worldmodel.seeded(0):
        model = build(name, 1, hidden_size=8, bptt_length=bptt_length, num_components=1)
    held_out = whole(autoregressive(64, 9, 3_000_000)[0].float())
    data = Sequences(lambda size, seed: autoregressive(size, 9, seed)[0].float())
    before = float(model.loss(held_out, generator()).value.detach())
    fit(
        model,
        data,
        num_updates=40,
        batch_size=16,
        learning_rate=1e-2,
        eval_every=40,
        dtype="bfloat16",
        tensorboard=False,
    )
    assert float(model.loss(held_out, generator()).value.detach()) < before - 0.2
    assert all(p.dtype == torch.float32 for p in model.parameters())


class Stop(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frmdn", "vrnn"])
def test_resumed_training_equals_uninterrupted_training(tmp_path, monkeypatch, name):
    monkeypatch.setattr("worldmodel.training.checkpoint.SAVE_SECONDS", 0.0)

    def build_fresh():
        with worldmodel.seeded(0):
            return build(name, 1, hidden_size=4, bptt_length=5, num_components=1)

    def stop(done, total, note):
        if done == 13:
            raise Stop

    settings = {"num_updates": 16, "batch_size": 4, "eval_every": 5}
    uninterrupted = train(build_fresh(), **settings, out=tmp_path / "whole")
    with pytest.raises(Stop):
        train(build_fresh(), **settings, out=tmp_path / "stopped", progress=stop)
    resumed = train(build_fresh(), **settings, out=tmp_path / "stopped")
    for expected, actual in zip(uninterrupted.parameters(), resumed.parameters(), strict=True):
        assert actual.equal(expected)
    files = [(tmp_path / where / "weights.safetensors").read_bytes() for where in ("whole", "stopped")]
    assert files[0] == files[1]


class Ragged:
    """Seven sequences of one to thirteen events, whose values grow with the length, in batches of any size."""

    identity = "ragged"

    def split(self, fraction, seed):
        return self, self

    def batch(self, size, rng):
        return self.make_batch([1 + 2 * (n % 7) for n in range(size)])

    def batches(self, size):
        for number in range(0, 7, size):
            yield self.make_batch([1 + 2 * n for n in range(7)][number : number + size])

    def make_batch(self, lengths):
        event = torch.zeros(len(lengths), max(lengths), 1)
        mask = torch.zeros(event.shape[:2])
        for number, length in enumerate(lengths):
            event[number, :length], mask[number, :length] = length * torch.ones(length, 1), 1
        return EventBatch(event, mask, torch.zeros(len(lengths)))


def test_held_out_loss_of_ragged_sequences_does_not_depend_on_the_batch_size(tmp_path):
    losses = []
    for batch_size in (1, 2, 4, 7):
        with worldmodel.seeded(0):
            model = build("rmdn", 1, hidden_size=4, num_components=1)
        settings = {
            "num_updates": 1,
            "batch_size": batch_size,
            "learning_rate": 1e-30,
            "tensorboard": False,
        }  # no weight changes
        fit(model, Ragged(), **settings, out=tmp_path / str(batch_size))
        losses.append(json.loads((tmp_path / str(batch_size) / "metrics.jsonl").read_text())["held_out"]["loss"])
    whole_pass = model.loss(next(Ragged().batches(7))).value.detach()
    assert losses == pytest.approx([float(whole_pass)] * 4, rel=1e-5)


def test_init_from_data_starts_near_the_data():
    event = 50 + 0.01 * torch.randn(200, 3, 2, generator=generator())
    for name in MODEL_NAMES:
        with worldmodel.seeded(0):
            model = build(name, 2, hidden_size=4)
        model.init_from_data(padded(whole(event.double()), [2] * 200, math.nan))
        drawn = model.sample(1, batch=500, generator=generator())
        assert float((drawn.mean() - 50).abs()) < 0.01
        assert 0.005 < float(drawn.std()) < 0.02


INIT_MODELS = {
    "rnn-gauss": lambda: build("rnn-gauss", 28, hidden_size=64),
    "rmdn": lambda: build("rmdn", 28, hidden_size=64),
    "rmdn full": lambda: build("rmdn", 28, hidden_size=64, num_components=2, full=True),
    "frmdn": lambda: build("frmdn", 28, hidden_size=64),
    "per dimension": lambda: SequenceDensity(PerDimensionRMDN(28, 28, hidden_size=64)),
    "vrnn": lambda: build("vrnn", 28, hidden_size=64, width=64),
    "vrnn-gmm": lambda: build("vrnn-gmm", 28, hidden_size=64, width=64),
}


@pytest.mark.parametrize("std", [1.0, 0.0011])
@pytest.mark.parametrize("name", INIT_MODELS)
def test_init_from_data_is_nearly_as_good_as_a_normal_at_any_scale(name, std):
    """The smallest scale is that of dequantisation noise: 1 / (256 sqrt(12)) = 0.0011."""
    spread = torch.linspace(1.0, 2.0, 28).mul(std)  # differs between dimensions
    data = whole(0.3 + spread * torch.randn(64, 8, 28, generator=generator()))
    normal = float((0.5 + 0.5 * math.log(2 * math.pi) + spread.log()).mean())
    with worldmodel.seeded(0):
        model = INIT_MODELS[name]()
    model.init_from_data(data)
    assert float(model.loss(data, generator()).value.detach()) / 28 < normal + 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("frmdn", "vrnn"))) for name in MODEL_NAMES]
)
def test_training_on_constant_data_stays_below_the_ceiling(name):
    """Digital silence: the likelihood starts near the limit of the precision clamp and reaches it without exceeding it."""
    with worldmodel.seeded(0):
        model = build(name, 2, hidden_size=4)
    silence = whole(torch.zeros(4, 6, 2))
    model.init_from_data(silence)
    before = float(model.loss(silence, generator()).value.detach())
    data = Sequences(lambda size, seed: torch.zeros(size, 6, 2))
    fit(model, data, num_updates=100, batch_size=8, learning_rate=1e-3, eval_every=10, tensorboard=False)
    after = float(model.loss(silence, generator()).value.detach())
    assert before < -2 * precision_ceiling() + 0.5
    assert math.isfinite(after) and -2 * model.ceiling - 1e-5 <= after < -2 * precision_ceiling() + 0.02


@pytest.mark.parametrize("kind", [RMDN, FRMDN, PerDimensionRMDN])
def test_constant_dimension_starts_at_the_precision_clamp(kind):
    """A standard deviation of zero has no finite logarithm."""
    with worldmodel.seeded(0):
        density = kind(2, 2, hidden_size=4)
    density.init_from_statistics(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in density.parameters())
    event = torch.tensor([[[3.0, 0.0]]])
    density(torch.zeros(1, 1, 2))[0].log_prob(event).sum().backward()
    gradients = [parameter.grad for parameter in density.parameters() if parameter.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
