"""Training data of a store: single frames, and windows of encoded steps (`rollouts.store.encoded_dataset`).

Start reading at `Frames` and `Sequences`. They follow `worldmodel.batches.Data`, and their memory use does not
grow with the store.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from worldmodel.batches import SequenceBatch
from worldmodel.io.files import array_digest
from worldmodel.rng import Stream
from worldmodel.rollouts.store.encoded_dataset import EncodedDataset, sample_posterior
from worldmodel.rollouts.store.shards import CHUNK, EpisodeStore
from worldmodel.validation import validate_positive_int

CACHE_BYTES = 768 * 2**20
"""Maximum size of the cache of decompressed chunks, in bytes."""
PER_CHUNK = 4
"""Number of frames drawn from each chunk that is decompressed for a batch; 1 if the cache holds all chunks."""


class Frames:
    """Single uint8 frames (batch, 64, 64, 3); training data for a VAE.

    Args:
        store: Episodes.
        episodes: Indices of the episodes to use. None: all.
    """

    def __init__(self, store: EpisodeStore, episodes: Sequence[int] | np.ndarray | None = None) -> None:
        self.store = store
        self.episodes = np.asarray(range(len(store)) if episodes is None else episodes, np.int64)
        counts = [-(-(store.lengths[episode] + 1) // CHUNK) for episode in self.episodes]
        self._episode = np.repeat(self.episodes, counts)  # episode of each chunk; ``_number``: its index in the episode
        self._number = np.concatenate([np.arange(count) for count in counts]) if counts else np.zeros(0, int)
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached = 0
        self._per_chunk = 1 if len(self) * math.prod(store.observation_shape) <= CACHE_BYTES else PER_CHUNK

    def __len__(self) -> int:
        """Number of frames."""
        return sum(self.store.lengths[episode] + 1 for episode in self.episodes)

    @property
    def identity(self) -> dict[str, Any]:
        """Digest of the episodes, and identity of their store."""
        return {"episodes": array_digest(self.episodes, digits=8), "store": self.store.identity}

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Split into training and validation frames, by whole episodes."""
        training, validation = split_episodes(self.episodes, fraction, seed)
        return type(self)(self.store, training), type(self)(self.store, validation)

    def batch(self, size: int, rng: np.random.Generator) -> Tensor:
        """Draw random frames: one per random chunk, or `PER_CHUNK` per chunk if the cache does not hold all chunks."""
        drawn = []
        for chunk in rng.integers(len(self._episode), size=-(-size // self._per_chunk)):
            frames = self._chunk(int(chunk))
            drawn.append(frames[rng.integers(len(frames), size=self._per_chunk)])
        return torch.from_numpy(np.concatenate(drawn)[:size])

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield all frames once, chunks in a fixed random order."""
        buffered: list[np.ndarray] = []
        count = 0
        for chunk in np.random.default_rng(0).permutation(len(self._episode)):
            buffered.append(self._chunk(int(chunk)))
            count += len(buffered[-1])
            if count >= size:
                frames = np.concatenate(buffered)
                yield torch.from_numpy(frames[:size])
                buffered, count = [frames[size:]], len(frames) - size
        if count:
            yield torch.from_numpy(np.concatenate(buffered))

    def _chunk(self, chunk: int) -> np.ndarray:
        if chunk in self._cache:
            self._cache.move_to_end(chunk)
            return self._cache[chunk]
        shard, number = self.store.locate(int(self._episode[chunk]))
        start = int(self._number[chunk]) * CHUNK
        frames = np.concatenate(self.store.reader.frames(shard, number, start, start + CHUNK))
        self._cache[chunk] = frames
        self._cached += frames.nbytes
        while self._cached > CACHE_BYTES:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return frames


class _Window(NamedTuple):
    """Consecutive steps of an episode."""

    episode: int
    start: int
    steps: int


class Sequences:
    """Windows of encoded steps; training data for a memory.

    Latents are samples of q(z|x), drawn anew for each batch, or its means.

    Args:
        latents: Encoded episodes.
        seq_len: Number of steps of a window. Shorter episodes are padded and masked.
        latent_targets: "sample": z ~ q(z|x), as in World Models. "mean": the mean of q(z|x).
        episodes: Indices of the episodes to use. None: all with at least one step.
        weights: (episodes of the store,): relative sampling weight of each episode's steps. None: equal weights.
        pad_episode_ends: Whether a window may start before an episode or end after it (and is then shorter), so that an
            episode's last steps occur in as many windows as its inner steps. Without it the last step occurs in 1 window
            and an inner step in ``seq_len``; the memory then predicts too few terminations.

    Raises:
        ValueError: ``seq_len`` is below 1, ``latent_targets`` is unknown, or ``weights`` has another shape or values that
            are not finite and positive.
    """

    def __init__(
        self,
        latents: EncodedDataset,
        seq_len: int = 32,
        latent_targets: str = "sample",
        episodes: Sequence[int] | np.ndarray | None = None,
        weights: np.ndarray | None = None,
        pad_episode_ends: bool = False,
    ) -> None:
        validate_positive_int(seq_len=seq_len)
        if latent_targets not in ("sample", "mean"):
            raise ValueError(f"latent_targets must be 'sample' or 'mean', got {latent_targets!r}")
        self.latents, self.seq_len, self.latent_targets, self.pad_episode_ends = (
            latents,
            seq_len,
            latent_targets,
            pad_episode_ends,
        )
        lengths = latents.lengths
        self.episodes = np.asarray(
            [index for index, steps in enumerate(lengths) if steps] if episodes is None else episodes, np.int64
        )
        self._steps = np.array([lengths[index] for index in self.episodes])
        self.weights = None if weights is None else _validate_weights(weights, len(latents))

    @property
    def identity(self) -> dict[str, Any]:
        """Digest of the episodes and of their weights, identity of the encoded store, and `form`."""
        weights = None if self.weights is None else array_digest(self.weights, digits=8)
        return {
            "episodes": array_digest(self.episodes, digits=8),
            "weights": weights,
            **self.latents.identity,
            **self.form,
        }

    @property
    def form(self) -> dict[str, Any]:
        """Terminations, windows and targets: what a training that continues with other episodes must have, too."""
        return {
            **self.latents.terminations,
            "seq_len": self.seq_len,
            "pad_episode_ends": self.pad_episode_ends,
            "latent_targets": self.latent_targets,
        }

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Split into training and validation windows, by whole episodes."""
        parts = split_episodes(self.episodes, fraction, seed)
        training, validation = (
            type(self)(self.latents, self.seq_len, self.latent_targets, part, self.weights, self.pad_episode_ends)
            for part in parts
        )
        return training, validation

    def batch(self, size: int, rng: np.random.Generator) -> SequenceBatch:
        """Draw random windows; all steps are equally likely up to ``weights``, except near the ends of episodes."""
        drawn = _sample_windows(
            self.episodes, self._steps, self.seq_len, size, rng, self.weights, self.pad_episode_ends
        )
        return self._windows(drawn, rng)

    def batches(self, size: int) -> Iterator[SequenceBatch]:
        """Yield all steps once, in adjacent windows, in a fixed random order and with fixed noise."""
        for number, windows in _tile_windows(self.episodes, self._steps, self.seq_len, size):
            yield self._windows(windows, np.random.default_rng([1, number]))

    def _windows(self, windows: list[_Window], rng: np.random.Generator) -> SequenceBatch:
        clips = [self.latents.episode(index).window(start, steps) for index, start, steps in windows]
        z, logvar = (_pad(list(parts), self.seq_len + 1) for parts in zip(*(clip[:2] for clip in clips), strict=True))
        if self.latent_targets == "sample":
            z = sample_posterior(z, logvar, rng)
        latent, next_latent = (torch.from_numpy(np.ascontiguousarray(part)) for part in (z[:, :-1], z[:, 1:]))
        steps = ((*clip[2:], np.ones(len(clip[2]))) for clip in clips)
        action, *others = (torch.from_numpy(_pad(parts, self.seq_len)) for parts in zip(*steps, strict=True))
        return SequenceBatch(latent, action, next_latent, *others)


def _pad(parts: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Stack arrays (steps, ...), padded with zeros to (count, length, ...)."""
    padded = np.zeros((len(parts), length, *parts[0].shape[1:]), np.float32)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    return padded


def _sample_windows(
    episodes: np.ndarray,
    steps: np.ndarray,
    seq_len: int,
    size: int,
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
    pad_episode_ends: bool = False,
) -> list[_Window]:
    """Draw random windows; an episode's probability is proportional to its length times its weight.

    An episode shorter than ``seq_len`` gives one window with all of its steps. `Sequences` describes ``pad_episode_ends``.
    """
    fits = steps <= seq_len
    # number of windows of each episode; with padding each step is in ``seq_len`` of them
    odds = np.where(fits, seq_len * (steps > 0), steps + seq_len - 1) if pad_episode_ends else steps
    if weights is not None:
        odds = odds * weights[episodes]
    rows = rng.choice(len(episodes), size=size, p=odds / odds.sum())
    if pad_episode_ends:
        starts = np.where(fits[rows], 0, rng.integers(1 - seq_len, steps[rows])).tolist()
    else:
        starts = [int(rng.integers(max(steps[row] - seq_len, 0) + 1)) for row in rows]
    return [
        _Window(int(episodes[row]), max(start, 0), min(start + seq_len, int(steps[row])) - max(start, 0))
        for row, start in zip(rows, starts, strict=True)
    ]


def _validate_weights(weights: np.ndarray, count: int) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    if weights.shape != (count,):
        raise ValueError(f"weights must have shape ({count},), one for each episode, got {weights.shape}")
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError(f"weights must be finite numbers above zero, got {weights.min()} to {weights.max()}")
    return weights


def _tile_windows(
    episodes: np.ndarray, steps: np.ndarray, seq_len: int, size: int
) -> Iterator[tuple[int, list[_Window]]]:
    """Yield batches (index of the first window, adjacent windows), in a fixed random order."""
    windows = [
        _Window(int(index), start, min(seq_len, int(count) - start))
        for index, count in zip(episodes, steps, strict=True)
        for start in range(0, int(count), seq_len)
    ]
    order = np.random.default_rng(0).permutation(len(windows))
    for number in range(0, len(windows), size):
        yield number, [windows[index] for index in order[number : number + size]]


def split_episodes(episodes: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split episodes into training episodes and a validation ``fraction``, with at least one episode each.

    Consecutive episode indices form blocks of ``1 / fraction``; one random episode of each block is for validation. A
    training episode therefore stays a training episode when the store grows.

    Args:
        episodes: Distinct episode indices.
        fraction: Fraction of validation episodes, above 0 and below 1.
        seed: Seed of the random choice.

    Returns:
        Sorted indices of the training episodes and of the validation episodes.

    Raises:
        ValueError: There are fewer than two episodes, or the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {fraction}")
    if len(episodes) < 2:
        raise ValueError(f"training needs at least 2 episodes, one of them for validation, got {len(episodes)}")
    episodes = np.sort(episodes)
    if fraction > 0.5:  # here one episode of each block is for training
        validation, training = split_episodes(episodes, 1 - fraction, seed)
        return training, validation
    blocks = int(episodes[-1] * fraction) + 2  # one spare block: rounding may place the last episode on an edge
    edges = np.ceil(np.arange(blocks + 1) / fraction - 1e-9).astype(np.int64)
    orders = [
        np.random.default_rng([seed, Stream.SPLIT, number]).permutation(np.arange(start, stop))
        for number, (start, stop) in enumerate(itertools.pairwise(edges), 1)
    ]
    validation = np.intersect1d(episodes, [order[0] for order in orders])
    if not len(validation):  # no block's drawn episode is among these few
        validation = next(order[np.isin(order, episodes)][:1] for order in orders if np.isin(order, episodes).any())
    if len(validation) == len(episodes):
        validation = validation[:-1]
    return np.setdiff1d(episodes, validation), validation
