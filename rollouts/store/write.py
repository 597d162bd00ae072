"""Write episodes that somebody already has into a store. Start reading at `write`.

The shards come first and ``metadata.json`` last. A folder without it is no store, so an interrupted call leaves nothing that
looks whole.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from worldmodel.envs.registration import UNKNOWN_ENV
from worldmodel.envs.wrappers import MAX_ACTIONS, resize_frame
from worldmodel.io.files import locked, read_json, write_bytes, write_json
from worldmodel.io.paths import folder_path
from worldmodel.rollouts.episode import FRAME, Episode
from worldmodel.rollouts.store.conversion import ActionKind, Conventions, conventions_of, to_episode
from worldmodel.rollouts.store.minari_index import minari_index, write_minari_index
from worldmodel.rollouts.store.shards import FORMAT, Reader, Shard, read_shard, shard_bytes
from worldmodel.rollouts.store.store import Store
from worldmodel.validation import validate_optional_positive_int, validate_options

DREAM_ENV_ID = "worldmodel.envs:worldmodel/Dream-v0"
"""Environment id in the metadata of a store of dreams."""
EPISODES_PER_SHARD = 10
UNFINISHED = ".unfinished.json"
"""File of a folder whose episodes are being written: the source of the episodes."""


def write(
    episodes: Iterable[Episode | Mapping[str, Any] | tuple[Any, ...]],
    out: str | os.PathLike[str],
    env: str | None = None,
    env_options: dict[str, Any] | None = None,
    num_actions: int | None = None,
) -> Store:
    """Write episodes into a new store.

    Args:
        episodes: Episodes, or dictionaries or tuples of their fields: frames (T + 1, H, W, 3) uint8 or vectors (T + 1, n) of
            floats, actions (T, n) floats in [-1, 1] or (T,) whole numbers from 0, rewards (T,), terminated, and optionally
            truncated (default: not terminated). With T frames, the last action and its reward are dropped. Frames are
            resized to 64x64 (or to the option ``frame_size``).
        out: Path of the store; a new or empty folder, or that of an interrupted call, which is then repeated.
        env: Id for `envs.make` of the environment of the episodes. None: unknown.
        env_options: Further arguments of `envs.make`.
        num_actions: Number of discrete actions. None: that of ``env``, else the largest action plus one.

    Raises:
        ValueError: An episode is invalid (the message has its position, the field, what was expected and what came), or
            the folder holds something else.

    Example:
        >>> import tempfile
        >>> rng = np.random.default_rng(1)
        >>> frames = rng.integers(0, 256, (6, 48, 96, 3), np.uint8)
        >>> episode = {"frames": frames, "actions": rng.uniform(-1, 1, (5, 2)), "rewards": np.ones(5), "terminated": True}
        >>> store = write([episode, episode], tempfile.mkdtemp())
        >>> len(store), store.steps, store.action_dim, store.episode(0).frames.shape
        (2, 10, 2, (6, 64, 64, 3))
    """
    options = validated_options(env_options)
    given, resize = discrete_kind(num_actions), partial(resize_frame, size=options.get("frame_size", FRAME[0]))
    kind, shape, frame, _ = conventions_of(env, options) if env else Conventions(given, (), resize)
    converted = (to_episode(one, f"episode {number}", frame) for number, one in enumerate(episodes))
    return write_store(converted, folder_path(out, "out"), store_metadata(env, options), kind, shape)


def discrete_kind(num_actions: int | None) -> ActionKind | None:
    """Return the kind of discrete actions; None: no number is given.

    Raises:
        ValueError: The number is out of range.
    """
    validate_optional_positive_int(num_actions=num_actions)
    if num_actions and num_actions > MAX_ACTIONS:
        raise ValueError(f"num_actions must be at most {MAX_ACTIONS:,}, got {num_actions:,}")
    return ActionKind(True, num_actions) if num_actions else None


def validated_options(env_options: dict[str, Any] | None) -> dict[str, Any]:
    """Return options as a JSON file returns them.

    Raises:
        ValueError: They are not JSON, or name an environment.
    """
    validate_options(env_options={} if env_options is None else env_options)
    if "id" in (env_options or {}):
        raise ValueError("env_options must hold arguments of an environment, got its id")
    options: dict[str, Any] = json.loads(json.dumps(env_options or {}))
    return options


def store_metadata(env: str | None, env_options: dict[str, Any], policy: str = "imported") -> dict[str, Any]:
    """Return metadata of a store of episodes from elsewhere, without the kind of actions."""
    return {
        "format": FORMAT,
        "env": env or UNKNOWN_ENV,
        "env_options": env_options,
        "policy": policy,
        "seed": 0,
        "max_steps": None,
        "episodes_per_shard": EPISODES_PER_SHARD,
    }


def write_store(
    episodes: Iterable[Episode] | Callable[[int], Iterator[Episode]],
    folder: Path,
    metadata: dict[str, Any],
    kind: ActionKind | None,
    shape: tuple[int, ...] = (),
    source: dict[str, str] | None = None,
    is_locked: bool = False,
) -> Store:
    """Write episodes into a store.

    Args:
        episodes: Episodes; or a function from the number of those that an interrupted call has written to the others.
        folder: Path of the store.
        metadata: Its metadata, without the kind of actions (`store_metadata`).
        kind: Kind of the actions. None: that of the first episode.
        shape: Shape of an observation. Empty: that of the first episode.
        source: Name and digest of the source of the episodes: an interrupted call with the same source is continued, and a
            finished one is not repeated. None: an interrupted call is repeated.
        is_locked: Whether the caller has locked the folder.

    Raises:
        ValueError: The folder holds something else, there is no episode, or an episode is of another kind.
    """
    with contextlib.nullcontext() if is_locked else locked(folder):
        if source and (folder / "metadata.json").exists():
            store = Store(folder)
            if store.metadata.get("source") == source["digest"]:
                indexed = (minari_index(folder) / "metadata.json").exists()
                return store if indexed else write_index(store)
        known, shards = bool(shape), _begin(folder, source or {"name": "episodes", "digest": ""})
        done = sum(len(shard.lengths) for shard in shards)
        shape = shape or (shards[0].observation_shape if shards else ())
        for shard in shards[:1]:
            kind = ActionKind.first(Reader().episode(shard, 0), kind)
        rest = episodes(done) if callable(episodes) else iter(episodes)
        while block := [one.at(done + number) for number, one in enumerate(islice(rest, EPISODES_PER_SHARD))]:
            kind = kind or ActionKind.first(block[0])
            shape = shape or block[0].frames.shape[1:]
            for episode in block:
                kind.validate(episode)
                if episode.frames.shape[1:] != shape:
                    found = episode.frames.shape[1:]
                    expected = "those of the environment" if known else "as in the others"
                    raise ValueError(f"episode {episode.index}: frames must be {shape}, {expected}, got {found}")
            write_bytes(folder / "shards" / f"{done:06d}.h5", shard_bytes(block))
            done += len(block)
        if not done or kind is None:
            raise ValueError("episodes must hold at least one episode, got none")
        size = kind.size or _num_actions(folder)
        metadata = metadata | {"discrete": kind.discrete, "action_dim": size}
        metadata |= {"nvec": list(kind.nvec)} if kind.nvec else {}
        metadata |= {"source": source["digest"]} if source else {}
        metadata |= {} if shape == FRAME else {"observation_shape": list(shape)}
        write_json(folder / "metadata.json", metadata)  # last, so that a folder with metadata is complete
        (folder / UNFINISHED).unlink()
        return write_index(Store(folder))


def validate_new(folder: Path) -> None:
    """Check that a folder has no files, or those of an interrupted call.

    Raises:
        ValueError: It has others.
    """
    if (folder / "metadata.json").exists():
        raise ValueError(f"{folder} holds rollouts already: use another folder")
    found = [child for child in folder.iterdir() if not child.name.startswith(".")] if folder.is_dir() else []
    if found and not (folder / UNFINISHED).exists():
        raise ValueError(f"{folder} is not empty: use another folder")


def _begin(folder: Path, source: dict[str, str]) -> list[Shard]:
    """Mark a folder as unfinished.

    Returns:
        The shards that an interrupted call with the same source has written, without gaps; others are deleted.

    Raises:
        ValueError: The folder has files of something else.
    """
    validate_new(folder)
    marker, kept, done = folder / UNFINISHED, list[Shard](), 0
    started = read_json(marker) if marker.exists() else None
    if started is not None and (not isinstance(started, dict) or started.get("name") != source["name"]):
        raise ValueError(
            f"{folder} has unfinished rollouts of another source: repeat its command, or use another folder"
        )
    for path in sorted(folder.glob("shards/*.h5")):
        with contextlib.suppress(ValueError):
            if started == source and source["digest"] and (shard := read_shard(path)).first == done:
                kept.append(shard)
                done += len(shard.lengths)
    leftovers = {
        path for pattern in ("shards/*.h5", "shards/.*.part", ".*.json.*.part") for path in folder.glob(pattern)
    }
    for path in leftovers - {shard.path for shard in kept}:
        path.unlink()
    write_json(marker, source)
    return kept


def _num_actions(folder: Path) -> int:
    """Return the largest discrete action of all episodes plus one."""
    shards, reader = [read_shard(path) for path in sorted(folder.glob("shards/*.h5"))], Reader()
    numbers = ((shard, number) for shard in shards for number in range(len(shard.lengths)))
    return 1 + max(int(reader.metadata(*one).actions.max()) for one in numbers)


def write_index(store: Store) -> Store:
    """Write a store's Minari index."""
    size = store.action_dim
    space = spaces.Discrete(size) if store.discrete else spaces.Box(-1, 1, (size,), np.float32)
    write_minari_index(store, store.metadata, space, can_be_made=store.env not in (UNKNOWN_ENV, DREAM_ENV_ID))
    return store
