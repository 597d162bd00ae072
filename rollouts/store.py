"""A folder of recorded episodes: written shard by shard, read without loading it into memory, and open to Minari.

    STORE/metadata.json          what was collected, and how
    STORE/shards/000000.h5       whole episodes, named by the first one's number; written aside and renamed
    STORE/minari-v0/data/        an index of links that Minari reads as a dataset
    STORE/latents/<weights>/     encoded frames (`Store.latents`)

Start reading at `Store`; `rollouts.collect` writes what it reads.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from rollouts.datasets import Frames, Sequences, Windows
from rollouts.encoded_dataset import EncodedDataset, encode
from rollouts.episode import Episode
from rollouts.shards import FORMAT, EpisodeMeta, Reader, Shard, read_shard
from rollouts.stall_termination import StallTerminated
from worldmodel import VAE
from worldmodel.io import atomic, read_json, write_json
from worldmodel.migration import (
    STORE_METADATA,
    original,
    renamed_env_options,
    renamed_env_spec,
    renamed_metadata,
    stored_env_options,
)
from worldmodel.paths import expand, folder_path
from worldmodel.progress import Progress, silent

MOST = 65_536
"""Actions, or episodes of a block: no store has more."""
MINARI = "0.5.3"
"""The version whose layout the index follows: the oldest that the extra allows (Minari compares this text with those that it
supports)."""
MINARI_FOLDER = "minari-v0"
NAMESPACE = re.compile(r"[-_\w][-_\w/]*[-_\w]")
"""What Minari takes for the folders above a dataset; it fails on all datasets where one is called otherwise."""


class Store:
    """Recorded episodes in a folder.

    Args:
        path: the folder.

    Raises:
        ValueError: there is no store, or its metadata are damaged. A damaged shard is listed in ``damaged``; the others
            still read.
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
                self.shards.append(read_shard(file))
            except ValueError as error:
                self.damaged[file.name] = str(error)
        self.reader = Reader()
        self._locations = [(shard, number) for shard in self.shards for number in range(len(shard.lengths))]

    def __repr__(self) -> str:
        """Path, environment and size."""
        return f"Store({str(self.path)!r}, env={self.env!r}, episodes={len(self)}, steps={self.steps:,})"

    @property
    def env(self) -> str:
        """The environment's id."""
        return self.metadata["env"]

    @property
    def discrete(self) -> bool:
        """Whether actions are choices."""
        return bool(self.metadata["discrete"])

    @property
    def action_dim(self) -> int:
        """Numbers of a Box action, or choices."""
        return int(self.metadata["action_dim"])

    @property
    def max_idle_steps(self) -> int | None:
        """After how many steps without a reward above zero episodes were cut; None: never."""
        return self.metadata.get("max_idle_steps")

    @cached_property
    def lengths(self) -> list[int]:
        """Steps of each episode."""
        return [length for shard in self.shards for length in shard.lengths]

    @property
    def steps(self) -> int:
        """Steps of all episodes together."""
        return sum(self.lengths)

    @property
    def identity(self) -> str:
        """What the episodes are, in a few words: two stores with the same words hold the same episodes."""
        about = {
            name: value
            for name, value in original(self.metadata, STORE_METADATA).items()
            if name not in ("format", "block")
        }
        if "env_options" in about:  # a store of an older version keeps its identity
            about["env_options"] = stored_env_options(self.env, about["env_options"])
        about["episodes"] = [(shard.first + number, shard.lengths[number]) for shard, number in self._locations]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        return f"{len(self)} episodes, {self.steps} steps of {self.env} ({digest})"

    def __len__(self) -> int:
        """Episodes that can be read."""
        return len(self._locations)

    def locate(self, index: int) -> tuple[Shard, int]:
        """Where episode ``index`` lies: its shard, and its place in it."""
        if not 0 <= index < len(self):
            raise ValueError(f"index must be from 0 to {len(self) - 1}, got {index}")
        return self._locations[index]

    def episode(self, index: int) -> Episode:
        """Read one episode."""
        return self.reader.episode(*self.locate(index))

    def episode_metadata(self, index: int) -> EpisodeMeta:
        """One episode without its frames: actions, rewards, how it ended."""
        return self.reader.metadata(*self.locate(index))

    @property
    def returns(self) -> list[float]:
        """The sum of each episode's rewards."""
        return [float(self.episode_metadata(index).rewards.sum(dtype=np.float64)) for index in range(len(self))]

    def episodes(self) -> Iterator[Episode]:
        """Read all episodes, one after the other."""
        return (self.episode(index) for index in range(len(self)))

    def frames(self) -> Frames:
        """Single frames, for training a VAE."""
        return Frames(self)

    def windows(self, seq_len: int = 32) -> Windows:
        """Windows of frames, actions and rewards, for training end to end."""
        return Windows(self, seq_len)

    def latents(self, vae: VAE, progress: Progress | bool = silent, terminate_on_stall: bool = False) -> EncodedDataset:
        """The frames as ``vae`` sees them, encoded once and kept beside the shards.

        ``terminate_on_stall``: whether episodes that were cut for want of patience end with their last rewards
        (`rollouts.stall_termination.StallTerminated`).

        Raises:
            ValueError: ``terminate_on_stall``, and the episodes were collected without patience.
        """
        if not terminate_on_stall:
            return encode(self, vae, progress)
        if self.max_idle_steps is None:
            raise ValueError(
                f"terminate_on_stall needs rollouts that were collected with patience, got {self.path} without"
            )
        return StallTerminated(encode(self, vae, progress), self.max_idle_steps)

    def sequences(
        self,
        vae: VAE,
        seq_len: int = 32,
        latent_targets: str = "sample",
        weights: np.ndarray | None = None,
        terminate_on_stall: bool = False,
        pad_episode_ends: bool = False,
    ) -> Sequences:
        """Windows of encoded steps, for training a memory; see `rollouts.datasets.Sequences`, and `latents`."""
        latents = self.latents(vae, terminate_on_stall=terminate_on_stall)
        return Sequences(latents, seq_len, latent_targets, weights=weights, pad_episode_ends=pad_episode_ends)

    def minari(self) -> Any:
        """The episodes as a ``minari.MinariDataset``, which reads them where they lie.

        Raises:
            ValueError: Minari is not installed, or the collection never came to its end, where the index is written.
        """
        try:
            from minari import MinariDataset  # optional, and slow to import: only where it is needed
        except ModuleNotFoundError as error:
            raise ValueError(f"reading with Minari needs {error.name}: pip install 'worldmodel[minari]'") from None
        if not (index := minari_index(self.path) / "metadata.json").exists():
            if (older := self.path / "data" / "metadata.json").exists():
                return MinariDataset(older.parent)
            raise ValueError(f"{self.path} has no index for Minari yet: let its collection come to an end")
        about = read_json(index)
        current = about | {"dataset_id": minari_id(self.path)}  # the folder may have been moved
        if "env_spec" in about:
            current["env_spec"] = renamed_env_spec(about["env_spec"])
        if current != about:
            write_json(index, current)
        return MinariDataset(index.parent)


def validate_metadata(metadata: Any, path: Path) -> None:
    """Refuse metadata that are not a store's.

    Raises:
        ValueError: names the file, and what is wrong.
    """
    missing = {"format", "env", "discrete", "action_dim"} - set(metadata if isinstance(metadata, dict) else ())
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: it is of another kind")
    if metadata["format"] != FORMAT:
        raise ValueError(f"{path} has format {metadata['format']}, this version reads {FORMAT}")
    kinds: dict[str, type] = {
        "env": str,
        "discrete": bool,
        "action_dim": int,
        "env_options": dict,
        "episodes_per_shard": int,
        "policy_changes": list,
    }
    for name, kind in kinds.items():
        value = metadata.get(name)
        strange = not isinstance(value, kind) or (kind is int and not 1 <= metadata[name] <= MOST)
        if strange and (value is not None or name in ("env", "discrete", "action_dim")):
            raise ValueError(f"{path} must hold a sensible {name}, got {str(value)[:40]!r}")
    max_idle_steps = metadata.get("max_idle_steps")
    if max_idle_steps is not None and not (type(max_idle_steps) is int and max_idle_steps > 0):
        raise ValueError(f"{path} must hold a sensible max_idle_steps, got {str(max_idle_steps)[:40]!r}")
    for last in metadata.get("policy_changes") or []:
        if not (isinstance(last, dict) and isinstance(last.get("first"), int) and isinstance(last.get("policy"), str)):
            raise ValueError(f"{path} must hold first and policy for each further policy, got {str(last)[:40]!r}")


def minari_index(store: Path) -> Path:
    """The folder of a store's index; where Minari's listing would fail on its name, one that the listing does not see."""
    place = store.absolute()
    fits = NAMESPACE.fullmatch(place.name) and NAMESPACE.fullmatch(f"{place.parent.name}/{place.name}")
    return store / (MINARI_FOLDER if fits else f".{MINARI_FOLDER}") / "data"


def minari_id(store: Path) -> str:
    """What Minari calls a store: the path of its index below ``MINARI_DATASETS_PATH``.

    Where the store is not below that, the folder of the run, or of a store without a run, is taken to lie in it.
    """
    place = store.absolute()
    root = place.parent.parent if place.name == "rollouts" else place.parent
    if configured := os.environ.get("MINARI_DATASETS_PATH"):
        datasets = expand(configured).absolute()
        root = datasets if datasets in (place, *place.parents) else root
    return (place.relative_to(root) / MINARI_FOLDER).as_posix()


def write_minari_index(store: Store, space: Any, can_be_made: bool) -> None:
    """Link all episodes into a dataset, so that ``minari.load_dataset`` and ``minari list`` find the store.

    Args:
        store: the episodes.
        space: of the actions.
        can_be_made: whether `envs.make` makes the environment by its id: Minari then can, too.
    """
    folder = minari_index(store.path)
    with (
        atomic(folder / "main_data.hdf5") as aside,
        h5py.File(aside, "w", libver="latest", track_order=True) as index,
    ):
        for number in range(len(store)):
            shard, place = store.locate(number)
            link = h5py.ExternalLink(f"../../shards/{shard.path.name}", f"/episode_{shard.first + place}")
            index[f"episode_{number}"] = link
    about = {
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "minari_version": MINARI,
        "dataset_id": minari_id(store.path),
        "algorithm_name": store.metadata.get("policy", ""),
        "observation_space": _space_json(spaces.Box(0, 255, (64, 64, 3), np.uint8)),
        "action_space": _space_json(space),
        "total_episodes": len(store),
        "total_steps": store.steps,
        "dataset_size": round(sum(shard.path.stat().st_size for shard in store.shards) / 1e6, 1),
        "description": f"{len(store)} episodes of {store.env}, 64x64 frames",
    }
    if can_be_made:
        options = {"id": store.env, **(store.metadata.get("env_options") or {})}
        spec = EnvSpec(
            "worldmodel/Frames-v0",
            "envs.registration:make",
            order_enforce=False,
            disable_env_checker=True,
            kwargs=options,
        )
        about["env_spec"] = spec.to_json()
    write_json(folder / "metadata.json", about)
    _remove_older_index(store.path / "data")


def _remove_older_index(folder: Path) -> None:
    """Remove an index of an older version, on which Minari's listing fails; a dataset of somebody else stays."""
    links = folder / "main_data.hdf5"
    with contextlib.suppress(OSError):  # there is none, it is no HDF5 file, or something else lies there
        with h5py.File(links) as index:
            ours = all(isinstance(index.get(name, getlink=True), h5py.ExternalLink) for name in index)
        if ours:
            links.unlink()
            (folder / "metadata.json").unlink(missing_ok=True)
            folder.rmdir()


def _space_json(space: Any) -> str:
    """A space as Minari writes it."""
    if isinstance(space, spaces.Discrete):
        content: dict[str, Any] = {"type": "Discrete", "dtype": "int64", "start": int(space.start), "n": int(space.n)}
    else:
        content = {
            "type": "Box",
            "dtype": str(space.dtype),
            "shape": list(space.shape),
            "low": space.low.tolist(),
            "high": space.high.tolist(),
        }
    return json.dumps(content)
