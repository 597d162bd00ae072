"""Shards: files of whole episodes, written atomically and read in parts.

A shard is plain HDF5 with gzip chunks, which every HDF5 reader opens. Writing and reading bypass HDF5's own zlib: ISA-L
writes and reads the same zlib streams several times as fast (benchmarks/README.md). Start reading at `shard_bytes`.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np
from isal import isal_zlib

from worldmodel.envs.images import is_frame_shape
from worldmodel.envs.wrappers import MAX_ACTIONS
from worldmodel.rollouts.episode import FRAME, Episode

FORMAT = 1
CHUNK = 16
"""Number of frames in a compressed chunk."""
MAX_CHUNK = 256
"""Maximum number of frames in a chunk of a file from elsewhere."""
COMPRESSION_LEVEL = 2
"""ISA-L's level: files as small as with zlib's level 1, several times as fast."""
MAX_COMPRESSION_RATIO = 1_032
"""Upper bound of the compression ratio of HDF5's known filters."""
MAX_CACHED_EPISODES = 8_192
"""Number of episodes whose chunk locations, actions and rewards a reader caches."""


class Shard(NamedTuple):
    """A file of whole episodes."""

    path: Path
    first: int
    """Index of its first episode."""
    lengths: tuple[int, ...]
    """Number of steps of its episodes."""
    observation_shape: tuple[int, ...] = FRAME
    """(64, 64, 3), of another size or number of channels, or (n,) for vectors."""


def shard_bytes(episodes: Sequence[Episode]) -> bytes:
    """Return whole episodes as the content of a file.

    Raises:
        ValueError: There is no episode, their indices are not consecutive, or one is invalid.
    """
    indices = [episode.index for episode in episodes]
    if not indices or indices != list(range(indices[0], indices[0] + len(indices))) or indices[0] < 0:
        raise ValueError(f"a shard must hold episodes with consecutive indices from 0 on, got {indices}")
    for episode in episodes:
        validate_episode(episode)
    # In memory: HDF5 handles a full disk badly, and a block of episodes is small.
    with h5py.File("shard", "w", driver="core", backing_store=False, libver="latest", track_order=True) as file:
        file.attrs.update(format=FORMAT, first=episodes[0].index, count=len(episodes))
        file.attrs["lengths"] = np.array([len(episode) for episode in episodes], np.int64)
        for episode in episodes:
            _write_episode(file.create_group(f"episode_{episode.index}"), episode)
        file.flush()
        return file.id.get_file_image()


def validate_episode(episode: Episode) -> None:
    """Check that an episode can be stored and read back unchanged.

    Raises:
        ValueError: Names the episode, what was expected and what came.
    """
    frames, actions, rewards, steps = episode.frames, episode.actions, episode.rewards, len(episode)
    discrete = _is_array(actions, np.int64, (steps,))
    continuous = (
        actions.ndim == 2 and actions.shape[1] > 0 and _is_array(actions, np.float32, (steps, actions.shape[1]))
    )
    expected = None
    if steps == 0:
        expected = "at least one step"
    elif not (
        is_frame_shape(frames.shape[1:]) and _is_array(frames, np.uint8, (steps + 1, *frames.shape[1:]))
    ) and not (frames.ndim == 2 and frames.shape[1] and _is_array(frames, np.float32, (steps + 1, frames.shape[1]))):
        expected = f"frames {(steps + 1, *FRAME)} uint8 or vectors (T + 1, n) float32, finite"
        expected += f", got {frames.shape} {frames.dtype}"
    elif not (discrete or continuous):
        expected = f"actions (T, n) float32 or (T,) int64, finite, got {actions.shape} {actions.dtype}"
    elif not _is_array(rewards, np.float32, (steps,)):
        expected = f"rewards (T,) float32, finite, got {rewards.shape} {rewards.dtype}"
    elif not all(isinstance(end, bool | np.bool_) for end in (episode.terminated, episode.truncated)):
        expected = f"boolean terminated and truncated, got {episode.terminated!r} and {episode.truncated!r}"
    elif not -(2**63) <= episode.seed < 2**63:
        expected = f"a seed of 64 bits, got {episode.seed}"
    if expected:
        raise ValueError(f"episode {episode.index} must have {expected}")


def _is_array(values: np.ndarray, dtype: type[np.generic], shape: tuple[int, ...]) -> bool:
    finite = values.dtype.kind != "f" or bool(np.isfinite(values).all())
    return values.dtype == dtype and values.shape == shape and finite


def _write_episode(group: h5py.Group, episode: Episode) -> None:
    """Write one episode in Minari's layout."""
    last = np.arange(len(episode)) == len(episode) - 1
    arrays = {"actions": episode.actions, "rewards": episode.rewards}
    arrays |= {"terminations": last & episode.terminated, "truncations": last & episode.truncated}
    if episode.frames.ndim == 2:
        arrays["observations"] = episode.frames
    else:
        _write_frames(group, episode.frames)
    for name, values in arrays.items():  # with checksums; zlib's streams of frames have their own
        group.create_dataset(name, data=values, fletcher32=bool(values.size))
    group.attrs.update(id=episode.index, seed=episode.seed, total_steps=len(episode))


def _write_frames(group: h5py.Group, frames: np.ndarray) -> None:
    """Write frames in compressed chunks."""
    size = min(CHUNK, len(frames))
    observations = group.create_dataset(
        "observations", frames.shape, np.uint8, chunks=(size, *frames.shape[1:]), compression="gzip", compression_opts=1
    )
    for start in range(0, len(frames), size):
        chunk = frames[start : start + size]
        if len(chunk) < size:  # HDF5 stores complete chunks only
            chunk = np.concatenate((chunk, np.zeros((size - len(chunk), *frames.shape[1:]), np.uint8)))
        observations.id.write_direct_chunk(
            (start, 0, 0, 0), isal_zlib.compress(np.ascontiguousarray(chunk), COMPRESSION_LEVEL)
        )


def read_shard(path: Path) -> Shard:
    """Read the index and lengths of a shard.

    Raises:
        ValueError: The file is truncated, or not a shard.
    """
    try:
        with h5py.File(path, "r") as file:
            first, lengths = int(file.attrs["first"]), tuple(int(length) for length in file.attrs["lengths"])
            names = {f"episode_{first + number}" for number in range(len(lengths))}
            if file.attrs["format"] != FORMAT or set(file) != names or not names:
                raise ValueError(f"{path} is not a shard of rollouts")
            observation_shape = file[f"episode_{first}"]["observations"].shape[1:]
            if not is_frame_shape(observation_shape) and len(observation_shape) != 1:
                raise ValueError(f"{path} holds observations {observation_shape}")
            for number, length in enumerate(lengths):
                group = file[f"episode_{first + number}"]
                shape = group["observations"].shape
                if (
                    shape != (length + 1, *observation_shape)
                    or len(group["actions"]) != length
                    or len(group["rewards"]) != length
                ):
                    raise ValueError(f"{path} holds an episode of frames {shape} and {len(group['actions'])} actions")
            if path.stem.isdecimal() and int(path.stem) != first:
                raise ValueError(f"{path} holds episodes from {first} on: it does not match its name")
    except (OSError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{path} is not a whole shard of rollouts: {error}") from None
    return Shard(path, first, lengths, observation_shape)


class EpisodeMeta(NamedTuple):
    """An episode without its frames, and the location of its frames."""

    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    seed: int
    episode_index: int
    num_frames: int
    """T + 1."""
    chunk_size: int
    """Number of frames of a chunk."""
    chunk_locations: np.ndarray
    """(chunks, 2): offset and size in the file, in bytes; empty for vectors."""


class Reader:
    """Reads episodes or parts of their frames; caches their locations, and opens a file only while it reads."""

    def __init__(self) -> None:
        self._cache: OrderedDict[tuple[Path, int], EpisodeMeta] = OrderedDict()

    def metadata(self, shard: Shard, number: int) -> EpisodeMeta:
        """Return all of the shard's episode ``number`` except its frames.

        Raises:
            ValueError: The shard is damaged.
        """
        key = (shard.path, number)
        if key not in self._cache:
            try:
                with h5py.File(shard.path, "r") as file:
                    self._cache[key] = _read_meta(_member(file, f"episode_{shard.first + number}"))
            except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(f"{shard.path} cannot be read: {error}") from None
            if len(self._cache) > MAX_CACHED_EPISODES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def frames(self, shard: Shard, number: int, start: int, stop: int) -> list[np.ndarray]:
        """Return frames or vectors ``start`` to ``stop`` of the shard's episode ``number``, as a list of arrays.

        Raises:
            ValueError: The shard is damaged.
        """
        meta = self.metadata(shard, number)
        stop, size, parts = min(stop, meta.num_frames), meta.chunk_size, []
        if not len(meta.chunk_locations):
            return [self._vectors(shard, number)[start:stop]]
        try:
            with shard.path.open("rb", buffering=0) as file:
                for chunk in range(start // size, -(-stop // size)):
                    offset, length = map(int, meta.chunk_locations[chunk])
                    file.seek(offset)
                    frames = _decompress(file.read(length), (size, *shard.observation_shape))
                    parts.append(frames[max(start - chunk * size, 0) : stop - chunk * size])
        except (OSError, ValueError) as error:
            raise ValueError(f"{shard.path} cannot be read: {error}") from None
        return parts

    def _vectors(self, shard: Shard, number: int) -> np.ndarray:
        try:
            with h5py.File(shard.path, "r") as file:
                group = _member(file, f"episode_{shard.first + number}")
                return _read_numbers(group, "observations", shard.lengths[number] + 1).astype(np.float32)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{shard.path} cannot be read: {error}") from None

    def episode(self, shard: Shard, number: int) -> Episode:
        """Return one whole episode.

        Raises:
            ValueError: The shard is damaged.
        """
        meta = self.metadata(shard, number)
        frames = np.concatenate(self.frames(shard, number, 0, meta.num_frames))
        return Episode(
            frames, meta.actions, meta.rewards, meta.terminated, meta.truncated, meta.seed, meta.episode_index
        )


def _decompress(compressed: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Decompress a chunk of frames, and never more bytes than these have."""
    expected = math.prod(shape)
    decompressor = isal_zlib.decompressobj()
    try:
        content = decompressor.decompress(compressed, expected + 1)
    except isal_zlib.error as error:  # type: ignore[misc]
        raise ValueError(str(error)) from None
    if len(content) != expected or not decompressor.eof:  # the checksum is verified at the end of the stream
        raise ValueError("a chunk of frames is incomplete")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _member(group: h5py.Group, name: str) -> Any:
    """Return a group or a dataset that is stored in this very file: a file from elsewhere must not show others.

    Raises:
        ValueError: It is a link to another file, or its data are in one.
    """
    if isinstance(group.get(name, getlink=True), h5py.HardLink):
        found = group[name]
        if isinstance(found, h5py.Group) or not (found.external or found.is_virtual):
            return found
    raise ValueError(f"{name} is not stored in the file itself")


def _read_numbers(group: h5py.Group, name: str, steps: int) -> np.ndarray:
    """Read a dataset of ``steps`` finite numbers, or rows of them, after checking its size against the bytes stored."""
    dataset = _member(group, name)
    width = math.prod(dataset.shape[1:])
    if len(dataset) != steps or dataset.dtype.kind not in "biuf" or dataset.ndim > 2 or width > MAX_ACTIONS:
        raise ValueError(f"{name} must be {steps} numbers, got {dataset.shape} {dataset.dtype}")
    if dataset.nbytes > MAX_COMPRESSION_RATIO * dataset.id.get_storage_size():
        raise ValueError(f"{name} of shape {dataset.shape} is missing from the file")
    numbers = dataset[:]
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return numbers


def _read_meta(group: h5py.Group) -> EpisodeMeta:
    observations, chunk_locations = _member(group, "observations"), np.zeros((0, 2), np.int64)
    size, count = 1, len(observations)
    if observations.ndim > 2:
        size, chunk_locations = _chunk_locations(group)
    actions, rewards, terminations, truncations = (
        _read_numbers(group, name, count - 1) for name in ("actions", "rewards", "terminations", "truncations")
    )
    if rewards.ndim > 1 or (actions.ndim == 1) != (actions.dtype.kind in "iu"):
        raise ValueError(f"actions and rewards have invalid shapes, {actions.shape} and {rewards.shape}")
    return EpisodeMeta(
        actions,
        rewards,
        bool(terminations.any()),
        bool(truncations.any()),
        int(group.attrs["seed"]),
        int(group.attrs["id"]),
        count,
        size,
        chunk_locations,
    )


def _chunk_locations(group: h5py.Group) -> tuple[int, np.ndarray]:
    """Return the number of frames of a chunk, and the locations of the chunks."""
    observations = group["observations"]
    shape = observations.shape[1:]
    if not observations.chunks or observations.chunks[1:] != shape or observations.chunks[0] > MAX_CHUNK:
        raise ValueError(f"frames must be stored in chunks of up to {MAX_CHUNK}, got {observations.chunks}")
    size, count, end = observations.chunks[0], len(observations), Path(group.file.filename).stat().st_size
    if count > end * size:
        raise ValueError(f"{end} bytes cannot hold {count} frames")
    chunk_locations = np.zeros((-(-count // size), 2), np.int64)

    def add_location(chunk: h5py.h5d.StoreInfo) -> None:
        chunk_locations[chunk.chunk_offset[0] // size] = (chunk.byte_offset, chunk.size)

    observations.id.chunk_iter(add_location)
    if (chunk_locations < 0).any() or (chunk_locations[:, 1] == 0).any() or (chunk_locations.sum(axis=1) > end).any():
        raise ValueError("a chunk of frames is missing, or outside of the file")
    return size, chunk_locations


class EpisodeStore(Protocol):
    """The part of a store that datasets use."""

    path: Path
    shards: list[Shard]
    reader: Reader

    def __len__(self) -> int:
        """Number of episodes."""
        ...

    @property
    def env(self) -> str:
        """Id of the environment."""
        ...

    @property
    def action_dim(self) -> int:
        """Size of a Box action, or number of discrete actions."""
        ...

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of an observation: (64, 64, 3), or (n,) for vectors."""
        ...

    @property
    def lengths(self) -> list[int]:
        """Number of steps of each episode."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """Environment, size and digest of the episodes."""
        ...

    def locate(self, index: int) -> tuple[Shard, int]:
        """Return an episode's shard, and its number in the shard."""
        ...

    def episode(self, index: int) -> Episode:
        """Read one episode."""
        ...

    def episode_metadata(self, index: int) -> EpisodeMeta:
        """Return one episode without its frames."""
        ...
