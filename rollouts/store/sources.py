"""Import episodes that other programs recorded. Start reading at `import_from`.

Layouts of an ``.npz`` file, one episode each:

- `WorldModelsExperiments <https://github.com/hardmaru/WorldModelsExperiments>`_ (``extract.py``): ``obs`` (T, 64, 64, 3) and
  ``action`` (T,) or (T, n). Action t is taken at frame t. The last action has no next frame and is dropped; if it terminated
  the episode, the step before it does.
- `ctallec/world-models <https://github.com/ctallec/world-models>`_ (``data/carracing.py``): ``observations`` (T, 96, 96, 3),
  ``actions`` (1000, 3), ``rewards`` (T,) and ``terminals`` (T,). Row t is an action, its reward and the frame after it. The
  first row has no frame before it and is dropped, as are actions after the end. A terminal in row 1,000 is a time limit.
- Plain arrays: ``frames``, ``actions``, and optionally ``rewards``, ``terminated`` and ``truncated``, as `rollouts.write` takes
  them; also as ``.npy`` files of these names in a folder of their own.
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from worldmodel.envs.choices import Choices, ChoiceSpace, encode_choices
from worldmodel.envs.registration import imported_module
from worldmodel.envs.wrappers import rescale_actions, resize_frame
from worldmodel.io.files import error_context, read_jsonl
from worldmodel.io.paths import expand, folder_path
from worldmodel.messages import did_you_mean
from worldmodel.rollouts.episode import FRAME, Episode
from worldmodel.rollouts.store.conversion import FIELDS, ActionKind, Conventions, conventions_of, to_episode
from worldmodel.rollouts.store.minari_index import FRAMES_ENV_ID, OURS
from worldmodel.rollouts.store.store import Store
from worldmodel.rollouts.store.write import discrete_kind, store_metadata, validated_options, write_store
from worldmodel.training.progress import Progress, callback, shows_progress, silent

VIDEOS = (".mp4", ".mkv", ".avi", ".mov", ".webm")
TABLES = (".csv", ".jsonl")
"""Suffixes of the files with the actions of a video."""
TIME_LIMIT = 1_000
"""Number of steps at which ctallec/world-models truncates an episode, which it marks as a terminal."""
LAYOUTS = "frames, actions, rewards, terminated; obs, action; or observations, actions, rewards, terminals"


class Source(NamedTuple):
    """Episodes of another program."""

    items: Sequence[Any]
    """Files, or numbers of episodes."""
    read: Callable[[Any], dict[str, Any]]
    """Reads the fields of an item's episode."""
    identity: Any
    """What changes when an episode does: names, sizes and times of files."""
    env: str | None = None
    """Id of the environment, if the source names one."""
    env_options: dict[str, Any] | None = None
    conventions: Conventions = Conventions()
    is_standard: bool = False
    """Whether frames and actions are already those of wrappers, as in a store."""


@shows_progress("import", "episodes")
def import_from(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    env: str | None = None,
    env_options: dict[str, Any] | None = None,
    num_actions: int | None = None,
    reward: float = 0.0,
    terminated: bool = False,
    progress: Progress | bool = silent,
) -> Store:
    """Import episodes from files or from a Minari dataset into a new store.

    A folder is searched for ``.npz`` files, ``.npy`` files (`rollouts.store.sources` has their layouts) and videos, one episode
    each, in natural order. Beside each video lies a ``.csv`` or ``.jsonl`` file of the same name, with a row for each action:
    ``action`` (in CSV, of a Box of several numbers: ``action_0``, ``action_1``, ...), and optionally ``reward``, ``terminated``
    and ``truncated``. Frames are resized as the wrappers of ``env`` do. The same call continues an interrupted one.

    Args:
        source: Path of a file or folder, or id of a local Minari dataset.
        out: Path of the store; a new or empty folder, or that of an interrupted call with the same source.
        env: Id for `envs.make` of the environment of the episodes; their actions, in the units of its game, are then mapped to
            [-1, 1]. None: that of a Minari dataset, else unknown, and the actions are in [-1, 1] or whole numbers from 0.
        env_options: Further arguments of `envs.make`; without ``env``, beside those of a Minari dataset.
        num_actions: Number of discrete actions. None: that of the environment, else the largest action plus one.
        reward: Reward of every step of an episode without rewards.
        terminated: Whether episodes that do not say so terminated.
        progress: Called as ``progress(episodes done, episodes, note)``. True: a progress bar.

    Raises:
        ValueError: The source has no episodes, one is invalid (the message has the file, the field, what was expected and
            what came), or the folder holds something else.
    """
    report, folder = callback(progress), folder_path(out, "out")
    given_kind = discrete_kind(num_actions)
    found, options = open_source(source), validated_options(env_options)
    options = options if env else (found.env_options or {}) | options
    conventions = conventions_of(env, options) if env else _conventions_of_source(found, options)
    if found.is_standard:
        own = found.conventions
        conventions = Conventions(conventions.kind, conventions.shape or own.shape, own.standard_frame)
    if given_kind:
        conventions = conventions._replace(kind=given_kind)
    name = Path(source).name
    metadata = store_metadata(env or found.env, options, f"import of {name}")
    given = [found.identity, metadata, num_actions, reward, terminated]
    digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]

    def episodes(first: int) -> Iterator[Episode]:
        for done, item in enumerate(found.items[first:], first):
            report(done, len(found.items), "")
            yield _episode(found, item, conventions, reward, terminated)

    begun = {"name": str(path.resolve()) if (path := expand(source)).exists() else os.fspath(source), "digest": digest}
    store = write_store(episodes, folder, metadata, conventions.kind, conventions.shape, begun)
    report(len(store), len(store), "")
    return store


def _episode(source: Source, item: Any, conventions: Conventions, reward: float, terminated: bool) -> Episode:
    """Read an episode, and fill in what its source does not say."""
    name = str(item) if isinstance(item, Path) else f"episode {item}"
    try:
        fields = source.read(item)
        if "actions" in fields and conventions.standard_actions is not None:
            fields["actions"] = conventions.standard_actions(np.asarray(fields["actions"]))
    except (ValueError, TypeError) as error:
        raise ValueError(str(error) if name in str(error) else f"{name}: {error}") from None
    fields.setdefault("rewards", np.full(np.shape(fields.get("actions", ()))[:1], reward))
    fields.setdefault("terminated", terminated)
    return to_episode(fields, name, conventions.standard_frame)


def _conventions_of_source(source: Source, options: dict[str, Any]) -> Conventions:
    """Return the conventions of the environment that a source names, if it can be made without an import; else its own."""
    if source.env and source.conventions.standard_actions is not None and not imported_module(source.env):
        try:
            return conventions_of(source.env, options)
        except ValueError:  # it is not installed here
            pass
    resize = partial(resize_frame, size=options.get("frame_size", FRAME[0]))
    return source.conventions._replace(standard_frame=resize)


def open_source(source: str | os.PathLike[str]) -> Source:
    """Find the episodes of a file, a folder or a local Minari dataset.

    Raises:
        ValueError: There are none.
    """
    path = expand(source)
    if not os.fspath(source) or not path.exists():  # the path of no text is the working directory
        return _minari_source(os.fspath(source))
    files = sorted([path] if path.is_file() else filter(Path.is_file, path.rglob("*")), key=_natural)
    items, used = list[Path](), list[Path]()
    for file in files:
        if file.suffix.lower() in (".npz", *VIDEOS):
            items.append(file)
            used += [file, *(table for suffix in TABLES if (table := file.with_suffix(suffix)).is_file())]
        elif file.name in ("frames.npy", "actions.npy") and file.parent not in items[-1:]:
            items.append(file.parent)
            used += [one for one in files if one.parent == file.parent and one.suffix == ".npy"]
    if not items:
        kinds = f".npz, .npy or video files ({', '.join(VIDEOS)})"
        raise ValueError(f"source must hold episodes in {kinds}, or be the id of a local Minari dataset, got {path}")
    stats = [(str(one.relative_to(path.parent if path.is_file() else path)), one.stat()) for one in used]
    return Source(items, _read_file, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in paths by their value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.as_posix())]


def _read_file(path: Path) -> dict[str, Any]:
    """Read an episode's fields from a file, or from a folder of ``.npy`` files."""
    if path.suffix.lower() in VIDEOS and not path.is_dir():
        return {"frames": _read_video(path), **_read_table(path)}
    paths = {one.stem: one for one in path.glob("*.npy")} if path.is_dir() else {"": path}
    arrays: dict[str, np.ndarray] = {}
    for name, file in paths.items():
        try:
            loaded = np.load(file, allow_pickle=False)  # an unpickled object could run any code
            arrays |= dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {name: loaded}
        except MemoryError as error:
            raise MemoryError(f"{file}: {error}") from None
        except Exception as error:  # of zipfile, zlib, ast or numpy
            raise ValueError(f"{file} cannot be read as arrays without pickle: {error}") from None
    return _fields_of(arrays)


def _fields_of(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return an episode's fields from the arrays of one of the layouts.

    Raises:
        ValueError: The arrays are of none of them.
    """
    names = set(arrays)
    if {"frames", "actions"} <= names <= {*FIELDS}:
        return dict(arrays)
    if names == {"obs", "action"}:
        return {"frames": arrays["obs"], "actions": arrays["action"]}
    if names == {"observations", "actions", "rewards", "terminals"}:
        frames, actions, rewards, terminals = (
            arrays[name] for name in ("observations", "actions", "rewards", "terminals")
        )
        rows = len(frames)
        if not rows == len(rewards) == len(terminals) <= len(actions):
            counts = f"{rows}, {len(rewards)}, {len(terminals)} and {len(actions)}"
            raise ValueError(
                f"observations, rewards, terminals and actions must have T, T, T and T or more rows, got {counts}"
            )
        fields = {"frames": frames, "actions": actions[1:rows], "rewards": rewards[1:], "terminated": terminals[1:]}
        return fields | ({"terminated": False} if rows == TIME_LIMIT else {})
    raise ValueError(f"arrays must be {LAYOUTS}, got {', '.join(sorted(names)) or 'none'}")


def _read_video(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3) of a video."""
    import av  # only videos need it

    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"it cannot be read as a video: {error}") from None


def _read_table(video: Path) -> dict[str, Any]:
    """Read the actions of a video, and what else its table has.

    Raises:
        ValueError: The table is missing, or a row is invalid.
    """
    tables = [path for suffix in TABLES if (path := video.with_suffix(suffix)).is_file()]
    if len(tables) != 1:
        raise ValueError(f"actions must be in one file beside it, {' or '.join(TABLES)}, got {len(tables)} files")
    try:
        rows = read_jsonl(tables[0]) if tables[0].suffix == ".jsonl" else _read_csv(tables[0])
    except (csv.Error, UnicodeDecodeError) as error:  # csv.Error is no ValueError
        raise ValueError(f"{tables[0]} cannot be read as CSV: {error}") from None
    columns = {"action": "actions", "reward": "rewards", "terminated": "terminated", "truncated": "truncated"}
    for number, row in enumerate(rows, 1):
        if "action" not in row or row.keys() != rows[0].keys() or not row.keys() <= columns.keys():
            got = ", ".join(map(str, row))
            raise ValueError(f"{tables[0]}, row {number} must have action, reward, terminated, truncated, got {got}")
    return {columns[name]: _column(name, [row[name] for row in rows]) for name in (rows[0] if rows else {"action": 0})}


def _column(name: str, values: list[Any]) -> np.ndarray:
    """Return a column of a table as an array, without text or mixed types."""
    try:
        array = np.array(values)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers of one shape in all rows")
    return array


def _read_csv(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV file; the columns action_0, action_1, ... become one list.

    Raises:
        ValueError: A cell is not a number.
    """
    rows = []
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin with a byte order mark
        reader = csv.reader(file)
        names = [name.strip() for name in next(reader, [])]
        if len({*names}) < len(names):
            raise ValueError(f"{path}, line 1 must name each column once, got {', '.join(names)}")
        box = [f"action_{number}" for number in range(sum(name.startswith("action_") for name in names))]
        for number, cells in enumerate(filter(None, reader), 2):
            if len(cells) != len(names):
                raise ValueError(f"{path}, line {number} must have {len(names)} cells, got {len(cells)}")
            where = f"{path}, line {number}"
            row: dict[str, Any] = {
                name: _number(cell, f"{where}: {name}") for name, cell in zip(names, cells, strict=True)
            }
            if box and set(box) <= row.keys():
                row = {"action": [float(row.pop(name)) for name in box], **row}
            rows.append(row)
    return rows


def _number(cell: str, name: str) -> int | float | bool:
    """Return the number or the truth value of a CSV cell."""
    text = cell.strip().lower()
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {cell[:40]!r}") from None


def _minari_source(id: str) -> Source:
    """Find the episodes of a local Minari dataset."""
    try:
        import minari  # optional, and slow to import
    except ModuleNotFoundError as error:
        hint = f"reading one needs {error.name}: pip install 'worldmodel[minari]'"
        raise ValueError(f"source must be a file, a folder or the id of a Minari dataset, got {id}; {hint}") from None
    known = list(minari.list_local_datasets())
    if id not in known:
        expected = "a file, a folder or the id of a local Minari dataset"
        raise ValueError(f"source must be {expected}, got {id}{did_you_mean(id, known)}")
    with error_context(id):
        return _source_of(id, minari.load_dataset(id))


def _source_of(id: str, dataset: Any) -> Source:
    """Find the episodes of a ``minari.MinariDataset``."""
    numbers, space, mapping = [int(number) for number in dataset.episode_indices], dataset.action_space, None
    if isinstance(space, spaces.Discrete):
        kind, mapping = ActionKind.of(space), partial(np.add, -int(space.start))
    elif isinstance(space, Choices):
        kind, mapping = ActionKind.of(ChoiceSpace.of(space)), partial(encode_choices, space=space)
    elif isinstance(space, spaces.Box) and np.isfinite([space.low, space.high]).all():
        kind = ActionKind(False, int(np.prod(space.shape)))
        mapping = partial(rescale_actions, low=space.low, high=space.high, whole=space.dtype.kind in "biu")
    else:
        raise ValueError(
            f"{id}: action space must be Discrete, MultiDiscrete, MultiBinary or a finite Box, got {space}"
        )
    env, options = None, dict[str, Any]()
    if (spec := dataset.env_spec) is not None:
        env, options = spec.id, {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
        if env == FRAMES_ENV_ID:
            env = options.pop("id", None)
        elif isinstance(shown := dataset.observation_space, spaces.Box) and len(shown.shape) == 1:
            options["observation"] = "vector"

    def read(number: int) -> dict[str, Any]:
        try:
            [episode] = dataset.iterate_episodes([number])
        except (KeyError, AssertionError, TypeError) as error:  # Minari's, of a damaged dataset
            raise ValueError(f"{id}: episode {number} cannot be read: {error}") from None
        return {
            "frames": episode.observations,
            "actions": episode.actions,
            "rewards": episode.rewards,
            "terminated": np.asarray(episode.terminations),
            "truncated": np.asarray(episode.truncations),
        }

    identity = [id, numbers, int(dataset.total_steps)]
    conventions = Conventions(kind, (), resize_frame, mapping)
    ours = dataset.storage.metadata.get(OURS)
    if ours:
        shape = tuple(ours["observation_shape"])
        resize = partial(resize_frame, size=shape[0]) if len(shape) == 3 else resize_frame
        conventions = Conventions(kind._replace(nvec=tuple(ours["nvec"])), shape, resize)
    return Source(numbers, read, identity, env, validated_options(options), conventions, bool(ours))
