"""How training sees a store: single frames, windows of frames, windows of encoded steps (`rollouts.encoded_dataset`).

They follow `worldmodel.batches.Data` where training needs it, and hold little in memory however large the store is.
"""

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rollouts.encoded_dataset import EncodedDataset, sample_posterior
from rollouts.shards import CHUNK, FRAME, FRAME_BYTES, EpisodeStore
from worldmodel.batches import SequenceBatch, action_inputs
from worldmodel.rng import Stream
from worldmodel.validation import validate_positive_int

CACHE_BYTES = 768 * 2**20
"""Decompressed chunks of frames are kept up to this size."""
PER_CHUNK = 4
"""Frames drawn from each chunk that is decompressed for a batch; one where the cache holds all chunks."""


class Frames:
    """Single frames (batch, 64, 64, 3) of bytes; training data for a VAE.

    Args:
        store: the episodes.
        episodes: which of them; None: all.
    """

    def __init__(self, store: EpisodeStore, episodes: Sequence[int] | np.ndarray | None = None) -> None:
        self.store = store
        self.episodes = np.arange(len(store)) if episodes is None else np.asarray(episodes)
        counts = [-(-(store.lengths[episode] + 1) // CHUNK) for episode in self.episodes]
        self._episode = np.repeat(self.episodes, counts)  # for each chunk: its episode, and its place there
        self._number = np.concatenate([np.arange(count) for count in counts]) if counts else np.zeros(0, int)
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached = 0
        self._per_chunk = 1 if len(self) * FRAME_BYTES <= CACHE_BYTES else PER_CHUNK

    def __len__(self) -> int:
        """How many frames."""
        return sum(self.store.lengths[episode] + 1 for episode in self.episodes)

    @property
    def identity(self) -> str:
        """Which episodes, of which store."""
        return f"{_digest(self.episodes)} of {self.store.identity}"

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Training and held-out frames, by whole episodes."""
        training, held_out = split_episodes(self.episodes, fraction, seed)
        return type(self)(self.store, training), type(self)(self.store, held_out)

    def batch(self, size: int, rng: np.random.Generator) -> Tensor:
        """Random frames, each of a random chunk, or a few of each where chunks must be decompressed for it."""
        picked = []
        for chunk in rng.integers(len(self._episode), size=-(-size // self._per_chunk)):
            frames = self._chunk(int(chunk))
            picked.append(frames[rng.integers(len(frames), size=self._per_chunk)])
        return torch.from_numpy(np.concatenate(picked)[:size])

    def batches(self, size: int) -> Iterator[Tensor]:
        """All frames once, chunks in a fixed random order."""
        rest: list[np.ndarray] = []
        count = 0
        for chunk in np.random.default_rng(0).permutation(len(self._episode)):
            rest.append(self._chunk(int(chunk)))
            count += len(rest[-1])
            if count >= size:
                frames = np.concatenate(rest)
                yield torch.from_numpy(frames[:size])
                rest, count = [frames[size:]], len(frames) - size
        if count:
            yield torch.from_numpy(np.concatenate(rest))

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


class WindowBatch(NamedTuple):
    """Windows of what really happened: ``action[:, t]`` leads from ``frames[:, t]`` to ``frames[:, t + 1]``."""

    frames: UInt8[Tensor, "batch time_plus_1 64 64 3"]
    action: Float[Tensor, "batch time actions"]
    """The memory's action inputs, one-hot if discrete."""
    reward: Float[Tensor, "batch time"]
    terminated: Float[Tensor, "batch time"]
    mask: Float[Tensor, "batch time"]
    """One where a step happened, zero where the window was padded."""


class _Window(NamedTuple):
    """Steps in a row of an episode."""

    episode: int
    start: int
    steps: int


class Windows:
    """Random windows of frames, read from the compressed shards as they are asked for.

    Args:
        store: the episodes.
        seq_len: steps of a window; shorter episodes are padded, and masked.
        episodes: which of them; None: all that have a step.

    Raises:
        ValueError: the length is below 1.
    """

    def __init__(
        self, store: EpisodeStore, seq_len: int = 32, episodes: Sequence[int] | np.ndarray | None = None
    ) -> None:
        validate_positive_int(seq_len=seq_len)
        self.store, self.seq_len = store, seq_len
        everything = [index for index, steps in enumerate(store.lengths) if steps]
        self.episodes = np.asarray(everything if episodes is None else episodes)
        self._steps = np.array([store.lengths[index] for index in self.episodes])

    @property
    def identity(self) -> str:
        """Which episodes, of which store, and the windows' length."""
        return f"{_digest(self.episodes)} of {self.store.identity}, windows of {self.seq_len} frames"

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Training and held-out windows, by whole episodes."""
        training, held_out = split_episodes(self.episodes, fraction, seed)
        return type(self)(self.store, self.seq_len, training), type(self)(self.store, self.seq_len, held_out)

    def batch(self, size: int, rng: np.random.Generator) -> WindowBatch:
        """Random windows: every step of every episode is equally likely to be in one, but for the ends."""
        return self._windows(_sample_windows(self.episodes, self._steps, self.seq_len, size, rng))

    def batches(self, size: int) -> Iterator[WindowBatch]:
        """All steps once, in windows side by side, in a fixed random order."""
        for _, picked in _tile_windows(self.episodes, self._steps, self.seq_len, size):
            yield self._windows(picked)

    def _windows(self, windows: list[_Window]) -> WindowBatch:
        count, seq_len, reader = len(windows), self.seq_len, self.store.reader
        frames = np.empty((count, seq_len + 1, *FRAME), np.uint8)
        action = np.zeros((count, seq_len, self.store.action_dim), np.float32)
        reward, terminated, mask = (np.zeros((count, seq_len), np.float32) for _ in range(3))
        for row, (index, start, steps) in enumerate(windows):
            shard, number = self.store.locate(index)
            meta = self.store.episode_metadata(index)
            place = 0
            for piece in reader.frames(shard, number, start, start + steps + 1):
                frames[row, place : place + len(piece)] = piece
                place += len(piece)
            frames[row, place:] = 0
            taken = meta.actions[start : start + steps]
            action[row, :steps] = action_inputs(taken, self.store.action_dim, taken.ndim == 1)
            reward[row, :steps] = meta.rewards[start : start + steps]
            terminated[row, steps - 1] = float(meta.terminated and start + steps == len(meta.actions))
            mask[row, :steps] = 1.0
        return WindowBatch(*(torch.from_numpy(part) for part in (frames, action, reward, terminated, mask)))


class Sequences:
    """Windows of encoded steps; training data for a memory.

    Latents are drawn from q(z|x), anew for each batch, or are its means.

    Args:
        latents: encoded episodes.
        seq_len: steps of a window; shorter episodes are padded, and masked.
        latent_targets: "sample": z ~ q(z|x), as in World Models; "mean": the posterior's mean.
        episodes: which of them; None: all that have a step.
        weights: (episodes of the store,): how often a step of each is drawn, beside the others; None: all alike.
        pad_episode_ends: whether windows may begin before an episode or end behind it, and are as much shorter then,
            so that its last steps are in as many as all others. Without it the last step is in one window of
            ``seq_len`` in which an inner one is, and a memory predicts terminations less often than they happen.

    Raises:
        ValueError: ``seq_len`` is below 1, there are no such ``latent_targets``, or ``weights`` have another shape or are no
            finite numbers above zero.
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
            [index for index, steps in enumerate(lengths) if steps] if episodes is None else episodes
        )
        self._steps = np.array([lengths[index] for index in self.episodes])
        self.weights = None if weights is None else _validate_weights(weights, len(latents))

    @property
    def identity(self) -> str:
        """Which episodes, of which store, windows, their weights, and the VAE that encoded them."""
        which = f"{_digest(self.episodes)} of {self.latents.store.identity}"
        if self.weights is not None:
            which += f", weighted {hashlib.sha256(self.weights.tobytes()).hexdigest()[:8]}"
        return f"{which}, encoded by {self.latents.folder.name}{self.form}"

    @property
    def form(self) -> str:
        """What is drawn of them: where episodes end, the windows, and the targets; the end of `identity`."""
        windows = f"{'overhanging ' * self.pad_episode_ends}windows of {self.seq_len}"
        return f"{self.latents.termination_note}, {windows}, {self.latent_targets} targets"

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Training and held-out windows, by whole episodes."""
        parts = split_episodes(self.episodes, fraction, seed)
        training, held_out = (
            type(self)(self.latents, self.seq_len, self.latent_targets, part, self.weights, self.pad_episode_ends)
            for part in parts
        )
        return training, held_out

    def batch(self, size: int, rng: np.random.Generator) -> SequenceBatch:
        """Random windows: every step of every episode is equally likely to be in one, but for ``weights`` (and the ends)."""
        drawn = _sample_windows(
            self.episodes, self._steps, self.seq_len, size, rng, self.weights, self.pad_episode_ends
        )
        return self._windows(drawn, rng)

    def batches(self, size: int) -> Iterator[SequenceBatch]:
        """All steps once, in windows side by side, in a fixed random order and with fixed noise."""
        for number, picked in _tile_windows(self.episodes, self._steps, self.seq_len, size):
            yield self._windows(picked, np.random.default_rng([1, number]))

    def _windows(self, windows: list[_Window], rng: np.random.Generator) -> SequenceBatch:
        count, seq_len = len(windows), self.seq_len
        first = self.latents.episode(windows[0].episode)
        size, actions = first.mean.shape[1], first.action.shape[1]
        mean, logvar = (
            np.zeros((count, seq_len + 1, size), np.float32),
            np.zeros((count, seq_len + 1, size), np.float32),
        )
        action = np.zeros((count, seq_len, actions), np.float32)
        reward, terminated, mask = (np.zeros((count, seq_len), np.float32) for _ in range(3))
        for row, (index, start, steps) in enumerate(windows):
            episode = self.latents.episode(index)
            mean[row, : steps + 1] = episode.mean[start : start + steps + 1]
            logvar[row, : steps + 1] = episode.logvar[start : start + steps + 1]
            action[row, :steps] = episode.action[start : start + steps]
            reward[row, :steps] = episode.reward[start : start + steps]
            terminated[row, :steps] = episode.terminated[start : start + steps]
            mask[row, :steps] = 1.0
        z = mean
        if self.latent_targets == "sample":
            z = sample_posterior(mean, logvar, rng)
        parts = (z[:, :-1], action, z[:, 1:], reward, terminated, mask)
        return SequenceBatch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


def _sample_windows(
    episodes: np.ndarray,
    steps: np.ndarray,
    seq_len: int,
    size: int,
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
    pad_episode_ends: bool = False,
) -> list[_Window]:
    """Random windows, episodes as likely as they are long, times their ``weights``; see `Sequences` for ``pad_episode_ends``.

    An episode that fits into a window is there as a whole.
    """
    whole = steps <= seq_len
    odds = (
        np.where(whole, seq_len * (steps > 0), steps + seq_len - 1) if pad_episode_ends else steps
    )  # windows, each step in ``seq_len``
    if weights is not None:
        odds = odds * weights[episodes]
    rows = rng.choice(len(episodes), size=size, p=odds / odds.sum())
    if pad_episode_ends:
        starts = np.where(whole[rows], 0, rng.integers(1 - seq_len, steps[rows])).tolist()
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
    """Batches of windows side by side, (number of the first, windows), in a fixed random order."""
    windows = [
        _Window(int(index), start, min(seq_len, int(count) - start))
        for index, count in zip(episodes, steps, strict=True)
        for start in range(0, int(count), seq_len)
    ]
    order = np.random.default_rng(0).permutation(len(windows))
    for number in range(0, len(windows), size):
        yield number, [windows[place] for place in order[number : number + size]]


def _digest(episodes: np.ndarray) -> str:
    """Which episodes: all numbers, or a digest of them."""
    digest = hashlib.sha256(np.asarray(episodes, np.int64).tobytes()).hexdigest()[:8]
    return f"{len(episodes)} ({digest})"


def split_episodes(episodes: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Episodes for training, and the held-out ``fraction`` of them: at least one of each.

    Consecutive numbers of episodes form blocks of ``1 / fraction``; one random episode of each block is held out. So an
    episode that was trained on is never held out later, after the store has grown.

    Args:
        episodes: different numbers of episodes.
        fraction: of them to hold out, above 0 and below 1.
        seed: of the random choice.

    Raises:
        ValueError: there are fewer than two episodes, or the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"held_out must be between 0 and 1, got {fraction}")
    if len(episodes) < 2:
        raise ValueError(f"training needs at least 2 episodes, one of them held out, got {len(episodes)}")
    episodes = np.sort(episodes)
    if fraction > 0.5:  # then one of each block is trained on
        held_out, training = split_episodes(episodes, 1 - fraction, seed)
        return training, held_out
    blocks = int(episodes[-1] * fraction) + 2  # one more than exact numbers need: the last episode may lie on an edge
    edges = np.ceil(np.arange(blocks + 1) / fraction - 1e-9).astype(np.int64)
    orders = [
        np.random.default_rng([seed, Stream.SPLIT, number]).permutation(np.arange(start, stop))
        for number, (start, stop) in enumerate(itertools.pairwise(edges), 1)
    ]
    held_out = np.intersect1d(episodes, [order[0] for order in orders])
    if not len(held_out):  # so few that none was drawn
        held_out = next(order[np.isin(order, episodes)][:1] for order in orders if np.isin(order, episodes).any())
    if len(held_out) == len(episodes):
        held_out = held_out[:-1]
    return np.setdiff1d(episodes, held_out), held_out
