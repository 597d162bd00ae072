"""Collect episodes with several workers into a store that a kill cannot spoil.

Start reading at `collect`. Episodes are cut into blocks; a worker plays a block and writes it as one shard, whole or not
at all. What is there counts, whoever wrote it and when: the same call goes on where another one stopped.
"""

import json
import logging
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import envs
from rollouts.episode import Episode, training_seeds
from rollouts.lockstep import CrowdPolicy, Life, SpoiledLife, live, mind_of, play
from rollouts.opening import EnvSpec, Opened, look, open_env, portable, worker_env
from rollouts.policies import Policy, name_of, named
from rollouts.shards import FORMAT, shard_bytes
from rollouts.store import Store, check_metadata, write_minari_index
from rollouts.workers import Shared, check_backend, envs_closed_after, run_tasks, share
from worldmodel.io import locked, read_json, write_bytes, write_json
from worldmodel.migration import renamed_env_options
from worldmodel.paths import expand, folder_path
from worldmodel.progress import Progress, callback, shows_progress, silent
from worldmodel.rng import Stream
from worldmodel.validation import validate_optional_positive_int, validate_options, validate_positive_int, validate_seed

logger = logging.getLogger(__name__)
LARGEST_BLOCK = 10
PROBE_STEPS = 60
WORKERS_START_S = 5.0
"""Until worker processes have imported torch and opened their environments."""


class Block(NamedTuple):
    """A task for a worker: play these episodes and write them as one shard."""

    folder: Path
    env: Opened
    options: dict[str, Any]
    policy: Shared
    seed: int
    first: int
    episodes: int
    block: int
    """Episodes of a whole block: an agent's batch always has as many, so that nothing beside an episode changes it."""
    max_steps: int | None
    patience: int | None
    sent: bool
    """Whether shards are sent back instead of written: a cluster's machines need not share a disk."""


class Shards(NamedTuple):
    """What came of a block."""

    steps: int
    sent: dict[str, bytes]
    """Names and contents of files that the caller writes."""
    spoiled: str
    """Why not all of its episodes were played."""


@shows_progress("collect", "episodes")
@envs_closed_after()
def collect(
    env: EnvSpec,
    policy: Policy | str,
    episodes: int,
    seed: int = 0,
    workers: int = 1,
    out: str | os.PathLike[str] | None = None,
    max_steps: int | None = None,
    block: int | None = None,
    env_options: dict[str, Any] | None = None,
    backend: str = "loky",
    further: bool = False,
    progress: Progress | bool = silent,
    patience: int | None = None,
) -> Store:
    """Play ``episodes`` episodes and record them.

    Episode i is a function of (seed, i) alone: neither the number of workers nor a kill in between changes it (an agent
    thinks in batches of ``block`` lives, and another block may change its last bits). More episodes than before make the
    store grow.

    Args:
        env: an id for `envs.make`, or a picklable function that makes an environment.
        policy: "uniform" (or "random"), "smooth", an `agents.Agent`, or a picklable function of your own.
        episodes: how many the store shall hold.
        seed: of all of them.
        workers: processes.
        out: the store's folder; None: a new temporary one.
        max_steps: cut episodes here; None: when the environment ends them.
        block: episodes that a worker writes at once; what a kill can cost. None: up to 10, or what the store has.
        env_options: more arguments of `envs.make`.
        backend: where the workers are (`rollouts.workers.run_tasks`).
        further: whether another policy than the store's last one may add episodes behind those that are there; the store's
            metadata say where each policy began.
        progress: called as ``progress(episodes done, episodes, note)``; True: a bar.
        patience: cut an episode after so many steps without a reward above zero; None: never.

    Raises:
        ValueError: an argument is out of range, or the folder holds a store with other settings; or an episode cannot be
            recorded (a reward is not finite, a frame is none): those before it stay.
        OSError: the disk is full; what was written before stays.
        rollouts.WorkerDied: workers died three times over the same episodes.

    Example:
        >>> store = collect("CartPole-v1", "uniform", episodes=3, seed=1)
        >>> len(store), store.discrete, store.action_dim
        (3, True, 2)
    """
    report, policy = callback(progress), named(policy)
    validate_positive_int(episodes=episodes)
    validate_optional_positive_int(max_steps=max_steps, block=block, patience=patience)
    check_backend(backend, workers)
    validate_seed(seed)
    validate_options(env_options={} if env_options is None else env_options)
    options = json.loads(json.dumps(env_options or {}))  # as they come back from a file
    folder = folder_path(tempfile.mkdtemp(prefix="rollouts-") if out is None else out, "out")
    opened = portable(env)
    space = look(opened, options)
    kind, size = envs.action_kind(space)
    settings = {
        "format": FORMAT,
        "env": env if isinstance(env, str) else name_of(env),
        "env_options": options,
        "discrete": kind == "discrete",
        "actions": size,
        "policy": name_of(policy),
        "seed": seed,
        "max_steps": max_steps,
    }
    settings |= {} if patience is None else {"patience": patience}
    with locked(folder), tempfile.TemporaryDirectory(prefix="worldmodel-") as common:
        block, start = _remember(folder, settings, block, episodes, further)
        _set_damaged_aside(folder)
        shared = share(policy, uuid.uuid4().hex, Path(common), workers, backend)
        blocks = [
            Block(folder / "shards", opened, options, shared, seed, first, count, block, max_steps,
                  patience, sent=backend != "loky")
            for first, count in _missing(Store(folder), start, episodes, block)
        ]  # fmt: skip
        done = episodes - sum(task.episodes for task in blocks)
        report(done, episodes, "")
        waiting, spoiled = set(range(len(blocks))), dict[int, str]()
        for index, came in run_tasks(play_block, blocks, workers, backend):
            for name, content in came.sent.items():
                write_bytes(blocks[index].folder / name, content)
            waiting.remove(index)
            if came.spoiled:
                spoiled[index] = came.spoiled
            if spoiled and min(waiting, default=len(blocks)) > (first := min(spoiled)):
                raise ValueError(f"{spoiled[first]}; the episodes before it are kept")
            done += blocks[index].episodes
            report(done, episodes, f"{came.steps / blocks[index].episodes:.0f} steps an episode")
        store = Store(folder)
        write_minari_index(store, space, can_be_made=isinstance(env, str))
    if out is None:
        logger.warning("the rollouts are in a temporary folder, %s: out=FOLDER keeps them elsewhere", folder)
    return store


def play_block(task: Block) -> Shards:
    """Play a block in a worker, and write it; of one that is spoiled, the episodes that had ended."""
    indices = range(task.first, task.first + task.episodes)
    seeds = [episode_seed(task.seed, index) for index in indices]
    policy = task.policy.get()
    lanes = task.block if isinstance(policy, CrowdPolicy) else 1
    games = [worker_env(task.env, task.options, slot) for slot in range(min(lanes, task.episodes))]
    mind = mind_of(policy, games[0].action_space, seeds, [index % task.block for index in indices], task.block)
    lives: Sequence[Life | None] = []
    spoiled = ""
    try:
        lives = live(games, mind, seeds, patience=task.patience, max_steps=task.max_steps, record=True, numbers=indices)
    except SpoiledLife as error:
        lives, spoiled = error.lives, str(error)
    shards = {f"{run[0].index:06d}.h5": shard_bytes(run) for run in _runs(task.first, lives)}
    if not task.sent:
        for name, content in shards.items():
            write_bytes(task.folder / name, content)
    steps = sum(life.length for life in lives if life is not None)
    return Shards(steps, shards if task.sent else {}, spoiled)


def _runs(first: int, lives: Sequence[Life | None]) -> list[list[Episode]]:
    """Episodes that follow one another, together."""
    runs: list[list[Episode]] = [[]]
    for index, life in enumerate(lives, first):
        if life is None:
            runs.append([])
        elif life.episode is not None:
            runs[-1].append(life.episode.at(index))
    return [run for run in runs if run]


def episode_seed(seed: int, index: int) -> int:
    """The environment seed of episode ``index``."""
    return training_seeds(seed, Stream.COLLECT, index)[0]


def _remember(
    folder: Path, settings: dict[str, Any], block: int | None, episodes: int, further: bool
) -> tuple[int, int]:
    """Write what is collected, or compare with what was; returns the episodes of a block, and the policy's first episode."""
    path = folder / "metadata.json"
    if path.exists():
        before = read_json(path)
        check_metadata(before, path)
        later = before.get("further", [])
        last = later[-1] if later else {"first": 0, "policy": before.get("policy")}
        if further and last["policy"] != settings["policy"]:
            last = {"first": _behind(Store(folder)), "policy": settings["policy"]}
            later = [*later, last]
        wanted = settings | ({} if block is None else {"block": block})
        wanted.setdefault("patience", None)
        for name, value in wanted.items():
            was = last["policy"] if name == "policy" else before.get(name)
            if name == "env_options":
                was = renamed_env_options(before["env"], was)
            if was != value:
                raise ValueError(
                    f"{folder} holds rollouts with {name} = {was!r}, asked for {value!r}: use another folder"
                )
        if later != before.get("further", []):
            write_json(path, before | {"further": later})
        return int(before.get("block") or LARGEST_BLOCK), int(last["first"])
    # hidden files are the lock, and what a kill left of a file that was being written
    if folder.exists() and any(not child.name.startswith(".") for child in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and not a rollout store: use another folder")
    block = block or min(LARGEST_BLOCK, max(1, episodes // 16))
    write_json(path, settings | {"block": block})
    return block, 0


def _behind(store: Store) -> int:
    """The number of the episode behind a store's last one."""
    return max((shard.first + len(shard.lengths) for shard in store.shards), default=0)


def _set_damaged_aside(folder: Path) -> None:
    """Rename shards that cannot be read, so that their episodes are collected again and nothing is deleted.

    What killed workers left half written goes; nobody else writes here now.
    """
    for half in (folder / "shards").glob(".*.part"):
        half.unlink()
    for name in Store(folder).damaged:
        path, stamp = folder / "shards" / name, int(time.time())
        while (aside := path.with_name(f"{name}.damaged-{stamp}")).exists():  # the clock may have been set back
            stamp += 1
        path.rename(aside)


def _missing(store: Store, start: int, episodes: int, block: int) -> Iterator[tuple[int, int]]:
    """Runs (first, count) of episodes from ``start`` on that the store lacks; none reaches over a multiple of ``block``."""
    there = {shard.first + number for shard in store.shards for number in range(len(shard.lengths))}
    first = start
    while first < episodes:
        count = 0
        while first + count < episodes and first + count not in there and (count == 0 or (first + count) % block):
            count += 1
        if count:
            yield first, count
        first += count or 1


@dataclass(frozen=True)
class Estimate:
    """What a collection will take, measured on a few steps."""

    seconds: float
    bytes: float
    steps: int
    free: int
    """Bytes free on the disk."""
    startup: float = 0.0
    """Seconds until workers play."""

    def __str__(self) -> str:
        """One line."""
        seconds = self.seconds + self.startup
        time = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{max(seconds, 1):.0f} s"
        return (
            f"up to {self.steps:,} steps, about {time} and {max(self.bytes / 1e6, 1):,.0f} MB "
            f"({self.free / 1e9:,.1f} GB free)"
        )


def estimate(
    env: EnvSpec,
    policy: Policy | str,
    episodes: int,
    seed: int = 0,
    workers: int = 1,
    out: str | os.PathLike[str] = ".",
    max_steps: int | None = None,
    env_options: dict[str, Any] | None = None,
) -> Estimate:
    """Measure a few steps, and tell what ``collect`` with these arguments will take if no episode ends early.

    An environment without a time limit of its own is counted with 1,000 steps an episode.

    Raises:
        ValueError: an argument is out of range, or the environment cannot be played.
    """
    validate_positive_int(episodes=episodes, workers=workers)
    validate_optional_positive_int(max_steps=max_steps)
    validate_seed(seed)
    policy, options = named(policy), dict(env_options or {})
    game = open_env(portable(env), options)
    repeat = int(options.get("action_repeat", 1) or 1)
    own = getattr(game.spec, "max_episode_steps", None)  # counted in frames
    limit = min(max_steps or math.inf, -(-own // repeat) if own else math.inf)
    limit = int(limit) if limit < math.inf else -(-1000 // repeat)
    play(game, policy, seed, max_steps=2)  # what happens only once, such as loading fonts, is not counted
    began = time.monotonic()
    probe = play(game, policy, seed, max_steps=min(PROBE_STEPS, limit))
    seconds = (time.monotonic() - began) / len(probe)
    game.close()
    size = len(shard_bytes([probe])) / len(probe)
    place = expand(out).absolute()
    existing = next(parent for parent in (place, *place.parents) if parent.exists())
    steps = episodes * limit
    cores = min(workers, os.cpu_count() or 1)
    free = shutil.disk_usage(existing).free
    return Estimate(seconds * steps / cores, size * steps, steps, free, WORKERS_START_S if workers > 1 else 0.0)
