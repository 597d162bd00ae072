"""Models built by name and from their config."""

import pytest
import torch

from tests.toys import whole
from tests.worldmodel.sequence_models import events, generator, gradients
from worldmodel import RMDN, SequenceDensity
from worldmodel.registry import MODEL_NAMES, build, build_density, build_mdn_rnn


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_config_rebuilds_the_same_model(name):
    sizes = {"latent_dim": 3, "width": 8} if name.startswith("vrnn") else {}
    model = build(name, 2, hidden_size=8, bptt_length=5, **sizes)
    rebuilt = build_density(model.config)
    rebuilt.load_state_dict(model.state_dict())
    assert type(rebuilt) is type(model) and rebuilt.config == model.config and rebuilt.bptt_length == 5
    batch = whole(events().float())
    assert rebuilt.loss(batch, generator()).value.equal(model.loss(batch, generator()).value)


@pytest.mark.parametrize("bptt_length", [100_000, 10**30])
@pytest.mark.parametrize("name", ["rmdn", "vrnn"])
def test_bptt_length_may_exceed_any_sequence(name, bptt_length):
    rebuilt = build_density(build(name, 2, hidden_size=4, bptt_length=bptt_length).config)
    assert rebuilt.bptt_length == bptt_length
    assert rebuilt.loss(whole(events().float()), generator()).value.isfinite()


def test_model_names_match_the_papers():
    assert build("rnn-gauss", 2).density.num_components == 1 and type(build("rnn-gauss", 2).density) is RMDN
    assert build("rmdn", 2).density.num_components == build("frmdn", 2).density.base.num_components == 20
    assert build("vrnn", 2).num_components == 1 and build("vrnn-gmm", 2).num_components == 20


@pytest.mark.parametrize("size", [1, 2])
def test_smallest_models_train_and_sample(size):
    for name in MODEL_NAMES:
        model = build(name, size, hidden_size=2)
        batch = whole(torch.randn(1, 1, size, generator=generator()))
        assert all(torch.isfinite(g).all() for g in gradients(model, model.loss(batch, generator()).value))
        assert model.sample(1, generator=generator()).shape == (1, 1, size)


REFUSED = [
    ("density", lambda: SequenceDensity(RMDN(3, 2))),
    ("bptt_length", lambda: SequenceDensity(RMDN(2, 2), bptt_length=0)),
    ("name", lambda: build("rnn", 2)),
    ("num_components", lambda: build("rnn-gauss", 2, num_components=3)),
    ("density", lambda: build_density({"density": "X"})),
    ("input_size", lambda: build_density({"density": "RMDN", "input_size": 10**9, "output_size": 1})),
    ("color", lambda: build_density({"density": "VRNN", "event_dim": 2, "color": 1})),
    ("density", lambda: build_mdn_rnn({})),
]


@pytest.mark.parametrize(("named", "call"), REFUSED)
def test_bad_settings_are_refused(named, call):
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        call()
