"""`open_corpus` and `Splits`: names, options, errors, and training on a corpus."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.worldmodel.corpora import formats
from worldmodel import corpora, fit, seeded
from worldmodel.batches import Data, EventBatch, Loss
from worldmodel.corpora.registry import CORPORA

ROOT = Path(__file__).parents[3]
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)


class Normal(nn.Module):
    """A Normal with one mean and one scale for all events."""

    config = {"kind": "normal"}

    def __init__(self):
        super().__init__()
        self.loc, self.log_scale, self.eval_sizes = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(())), []

    def loss(self, batch: EventBatch, generator=None):
        if not self.training:
            self.eval_sizes.append(len(batch.event))
        log_prob = torch.distributions.Normal(self.loc, self.log_scale.exp()).log_prob(batch.event).sum(-1)
        value = -((log_prob * batch.mask).sum(1) + batch.log_jacobian).mean()
        return Loss(value, {"nats": value.detach()})


@pytest.fixture
def mnist(tmp_path):
    formats.write_mnist(tmp_path / "mnist", PIXELS, PIXELS[:5])
    return f"mnist:{tmp_path / 'mnist'}"


@pytest.fixture
def audio(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    for number in range(6):
        (tmp_path / "audio" / f"{number}.wav").write_bytes(formats.wav_bytes(formats.speech(rng, 4_000)))
    return f"audio:{tmp_path / 'audio'}"


@pytest.mark.parametrize("name", ["mnist", "", "mnist:", "nothing:/tmp", ":/tmp"])
def test_corpus_name_must_be_kind_and_folder(name):
    with pytest.raises(ValueError, match="KIND:FOLDER"):
        corpora.open_corpus(name)


@pytest.mark.parametrize("kind", CORPORA)
def test_missing_files_error_names_their_source(tmp_path, kind):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=str(folder)) as caught:
            corpora.open_corpus(f"{kind}:{folder}")
        assert CORPORA[kind].source in str(caught.value)


def test_option_of_another_corpus_is_named(mnist, audio):
    with pytest.raises(ValueError, match=r"\bsegment_length\b"):
        corpora.open_corpus(mnist, segment_length=8_000)
    with pytest.raises(ValueError, match=r"\blogit\b"):
        corpora.open_corpus(audio, logit=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "audio"])
def test_fit_uses_the_held_out_split_of_the_corpus(name, request, tmp_path):
    options = {"segment_length": 800} if name == "audio" else {}
    corpus = corpora.open_corpus(request.getfixturevalue(name), **options)
    assert all(isinstance(split, Data) for split in (corpus.train, corpus.held_out, corpus.test, corpus.splits))
    assert corpus.splits.split(0.5, seed=9) == (corpus.train, corpus.held_out)
    assert corpus.train.identity in corpus.splits.identity and corpus.held_out.identity in corpus.splits.identity
    with seeded(0):
        model = fit(
            Normal(),
            corpus.splits,
            num_updates=150,
            learning_rate=0.1,
            batch_size=16,
            eval_every=150,
            tensorboard=False,
            out=tmp_path,
        )
    assert sum(model.eval_sizes) == len(corpus.held_out)
    values = torch.cat([batch.event.flatten() for batch in corpus.train.batches(100)])
    assert float(model.loc.detach()) == pytest.approx(float(values.mean()), abs=0.05)
    assert float(model.log_scale.detach().exp()) == pytest.approx(float(values.std()), abs=0.05)


def test_fit_can_split_the_training_split_again(mnist):
    fit(Normal(), corpora.open_corpus(mnist).train, num_updates=3, batch_size=4, tensorboard=False)
    splits = corpora.open_corpus(mnist).splits
    assert len(next(splits.batches(4)).event) == 4
    assert len(splits.batch(3, np.random.default_rng(0)).event) == 3


def test_bits_need_the_number_of_dimensions(audio):
    corpus = corpora.open_corpus(audio, segment_length=None)
    assert corpus.dimensions is None
    with pytest.raises(ValueError, match="dimensions"):
        corpus.bits(torch.zeros(2))
    assert corpus.bits(torch.tensor([-np.log(2.0) * 30]), dimensions=10).tolist() == pytest.approx([3])
