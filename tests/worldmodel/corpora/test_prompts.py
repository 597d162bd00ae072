"""Prompts of a telephone system in G.722: which prompt is in which part, and the samples of the decoder."""

import numpy as np
import pytest

from tests.worldmodel.corpora import formats
from worldmodel.corpora import open_corpus, recordings
from worldmodel.corpora.audio_files import inspect, read
from worldmodel.corpora.recordings import audio_paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return formats.write_prompts(tmp_path_factory.mktemp("sounds"))


def names(split):
    return {recording.name for recording in split.recordings}


def texts(split):
    return {name.partition("/")[2] for name in names(split)}


def test_g722_has_two_samples_in_a_byte_and_is_near_the_original(tmp_path):
    tone = 8_000 * np.sin(2 * np.pi * 440 * np.arange(8_000) / 16_000)
    path = tmp_path / "tone.g722"
    path.write_bytes(formats.g722_bytes(tone))
    audio = inspect(path)
    assert (audio.num_samples, audio.sample_rate, audio.num_channels) == (2 * path.stat().st_size, 16_000, 1)
    decoded = read(audio, 0, audio.num_samples)
    original = (tone / 2**15)[: len(decoded)]
    delay = int(np.argmax(np.correlate(decoded[200:2_000], original[200:1_900], "valid")))
    assert delay < 40  # of the codec's filters, in samples
    error = decoded[1_000 + delay : 7_000 + delay] - original[1_000:7_000]
    assert np.std(error) < 0.05 * np.std(original)


def test_a_range_of_samples_is_that_of_the_whole_file(folder):
    audio = inspect(audio_paths(folder)[0])
    whole = read(audio, 0, audio.num_samples)
    assert np.array_equal(read(audio, 301, 777), whole[301:777])
    assert len(read(audio, 5, 5)) == 0


def test_a_file_that_became_shorter_is_named(tmp_path):
    path = tmp_path / "a.g722"
    path.write_bytes(bytes(100))
    audio = inspect(path)
    path.write_bytes(bytes(60))
    with pytest.raises(ValueError, match=r"a\.g722"):
        read(audio, 0, 10)
    path.unlink()
    with pytest.raises(ValueError, match=r"a\.g722"):
        read(audio, 0, 10)


def test_a_prompt_is_in_one_part_for_all_speakers(folder):
    corpus = open_corpus(f"prompts:{folder}", segment_length=800)
    parts = [corpus.train, corpus.held_out, corpus.test]
    assert [len(texts(part)) for part in parts] == [18, 1, 1]
    assert set.union(*map(texts, parts)) == {f"{'digits/' if n % 2 else ''}{n}.g722" for n in range(20)}
    for part in parts:  # all three speakers; neither tones, nor silence, nor the link
        assert {name.partition("/")[0] for name in names(part)} == {"en_US_f_A", "fr_CA_f_B", "it_IT_m_C"}
    assert len(names(corpus.test)) == 3
    other = open_corpus(f"prompts:{folder}", segment_length=800, seed=1)
    assert texts(other.test) != texts(corpus.test) or texts(other.held_out) != texts(corpus.held_out)


def test_training_has_segments_and_the_others_whole_prompts(folder):
    corpus = open_corpus(f"prompts:{folder}", segment_length=800)
    assert all((batch.mask == 1).all() and batch.event.shape[1:] == (4, 200) for batch in corpus.train.batches(8))
    lengths = {item.name: item.num_used_samples for item in corpus.test.recordings}
    for name, length in lengths.items():
        assert length == inspect(folder / name).num_samples // 200 * 200
    [batch] = corpus.test.batches(3)
    assert sorted(batch.mask.sum(1).tolist()) == sorted(length / 200 for length in lengths.values())
    assert corpus.test.normalizer is corpus.train.normalizer
    events = np.concatenate([batch.event.reshape(-1) for batch in corpus.train.batches(8)])
    assert events.mean() == pytest.approx(0, abs=1e-3)
    assert events.std() == pytest.approx(1, abs=1e-3)


def test_a_test_speaker_is_in_the_test_part_alone(folder):
    corpus = open_corpus(f"prompts:{folder}", segment_length=800, test_speaker="fr_CA_f_B")
    assert {name.partition("/")[0] for name in names(corpus.test)} == {"fr_CA_f_B"}
    assert len(names(corpus.test)) == 20
    assert {name.partition("/")[0] for name in names(corpus.train) | names(corpus.held_out)} == {
        "en_US_f_A",
        "it_IT_m_C",
    }
    assert not texts(corpus.train) & texts(corpus.held_out)


@pytest.mark.parametrize("speaker", ["nobody", "en", ""])
def test_an_unknown_speaker_is_refused_by_name(folder, speaker):
    with pytest.raises(ValueError, match=r"test_speaker.*fr_CA_f_B") as error:
        open_corpus(f"prompts:{folder}", test_speaker=speaker)
    assert repr(speaker) in str(error.value)


def test_a_single_speaker_cannot_be_the_test_speaker(tmp_path):
    formats.write_prompts(tmp_path, speakers=("en_US_f_A",), prompts=4)
    with pytest.raises(ValueError, match="test_speaker"):
        open_corpus(f"prompts:{tmp_path}", test_speaker="en_US_f_A")


@pytest.mark.parametrize("limit", [0, 5_000])
def test_what_memory_keeps_does_not_change_a_batch(folder, limit, monkeypatch):
    """With room for no file, or for a few, batches are those of a memory with room for all."""

    def batches():
        train, rng = open_corpus(f"prompts:{folder}", segment_length=400).train, np.random.default_rng(1)
        return train, [train.batch(8, rng).event for _ in range(12)]

    train, events = batches()
    assert len(train._cache) > 5
    monkeypatch.setattr(recordings, "MAX_CACHED_SAMPLES", limit)
    small, again = batches()
    assert sum(map(len, small._cache.values())) <= limit
    assert all(first.equal(second) for first, second in zip(events, again, strict=True))
