"""Samples of a learned density that can be heard or seen: WAV files written as they are drawn, pictures of images.

Start reading at `sample_density`.
"""

import contextlib
import math
import os
import time
import wave
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from agents import video
from agents.density.config import DensityConfig
from agents.density.runs import SpeechScale, load_density, load_scale, open_moved
from worldmodel import distributed
from worldmodel.corpora.images import Dequantisation
from worldmodel.io import atomic, error_context, read_json
from worldmodel.paths import expand, folder_path
from worldmodel.progress import Progress, silent
from worldmodel.validation import validate_positive_int, validate_seed, validate_temperature

SECONDS = 5.0
"""Of speech, unless it is said."""
LONGEST = (2**32 - 1 - 36) // 2
"""Samples of 16 bit: the header of a WAV file has 32 bits for their bytes, and 36 more of its own."""
MOST = {"speech": 128, "image": 10_000}
"""Samples of a call: speech is written to as many open files."""
NUMBERS = 2**28
"""Of all images of a call together: a gigabyte."""
BESIDE = 32
"""At most so many completed images stand beside each other."""


class Samples(NamedTuple):
    """What `sample_density` wrote."""

    paths: list[Path]
    speed: float | None
    """Of speech: seconds drawn, of all files together, in a second."""
    clipped: float
    """The share of samples of speech beyond full scale, which were cut to it."""


def sample_density(
    folder: str | os.PathLike[str],
    count: int = 4,
    temperature: float = 1.0,
    seed: int = 1,
    out: str | os.PathLike[str] | None = None,
    length: float | None = None,
    progress: Progress = silent,
) -> Samples:
    """Draw from a learned density: WAV files of 16 bit, written as they are drawn; or one picture of images.

    Args:
        folder: of `fit_density`; the corpus itself is not needed.
        count: how many, all drawn at once from one source of randomness.
        temperature: see `worldmodel.distributions.GaussianMixture.sample`.
        seed: of all that is drawn, from 0 to 2**63 - 1.
        out: folder to write to; None: ``folder/samples``.
        length: of speech seconds, 5 unless it is said; of images rows, all of an image unless it is said.
        progress: called as ``progress(events, all of them, "")``.

    Raises:
        ValueError: an argument is out of range, there is no learned density, or samples stopped being numbers.
    """
    _check(count, temperature, seed)
    if length is not None and not 0 < length < math.inf:
        raise ValueError(f"length must be above zero, got {length}")
    model, _, scale = _learned(folder, count)
    place, name = folder_path(out or expand(folder) / "samples", "out"), f"t{temperature:g}-s{seed}"
    generator = torch.Generator(distributed.device()).manual_seed(seed)
    if isinstance(scale, SpeechScale):
        if length is not None and length * scale.rate > LONGEST:
            most = LONGEST / scale.rate
            raise ValueError(f"length must be at most {most:.0f} seconds, which a WAV file can hold, got {length:g}")
        paths = [place / f"{name}-{index}.wav" for index in range(count)]
        return _speak(model, scale, paths, SECONDS if length is None else length, temperature, generator, progress)
    if length is not None:
        if length != int(length) or length > scale.height:
            raise ValueError(f"length must be whole rows, at most {scale.height}, got {length:g}")
        scale = scale._replace(height=int(length))
    events = model.sample(scale.dimensions // scale.event_dim, count, temperature, generator)
    path = place / f"{name}.png"
    video.write_png(path, video.grid(rows(coloured(scale.to_data(events.cpu()).numpy()))))
    return Samples([path], None, 0.0)


def complete_images(
    folder: str | os.PathLike[str],
    count: int = 4,
    temperature: float = 1.0,
    seed: int = 1,
    out: str | os.PathLike[str] | None = None,
    data: str | None = None,
) -> Path:
    """Complete the lower halves of test images; a picture with three rows: given, completed, true.

    Args:
        folder: of `fit_density`.
        count: the first so many of the test part's fixed order.
        temperature: see `worldmodel.distributions.GaussianMixture.sample`.
        seed: of all that is drawn.
        out: folder to write to; None: ``folder/samples``.
        data: KIND:FOLDER, where the corpus lies now; None: where it was learned from.

    Raises:
        ValueError: an argument is out of range, the density is one of speech, or of images with a single row, or the corpus
            is of another kind or size.
    """
    _check(count, temperature, seed)
    model, settings, scale = _learned(folder, count)
    if isinstance(scale, SpeechScale):
        raise ValueError(f"only images can be completed, {folder} is a density of speech")
    if scale.height < 2:
        raise ValueError(f"only images with a lower half can be completed, those of {folder} have a single row")
    corpus = open_moved(settings, folder, model, data)
    if corpus.normalizer != scale:
        raise ValueError(f"images must be as {folder} learned them, {scale}, got {corpus.normalizer}")
    event = next(iter(corpus.test.batches(count))).event
    generator = torch.Generator(distributed.device()).manual_seed(seed)
    half = scale.height // 2 * (scale.dimensions // scale.event_dim // scale.height)
    rest = model.sample(
        event.shape[1] - half,
        temperature=temperature,
        generator=generator,
        prefix=event[:, :half].to(distributed.device()),
    )
    true = coloured(corpus.to_data(event).numpy())
    completed = coloured(corpus.to_data(torch.cat((event[:, :half], rest.cpu()), dim=1)).numpy())
    given = true.copy()
    given[:, scale.height // 2 :] = 128
    path = folder_path(out or expand(folder) / "samples", "out") / f"completed-t{temperature:g}-s{seed}.png"
    blocks = [slice(first, first + BESIDE) for first in range(0, len(true), BESIDE)]
    rows = [_full(part[block], min(len(true), BESIDE)) for block in blocks for part in (given, completed, true)]
    video.write_png(path, video.grid(rows))
    return path


def can_be_completed(folder: str | os.PathLike[str]) -> bool:
    """Whether a density's images have a lower half."""
    path = expand(folder) / "corpus.json"
    with error_context(path):
        return bool(read_json(path)["scale"]["height"] > 1)


def _check(count: int, temperature: float, seed: int) -> None:
    validate_positive_int(count=count)
    validate_temperature(temperature)
    validate_seed(seed)


def _learned(folder: str | os.PathLike[str], count: int) -> tuple[Any, DensityConfig, SpeechScale | Dequantisation]:
    """The model, on the device that computes, the settings of its run, and how its events become data.

    Raises:
        ValueError: there is none, or ``count`` samples of it are too many.
    """
    model, settings = load_density(folder)
    scale = load_scale(folder, model, settings.kind)
    most = MOST[settings.kind]
    if isinstance(scale, Dequantisation):
        most = min(most, NUMBERS // scale.dimensions)
    if count > most:
        raise ValueError(f"count must be at most {most}, got {count}")
    return model.to(distributed.device()), settings, scale


def _speak(
    model: Any,
    scale: SpeechScale,
    paths: list[Path],
    seconds: float,
    temperature: float,
    generator: torch.Generator,
    progress: Progress,
) -> Samples:
    """Write what is drawn to all files at once, frame by frame: memory does not grow with the length."""
    rate, frame = scale.rate, scale.frame
    samples, clipped, began = max(round(seconds * rate), 1), 0, time.monotonic()
    frames = math.ceil(samples / frame)
    with contextlib.ExitStack() as files:
        writers = [wav(files, path, rate) for path in paths]
        progress(0, frames, "")
        for number, event in enumerate(model.stream(frames, len(paths), temperature, generator)):
            sound = event.double().mul(scale.std).add(scale.mean).cpu().numpy()
            if not np.isfinite(sound).all():
                raise ValueError(
                    f"samples stopped being numbers after {number * frame / rate:.1f} s: draw at a lower temperature"
                )
            clipped += int((np.abs(sound) > 1).sum())
            whole = np.round(sound * 2**15).clip(-(2**15), 2**15 - 1).astype("<i2")[:, : samples - number * frame]
            for writer, row in zip(writers, whole, strict=True):
                writer.writeframesraw(row.tobytes())
            progress(number + 1, frames, "")
    speed = len(paths) * samples / rate / max(time.monotonic() - began, 1e-9)
    return Samples(paths, speed, clipped / (len(paths) * frames * frame))


def wav(files: contextlib.ExitStack, path: Path, rate: int) -> wave.Wave_write:
    """A WAV file that is open until ``files`` ends, and takes its place when all went well."""
    aside = files.enter_context(atomic(path))
    writer = files.enter_context(wave.open(str(aside), "wb"))  # noqa: SIM115  # `files` closes it
    writer.setparams((1, 2, rate, 0, "NONE", "not compressed"))
    return writer


def coloured(images: np.ndarray) -> np.ndarray:
    """Bytes (N, H, W) or (N, H, W, 3) as (N, H, W, 3)."""
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=-1)


def rows(images: np.ndarray) -> list[np.ndarray]:
    """Images as the rows of a grid that is about as wide as high, with white behind the last one."""
    width = math.ceil(math.sqrt(len(images)))
    return [_full(images[first : first + width], width) for first in range(0, len(images), width)]


def _full(row: np.ndarray, width: int) -> np.ndarray:
    white = np.full((width - len(row), *row.shape[1:]), 255, np.uint8)
    return np.concatenate([row, white])
