"""Shards: files of whole episodes, written at once and read piece by piece.

A shard is plain HDF5 with gzip chunks, which every HDF5 reader opens. Writing and reading go around HDF5's own zlib, though:
ISA-L makes and reads the same zlib streams several times as fast (benchmarks/README.md). Start reading at `shard_bytes`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import h5py
import numpy as np
from isal import isal_zlib

from rollouts.episode import FRAME, Episode

FORMAT = 1
CHUNK = 16
"""Frames in a compressed chunk."""
MAX_CHUNK = 256
"""Frames in a chunk of a file that somebody else may have made."""
FRAME_BYTES = 64 * 64 * 3
COMPRESSION_LEVEL = 2
"""ISA-L's level: as small as zlib's first, several times as fast."""
MAX_COMPRESSION_RATIO = 1_032
"""No filter of HDF5 that we know makes more bytes of one."""
MAX_CACHED_EPISODES = 8_192
"""A reader remembers where the chunks of this many episodes are, and their actions and rewards."""


class Shard(NamedTuple):
    """One file of whole episodes."""

    path: Path
    first: int
    """The number of its first episode."""
    lengths: tuple[int, ...]
    """Steps of its episodes."""


def shard_bytes(episodes: Sequence[Episode]) -> bytes:
    """Whole episodes as the content of a file.

    Raises:
        ValueError: there are none, their numbers do not follow one another, or one could not be read back as it is.
    """
    numbers = [episode.index for episode in episodes]
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] < 0:
        raise ValueError(f"a shard holds episodes of consecutive numbers from 0 on, got {numbers}")
    for episode in episodes:
        validate_episode(episode)
    # In memory: HDF5 itself takes a full disk badly, and a block of episodes is small.
    with h5py.File("shard", "w", driver="core", backing_store=False, libver="latest", track_order=True) as file:
        file.attrs.update(format=FORMAT, first=episodes[0].index, count=len(episodes))
        file.attrs["lengths"] = np.array([len(episode) for episode in episodes], np.int64)
        for episode in episodes:
            _write_episode(file.create_group(f"episode_{episode.index}"), episode)
        file.flush()
        return file.id.get_file_image()


def validate_episode(episode: Episode) -> None:
    """Refuse what a reader would refuse, or not give back as it was.

    Raises:
        ValueError: names the episode, and what is wrong with it.
    """
    frames, actions, rewards, steps = episode.frames, episode.actions, episode.rewards, len(episode)
    choices = _is_array(actions, np.int64, (steps,))
    numbers = actions.ndim == 2 and actions.shape[1] > 0 and _is_array(actions, np.float32, (steps, actions.shape[1]))
    wrong = None
    if steps == 0:
        wrong = "at least one step"
    elif not _is_array(frames, np.uint8, (steps + 1, *FRAME)):
        wrong = f"frames {(steps + 1, *FRAME)} uint8, got {frames.shape} {frames.dtype}"
    elif not (choices or numbers):
        wrong = f"actions (T, n) float32 or (T,) int64, finite, got {actions.shape} {actions.dtype}"
    elif not _is_array(rewards, np.float32, (steps,)):
        wrong = f"rewards (T,) float32, finite, got {rewards.shape} {rewards.dtype}"
    elif not all(isinstance(end, bool | np.bool_) for end in (episode.terminated, episode.truncated)):
        wrong = f"ends that are flags, got {episode.terminated!r} and {episode.truncated!r}"
    elif not -(2**63) <= episode.seed < 2**63:
        wrong = f"a seed of 64 bits, got {episode.seed}"
    if wrong:
        raise ValueError(f"episode {episode.index} must have {wrong}")


def _is_array(values: np.ndarray, dtype: type[np.generic], shape: tuple[int, ...]) -> bool:
    finite = values.dtype.kind != "f" or bool(np.isfinite(values).all())
    return values.dtype == dtype and values.shape == shape and finite


def _write_episode(group: h5py.Group, episode: Episode) -> None:
    """One episode in Minari's layout."""
    frames = episode.frames
    size = min(CHUNK, len(frames))
    pictures = group.create_dataset(
        "observations", frames.shape, np.uint8, chunks=(size, *FRAME), compression="gzip", compression_opts=1
    )
    for start in range(0, len(frames), size):
        chunk = frames[start : start + size]
        if len(chunk) < size:  # HDF5 knows whole chunks only
            chunk = np.concatenate((chunk, np.zeros((size - len(chunk), *FRAME), np.uint8)))
        pictures.id.write_direct_chunk(
            (start, 0, 0, 0), isal_zlib.compress(np.ascontiguousarray(chunk), COMPRESSION_LEVEL)
        )
    last = np.arange(len(episode)) == len(episode) - 1
    arrays = {"actions": episode.actions, "rewards": episode.rewards}
    arrays |= {"terminations": last & episode.terminated, "truncations": last & episode.truncated}
    for name, values in arrays.items():  # with checksums; frames have zlib's
        group.create_dataset(name, data=values, fletcher32=bool(values.size))
    group.attrs.update(id=episode.index, seed=episode.seed, total_steps=len(episode))


def read_shard(path: Path) -> Shard:
    """Look into a shard.

    Raises:
        ValueError: it is truncated or foreign.
    """
    try:
        with h5py.File(path, "r") as file:
            first, lengths = int(file.attrs["first"]), tuple(int(length) for length in file.attrs["lengths"])
            names = {f"episode_{first + number}" for number in range(len(lengths))}
            if file.attrs["format"] != FORMAT or set(file) != names or not names:
                raise ValueError(f"{path} is not a shard of rollouts")
            for number, length in enumerate(lengths):
                group = file[f"episode_{first + number}"]
                shape = group["observations"].shape
                if shape != (length + 1, *FRAME) or len(group["actions"]) != length or len(group["rewards"]) != length:
                    raise ValueError(f"{path} holds an episode of frames {shape} and {len(group['actions'])} actions")
            if path.stem.isdecimal() and int(path.stem) != first:
                raise ValueError(f"{path} holds episodes from {first} on: it is another file's content")
    except (OSError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{path} is not a whole shard of rollouts: {error}") from None
    return Shard(path, first, lengths)


class EpisodeMeta(NamedTuple):
    """An episode without its frames, and where these are."""

    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    seed: int
    episode_index: int
    num_frames: int
    """T + 1."""
    chunk_size: int
    """Frames of a chunk."""
    chunk_locations: np.ndarray
    """(chunks, 2): offset and length in the file, in bytes."""


class Reader:
    """Reads episodes, or any frames of them; remembers where they lie, and opens a file only while it reads."""

    def __init__(self) -> None:
        self._cache: OrderedDict[tuple[Path, int], EpisodeMeta] = OrderedDict()

    def metadata(self, shard: Shard, number: int) -> EpisodeMeta:
        """All of the shard's episode ``number`` but its frames.

        Raises:
            ValueError: the shard is damaged.
        """
        key = (shard.path, number)
        if key not in self._cache:
            try:
                with h5py.File(shard.path, "r") as file:
                    self._cache[key] = _read_meta(file[f"episode_{shard.first + number}"])
            except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(f"{shard.path} cannot be read: {error}") from None
            if len(self._cache) > MAX_CACHED_EPISODES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def frames(self, shard: Shard, number: int, start: int, stop: int) -> list[np.ndarray]:
        """Frames ``start`` to ``stop`` of the shard's episode ``number``, in a few read-only pieces.

        Raises:
            ValueError: the shard is damaged.
        """
        meta = self.metadata(shard, number)
        stop, size, pieces = min(stop, meta.num_frames), meta.chunk_size, []
        try:
            with shard.path.open("rb", buffering=0) as file:
                for chunk in range(start // size, -(-stop // size)):
                    offset, length = map(int, meta.chunk_locations[chunk])
                    file.seek(offset)
                    frames = _unpacked(file.read(length), size)
                    pieces.append(frames[max(start - chunk * size, 0) : stop - chunk * size])
        except (OSError, ValueError) as error:
            raise ValueError(f"{shard.path} cannot be read: {error}") from None
        return pieces

    def episode(self, shard: Shard, number: int) -> Episode:
        """One whole episode.

        Raises:
            ValueError: the shard is damaged.
        """
        meta = self.metadata(shard, number)
        frames = np.concatenate(self.frames(shard, number, 0, meta.num_frames))
        return Episode(
            frames, meta.actions, meta.rewards, meta.terminated, meta.truncated, meta.seed, meta.episode_index
        )


def _unpacked(packed: bytes, size: int) -> np.ndarray:
    """A chunk of ``size`` frames; whatever its bytes claim, no more than that is unpacked."""
    whole = size * FRAME_BYTES
    unpacker = isal_zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, whole + 1)
    except isal_zlib.error as error:  # type: ignore[misc]
        raise ValueError(str(error)) from None
    if len(content) != whole or not unpacker.eof:  # at its end a stream has compared its checksum
        raise ValueError("a chunk of frames is not whole")
    return np.frombuffer(content, np.uint8).reshape(size, *FRAME)


def _numbers(group: h5py.Group, name: str, steps: int) -> np.ndarray:
    """A dataset with something for each step, whole and finite; no larger than what is stored of it could be."""
    dataset = group[name]
    if len(dataset) != steps or dataset.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be {steps} numbers, got {dataset.shape} {dataset.dtype}")
    if dataset.nbytes > MAX_COMPRESSION_RATIO * dataset.id.get_storage_size():
        raise ValueError(f"{name} of shape {dataset.shape} is not there")
    numbers = dataset[:]
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return numbers


def _read_meta(group: h5py.Group) -> EpisodeMeta:
    pictures = group["observations"]
    if pictures.chunks is None or pictures.chunks[1:] != FRAME or pictures.chunks[0] > MAX_CHUNK:
        raise ValueError(f"frames must lie in chunks of up to {MAX_CHUNK}, got {pictures.chunks}")
    size, count, end = pictures.chunks[0], len(pictures), Path(group.file.filename).stat().st_size
    if count > end * size:
        raise ValueError(f"{end} bytes cannot hold {count} frames")
    chunk_locations = np.zeros((-(-count // size), 2), np.int64)

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        chunk_locations[chunk.chunk_offset[0] // size] = (chunk.byte_offset, chunk.size)

    pictures.id.chunk_iter(note)
    if (chunk_locations < 0).any() or (chunk_locations[:, 1] == 0).any() or (chunk_locations.sum(axis=1) > end).any():
        raise ValueError("a chunk of frames is missing, or lies outside of the file")
    actions, rewards, terminations, truncations = (
        _numbers(group, name, count - 1) for name in ("actions", "rewards", "terminations", "truncations")
    )
    if actions.ndim > 2 or rewards.ndim > 1 or (actions.ndim == 1) != (actions.dtype.kind in "iu"):
        raise ValueError(f"actions and rewards have shapes {actions.shape} and {rewards.shape}")
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


class EpisodeStore(Protocol):
    """What encodings and views need of a store."""

    path: Path
    shards: list[Shard]
    reader: Reader

    def __len__(self) -> int:
        """Episodes."""
        ...

    @property
    def env(self) -> str:
        """The environment's id."""
        ...

    @property
    def action_dim(self) -> int:
        """Numbers of a Box action, or choices."""
        ...

    @property
    def lengths(self) -> list[int]:
        """Steps of each episode."""
        ...

    @property
    def identity(self) -> str:
        """What the episodes are, in a few words."""
        ...

    def locate(self, index: int) -> tuple[Shard, int]:
        """Where an episode lies: its shard, and its place in it."""
        ...

    def episode(self, index: int) -> Episode:
        """Read one episode."""
        ...

    def episode_metadata(self, index: int) -> EpisodeMeta:
        """One episode without its frames."""
        ...
