"""A store: a folder of recorded episodes, written in shards, read without loading it into memory, and readable by Minari.

    STORE/metadata.json          environment, policy, seed and other settings
    STORE/shards/000000.h5       whole episodes, named by the index of the first; written to a temporary file and renamed
    STORE/minari-v0/data/        an index of links, which Minari reads as a dataset
    STORE/latents/<weights>/     encoded frames (`Store.latents`)

Start reading at `Store`; `rollouts.collect` writes the shards.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.io.files import read_json, write_json
from worldmodel.io.migration import (
    STORE_METADATA,
    original,
    renamed_env_options,
    renamed_env_spec,
    renamed_metadata,
    stored_env_options,
)
from worldmodel.io.paths import folder_path
from worldmodel.rollouts.episode import FRAME, Episode
from worldmodel.rollouts.pictures import grid, png, with_picture
from worldmodel.rollouts.store.datasets import Frames, Sequences
from worldmodel.rollouts.store.encoded_dataset import EncodedDataset, encode
from worldmodel.rollouts.store.minari_index import minari_id, minari_index
from worldmodel.rollouts.store.shards import FORMAT, EpisodeMeta, Reader, Shard, read_shard
from worldmodel.rollouts.store.stall_termination import StallTerminated
from worldmodel.training.progress import Progress, silent
from worldmodel.vector_encoder import Encoder

MAX_COUNT = 65_536
"""Maximum number of actions, and of episodes of a block."""


class Store:
    """Recorded episodes in a folder.

    Args:
        path: Path of the folder.

    Raises:
        ValueError: There is no store, or its metadata are damaged. A damaged shard is listed in ``damaged``; the others
            can still be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = folder_path(path, "path")
        if not (self.path / "metadata.json").exists():
            raise ValueError(f"{self.path} is not a rollout store: it has no metadata.json")
        self.metadata = renamed_metadata(read_json(self.path / "metadata.json"))
        validate_metadata(self.metadata, self.path / "metadata.json")
        if "env_options" in self.metadata:
            self.metadata["env_options"] = renamed_env_options(self.env, self.metadata["env_options"])
        self.damaged: dict[str, str] = {}
        """Shards that cannot be read, with the reason."""
        self.shards: list[Shard] = []
        for file in sorted((self.path / "shards").glob("*.h5")):
            try:
                self.shards.append(shard := read_shard(file))
                if shard.observation_shape != self.observation_shape:
                    del self.shards[-1]
                    self.damaged[file.name] = f"{file} holds observations {shard.observation_shape}"
            except ValueError as error:
                self.damaged[file.name] = str(error)
        self.reader = Reader()
        self._locations = [(shard, number) for shard in self.shards for number in range(len(shard.lengths))]

    def __repr__(self) -> str:
        """Return path, environment and size."""
        return f"Store({str(self.path)!r}, env={self.env!r}, episodes={len(self)}, steps={self.steps:,})"

    @property
    def env(self) -> str:
        """Id of the environment."""
        return self.metadata["env"]

    @property
    def discrete(self) -> bool:
        """Whether actions are discrete."""
        return bool(self.metadata["discrete"])

    @property
    def action_dim(self) -> int:
        """Size of a Box action, or number of discrete actions."""
        return int(self.metadata["action_dim"])

    @property
    def nvec(self) -> tuple[int, ...]:
        """Number of options of each choice of a Box that holds choices (`worldmodel.envs.choices.ChoiceSpace`); else empty."""
        return tuple(self.metadata.get("nvec") or ())

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of an observation: (64, 64, 3), or (n,) for vectors."""
        return tuple(self.metadata.get("observation_shape", FRAME))

    @property
    def max_idle_steps(self) -> int | None:
        """Number of steps without a positive reward after which episodes were truncated; None: never."""
        return self.metadata.get("max_idle_steps")

    @cached_property
    def lengths(self) -> list[int]:
        """Number of steps of each episode."""
        return [length for shard in self.shards for length in shard.lengths]

    @property
    def steps(self) -> int:
        """Number of steps of all episodes."""
        return sum(self.lengths)

    @property
    def identity(self) -> dict[str, Any]:
        """Environment, size and digest of the episodes: stores of equal identity hold equal episodes."""
        metadata = {
            name: value
            for name, value in original(self.metadata, STORE_METADATA).items()
            if name not in ("format", "block")
        }
        if "env_options" in metadata:  # keep the identity of stores of older versions
            metadata["env_options"] = stored_env_options(self.env, metadata["env_options"])
        metadata["episodes"] = [(shard.first + number, shard.lengths[number]) for shard, number in self._locations]
        digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()[:16]
        return {"env": self.env, "episodes": len(self), "steps": self.steps, "digest": digest}

    def __len__(self) -> int:
        """Number of episodes that can be read."""
        return len(self._locations)

    def contact_sheet(self, rows: int = 8, columns: int = 12) -> np.ndarray | None:
        """Return one image (H, W, 3) of ``columns`` frames of each of ``rows`` episodes; None: there are no frames."""
        if not len(self) or len(self.observation_shape) == 1:
            return None
        lines = []
        for index in np.unique(np.linspace(0, len(self) - 1, rows).astype(int)):
            shard, number = self.locate(int(index))
            times = np.linspace(0, shard.lengths[number], columns).astype(int)
            lines.append(np.concatenate([self.reader.frames(shard, number, t, t + 1)[0][..., -3:] for t in times]))
        return grid(lines, scale=1)

    def _repr_html_(self) -> str:
        """Return the contact sheet as HTML for a notebook."""
        sheet = self.contact_sheet()
        return with_picture(repr(self), None if sheet is None else png(sheet))

    def missing(self, count: int) -> list[int]:
        """Return the numbers below ``count`` of episodes that are not in a readable shard."""
        return sorted(set(range(count)).difference(shard.first + number for shard, number in self._locations))

    def validate_episodes(self, count: int, cure: str) -> None:
        """Check that the first ``count`` episodes can be read: others would be taken for those that are missing.

        Args:
            count: Number of episodes.
            cure: What to do, for the message.

        Raises:
            ValueError: An episode is missing; the message names the store or the damaged shard.
        """
        if missing := self.missing(count):
            reason = next(iter(self.damaged.values()), f"{self.path} lacks episode {missing[0]}")
            raise ValueError(f"{reason}; {cure}")

    def locate(self, index: int) -> tuple[Shard, int]:
        """Return the shard of episode ``index``, and its number in the shard."""
        if not 0 <= index < len(self):
            raise ValueError(f"index must be from 0 to {len(self) - 1}, got {index}")
        return self._locations[index]

    def episode(self, index: int) -> Episode:
        """Read one episode."""
        return self.reader.episode(*self.locate(index))

    def episode_metadata(self, index: int) -> EpisodeMeta:
        """Return one episode without its frames: actions, rewards and ends."""
        return self.reader.metadata(*self.locate(index))

    @property
    def returns(self) -> list[float]:
        """Sum of rewards of each episode."""
        return [float(self.episode_metadata(index).rewards.sum(dtype=np.float64)) for index in range(len(self))]

    def episodes(self) -> Iterator[Episode]:
        """Read all episodes one after the other."""
        return (self.episode(index) for index in range(len(self)))

    def frames(self) -> Frames:
        """Return single frames, for training a VAE."""
        return Frames(self)

    def latents(
        self, vae: Encoder, progress: Progress | bool = silent, stall_delay: int | None = None
    ) -> EncodedDataset:
        """Return the frames or vectors encoded by ``vae``; they are encoded once and stored with the shards.

        Args:
            vae: Encoder.
            progress: Called as ``progress(frames done, frames, note)``. True: a progress bar.
            stall_delay: Number of steps after the last reward at which idle truncation counts as termination
                (`rollouts.store.stall_termination.StallTerminated`). None: it does not.

        Raises:
            ValueError: ``stall_delay`` is out of range, the episodes were collected without ``max_idle_steps``, or ``vae``
                encodes other observations.
        """
        if stall_delay is None:
            return encode(self, vae, progress)
        if self.max_idle_steps is None:
            raise ValueError(f"stall_delay needs rollouts collected with max_idle_steps, got {self.path} without")
        return StallTerminated(encode(self, vae, progress), self.max_idle_steps, stall_delay)

    def sequences(
        self,
        vae: Encoder,
        seq_len: int = 32,
        latent_targets: str = "sample",
        weights: np.ndarray | None = None,
        stall_delay: int | None = None,
        pad_episode_ends: bool = False,
    ) -> Sequences:
        """Return windows of encoded steps, for training a memory (`rollouts.store.datasets.Sequences`, `latents`)."""
        latents = self.latents(vae, stall_delay=stall_delay)
        return Sequences(latents, seq_len, latent_targets, weights=weights, pad_episode_ends=pad_episode_ends)

    def minari(self) -> Any:
        """Return the episodes as a ``minari.MinariDataset``, without copying them.

        Raises:
            ValueError: Minari is not installed, or the collection did not finish (it writes the index at its end).
        """
        try:
            from minari import MinariDataset  # optional, and slow to import
        except ModuleNotFoundError as error:
            raise ValueError(f"reading with Minari needs {error.name}: pip install 'worldmodel[minari]'") from None
        if not (index := minari_index(self.path) / "metadata.json").exists():
            if (older := self.path / "data" / "metadata.json").exists():
                return MinariDataset(older.parent)
            raise ValueError(f"{self.path} has no index for Minari: finish its collection first")
        metadata = read_json(index)
        current = metadata | {"dataset_id": minari_id(self.path)}  # the folder may have moved
        if "env_spec" in metadata:
            current["env_spec"] = renamed_env_spec(metadata["env_spec"])
        if current != metadata:
            write_json(index, current)
        return MinariDataset(index.parent)


def validate_metadata(metadata: Any, path: Path) -> None:
    """Check the metadata of a store.

    Raises:
        ValueError: Names the file, and what is wrong.
    """
    missing = {"format", "env", "discrete", "action_dim"} - set(metadata if isinstance(metadata, dict) else ())
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: it is not a store's metadata")
    if metadata["format"] != FORMAT:
        raise ValueError(f"{path} has format {metadata['format']}, but this version reads format {FORMAT}")
    kinds: dict[str, type] = {
        "env": str,
        "discrete": bool,
        "action_dim": int,
        "env_options": dict,
        "episodes_per_shard": int,
        "policy_changes": list,
        "observation_shape": list,
        "nvec": list,
    }
    for name, kind in kinds.items():
        value = metadata.get(name)
        invalid = not isinstance(value, kind) or (kind is int and not 1 <= metadata[name] <= MAX_COUNT)
        if invalid and (value is not None or name in ("env", "discrete", "action_dim")):
            raise ValueError(f"{path} must hold a valid {name}, got {str(value)[:40]!r}")
    for name in ("observation_shape", "nvec"):
        sizes = metadata.get(name) or [1]
        if not all(type(size) is int and 1 <= size <= MAX_COUNT for size in sizes):
            raise ValueError(f"{path} must hold a valid {name}, got {str(sizes)[:40]!r}")
    if not metadata["env"].isprintable():  # it is printed, and a terminal obeys control characters
        raise ValueError(f"{path} must hold a valid env, got {metadata['env'][:40]!r}")
    max_idle_steps = metadata.get("max_idle_steps")
    if max_idle_steps is not None and not (type(max_idle_steps) is int and max_idle_steps > 0):
        raise ValueError(f"{path} must hold a valid max_idle_steps, got {str(max_idle_steps)[:40]!r}")
    for change in metadata.get("policy_changes") or []:
        if not (
            isinstance(change, dict) and isinstance(change.get("first"), int) and isinstance(change.get("policy"), str)
        ):
            raise ValueError(f"{path} must hold first and policy for each policy change, got {str(change)[:40]!r}")
