"""Speech corpora: which file is in which split, segmentation and normalization."""

import json
import re
import tracemalloc

import numpy as np
import pytest
import torch

from tests.worldmodel.corpora import formats
from worldmodel.corpora import open_corpus
from worldmodel.corpora.audio_files import inspect, read
from worldmodel.corpora.recordings import METHOD, audio_paths, identity, listed
from worldmodel.corpora.resampling import resample


def write_folder(folder, names, seed=0, rate=16_000, samples=(1_000, 9_000)):
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = formats.wav_bytes(formats.speech(rng, int(rng.integers(*samples))), rate)
        (folder / name).write_bytes(content)
    return folder


def splits(corpus):
    return corpus.train, corpus.held_out, corpus.test


def all_sequences(split):
    """Every sequence of a split without its padding."""
    return [
        event[mask.bool()] for batch in split.batches(3) for event, mask in zip(batch.event, batch.mask, strict=True)
    ]


def recording_names(split):
    return {recording.name for recording in split.recordings}


@pytest.fixture
def timit(tmp_path):
    return open_corpus(f"timit:{formats.write_timit(tmp_path)}")


@pytest.fixture
def blizzard(tmp_path):
    folder = write_folder(tmp_path, [f"{n // 5}/{n:02d}.wav" for n in range(20)], samples=(900, 5_000))
    return open_corpus(f"blizzard:{folder}", segment_length=800)


@pytest.fixture(params=["timit", "blizzard"])
def corpus(request):
    return request.getfixturevalue(request.param)


def test_timit_keeps_its_test_split_and_holds_out_speakers(timit):
    speakers = [{name.split("/")[1] for name in recording_names(split)} for split in splits(timit)]
    assert [len(split) for split in speakers] == [3, 1, 1]
    assert speakers[2] == {"FEEE0"}
    assert not speakers[0] & speakers[1]
    assert speakers[0] | speakers[1] == {"FAAA0", "MBBB0", "FCCC0", "MDDD0"}
    assert [len(split) for split in splits(timit)] == [12, 4, 4]


@pytest.mark.parametrize(
    ("case", "ending"), [(str.lower, ".wav"), (str.upper, ".WAV"), (str.title, ".WAV.wav"), (str, ".sph")]
)
def test_timit_is_read_in_any_letter_case(tmp_path, timit, case, ending):
    other = open_corpus(f"timit:{formats.write_timit(tmp_path / 'a' / 'timit', case=case, ending=ending)}")
    assert [split.identity for split in splits(other)] == [split.identity for split in splits(timit)]


def test_copies_of_sentences_are_read_once(tmp_path, timit):
    for path in tmp_path.rglob("*.WAV"):
        (path.parent / f"{path.name}.wav").write_bytes(formats.wav_bytes(np.zeros(5_000)))
        (path.parent / f"._{path.name}").write_bytes(b"macOS")
    assert open_corpus(f"timit:{tmp_path}").train.identity == timit.train.identity


def test_timit_can_exclude_the_sa_sentences(tmp_path):
    corpus = open_corpus(f"timit:{formats.write_timit(tmp_path)}", include_sa=False)
    assert {name.split("/")[2] for split in splits(corpus) for name in recording_names(split)} == {"SX7", "SI1001"}


def test_speaker_in_two_splits_is_refused(tmp_path):
    with pytest.raises(ValueError, match="FAAA0"):
        open_corpus(f"timit:{formats.write_timit(tmp_path, test=('faaa0',))}")


def test_timit_without_test_speakers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="TEST"):
        open_corpus(f"timit:{formats.write_timit(tmp_path, test=())}")


def test_accent_is_split_by_speaker_in_any_folder(tmp_path):
    files = [f"{language}/{language}{n}.wav" for language in ("english", "dutch") for n in range(20)]
    corpus = open_corpus(f"accent:{write_folder(tmp_path, [*files, 'more/English3.wav'])}")
    speakers = [{name.split("/")[-1].lower() for name in recording_names(split)} for split in splits(corpus)]
    assert [len(split) for split in speakers] == [36, 2, 2]
    assert len(set.union(*speakers)) == 40
    assert corpus.train.normalizer.segmentation.segment_length is None


def test_every_file_is_in_exactly_one_split(blizzard):
    found = [recording_names(split) for split in splits(blizzard)]
    assert [len(split) for split in found] == [18, 1, 1]
    assert len(set.union(*found)) == 20


def test_split_depends_on_the_seed(tmp_path):
    folder = write_folder(tmp_path, [f"{n}.wav" for n in range(20)])
    first, again, other = (open_corpus(f"audio:{folder}", segment_length=800, seed=seed) for seed in (0, 0, 1))
    assert [recording_names(split) for split in splits(first)] == [recording_names(split) for split in splits(again)]
    assert [recording_names(split) for split in splits(first)] != [recording_names(split) for split in splits(other)]


def test_sequences_cover_the_files_exactly_once(corpus):
    for split in splits(corpus):
        samples = corpus.to_data(torch.cat(all_sequences(split))[None])[0].numpy()
        files = [resample(item.audio, 16_000, 0, item.num_used_samples) for item in split.recordings]
        assert len(samples) == sum(map(len, files))
        assert np.sort(samples) == pytest.approx(np.sort(np.concatenate(files)), abs=1e-6)
        step = corpus.dimensions or 200
        dropped = [item.audio.num_samples - item.num_used_samples for item in split.recordings]
        assert all(0 <= num_dropped < step for num_dropped in dropped)
        assert split.describe()["dropped_samples"] == sum(dropped)


def test_every_timit_sentence_is_one_sequence(timit):
    files = {item.name: resample(item.audio, 16_000, 0, item.num_used_samples) for item in timit.test.recordings}
    sequences = [timit.to_data(frames[None])[0].numpy() for frames in all_sequences(timit.test)]
    for samples in files.values():
        assert any(
            len(sequence) == len(samples) and sequence == pytest.approx(samples, abs=1e-6) for sequence in sequences
        )


def test_training_split_has_mean_zero_and_standard_deviation_one(corpus):
    values = torch.cat(all_sequences(corpus.train)).double()
    assert float(values.mean()) == pytest.approx(0, abs=1e-6)
    assert float(values.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert all(split.normalizer is corpus.train.normalizer for split in splits(corpus))
    assert abs(float(torch.cat(all_sequences(corpus.test)).double().std() - 1)) > 1e-6


def test_normalizer_does_not_depend_on_the_block_size(corpus, monkeypatch):
    expected = corpus.train.normalizer.mean, corpus.train.normalizer.std
    monkeypatch.setattr("worldmodel.corpora.recordings.BLOCK", 333)
    assert corpus.train.normalizer._measured() == pytest.approx(expected, rel=1e-12)


def test_padding_is_masked_and_zero(timit):
    batch = timit.train.batch(16, np.random.default_rng(0))
    assert batch.event.shape[2] == timit.event_dim == 200
    assert batch.event.shape[1] == int(batch.mask.sum(1).max())
    assert (batch.mask.sum(1) < batch.event.shape[1]).any()
    assert (batch.event[batch.mask == 0] == 0).all()
    assert (batch.mask.diff(dim=1) <= 0).all()  # ones, then zeros
    assert (batch.log_jacobian == 0).all()


def test_segments_are_never_padded(blizzard):
    batch = blizzard.train.batch(16, np.random.default_rng(0))
    assert batch.event.shape == (16, 4, 200)
    assert (batch.mask == 1).all()


def test_the_same_generator_draws_the_same_batch(corpus):
    first, again, other = (corpus.train.batch(8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not (first.event.shape == other.event.shape and first.event.equal(other.event))
    passes = [list(corpus.held_out.batches(3)) for _ in range(2)]
    assert all(a.event.equal(b.event) for a, b in zip(*passes, strict=True))


def test_split_keeps_the_recordings_of_a_speaker_together(timit):
    training, held_out = timit.train.split(0.34, seed=5)
    groups = [{item.group for item in split.recordings} for split in (training, held_out)]
    assert [len(split) for split in groups] == [2, 1]
    assert not groups[0] & groups[1]
    assert training.normalizer is timit.train.normalizer
    assert training.identity != held_out.identity
    assert timit.train.split(0.34, seed=5)[0].identity == training.identity
    with pytest.raises(ValueError, match="held_out"):
        timit.train.split(1.5, seed=0)
    with pytest.raises(ValueError, match=r"\b1\b"):
        held_out.split(0.5, seed=0)


def test_other_sample_rates_and_channels_are_converted(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        samples = np.stack([formats.speech(rng, 44_100)] * 2, axis=1)
        (tmp_path / f"{number}.wav").write_bytes(formats.wav_bytes(samples, 44_100, "i3"))
    corpus = open_corpus(f"audio:{tmp_path}", segment_length=4_000)
    assert [len(split) for split in splits(corpus)] == [12, 4, 4]
    assert corpus.train.describe()["hours"] == pytest.approx(3 / 3600)


def test_description_has_resampled_files_and_method(tmp_path, monkeypatch):
    folder = write_folder(tmp_path, [f"{n}.wav" for n in range(5)])
    at_16k = open_corpus(f"audio:{folder}", segment_length=800)
    assert METHOD not in at_16k.protocol
    write_folder(folder, ["5.wav", "6.wav"], rate=44_100, samples=(9_000, 9_001))
    write_folder(folder, ["7.wav"], rate=44_100, samples=(100, 101))  # shorter than a sequence
    corpus = open_corpus(f"audio:{folder}", segment_length=800)
    assert METHOD in corpus.describe()["protocol"]
    assert sum(split["resampled_files"] for split in corpus.describe()["parts"].values()) == 2
    before = [
        identity(opened.train.recordings + opened.held_out.recordings + opened.test.recordings)
        for opened in (at_16k, corpus)
    ]
    monkeypatch.setattr("worldmodel.corpora.recordings.METHOD", "sinc, but another")
    after = [
        identity(opened.train.recordings + opened.held_out.recordings + opened.test.recordings)
        for opened in (at_16k, corpus)
    ]
    assert after[0] == before[0] and after[1] != before[1]


def test_mp3_recordings_are_read(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    for number in range(4):
        soundfile.write(tmp_path / f"english{number}.mp3", formats.speech(rng, 44_100), 44_100, format="MP3")
    corpus = open_corpus(f"accent:{tmp_path}")
    assert corpus.train.batch(2, rng).event.shape == (2, 80, 200)
    assert float(torch.cat(all_sequences(corpus.train)).std()) == pytest.approx(1, abs=1e-4)
    before = corpus.train.identity
    for path in audio_paths(tmp_path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2 :] = content[len(content) // 2 :][::-1]
        path.write_bytes(content)
    recordings = corpus.train.recordings
    assert identity(recordings) not in before and listed(recordings) in before


def test_corpus_is_not_loaded_into_memory(tmp_path):
    folder = write_folder(tmp_path, [f"{n}.wav" for n in range(8)], samples=(400_000, 400_001))  # 6.4 MB
    tracemalloc.start()
    corpus = open_corpus(f"blizzard:{folder}")
    peak_after_opening = tracemalloc.get_traced_memory()[1]
    assert len(corpus.train.batch(4, np.random.default_rng(0)).event) == 4  # includes the pass for the normalizer
    for _ in corpus.train.batches(4):
        pass
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_after_opening < 2**18
    assert current < 2**20
    assert peak < 2**18 * 8 * 4  # a few blocks of double precision


def test_normalizer_is_cached_in_the_given_file(tmp_path):
    folder, cache = write_folder(tmp_path / "a", [f"{n}.wav" for n in range(5)]), tmp_path / "kept" / "scale.json"
    first = open_corpus(f"audio:{folder}", segment_length=800, cache=cache)
    scale = first.describe()["scale"]
    assert json.loads(cache.read_text())["mean"] == scale["mean"]
    again = open_corpus(f"audio:{folder}", segment_length=800, cache=cache)
    again.normalizer._measured = None  # not measured again
    assert again.describe() == first.describe()
    with pytest.raises(ValueError, match=r"scale\.json"):
        open_corpus(f"audio:{folder}", segment_length=800, seed=3, cache=cache).describe()
    cache.write_text(json.dumps(json.loads(cache.read_text()) | {"std": 0.0}))
    with pytest.raises(ValueError, match=r"scale\.json.*\b0\.0\b"):
        open_corpus(f"audio:{folder}", segment_length=800, cache=cache).describe()


def overwrite_samples(folder, change):
    """Replace the samples of all files in ``folder`` with ``change(samples)``; names and lengths stay."""
    for path in audio_paths(folder):
        sound = inspect(path)
        path.write_bytes(formats.wav_bytes(change(read(sound, 0, sound.num_samples)), sound.sample_rate))
    return folder


@pytest.mark.parametrize("change", [lambda x: x / 2, lambda x: x[::-1], lambda x: np.r_[x[:500], -x[500:]]])
def test_identity_depends_on_the_samples(tmp_path, change):
    folder, cache = write_folder(tmp_path / "a", [f"{n}.wav" for n in range(5)]), tmp_path / "scale.json"
    first = open_corpus(f"audio:{folder}", segment_length=800, cache=cache)
    before = [split.identity for split in splits(first)]
    assert first.describe()
    again = open_corpus(f"audio:{overwrite_samples(folder, change)}", segment_length=800, cache=cache)
    assert all(new != old for new, old in zip([split.identity for split in splits(again)], before, strict=True))
    with pytest.raises(ValueError, match=r"scale\.json"):
        again.describe()


def test_cached_scale_without_sample_identity_is_measured_again(tmp_path):
    folder, cache = write_folder(tmp_path / "a", [f"{n}.wav" for n in range(5)]), tmp_path / "scale.json"
    first = open_corpus(f"audio:{folder}", segment_length=800, cache=cache)
    scale = first.describe()["scale"]
    older = json.loads(cache.read_text()) | {"recordings": listed(first.train.recordings)}
    cache.write_text(json.dumps(older))
    assert open_corpus(f"audio:{folder}", segment_length=800, cache=cache).describe()["scale"] == scale
    assert json.loads(cache.read_text())["recordings"] == first.normalizer.identity
    cache.write_text(json.dumps(older))
    other = open_corpus(f"audio:{overwrite_samples(folder, lambda x: x / 2)}", segment_length=800, cache=cache)
    with pytest.raises(ValueError, match=r"scale\.json"):
        other.describe()


def test_silent_corpus_is_refused(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.wav").write_bytes(formats.wav_bytes(np.zeros(1_000)))
    corpus = open_corpus(f"audio:{tmp_path}", segment_length=800)
    with pytest.raises(ValueError, match=r"\b1600\b"):
        corpus.train.batch(1, np.random.default_rng(0))


def test_a_damaged_file_is_named(tmp_path):
    folder = write_folder(tmp_path, [f"{n}.wav" for n in range(4)])
    (folder / "2.wav").write_bytes((folder / "2.wav").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"2\.wav"):
        open_corpus(f"audio:{folder}", segment_length=800)


def test_short_recordings_are_left_out(tmp_path):
    folder = write_folder(tmp_path, [f"{n}.wav" for n in range(4)])
    write_folder(tmp_path, ["short.wav", "empty.wav"], samples=(0, 100))
    corpus = open_corpus(f"audio:{folder}", segment_length=800)
    assert [len(split.recordings) for split in splits(corpus)] == [2, 1, 1]
    assert re.search(r"\b2\b", corpus.protocol)
    with pytest.raises(ValueError, match="audio"):
        open_corpus(f"audio:{folder}", segment_length=80_000)


def test_long_recording_without_segments_is_refused(tmp_path):
    rate, samples = 1_000, 1_900_000  # 1,900 seconds
    path = tmp_path / "1.wav"
    path.write_bytes(formats.wav_bytes(np.zeros(100), rate, "u1")[:40] + np.uint32(samples).tobytes())
    with path.open("r+b") as file:
        file.truncate(44 + samples)
    with pytest.raises(ValueError, match=r"1\.wav.*\bsegment_length\b"):
        open_corpus(f"accent:{tmp_path}")


@pytest.mark.parametrize("options", [{"segment_length": 801}, {"segment_length": 0}, {"frame": 0}], ids=str)
def test_bad_options_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} "):
        open_corpus(f"audio:{write_folder(tmp_path, ['1.wav', '2.wav', '3.wav'])}", **options)


def test_to_data_restores_the_samples(corpus):
    batch = corpus.test.batch(3, np.random.default_rng(0))
    samples = corpus.to_data(batch.event)
    assert samples.shape == (3, batch.event.shape[1] * 200)
    assert samples.dtype == torch.float32
    again = torch.from_numpy(corpus.normalizer.events(samples.flatten().numpy())).reshape(batch.event.shape)
    assert again.numpy() == pytest.approx(batch.event.numpy(), abs=1e-5)


def test_description_has_unit_scale_and_protocol(corpus):
    description = json.loads(json.dumps(corpus.describe(), allow_nan=False))
    assert description["unit"].startswith("nats")
    assert description["scale"]["rate"] == 16_000
    levels = corpus.normalizer.events(np.arange(200) * 2**-15)[0]
    assert description["scale"]["ceiling"] == pytest.approx(-np.log(np.diff(levels).mean()), abs=1e-3)
    assert description["parts"]["train"]["sequences"] == len(corpus.train)
    assert "seed 0" in description["protocol"]
    assert "200" in description["protocol"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def unreadable(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", unreadable)
    with pytest.raises(ValueError, match="closed"):
        audio_paths(tmp_path / "closed")
