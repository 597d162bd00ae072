"""Headers and samples of audio files: valid, damaged and hostile files."""

import builtins
import itertools
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worldmodel.corpora import formats
from worldmodel.corpora.audio_files import inspect, read
from worldmodel.corpora.resampling import num_samples, resample

STEPS = {"u1": 1 / 128, "i2": 2**-15, "i3": 2**-23, "i4": 2**-24, "f4": 2**-24, "f8": 2**-24}


def signal(samples=1_001, channels=None, seed=0):
    shape = samples if channels is None else (samples, channels)
    return np.random.default_rng(seed).uniform(-0.9, 0.9, shape)


def put(tmp_path, content, name="x.wav"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("channels", [None, 2, 5])
@pytest.mark.parametrize("kind", STEPS)
def test_wav_files_are_read(tmp_path, kind, channels, extensible):
    samples = signal(channels=channels)
    odd = formats.chunk(b"LIST", b"odd")  # padded to an even length
    sound = inspect(put(tmp_path, formats.wav_bytes(samples, 22_050, kind, extensible, before=odd)))
    assert (sound.sample_rate, sound.num_channels, sound.num_samples) == (22_050, channels or 1, 1_001)
    mono = samples if channels is None else samples.mean(axis=1)
    assert read(sound, 0, 1_001) == pytest.approx(mono, abs=STEPS[kind])
    assert np.array_equal(read(sound, 13, 700), read(sound, 0, 1_001)[13:700])
    assert read(sound, 5, 5).shape == (0,)


@pytest.mark.parametrize("order", ["01", "10"])
@pytest.mark.parametrize("header", [1024, 2048])
def test_sphere_with_a_wav_suffix_is_read(tmp_path, order, header):
    samples = signal()
    sound = inspect(put(tmp_path, formats.sphere_bytes(samples, order=order, header=header), "SA1.WAV"))
    assert (sound.sample_rate, sound.num_samples, sound.offset) == (16_000, 1_001, header)
    assert read(sound, 3, 900) == pytest.approx(samples[3:900], abs=2**-15)


def test_sphere_without_a_sample_count_uses_the_file_size(tmp_path):
    assert inspect(put(tmp_path, formats.sphere_bytes(signal(), sample_count__i=None))).num_samples in (1_001,)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "tolerance", "channels"), [("FLAC", 2**-15, 1), ("MP3", 0.05, 2), ("OGG", 0.03, 1)])
def test_soundfile_formats_are_read(tmp_path, form, tolerance, channels):
    soundfile = pytest.importorskip("soundfile")
    samples = 0.5 * np.sin(np.arange(48_000) * 0.05) * np.linspace(0, 1, 48_000)
    path = tmp_path / f"x.{form.lower()}"
    # These MP3 options make the most use of the bit reservoir.
    mode = {"compression_level": 0.5, "bitrate_mode": "VARIABLE"} if form == "MP3" else {}
    soundfile.write(path, np.stack([samples] * channels, axis=1), 16_000, format=form, **mode)
    sound = inspect(path)
    assert sound[1:] == (16_000, channels, 48_000, "soundfile", 0)
    whole = read(sound, 0, 48_000)
    assert whole == pytest.approx(samples, abs=tolerance)
    for start, stop in ((0, 4_000), (4_000, 12_000), (33_333, 48_000)):  # a seek reaches the right sample
        assert read(sound, start, stop) == pytest.approx(whole[start:stop], abs=1e-5)


def test_flac_with_a_wrong_sample_count_is_refused(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "x.flac", signal(5_000), 16_000)
    content = bytearray((tmp_path / "x.flac").read_bytes())
    content[21:26] = bytes([content[21] | 0x0F, 255, 255, 255, 255])  # the 36-bit sample count in STREAMINFO
    with pytest.raises(ValueError, match=r"x\.flac.*68719476735"):
        inspect(put(tmp_path, bytes(content), "x.flac"))
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0x40, 0])  # 16,384: plausible, but wrong
    sound = inspect(put(tmp_path, bytes(content), "x.flac"))
    with pytest.raises(ValueError, match=r"x\.flac"):
        read(sound, 0, sound.num_samples)


def test_missing_soundfile_error_names_the_install_command(tmp_path, monkeypatch):
    original_import = builtins.__import__

    def import_without_soundfile(name, *arguments, **keywords):
        if name == "soundfile":
            raise ImportError(name)
        return original_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", import_without_soundfile)
    assert inspect(put(tmp_path, formats.wav_bytes(signal()))).num_samples == 1_001
    with pytest.raises(ValueError, match=r"x\.mp3.*pip install 'worldmodel\[audio\]'"):
        inspect(put(tmp_path, b"ID3" + bytes(100), "x.mp3"))


def test_wav_with_an_unknown_length_uses_the_file_size(tmp_path):
    content = formats.wav_bytes(signal())
    offset = content.index(b"data") + 4
    assert inspect(put(tmp_path, content[:offset] + b"\xff" * 4 + content[offset + 4 :])).num_samples == 1_001


WAV = formats.wav_bytes(signal(100))
SPHERE = formats.sphere_bytes(signal(100))
DATA = WAV.index(b"data")
HUGE = formats.sphere_bytes(signal(100)).replace(b"   1024", b"9999999")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (WAV[:-10], "200.*190"),  # number of data bytes in the header and in the file
        (WAV[:30], "10"),
        (WAV[:DATA], ""),
        (WAV[:12] + WAV[DATA:] + WAV[12:DATA], "'fmt '"),
        (WAV[: DATA + 4] + struct.pack("<I", 2**32 - 2) + WAV[DATA + 8 :], "4294967294"),
        (WAV[:12] + formats.chunk(b"junk", b"") * 1_001 + WAV[12:], "1000"),
        (formats.wav_bytes(signal(9), rate=2**30), "1073741824"),
        (WAV[:32] + struct.pack("<H", 7) + WAV[34:], "7"),
        (SPHERE[:-2], "100.*99"),
        (SPHERE[:200], "1024.*200"),
        (HUGE, "9999999"),
        (formats.sphere_bytes(signal(9), sample_count__i=10**11), "100000000000"),
        (formats.sphere_bytes(signal(9), sample_count__i="many"), "sample_count"),
        (formats.sphere_bytes(signal(9), sample_n_bytes__i=1), "1"),
        (formats.sphere_bytes(signal(9), sample_coding__s26="pcm,embedded-shorten-v2.00"), "sph2pipe"),
        (formats.sphere_bytes(signal(9), channel_count__i=0), "0"),
        (b"", ""),
        (b"hello", ""),
    ],
    ids=itertools.count(),
)
def test_damaged_audio_files_are_named_and_use_little_memory(tmp_path, content, named):
    path = put(tmp_path, content)
    with formats.assert_peak_memory_below(2**21), pytest.raises(ValueError, match=rf"x\.wav.*{named}"):
        inspect(path)


def test_samples_that_are_not_finite_are_refused(tmp_path):
    for bad in (np.nan, np.inf, 1e300):
        sound = inspect(put(tmp_path, formats.wav_bytes([0.0, bad, 0.0], kind="f8")))
        assert read(sound, 0, 1) == 0
        with pytest.raises(ValueError, match=r"x\.wav"):
            read(sound, 0, 3)


def test_file_that_shrank_after_inspection_is_named(tmp_path):
    sound = inspect(put(tmp_path, WAV))
    sound.path.write_bytes(WAV[:-20])
    with pytest.raises(ValueError, match=r"x\.wav"):
        read(sound, 0, 100)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"y\.wav"):
        inspect(tmp_path / "y.wav")


@settings(max_examples=100, deadline=None)
@given(
    head=st.sampled_from([b"", WAV[:12], WAV[:36], WAV[:44], SPHERE[:16], SPHERE[:300], SPHERE]),
    rest=st.binary(max_size=200),
    place=st.integers(0, 60),
    patch=st.binary(max_size=8),
)
def test_any_bytes_are_read_or_refused(tmp_path_factory, head, rest, place, patch):
    content = head + rest
    content = content[:place] + patch + content[place + len(patch) :]
    path = put(tmp_path_factory.mktemp("any"), content)
    try:
        sound = inspect(path)
        samples = read(sound, 0, min(sound.num_samples, 1_000))
    except ValueError as error:
        assert "x.wav" in str(error)
    else:
        assert np.isfinite(samples).all()


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_keeps_tones_below_both_nyquist_limits(tmp_path, rate):
    seconds, tone = 0.5, 1_000

    def wave(sample_rate):
        time = np.arange(int(seconds * sample_rate)) / sample_rate
        return 0.1 + 0.5 * np.sin(2 * np.pi * tone * time + 0.3)

    sound = inspect(put(tmp_path, formats.wav_bytes(wave(rate), rate, "f4")))
    count = num_samples(sound, 16_000)
    assert abs(count - 8_000) <= 1
    inner = slice(200, count - 200)  # near the ends, the filter includes the silence around the file
    assert resample(sound, 16_000, 0, count)[inner] == pytest.approx(wave(16_000)[:count][inner], abs=2e-4)


@pytest.mark.parametrize("tone", [4_000, 7_000, 7_500])
def test_resampling_keeps_tones_near_the_cut_off(tmp_path, tone):
    def wave(sample_rate):
        return np.sin(2 * np.pi * tone * np.arange(sample_rate // 2) / sample_rate + 0.3)

    sound = inspect(put(tmp_path, formats.wav_bytes(wave(44_100), 44_100, "f4")))
    error = resample(sound, 16_000, 200, 7_800) - wave(16_000)[200:7_800]
    assert np.abs(error).max() < 10 ** (-85 / 20)


@pytest.mark.parametrize("tone", [8_300, 9_000, 15_000])
def test_resampling_removes_tones_above_the_cut_off(tmp_path, tone):
    sound = inspect(
        put(tmp_path, formats.wav_bytes(np.sin(2 * np.pi * tone * np.arange(22_050) / 44_100), 44_100, "f4"))
    )
    assert np.abs(resample(sound, 16_000, 200, 7_800)).max() < 10 ** (-85 / 20)


def test_resampling_does_not_alias_a_high_tone(tmp_path):
    time = np.arange(24_000) / 48_000
    sound = inspect(put(tmp_path, formats.wav_bytes(0.5 * np.sin(2 * np.pi * 11_000 * time), 48_000, "f4")))
    assert np.abs(resample(sound, 16_000, 100, 7_900)).max() < 1e-3  # aliasing would make it a tone of 5,000 Hz


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_resampled_segments_equal_the_resampled_file(tmp_path, rate):
    sound = inspect(put(tmp_path, formats.wav_bytes(signal(40_000), rate)))
    count = num_samples(sound, 16_000)
    whole = resample(sound, 16_000, 0, count)
    boundaries = [0, 1, 200, 8_000, count - 3, count]
    segments = [resample(sound, 16_000, *pair) for pair in itertools.pairwise(boundaries)]
    assert whole.shape == (count,)
    assert np.concatenate(segments) == pytest.approx(whole, abs=1e-6)


def test_named_pipe_is_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "x.wav")
    with pytest.raises(ValueError, match=r"x\.wav"):
        inspect(tmp_path / "x.wav")


def test_samples_far_beyond_full_scale_are_refused(tmp_path):
    sound = inspect(put(tmp_path, formats.wav_bytes([0.0, -2e4, 9e3], kind="f4")))
    assert read(sound, 2, 3) == 9e3
    with pytest.raises(ValueError, match=r"x\.wav.*\b10000\b"):
        read(sound, 0, 3)
