"""The index that Minari reads as a dataset: links to the episodes of the shards. Start reading at `write_minari_index`."""

import contextlib
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from worldmodel.io.files import atomic, write_json
from worldmodel.io.paths import expand
from worldmodel.rollouts.store.shards import EpisodeStore

MINARI_VERSION = "0.5.4"
"""Version of Minari whose layout the index has: the oldest that the extra allows, and the first that reads frames which are
not JPEG. (Minari compares this text with the versions it supports.)"""
MINARI_FOLDER = "minari-v0"
FRAMES_ENV_ID = "worldmodel/Frames-v0"
"""Id in Minari's specification of an environment that `envs.make` makes."""
OURS = "worldmodel"
"""Key in Minari's metadata of what it does not keep: the choices of actions, and the shape of standard observations."""
NAMESPACE = re.compile(r"[-_\w][-_\w/]*[-_\w]")
"""Folder names that Minari accepts above a dataset; with another name its listing fails for all datasets."""


def minari_index(store: Path) -> Path:
    """Return the folder of a store's index; a hidden one if Minari's listing would fail on the store's name."""
    folder = store.absolute()
    valid = NAMESPACE.fullmatch(folder.name) and NAMESPACE.fullmatch(f"{folder.parent.name}/{folder.name}")
    return store / (MINARI_FOLDER if valid else f".{MINARI_FOLDER}") / "data"


def minari_id(store: Path) -> str:
    """Return Minari's id of a store: the path of its index below ``MINARI_DATASETS_PATH``.

    For a store elsewhere, the folder of its run (or of the store, without a run) is taken as a child of that path.
    """
    folder = store.absolute()
    root = folder.parent.parent if folder.name == "rollouts" else folder.parent
    if configured := os.environ.get("MINARI_DATASETS_PATH"):
        datasets = expand(configured).absolute()
        root = datasets if datasets in (folder, *folder.parents) else root
    return (folder.relative_to(root) / MINARI_FOLDER).as_posix()


def write_minari_index(store: EpisodeStore, metadata: dict[str, Any], space: Any, can_be_made: bool) -> None:
    """Write an index that links all episodes, so that ``minari.load_dataset`` and ``minari list`` find the store.

    Args:
        store: Episodes.
        metadata: Metadata of the store.
        space: Action space.
        can_be_made: Whether `envs.make` can make the environment from its id; then Minari can, too.
    """
    folder = minari_index(store.path)
    with (
        atomic(folder / "main_data.hdf5") as aside,
        h5py.File(aside, "w", libver="latest", track_order=True) as index,
    ):
        for number in range(len(store)):
            shard, position = store.locate(number)
            link = h5py.ExternalLink(f"../../shards/{shard.path.name}", f"/episode_{shard.first + position}")
            index[f"episode_{number}"] = link
    content = {
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "minari_version": MINARI_VERSION,
        "dataset_id": minari_id(store.path),
        "algorithm_name": metadata.get("policy", ""),
        "observation_space": _observation_space(store.observation_shape),
        "action_space": _space_json(space),
        "total_episodes": len(store),
        "total_steps": sum(store.lengths),
        "dataset_size": round(sum(shard.path.stat().st_size for shard in store.shards) / 1e6, 1),
        OURS: {"nvec": metadata.get("nvec", []), "observation_shape": store.observation_shape},
        "description": f"{len(store)} episodes of {store.env}, observations {store.observation_shape}",
    }
    if can_be_made:
        options = {"id": store.env, **(metadata.get("env_options") or {})}
        spec = EnvSpec(
            FRAMES_ENV_ID,
            "worldmodel.envs.registration:make",
            order_enforce=False,
            disable_env_checker=True,
            kwargs=options,
        )
        content["env_spec"] = spec.to_json()
    write_json(folder / "metadata.json", content)
    _remove_older_index(store.path / "data")


def _remove_older_index(folder: Path) -> None:
    """Remove the index of an older version, on which Minari's listing fails; another dataset stays."""
    links = folder / "main_data.hdf5"
    with contextlib.suppress(OSError):  # no such file, or not HDF5
        with h5py.File(links) as index:
            is_index = all(isinstance(index.get(name, getlink=True), h5py.ExternalLink) for name in index)
        if is_index:
            links.unlink()
            (folder / "metadata.json").unlink(missing_ok=True)
            folder.rmdir()


@cache
def _observation_space(shape: tuple[int, ...]) -> str:
    """Return the space of frames, or of vectors, in Minari's JSON format."""
    frames = len(shape) > 1
    return _space_json(
        spaces.Box(0, 255, shape, np.uint8) if frames else spaces.Box(-np.inf, np.inf, shape, np.float32)
    )


def _space_json(space: Any) -> str:
    """Return a space in Minari's JSON format."""
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
