"""Add episodes to a store one at a time, as they are played. Start reading at `append`."""

from pathlib import Path
from typing import Any

from worldmodel.io.files import locked, write_bytes
from worldmodel.rollouts.episode import Episode
from worldmodel.rollouts.store.conversion import ActionKind
from worldmodel.rollouts.store.shards import shard_bytes
from worldmodel.rollouts.store.store import Store
from worldmodel.rollouts.store.write import validate_new, write_index, write_store

TIMEOUT_S = 10.0
"""Seconds that a process waits for another one that writes to the same store."""


def append(episode: Episode, folder: Path, metadata: dict[str, Any], kind: ActionKind) -> int:
    """Add an episode to a store, as a shard of its own; a store is made if there is none.

    Args:
        episode: Episode; its index is not used.
        folder: Path of the store.
        metadata: Metadata of the store, without the kind of actions (`store_metadata`).
        kind: Kind of the actions.

    Returns:
        Number of episodes in the store.

    Raises:
        ValueError: The episode is invalid, or the folder holds something else.
        OSError: The file cannot be written.
    """
    if not (folder / "metadata.json").exists():
        validate_new(folder)  # a folder of something else gets no lock
    with locked(folder, TIMEOUT_S):
        if (store := opened(folder, metadata, kind)) is None:
            return len(write_store([episode], folder, metadata, kind, is_locked=True))
        kind.validate(episode)
        if episode.frames.shape[1:] != store.observation_shape:
            raise ValueError(f"frames must be {store.observation_shape} as in {folder}, got {episode.frames.shape[1:]}")
        ends = [shard.first + len(shard.lengths) for shard in store.shards]
        index = max([*ends, *(int(name[:-3]) + 1 for name in store.damaged if name[:-3].isdecimal())], default=0)
        write_bytes(folder / "shards" / f"{index:06d}.h5", shard_bytes([episode.at(index)]))
        return len(write_index(Store(folder)))


def opened(folder: Path, metadata: dict[str, Any], kind: ActionKind) -> Store | None:
    """Open a store that more episodes can be added to; None: there is none yet.

    Raises:
        ValueError: The folder holds something else, or rollouts of another source.
    """
    if not (folder / "metadata.json").exists():
        validate_new(folder)
        return None
    store = Store(folder)
    kinds = {"discrete": kind.discrete, "action_dim": kind.size, "nvec": list(kind.nvec) or None}
    expected = {name: metadata[name] for name in ("env", "env_options", "policy")}
    for name, value in (expected | kinds).items():
        if store.metadata.get(name) != value:
            found = store.metadata.get(name)
            raise ValueError(f"{folder} holds rollouts with {name} = {found!r}, not {value!r}: use another folder")
    return store
