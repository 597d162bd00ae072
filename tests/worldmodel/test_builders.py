"""Models by name and by settings."""

import pytest
import torch

from tests.toys import whole
from tests.worldmodel.sequence_models import events, generator, gradients
from worldmodel import RMDN, SequenceDensity
from worldmodel.builders import NAMES, build, build_density, build_recurrent


@pytest.mark.parametrize("name", NAMES)
def test_settings_build_the_same_model(name):
    more = {"latent": 3, "width": 8} if name.startswith("vrnn") else {}
    model = build(name, 2, hidden=8, truncate=5, **more)
    again = build_density(model.settings)
    again.load_state_dict(model.state_dict())
    assert type(again) is type(model) and again.settings == model.settings and again.truncate == 5
    batch = whole(events().float())
    assert again.loss(batch, generator()).value.equal(model.loss(batch, generator()).value)


@pytest.mark.parametrize("truncate", [100_000, 10**30])
@pytest.mark.parametrize("name", ["rmdn", "vrnn"])
def test_pieces_may_be_longer_than_any_size(name, truncate):
    again = build_density(build(name, 2, hidden=4, truncate=truncate).settings)
    assert again.truncate == truncate
    assert again.loss(whole(events().float()), generator()).value.isfinite()


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


REFUSED = [
    ("density", lambda: SequenceDensity(RMDN(3, 2))),
    ("truncate", lambda: SequenceDensity(RMDN(2, 2), truncate=0)),
    ("name", lambda: build("rnn", 2)),
    ("mixtures", lambda: build("rnn-gauss", 2, mixtures=3)),
    ("density", lambda: build_density({"density": "X"})),
    ("inputs", lambda: build_density({"density": "RMDN", "inputs": 10**9, "outputs": 1})),
    ("color", lambda: build_density({"density": "VRNN", "event": 2, "color": 1})),
    ("density", lambda: build_recurrent({})),
]


@pytest.mark.parametrize(("named", "call"), REFUSED)
def test_bad_settings_are_refused(named, call):
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        call()
