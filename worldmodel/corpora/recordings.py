"""Recordings as sequences of frames: memory holds an index of the files, and batches read their samples from disk.

Start reading at `Recordings`. `worldmodel.corpora.speech` assigns the files to parts.
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
from worldmodel.corpora.audio_files import COMPRESSED, SUFFIXES, AudioInfo, read
from worldmodel.corpora.dataset import digest, random_split
from worldmodel.corpora.resampling import METHOD, num_samples, resample
from worldmodel.io.files import read_json, write_json
from worldmodel.io.paths import expand

SAMPLE_RATE = 16_000
"""Number of samples a second; files of another rate are resampled (VRNN, arXiv 1506.02216)."""
MAX_SAMPLES = 30 * 60 * SAMPLE_RATE
"""Largest number of samples in a sequence: half an hour."""
BLOCK = 2**18
"""Number of samples that are read at once for mean and standard deviation."""
MAX_CACHED_SAMPLES = 2**27
"""Largest number of decoded samples of a part that memory keeps: 2.3 hours, 512 MiB."""
MAX_CACHED_FILE = 2**22
"""Largest number of samples of a file that is decoded as a whole: 4 minutes."""
NUM_CHUNKS, CHUNK_SAMPLES = 8, 1_024
"""Number of chunks, evenly spread over each file, that an identity covers, and number of samples in a chunk."""


class Recording(NamedTuple):
    """A file of a corpus.

    Args:
        name: Path of the file inside the corpus.
        group: Name of the speaker or the file; a group is never in two parts.
        audio: Header of the file.
        num_used_samples: Number of samples, at `SAMPLE_RATE`, that are cut into sequences: whole frames or segments from the
            start of the file.
    """

    name: str
    group: str
    audio: AudioInfo
    num_used_samples: int

    @property
    def resampled(self) -> bool:
        """Whether the file has another sample rate."""
        return self.audio.sample_rate != SAMPLE_RATE


class Segmentation(NamedTuple):
    """Segmentation of recordings into sequences.

    Args:
        frame: Number of samples in an event.
        segment_length: Number of samples in a sequence. None: a recording is a sequence.
    """

    frame: int
    segment_length: int | None

    def num_used_samples(self, audio: AudioInfo) -> int:
        """Return the number of samples in whole frames or whole segments; the rest of the file is dropped.

        Raises:
            ValueError: a whole recording is longer than `MAX_SAMPLES`.
        """
        step, samples = self.segment_length or self.frame, num_samples(audio, SAMPLE_RATE)
        if self.segment_length is None and samples > MAX_SAMPLES:
            raise ValueError(
                f"{audio.path} is longer than {MAX_SAMPLES // SAMPLE_RATE} seconds: use segments, such as segment_length=8000"
            )
        return samples // step * step


def audio_paths(folder: Path) -> list[Path]:
    """Return the sorted paths of all audio files below ``folder``, without hidden files (``._x.wav`` of macOS).

    Raises:
        ValueError: a folder cannot be read.
    """

    def raise_error(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror or error}")

    paths = [
        Path(directory) / name
        for directory, _, names in os.walk(folder, onerror=raise_error)
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
    ]
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


class Standardization:
    """Standardization of samples by one mean and one standard deviation, those of all samples of the training part.

    The first use computes them in one pass over the files, block by block.

    Args:
        recordings: Recordings of the training part.
        segmentation: Segmentation of the recordings.
        cache: Path of a JSON file that stores the two numbers. None: memory only.
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
        """Mean of the samples; full scale is from -1 to 1."""
        return self._mean_std[0]

    @property
    def std(self) -> float:
        """Standard deviation of the samples, above zero; full scale is from -1 to 1."""
        return self._mean_std[1]

    def events(self, samples: np.ndarray) -> np.ndarray:
        """Convert samples (T x D,) to standardized frames (T, D)."""
        standardized = (samples.astype(np.float64) - self.mean) / self.std
        return standardized.astype(np.float32).reshape(-1, self.segmentation.frame)

    def to_data(self, events: Float[Tensor, "batch time event"]) -> Float[Tensor, "batch samples"]:
        """Convert frames to samples (B, T x D); full scale is from -1 to 1."""
        return events.detach().double().mul(self.std).add(self.mean).float().flatten(1)

    def describe(self) -> dict[str, Any]:
        """Return the constants for a report.

        ``ceiling``, in nats per sample, is -log of the distance of two 16-bit levels in events. A density with a higher
        likelihood gains it from resolving these levels, not from a better model of speech.
        """
        numbers = {"mean": self.mean, "std": self.std, "ceiling": math.log(self.std * 2**15)}
        return numbers | {
            "rate": SAMPLE_RATE,
            "frame": self.segmentation.frame,
            "segment_length": self.segmentation.segment_length,
        }

    @functools.cached_property
    def identity(self) -> str:
        """Identity of the recordings of the training part."""
        return identity(self.recordings)

    @functools.cached_property
    def _mean_std(self) -> tuple[float, float]:
        """Mean and standard deviation, from the cache or computed."""
        if self.cache is not None and self.cache.exists():
            return self._load(self.cache)
        mean, std = self._measured()
        if self.cache is not None:
            write_json(self.cache, {"recordings": self.identity, "mean": mean, "std": std})
        return mean, std

    def _load(self, cache: Path) -> tuple[float, float]:
        """Read mean and standard deviation from the cache, and verify that they are of these recordings."""
        stored = read_json(cache)
        stored_identity = stored.get("recordings") if isinstance(stored, dict) else None
        if stored_identity not in (self.identity, listed(self.recordings)):
            raise ValueError(f"{cache} has the mean and std of other recordings: use another cache")
        mean, std = stored.get("mean"), stored.get("std")
        if not (isinstance(mean, float) and isinstance(std, float) and math.isfinite(mean) and 0 < std < math.inf):
            raise ValueError(f"{cache} must have a finite mean and a std above zero, got {mean!r} and {std!r}")
        if stored_identity != self.identity:  # an older version stored a digest of names and lengths only
            if not np.allclose((mean, std), self._measured(), rtol=1e-6, atol=1e-9):
                raise ValueError(f"{cache} has the mean and std of other recordings: use another cache")
            write_json(cache, {"recordings": self.identity, "mean": mean, "std": std})
        return mean, std

    def _measured(self) -> tuple[float, float]:
        """Compute mean and standard deviation of all used samples."""
        count, mean, square = 0, 0.0, 0.0  # square is the sum of (x - mean)^2
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
            raise ValueError(
                f"the {count} samples of the training part must have a standard deviation above zero, all are {mean:g}"
            )
        return float(mean), std


class Recordings:
    """Sequences of frames (batch, time, frame), read from audio files on demand; shorter sequences are padded and masked.

    Decoding and resampling take longer than a gradient step: memory keeps what they return, up to `MAX_CACHED_SAMPLES`.

    Args:
        label: Name of the corpus and the part.
        recordings: Recordings of the part.
        normalizer: Conversion between samples and events; all parts use that of the training part.
        segmentation: Segmentation of these recordings. None: that of the training part.

    Raises:
        ValueError: no recording is long enough for a sequence.
    """

    def __init__(
        self,
        label: str,
        recordings: Iterable[Recording],
        normalizer: Standardization,
        segmentation: Segmentation | None = None,
    ) -> None:
        self.label, self.normalizer = label, normalizer
        self.segmentation = segmentation or normalizer.segmentation
        self.recordings = tuple(recording for recording in recordings if recording.num_used_samples)
        step = [self.segmentation.segment_length or recording.num_used_samples for recording in self.recordings]
        counts = [recording.num_used_samples // size for recording, size in zip(self.recordings, step, strict=True)]
        if not counts:
            raise ValueError(f"{label}: no recording is long enough for a sequence ({self.segmentation})")
        self._file = np.repeat(np.arange(len(counts)), counts)  # file, first sample and length of each sequence
        index_in_file = np.arange(len(self._file)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._length = np.repeat(step, counts)
        self._start = index_in_file * self._length
        self._cache: dict[int, np.ndarray] = {}
        self._num_cached = 0

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self._file)

    @functools.cached_property
    def identity(self) -> str:
        """Identity of the files, their contents, the segmentation and the standardization; computed once."""
        whole = (
            "whole"
            if self.segmentation.segment_length is None
            else f"in pieces of {self.segmentation.segment_length} samples"
        )
        return (
            f"{self.label}: {identity(self.recordings)}, {whole}, frames of {self.segmentation.frame} samples, "
            f"standardised by {self.normalizer.identity}"
        )

    def split(self, fraction: float, seed: int) -> tuple["Recordings", "Recordings"]:
        """Split by whole groups (speakers or files) into training and held-out sequences with the same normalizer."""
        held_out, training = random_split((recording.group for recording in self.recordings), [fraction], seed)
        return self._subset("training", training), self._subset("held out", held_out)

    def batch(self, size: int, rng: np.random.Generator) -> EventBatch:
        """Draw random sequences, each with the same probability."""
        return self._sequences(rng.integers(len(self), size=size))

    @property
    def file_indices(self) -> np.ndarray:
        """Index of the recording of each sequence, in the order of `batches`."""
        return self._file[self._order]

    @property
    def _order(self) -> np.ndarray:
        """Fixed random order of the sequences."""
        return np.random.default_rng(0).permutation(len(self))

    def sounds(self, count: int, seconds: float) -> list[np.ndarray]:
        """Read at most ``seconds`` from the start of the first ``count`` recordings; full scale is from -1 to 1."""
        maximum = round(seconds * SAMPLE_RATE)
        return [
            resample(item.audio, SAMPLE_RATE, 0, min(item.num_used_samples, maximum))
            for item in self.recordings[:count]
        ]

    def starts(self, count: int, size: int) -> np.ndarray:
        """Read the first ``size`` samples of at most ``count`` recordings that have them, in a fixed random order."""
        order = np.random.default_rng(0).permutation(len(self.recordings))
        files = [int(file) for file in order if self.recordings[file].num_used_samples >= size][:count]
        return np.array([self._samples(file, 0, size) for file in files]).reshape(len(files), size)

    def batches(self, size: int) -> Iterator[EventBatch]:
        """Iterate once over all sequences in a fixed random order."""
        order = self._order
        for number in range(0, len(order), size):
            yield self._sequences(order[number : number + size])

    def describe(self) -> dict[str, Any]:
        """Return counts for a report."""
        samples = sum(recording.num_used_samples for recording in self.recordings)
        return {
            "sequences": len(self),
            "files": len(self.recordings),
            "resampled_files": sum(recording.resampled for recording in self.recordings),
            "groups": len(Counter(recording.group for recording in self.recordings)),
            "frames": samples // self.segmentation.frame,
            "hours": samples / SAMPLE_RATE / 3600,
            "dropped_samples": sum(
                num_samples(recording.audio, SAMPLE_RATE) - recording.num_used_samples for recording in self.recordings
            ),
        }

    def _subset(self, label: str, groups: set[str]) -> "Recordings":
        """Return the part with the recordings of these groups."""
        selected = (recording for recording in self.recordings if recording.group in groups)
        return Recordings(f"{self.label}, {label}", selected, self.normalizer, self.segmentation)

    def _sequences(self, indices: np.ndarray) -> EventBatch:
        """Read the sequences with these indices as a padded batch."""
        frames = self._length[indices] // self.segmentation.frame
        event = np.zeros((len(indices), int(frames.max()), self.segmentation.frame), np.float32)
        mask = (np.arange(event.shape[1]) < frames[:, None]).astype(np.float32)
        for row, index in enumerate(indices):
            start, stop = int(self._start[index]), int(self._start[index] + self._length[index])
            event[row, : frames[row]] = self.normalizer.events(self._samples(int(self._file[index]), start, stop))
        return EventBatch(torch.from_numpy(event), torch.from_numpy(mask), torch.zeros(len(indices)))

    def _samples(self, file: int, start: int, stop: int) -> np.ndarray:
        """Return a range of a file's samples, from memory if the file was decoded before."""
        recording = self.recordings[file]
        size = recording.num_used_samples
        costly = recording.resampled or recording.audio.encoding in COMPRESSED
        if costly and file not in self._cache and size <= min(MAX_CACHED_FILE, MAX_CACHED_SAMPLES - self._num_cached):
            self._cache[file] = resample(recording.audio, SAMPLE_RATE, 0, size)
            self._num_cached += size
        if file in self._cache:
            return self._cache[file][start:stop]
        return resample(recording.audio, SAMPLE_RATE, start, stop)


def identity(recordings: Sequence[Recording]) -> str:
    """Return the number of files, a digest of their names and lengths, and a digest of their contents.

    The digest of the contents covers `NUM_CHUNKS` chunks of `CHUNK_SAMPLES` samples of each file, which takes seconds for a
    corpus of any size. Other audio, another loudness or another order of the samples changes it; a change between two chunks
    does not. For formats that only soundfile decodes it covers bytes, which do not depend on the version of the decoder.

    Raises:
        ValueError: a file cannot be read.
    """
    return (
        f"{listed(recordings)}, contents {digest(part for item in recordings for part in _content_chunks(item.audio))}"
    )


def listed(recordings: Sequence[Recording]) -> str:
    """Return the number of files and a digest of their names, lengths and resampling."""
    lines = [
        f"{recording.name} {recording.audio.sample_rate} "
        f"{recording.audio.num_samples}{f' {METHOD}' if recording.resampled else ''}"
        for recording in recordings
    ]
    return f"{len(recordings)} files ({digest(lines)})"


def _content_chunks(audio: AudioInfo) -> Iterator[bytes]:
    """Yield chunks of a file's samples, the same for every format; for formats of soundfile, chunks of its bytes."""
    compressed = audio.encoding == "soundfile"
    try:
        size = audio.path.stat().st_size if compressed else audio.num_samples
        starts = np.unique(np.linspace(0, max(size - CHUNK_SAMPLES, 0), NUM_CHUNKS).astype(int)).tolist()
        if not compressed:
            yield from (read(audio, start, min(start + CHUNK_SAMPLES, size)).tobytes() for start in starts)
            return
        with audio.path.open("rb") as file:
            for start in starts:
                file.seek(start)
                yield file.read(CHUNK_SAMPLES)
    except OSError as error:
        raise ValueError(f"{audio.path} cannot be read: {error.strerror or error}") from None
