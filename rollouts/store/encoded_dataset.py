"""Encode the episodes of a store with a VAE once, store the latents with the shards, and read them through memory maps.

Start reading at `encode`.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from isal import isal_zlib
from numpy.lib.format import open_memmap

from worldmodel.batches import action_inputs
from worldmodel.io.files import atomic, error_context, fingerprint, read_json, write_json
from worldmodel.rollouts.store.shards import EpisodeStore, Shard
from worldmodel.training.progress import Progress, callback, shows_progress, silent
from worldmodel.vector_encoder import Encoder

ENCODE_BATCH = 16
READ_BYTES = 2**20
"""Number of bytes read at once for a checksum."""


class EncodedEpisode(NamedTuple):
    """An episode of T steps, encoded by a VAE to T + 1 latents."""

    mean: np.ndarray
    """(T + 1, latent) float16, of vectors float32: means of q(z|x)."""
    logvar: np.ndarray
    """(T + 1, latent), likewise: log-variances of q(z|x)."""
    action: np.ndarray
    """(T, actions) float32: action inputs of the memory, one-hot if discrete."""
    reward: np.ndarray
    """(T,) float32."""
    terminated: np.ndarray
    """(T,) float32: 1 where the step terminated the episode."""

    @property
    def entropy(self) -> np.ndarray:
        """(T + 1,) float64: differential entropy of q(z|x) in nats, a lower bound of the NLL of sampled latents."""
        return 0.5 * (math.log(2 * math.pi * math.e) + np.asarray(self.logvar, np.float64)).sum(axis=1)

    def window(self, start: int, steps: int) -> "EncodedEpisode":
        """Return ``steps`` steps of the episode from ``start`` on."""
        latents, others = slice(start, start + steps + 1), slice(start, start + steps)
        return EncodedEpisode(self.mean[latents], self.logvar[latents], *(part[others] for part in self[2:]))


class EncodedDataset:
    """Encoded episodes of a store, in memory maps.

    Args:
        store: Episodes.
        folder: Path of the encoded files.
    """

    stall_steps: int | None = None
    """Number of idle steps that terminate an episode (`rollouts.store.stall_termination`). None: they do not."""
    stall_delay: int = 0
    """Number of steps after the last reward at which it terminates."""

    def __init__(self, store: EpisodeStore, folder: Path) -> None:
        self.store, self.folder = store, folder
        self._open: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of the store, the VAE's fingerprint, and the modified terminations."""
        return {"store": self.store.identity, "vae": self.folder.name, **self.terminations}

    @property
    def terminations(self) -> dict[str, int | None]:
        """The modified terminations, in an identity."""
        delay: dict[str, int | None] = {"stall_delay": self.stall_delay} if self.stall_delay else {}
        return {"terminate_on_stall": self.stall_steps, **delay}

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.store)

    @property
    def lengths(self) -> list[int]:
        """Number of steps of each episode."""
        return self.store.lengths

    def episode(self, index: int) -> EncodedEpisode:
        """Return one episode as views of the memory maps."""
        shard, number = self.store.locate(index)
        latents, actions, outcomes = self._maps(shard)
        start = sum(shard.lengths[:number]) + number  # each earlier episode has T + 1 rows
        stop = start + shard.lengths[number]
        return EncodedEpisode(
            latents[start : stop + 1, 0],
            latents[start : stop + 1, 1],
            actions[start:stop],
            outcomes[start:stop, 0],
            outcomes[start:stop, 1],
        )

    def posterior_means(self, episodes: int = 20) -> np.ndarray:
        """Return the means of q(z|x) of the first episodes' frames, (frames, latent) float32."""
        parts = [self.episode(index).mean for index in range(min(episodes, len(self)))]
        return np.concatenate(parts).astype(np.float32)

    def _maps(self, shard: Shard) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        name = shard.path.stem
        if name not in self._open:
            latents, actions, outcomes = (open_memmap(self.folder / f"{name}.{kind}.npy", mode="r") for kind in _KINDS)
            self._open[name] = (latents, actions, outcomes)
        return self._open[name]


_KINDS = ("latents", "actions", "outcomes")


@shows_progress("encode", "frames")
def encode(store: EpisodeStore, vae: Encoder, progress: Progress | bool = silent) -> EncodedDataset:
    """Encode all frames or vectors that are not encoded yet; a second call continues an interrupted one.

    Writes the files of a shard after all its frames are encoded: latents (frames, 2, latent) float16 (of vectors float32)
    with means and log-variances, actions (frames, actions) float32, and outcomes (frames, 2) float32 with rewards and
    terminations. Their checksums follow last, as JSON.

    Args:
        store: Episodes.
        vae: Encoder.
        progress: Called as ``progress(frames done, frames, note)``. True: a progress bar.
    """
    if vae.observation_shape != store.observation_shape:
        raise ValueError(
            f"vae must encode observations {store.observation_shape} as in the rollouts, got one of {vae.observation_shape}"
        )
    folder = store.path / "latents" / fingerprint(vae)
    rows = sum(store.lengths) + len(store)
    done = 0
    report = callback(progress)
    report(done, rows, "")
    for shard in store.shards:
        size = sum(shard.lengths) + len(shard.lengths)
        paths = {kind: folder / f"{shard.path.stem}.{kind}.npy" for kind in _KINDS}
        shapes = {"latents": (size, 2, vae.latent_dim), "actions": (size, store.action_dim), "outcomes": (size, 2)}
        if not _is_encoded(folder / f"{shard.path.stem}.json", paths, shapes, shard):
            _encode_shard(store, shard, vae, paths)
            write_json(folder / f"{shard.path.stem}.json", {kind: _checksum(path) for kind, path in paths.items()})
        done += size
        report(done, rows, "")
    return EncodedDataset(store, folder)


def _is_encoded(checksum_file: Path, paths: dict[str, Path], shapes: dict[str, tuple[int, ...]], shard: Shard) -> bool:
    """Whether a shard's files exist, are newer than the shard, and have the expected shapes and checksums."""
    try:
        checksums = read_json(checksum_file)
        for kind, path in paths.items():
            array = open_memmap(path, mode="r")  # np.load would accept other file types
            if path.stat().st_mtime < shard.path.stat().st_mtime or array.shape != shapes[kind]:
                return False
            latent_dtype = np.float16 if len(shard.observation_shape) > 1 else np.float32
            if array.dtype != (latent_dtype if kind == "latents" else np.float32) or checksums[kind] != _checksum(path):
                return False
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return False
    return True


def _checksum(path: Path) -> int:
    """Return the CRC-32 of a file, read in blocks."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            checksum = isal_zlib.crc32(block, checksum)
    return checksum


@torch.no_grad()
def _encode_shard(store: EpisodeStore, shard: Shard, vae: Encoder, paths: dict[str, Path]) -> None:
    latents, actions, outcomes = [], [], []
    first = next(index for index in range(len(store)) if store.locate(index)[0] is shard)
    latent_dtype = torch.float16 if len(shard.observation_shape) > 1 else torch.float32
    was_training = vae.training
    vae.eval()
    for number in range(len(shard.lengths)):
        episode = store.episode(first + number)
        for part in torch.from_numpy(episode.frames).split(ENCODE_BATCH):
            posterior = vae.encode(vae.to_inputs(part))
            encoded = torch.stack((posterior.loc, 2 * posterior.scale.log()), dim=1)
            latents.append(encoded.to(latent_dtype).cpu().numpy())
        steps = len(episode)
        inputs = np.zeros((steps + 1, store.action_dim), np.float32)
        with error_context(shard.path, wrap_value_errors=True):
            inputs[:steps] = action_inputs(episode.actions, store.action_dim, episode.actions.ndim == 1)
        outcome = np.zeros((steps + 1, 2), np.float32)
        outcome[:steps, 0] = episode.rewards
        outcome[steps - 1, 1] = float(episode.terminated)
        actions.append(inputs)
        outcomes.append(outcome)
    vae.train(was_training)
    for kind, parts in (("actions", actions), ("outcomes", outcomes), ("latents", latents)):
        with atomic(paths[kind]) as aside, aside.open("wb") as file:
            np.save(file, np.concatenate(parts))


def sample_posterior(mean: np.ndarray, logvar: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw latents from q(z|x), float32."""
    return mean + np.exp(0.5 * logvar) * rng.standard_normal(mean.shape, dtype=np.float32)
