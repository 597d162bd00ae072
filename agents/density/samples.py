"""Samples of a density: WAV files of speech, written while they are drawn, and pictures of images.

Start reading at `sample_density`.
"""

import contextlib
import math
import os
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from worldmodel.agents.analysis import video
from worldmodel.agents.density.config import DensityConfig
from worldmodel.agents.density.runs import SpeechScale, load_density, load_scale, open_matching_corpus
from worldmodel.corpora.images import Dequantisation
from worldmodel.io.files import atomic, error_context, read_json
from worldmodel.io.paths import expand, folder_path
from worldmodel.rollouts import pictures
from worldmodel.training.devices import resolve_device
from worldmodel.training.progress import Progress, silent
from worldmodel.validation import validate_positive_int, validate_seed, validate_temperature

SECONDS = 5.0
"""Default length of a sample of speech, in seconds."""
GIVEN_SECONDS = 1.0
"""Default length of the start of a recording that `continue_speech` continues, in seconds."""
MAX_WAV_SAMPLES = (2**32 - 1 - 36) // 2
"""Largest number of 16-bit samples in a WAV file, whose header stores the number of their bytes plus 36 in 32 bits."""
MAX_COUNT = {"speech": 128, "image": 10_000}
"""Largest number of samples of one call. Each sample of speech is an open file."""
MAX_TOTAL_VALUES = 2**28
"""Largest number of values of all images of one call: a gigabyte in single precision."""
MAX_COLUMNS = 32
"""Largest number of completed images side by side."""


class Samples(NamedTuple):
    """Result of `sample_density`.

    Args:
        paths: Paths of the written files.
        speed: Seconds of speech, of all files together, drawn in a second; None for images.
        clipped: Fraction of the audio samples that were clipped to full scale.
    """

    paths: list[Path]
    speed: float | None
    clipped: float


def sample_density(
    folder: str | os.PathLike[str],
    count: int = 4,
    temperature: float = 1.0,
    seed: int = 1,
    out: str | os.PathLike[str] | None = None,
    length: float | None = None,
    progress: Progress = silent,
) -> Samples:
    """Draw samples from a density: 16-bit WAV files of speech, written while they are drawn, or one picture of images.

    Args:
        folder: Path of the run folder of `fit_density`; the corpus itself is not needed.
        count: Number of samples. One random generator draws all of them at once.
        temperature: Sampling temperature, above zero (`worldmodel.distributions.GaussianMixture.sample`).
        seed: Random seed, from 0 to 2**63 - 1.
        out: Path of the output folder. None: ``folder/samples``.
        length: Length of a sample: seconds of speech (None: 5), or number of rows of an image (None: all).
        progress: Callback ``progress(events, total, "")``.

    Returns:
        The paths of the files, the speed and the fraction of clipped samples.

    Raises:
        ValueError: an argument is out of range, the folder has no trained density, or samples became NaN or infinite.
    """
    _validate(count, temperature, seed, length)
    model, _, scale = _load(folder, count)
    out_dir, name = folder_path(out or expand(folder) / "samples", "out"), f"t{temperature:g}-s{seed}"
    generator = torch.Generator(resolve_device()).manual_seed(seed)
    if isinstance(scale, SpeechScale):
        if length is not None and length * scale.rate > MAX_WAV_SAMPLES:
            maximum = MAX_WAV_SAMPLES / scale.rate
            raise ValueError(f"length must be at most {maximum:.0f} seconds, the limit of a WAV file, got {length:g}")
        paths = [out_dir / f"{name}-{index}.wav" for index in range(count)]
        return _write_speech(
            model, scale, paths, SECONDS if length is None else length, temperature, generator, progress
        )
    if length is not None:
        if length != int(length) or length > scale.height:
            raise ValueError(f"length must be a whole number of rows, at most {scale.height}, got {length:g}")
        scale = scale._replace(height=int(length))
    events = model.sample(scale.dimensions // scale.event_dim, count, temperature, generator)
    path = out_dir / f"{name}.png"
    video.write_png(path, pictures.grid(square(coloured(scale.to_data(events.cpu()).numpy()))))
    return Samples([path], None, 0.0)


def stream_speech(
    folder: str | os.PathLike[str], temperature: float = 1.0, seed: int = 1, length: float | None = None
) -> Iterator[bytes]:
    """Draw one sample of speech frame by frame: 16-bit little-endian mono PCM at 16 kHz, for a pipe or a sound device.

    Args:
        folder: Path of the run folder of `fit_density`.
        temperature: Sampling temperature, above zero.
        seed: Random seed, from 0 to 2**63 - 1; the samples are those of ``sample_density(count=1)``.
        length: Length in seconds. None: without end.

    Yields:
        The bytes of each frame.

    Raises:
        ValueError: an argument is out of range, the density is of images, or samples became NaN or infinite.
    """
    _validate(1, temperature, seed, length)
    model, _, scale = _load(folder, 1)
    if not isinstance(scale, SpeechScale):
        raise ValueError(f"only speech can be streamed, got a density of images: {folder}")
    samples = None if length is None else max(round(length * scale.rate), 1)
    frames = None if samples is None else math.ceil(samples / scale.frame)
    generator = torch.Generator(resolve_device()).manual_seed(seed)
    for number, (_, pcm) in enumerate(_pcm_frames(model, scale, frames, 1, temperature, generator)):
        left = scale.frame if samples is None else samples - number * scale.frame
        yield pcm[0, :left].tobytes()


def continue_speech(
    folder: str | os.PathLike[str],
    count: int = 4,
    temperature: float = 1.0,
    seed: int = 1,
    out: str | os.PathLike[str] | None = None,
    length: float | None = None,
    data: str | None = None,
    given: float = GIVEN_SECONDS,
    progress: Progress = silent,
) -> Samples:
    """Continue the starts of test recordings; write WAV files, each with the given start and what the density draws after it.

    Args:
        folder: Path of the run folder of `fit_density`.
        count: Number of recordings, the first of a fixed random order of those that are long enough.
        temperature: Sampling temperature, above zero (`worldmodel.distributions.GaussianMixture.sample`).
        seed: Random seed, from 0 to 2**63 - 1.
        out: Path of the output folder. None: ``folder/samples``.
        length: Length of the continuation in seconds. None: 5.
        data: KIND:FOLDER of the corpus, if it has moved or is another one. None: that of the run.
        given: Length of the start in seconds, rounded to whole frames.
        progress: Callback ``progress(events, total, "")``.

    Returns:
        The paths of the files, the speed and the fraction of clipped samples.

    Raises:
        ValueError: an argument is out of range, the density is of images, the corpus is of another kind, or it has too few
            recordings of this length.
    """
    _validate(count, temperature, seed, length)
    model, settings, scale = _load(folder, count)
    if not isinstance(scale, SpeechScale):
        raise ValueError(f"only speech can be continued, got a density of images: {folder}")
    corpus = open_matching_corpus(settings, folder, model, data)
    samples = max(round(given * scale.rate / scale.frame), 1) * scale.frame
    starts = corpus.test.starts(count, samples)  # type: ignore[attr-defined]  # of `Recordings`
    if len(starts) < count:
        raise ValueError(f"count must be at most {len(starts)}, the test recordings of {given:g} seconds, got {count}")
    generator = torch.Generator(resolve_device()).manual_seed(seed)
    out_dir = folder_path(out or expand(folder) / "samples", "out")
    paths = [out_dir / f"continued-t{temperature:g}-s{seed}-{index}.wav" for index in range(count)]
    seconds = SECONDS if length is None else length
    return _write_speech(model, scale, paths, seconds, temperature, generator, progress, starts)


def _pcm_frames(
    model: Any,
    scale: SpeechScale,
    frames: int | None,
    count: int,
    temperature: float,
    generator: torch.Generator,
    prefix: torch.Tensor | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Draw frames of ``count`` samples; yield the number of clipped audio samples and the PCM (count, frame) of each."""
    for number, event in enumerate(model.stream(frames, count, temperature, generator, prefix)):
        audio = event.double().mul(scale.std).add(scale.mean).cpu().numpy()
        if not np.isfinite(audio).all():
            raise ValueError(
                f"samples became NaN or infinite after {number * scale.frame / scale.rate:.1f} s: use a lower temperature"
            )
        yield int((np.abs(audio) > 1).sum()), to_pcm(audio)


def complete_images(
    folder: str | os.PathLike[str],
    count: int = 4,
    temperature: float = 1.0,
    seed: int = 1,
    out: str | os.PathLike[str] | None = None,
    data: str | None = None,
) -> Path:
    """Draw the lower halves of test images, given the upper halves; write a picture with three rows: given, completed, true.

    Args:
        folder: Path of the run folder of `fit_density`.
        count: Number of images, the first of the test part's fixed order.
        temperature: Sampling temperature, above zero (`worldmodel.distributions.GaussianMixture.sample`).
        seed: Random seed, from 0 to 2**63 - 1.
        out: Path of the output folder. None: ``folder/samples``.
        data: KIND:FOLDER of the corpus, if it has moved. None: that of the run.

    Returns:
        The path of the picture.

    Raises:
        ValueError: an argument is out of range, the density is of speech or of images with a single row, or the corpus is of
            another kind or size.
    """
    _validate(count, temperature, seed)
    model, settings, scale = _load(folder, count)
    if isinstance(scale, SpeechScale):
        raise ValueError(f"only images can be completed, got a density of speech: {folder}")
    if scale.height < 2:
        raise ValueError(
            f"only images with at least 2 rows can be completed, got a density of images with 1 row: {folder}"
        )
    corpus = open_matching_corpus(settings, folder, model, data)
    if corpus.normalizer != scale:
        raise ValueError(f"images must match those of {folder}, {scale}, got {corpus.normalizer}")
    event = next(iter(corpus.test.batches(count))).event
    generator = torch.Generator(resolve_device()).manual_seed(seed)
    num_given = scale.height // 2 * (scale.dimensions // scale.event_dim // scale.height)
    lower = model.sample(
        event.shape[1] - num_given,
        temperature=temperature,
        generator=generator,
        prefix=event[:, :num_given].to(resolve_device()),
    )
    true = coloured(corpus.to_data(event).numpy())
    completed = coloured(corpus.to_data(torch.cat((event[:, :num_given], lower.cpu()), dim=1)).numpy())
    given = true.copy()
    given[:, scale.height // 2 :] = 128
    path = folder_path(out or expand(folder) / "samples", "out") / f"completed-t{temperature:g}-s{seed}.png"
    blocks = [slice(first, first + MAX_COLUMNS) for first in range(0, len(true), MAX_COLUMNS)]
    video.write_png(path, pictures.grid([part[block] for block in blocks for part in (given, completed, true)]))
    return path


def can_be_completed(folder: str | os.PathLike[str]) -> bool:
    """Return whether the images of a density have a lower half."""
    path = expand(folder) / "corpus.json"
    with error_context(path):
        return bool(read_json(path)["scale"]["height"] > 1)


def _validate(count: int, temperature: float, seed: int, length: float | None = None) -> None:
    """Check the arguments of a call that draws samples."""
    if length is not None and not 0 < length < math.inf:
        raise ValueError(f"length must be above zero, got {length}")
    validate_positive_int(count=count)
    validate_temperature(temperature)
    validate_seed(seed)


def _load(folder: str | os.PathLike[str], count: int) -> tuple[Any, DensityConfig, SpeechScale | Dequantisation]:
    """Load the model on the compute device, the settings of its run, and the constants that convert its events to data.

    Raises:
        ValueError: the folder has no trained density, or ``count`` is too large.
    """
    model, settings = load_density(folder)
    scale = load_scale(folder, model, settings.kind)
    maximum = MAX_COUNT[settings.kind]
    if isinstance(scale, Dequantisation):
        maximum = min(maximum, MAX_TOTAL_VALUES // scale.dimensions)
    if count > maximum:
        raise ValueError(f"count must be at most {maximum}, got {count}")
    return model.to(resolve_device()), settings, scale


def _write_speech(
    model: Any,
    scale: SpeechScale,
    paths: list[Path],
    seconds: float,
    temperature: float,
    generator: torch.Generator,
    progress: Progress,
    starts: np.ndarray | None = None,
) -> Samples:
    """Write the samples to all files at once, frame by frame, so that memory use does not grow with the length.

    ``starts`` are samples (count, T x frame) that are written first, and continued.
    """
    rate, frame = scale.rate, scale.frame
    samples, clipped, started = max(round(seconds * rate), 1), 0, time.monotonic()
    frames = math.ceil(samples / frame)
    with contextlib.ExitStack() as files:
        writers = [open_wav(files, path, rate) for path in paths]
        progress(0, frames, "")
        prefix = None
        if starts is not None:
            events = torch.from_numpy((starts - scale.mean) / scale.std).float().unflatten(1, (-1, frame))
            prefix = events.to(generator.device)
            for writer, row in zip(writers, to_pcm(starts), strict=True):
                writer.writeframesraw(row.tobytes())
        drawn = _pcm_frames(model, scale, frames, len(paths), temperature, generator, prefix)
        for number, (too_loud, pcm) in enumerate(drawn):
            clipped += too_loud
            for writer, row in zip(writers, pcm[:, : samples - number * frame], strict=True):
                writer.writeframesraw(row.tobytes())
            progress(number + 1, frames, "")
    speed = len(paths) * samples / rate / max(time.monotonic() - started, 1e-9)
    return Samples(paths, speed, clipped / (len(paths) * frames * frame))


def to_pcm(audio: np.ndarray) -> np.ndarray:
    """Convert audio samples, full scale from -1 to 1, to 16-bit integers."""
    return np.round(np.asarray(audio, np.float64) * 2**15).clip(-(2**15), 2**15 - 1).astype("<i2")


def open_wav(files: contextlib.ExitStack, path: Path, rate: int) -> wave.Wave_write:
    """Open a 16-bit mono WAV file until ``files`` closes it; it replaces ``path`` only if no error occurs."""
    temporary = files.enter_context(atomic(path))
    writer = files.enter_context(wave.open(str(temporary), "wb"))  # noqa: SIM115 - `files` closes it
    writer.setparams((1, 2, rate, 0, "NONE", "not compressed"))
    return writer


def coloured(images: np.ndarray) -> np.ndarray:
    """Return grayscale bytes (N, H, W) or color bytes (N, H, W, 3) as (N, H, W, 3)."""
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=-1)


def square(images: np.ndarray) -> list[np.ndarray]:
    """Split images into the rows of an almost square grid."""
    width = math.ceil(math.sqrt(len(images)))
    return [images[first : first + width] for first in range(0, len(images), width)]
