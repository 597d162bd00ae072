"""Recordings as sequences of frames: an index of files in memory, samples read from disk as they are asked for.

Start reading at `Recordings`. `worldmodel.corpora.speech` says which files belong to which part.
"""

import functools
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.batches import EventBatch
from worldmodel.corpora.audio_files import SUFFIXES, AudioInfo, read
from worldmodel.corpora.dataset import digest, random_split
from worldmodel.corpora.resampling import METHOD, num_samples, resample
from worldmodel.io import read_json, write_json
from worldmodel.paths import expand

SAMPLE_RATE = 16_000
"""Samples a second; files of another rate are resampled (VRNN, arXiv 1506.02216)."""
MAX_SAMPLES = 30 * 60 * SAMPLE_RATE
"""No sequence is longer, in samples: half an hour."""
BLOCK = 2**18
"""So many samples are read at once for mean and standard deviation."""
NUM_EXCERPTS, EXCERPT_SAMPLES = 8, 1_024
"""Of each file, an identity covers so many stretches of so many samples, spread evenly from its first to its last."""


class Recording(NamedTuple):
    """A file of a corpus."""

    name: str
    """Its path inside the corpus."""
    group: str
    """Speaker or file: never in two parts."""
    audio: AudioInfo
    num_used_samples: int
    """So many samples, at `SAMPLE_RATE`, are cut into sequences: from the beginning, in whole frames or pieces."""

    @property
    def resampled(self) -> bool:
        """Whether it has another rate on disk."""
        return self.audio.sample_rate != SAMPLE_RATE


class Segmentation(NamedTuple):
    """How recordings are cut into sequences."""

    frame: int
    """Samples of an event."""
    segment_length: int | None
    """Samples of a sequence; None: a recording is a sequence."""

    def num_used_samples(self, audio: AudioInfo) -> int:
        """Samples of whole frames, or of whole pieces; what is left behind them is dropped.

        Raises:
            ValueError: a recording that is to stay whole is too long.
        """
        step, samples = self.segment_length or self.frame, num_samples(audio, SAMPLE_RATE)
        if self.segment_length is None and samples > MAX_SAMPLES:
            raise ValueError(
                f"{audio.path} lasts longer than {MAX_SAMPLES // SAMPLE_RATE} seconds: cut it with segment_length=8000"
            )
        return samples // step * step


def audio_paths(folder: Path) -> list[Path]:
    """All audio files below ``folder``, in order; hidden ones (``._x.wav`` of macOS) are left out.

    Raises:
        ValueError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror or error}")

    found = [
        Path(place) / name
        for place, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
    ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


class Standardization:
    """One mean and one standard deviation, of all samples of the training part.

    They are computed when first asked for, in one pass over the files that never holds more than a block.

    Args:
        recordings: of the training part.
        segmentation: its frames.
        cache: a JSON file that keeps the two numbers; None: they are kept in memory alone.
    """

    def __init__(
        self, recordings: Sequence[Recording], segmentation: Segmentation, cache: str | os.PathLike[str] | None = None
    ) -> None:
        self.recordings, self.segmentation, self.cache = (
            tuple(recordings),
            segmentation,
            None if cache is None else expand(cache),
        )

    @property
    def mean(self) -> float:
        """Of full scale, which goes from -1 to 1."""
        return self._numbers[0]

    @property
    def std(self) -> float:
        """Of full scale, above zero."""
        return self._numbers[1]

    def events(self, samples: np.ndarray) -> np.ndarray:
        """Samples (T x D,) as standardised frames (T, D)."""
        standard = (samples.astype(np.float64) - self.mean) / self.std
        return standard.astype(np.float32).reshape(-1, self.segmentation.frame)

    def to_data(self, events: Float[Tensor, "batch time event"]) -> Float[Tensor, "batch samples"]:
        """Frames as samples, full scale from -1 to 1."""
        return events.detach().double().mul(self.std).add(self.mean).float().flatten(1)

    def describe(self) -> dict[str, Any]:
        """The numbers, for a report.

        ``ceiling``: nats a sample, -log of the distance of two 16-bit levels in events; what a density has above it, it
        has from telling the levels apart, not from knowing speech.
        """
        numbers = {"mean": self.mean, "std": self.std, "ceiling": math.log(self.std * 2**15)}
        return numbers | {
            "rate": SAMPLE_RATE,
            "frame": self.segmentation.frame,
            "piece": self.segmentation.segment_length,
        }

    @functools.cached_property
    def identity(self) -> str:
        """Of the training part's recordings."""
        return identity(self.recordings)

    @functools.cached_property
    def _numbers(self) -> tuple[float, float]:
        if self.cache is not None and self.cache.exists():
            return self._kept(self.cache)
        mean, std = self._measured()
        if self.cache is not None:
            write_json(self.cache, {"recordings": self.identity, "mean": mean, "std": std})
        return mean, std

    def _kept(self, cache: Path) -> tuple[float, float]:
        kept = read_json(cache)
        of = kept.get("recordings") if isinstance(kept, dict) else None
        if of not in (self.identity, listed(self.recordings)):
            raise ValueError(f"{cache} does not hold the mean and std of these recordings: name another cache")
        mean, std = kept.get("mean"), kept.get("std")
        if not (isinstance(mean, float) and isinstance(std, float) and math.isfinite(mean) and 0 < std < math.inf):
            raise ValueError(f"{cache} must hold a finite mean and a std above zero, got {mean!r} and {std!r}")
        if of != self.identity:  # an older version's, which knew names and lengths alone
            if not np.allclose((mean, std), self._measured(), rtol=1e-6, atol=1e-9):
                raise ValueError(f"{cache} does not hold the mean and std of these recordings: name another cache")
            write_json(cache, {"recordings": self.identity, "mean": mean, "std": std})
        return mean, std

    def _measured(self) -> tuple[float, float]:
        count, mean, square = 0, 0.0, 0.0  # square: the sum of (x - mean)^2
        for recording in self.recordings:
            for first in range(0, recording.num_used_samples, BLOCK):
                block = resample(
                    recording.audio, SAMPLE_RATE, first, min(first + BLOCK, recording.num_used_samples)
                ).astype(np.float64)
                # Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979
                shift, total = block.mean() - mean, count + len(block)
                square += ((block - block.mean()) ** 2).sum() + shift**2 * count * len(block) / total
                mean, count = mean + shift * len(block) / total, total
        std = math.sqrt(square / count)
        if not std > 0:
            raise ValueError(f"{count} samples of the training part are all {mean:g}: they have no standard deviation")
        return float(mean), std


class Recordings:
    """Sequences of frames, (batch, time, frame), read from audio files on demand; shorter ones are padded, and masked.

    Args:
        label: which corpus and part, in a few words.
        recordings: the files.
        normalizer: how samples become events; the training part's, whatever the part.
    """

    def __init__(self, label: str, recordings: Iterable[Recording], normalizer: Standardization) -> None:
        self.label, self.normalizer = label, normalizer
        self.recordings = tuple(recording for recording in recordings if recording.num_used_samples)
        step = [normalizer.segmentation.segment_length or recording.num_used_samples for recording in self.recordings]
        counts = [recording.num_used_samples // size for recording, size in zip(self.recordings, step, strict=True)]
        if not counts:
            raise ValueError(f"{label}: no recording is long enough for a sequence ({normalizer.segmentation})")
        self._file = np.repeat(np.arange(len(counts)), counts)  # of each sequence, and its first sample and length
        number = np.arange(len(self._file)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._length = np.repeat(step, counts)
        self._start = number * self._length

    def __len__(self) -> int:
        """How many sequences."""
        return len(self._file)

    @functools.cached_property
    def identity(self) -> str:
        """Which files, with what in them, and how they are cut; it is found out once."""
        whole = (
            "whole"
            if self.normalizer.segmentation.segment_length is None
            else f"in pieces of {self.normalizer.segmentation.segment_length} samples"
        )
        return (
            f"{self.label}: {identity(self.recordings)}, {whole}, frames of {self.normalizer.segmentation.frame} samples, "
            f"standardised by {self.normalizer.identity}"
        )

    def split(self, fraction: float, seed: int) -> tuple["Recordings", "Recordings"]:
        """Training and held-out sequences, by whole groups (speakers or files), on the scale that they have."""
        held_out, training = random_split((recording.group for recording in self.recordings), [fraction], seed)
        return self._of("training", training), self._of("held out", held_out)

    def batch(self, size: int, rng: np.random.Generator) -> EventBatch:
        """Random sequences, each as likely as any other."""
        return self._sequences(rng.integers(len(self), size=size))

    @property
    def file_indices(self) -> np.ndarray:
        """Of each sequence, in the order of `batches`, the number of its recording."""
        return self._file[self._order]

    @property
    def _order(self) -> np.ndarray:
        return np.random.default_rng(0).permutation(len(self))

    def sounds(self, count: int, seconds: float) -> list[np.ndarray]:
        """The beginnings of the first ``count`` recordings: samples, full scale from -1 to 1."""
        most = round(seconds * SAMPLE_RATE)
        return [
            resample(item.audio, SAMPLE_RATE, 0, min(item.num_used_samples, most)) for item in self.recordings[:count]
        ]

    def batches(self, size: int) -> Iterator[EventBatch]:
        """All sequences once, in a fixed random order."""
        order = self._order
        for number in range(0, len(order), size):
            yield self._sequences(order[number : number + size])

    def describe(self) -> dict[str, Any]:
        """Counts, for a report."""
        samples = sum(recording.num_used_samples for recording in self.recordings)
        return {
            "sequences": len(self),
            "files": len(self.recordings),
            "resampled_files": sum(recording.resampled for recording in self.recordings),
            "groups": len(Counter(recording.group for recording in self.recordings)),
            "frames": samples // self.normalizer.segmentation.frame,
            "hours": samples / SAMPLE_RATE / 3600,
            "dropped_samples": sum(
                num_samples(recording.audio, SAMPLE_RATE) - recording.num_used_samples for recording in self.recordings
            ),
        }

    def _of(self, label: str, groups: set[str]) -> "Recordings":
        chosen = (recording for recording in self.recordings if recording.group in groups)
        return Recordings(f"{self.label}, {label}", chosen, self.normalizer)

    def _sequences(self, chosen: np.ndarray) -> EventBatch:
        frames = self._length[chosen] // self.normalizer.segmentation.frame
        event = np.zeros((len(chosen), int(frames.max()), self.normalizer.segmentation.frame), np.float32)
        mask = (np.arange(event.shape[1]) < frames[:, None]).astype(np.float32)
        for row, place in enumerate(chosen):
            start, stop = int(self._start[place]), int(self._start[place] + self._length[place])
            samples = resample(self.recordings[self._file[place]].audio, SAMPLE_RATE, start, stop)
            event[row, : frames[row]] = self.normalizer.events(samples)
        return EventBatch(torch.from_numpy(event), torch.from_numpy(mask), torch.zeros(len(chosen)))


def identity(recordings: Sequence[Recording]) -> str:
    """How many files, with a digest of their names and lengths, and another of what is in them.

    The latter covers `NUM_EXCERPTS` of `EXCERPT_SAMPLES` samples of each file, so that a corpus of any size is known
    in seconds: other sounds, another loudness or another order are noticed, a change between two stretches of a file
    is not. Of what only soundfile decodes it covers bytes, which no decoder's version changes.

    Raises:
        ValueError: a file cannot be read any more.
    """
    return f"{listed(recordings)}, contents {digest(part for item in recordings for part in _excerpts(item.audio))}"


def listed(recordings: Sequence[Recording]) -> str:
    """How many files, with a digest of their names and lengths, and of how they were resampled."""
    lines = [
        f"{recording.name} {recording.audio.sample_rate} "
        f"{recording.audio.num_samples}{f' {METHOD}' if recording.resampled else ''}"
        for recording in recordings
    ]
    return f"{len(recordings)} files ({digest(lines)})"


def _excerpts(sound: AudioInfo) -> Iterator[bytes]:
    """Parts of a file's samples, the same in every format; or of its bytes, where these are a codec's."""
    coded = sound.encoding == "soundfile"
    try:
        size = sound.path.stat().st_size if coded else sound.num_samples
        starts = np.unique(np.linspace(0, max(size - EXCERPT_SAMPLES, 0), NUM_EXCERPTS).astype(int)).tolist()
        if not coded:
            yield from (read(sound, start, min(start + EXCERPT_SAMPLES, size)).tobytes() for start in starts)
            return
        with sound.path.open("rb") as file:
            for start in starts:
                file.seek(start)
                yield file.read(EXCERPT_SAMPLES)
    except OSError as error:
        raise ValueError(f"{sound.path} cannot be read: {error.strerror or error}") from None
