"""Collect episodes with several workers into a store that stays valid when the process is killed.

Start reading at `collect`. Episodes are split into blocks. A worker plays a block and writes it atomically as one shard.
The same call continues an interrupted collection: it plays only the episodes that the store lacks.
"""

import json
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from worldmodel import envs
from worldmodel.envs.choices import ChoiceSpace
from worldmodel.io.files import locked, read_json, write_bytes, write_json
from worldmodel.io.migration import renamed_env_options, renamed_metadata
from worldmodel.io.paths import folder_path
from worldmodel.rng import Stream
from worldmodel.rollouts.env_cache import EnvSpec, make_portable, probe_env
from worldmodel.rollouts.episode import FRAME, Episode, training_seeds
from worldmodel.rollouts.executors.workers import envs_closed_after, run_tasks, share, validate_backend
from worldmodel.rollouts.policy.actors import BatchedPolicy
from worldmodel.rollouts.policy.policies import Policy, policy_name, resolve_policy
from worldmodel.rollouts.rollout_tasks import RolloutTask, run_rollout_task
from worldmodel.rollouts.runner import EpisodeError, EpisodeResult
from worldmodel.rollouts.store.conversion import ActionKind
from worldmodel.rollouts.store.minari_index import write_minari_index
from worldmodel.rollouts.store.shards import FORMAT, shard_bytes
from worldmodel.rollouts.store.store import Store, validate_metadata
from worldmodel.training.progress import Progress, callback, shows_progress, silent
from worldmodel.validation import validate_optional_positive_int, validate_options, validate_positive_int, validate_seed

logger = logging.getLogger(__name__)
MAX_EPISODES_PER_SHARD = 10


class CollectTask(NamedTuple):
    """A worker's task: play these episodes and write them as one shard."""

    folder: Path
    rollouts: RolloutTask
    return_files: bool
    """Whether to return shards instead of writing them: the machines of a cluster may have no common disk."""
    kind: ActionKind
    """Kind of the actions of all episodes."""
    observation_shape: tuple[int, ...]
    """Shape of their observations."""


class CollectResult(NamedTuple):
    """Result of a block."""

    steps: int
    files: dict[str, bytes]
    """Names and contents of the files that the caller writes."""
    error: str
    """Why an episode could not be played; empty: all were."""


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
    episodes_per_shard: int | None = None,
    env_options: dict[str, Any] | None = None,
    backend: str = "loky",
    allow_new_policy: bool = False,
    progress: Progress | bool = silent,
    max_idle_steps: int | None = None,
) -> Store:
    """Play ``episodes`` episodes and record them.

    Episode i is a function of (seed, i) alone: it does not depend on the number of workers or on interruptions. (An agent
    acts in batches of ``episodes_per_shard`` episodes; another batch size may change the last bits.) A call with more
    episodes extends the store.

    Args:
        env: Id for `envs.make`, or a picklable function that makes an environment.
        policy: "uniform" (or "random"), "smooth", an `agents.Agent`, or a picklable function (`rollouts.policy.policies`).
        episodes: Number of episodes in the store after the call.
        seed: Seed of all episodes.
        workers: Number of worker processes.
        out: Path of the store. None: a new temporary folder.
        max_steps: Truncate episodes after this number of steps. None: no limit besides the environment's own.
        episodes_per_shard: Number of episodes that a worker writes at once; an interruption loses at most these. None: up
            to 10, or the number that the store has.
        env_options: Further arguments of `envs.make`.
        backend: Where workers run (`rollouts.executors.workers.run_tasks`).
        allow_new_policy: Whether a policy other than the store's last one may add episodes. The store's metadata record
            the first episode of each policy.
        progress: Called as ``progress(episodes done, episodes, note)``. True: a progress bar.
        max_idle_steps: Truncate an episode after this number of steps without a positive reward. None: never.

    Raises:
        ValueError: An argument is out of range, the folder holds a store with other settings, or an episode cannot be
            recorded (a reward is not finite, a frame is invalid). Earlier episodes stay in the store.
        OSError: The disk is full. Files written before stay.
        rollouts.WorkerDied: Workers died three times on the same episodes.

    Example:
        >>> store = collect("CartPole-v1", "uniform", episodes=3, seed=1)
        >>> len(store), store.discrete, store.action_dim
        (3, True, 2)
    """
    report, policy = callback(progress), resolve_policy(policy)
    validate_positive_int(episodes=episodes)
    validate_optional_positive_int(
        max_steps=max_steps, episodes_per_shard=episodes_per_shard, max_idle_steps=max_idle_steps
    )
    validate_backend(backend, workers)
    validate_seed(seed)
    validate_options(env_options={} if env_options is None else env_options)
    options = json.loads(json.dumps(env_options or {}))  # the values that a JSON file returns, for comparison
    folder = folder_path(tempfile.mkdtemp(prefix="rollouts-") if out is None else out, "out")
    portable_env = make_portable(env)
    space, observation_shape = probe_env(portable_env, options)
    settings = _store_settings(env, options, space, policy, seed, max_steps, max_idle_steps)
    settings |= {} if observation_shape == FRAME else {"observation_shape": list(observation_shape)}
    with locked(folder), tempfile.TemporaryDirectory(prefix="worldmodel-") as common:
        episodes_per_shard, start = _load_or_write_metadata(
            folder, settings, episodes_per_shard, episodes, allow_new_policy
        )
        _quarantine_damaged(folder)
        shared = share(policy, uuid.uuid4().hex, Path(common), workers, backend)
        num_envs = episodes_per_shard if isinstance(policy, BatchedPolicy) else 1
        limits = (max_idle_steps, max_steps)
        task = RolloutTask(portable_env, options, shared, [], num_envs, *limits, fixed_batch=True, record=True)
        tasks = [
            CollectTask(
                folder / "shards",
                task._replace(seeds=[episode_seed(seed, index) for index in block], first_index=block.start),
                return_files=backend != "loky",
                kind=ActionKind.of(space),
                observation_shape=observation_shape,
            )
            for block in _missing_blocks(Store(folder), start, episodes, episodes_per_shard)
        ]
        _run_collect_tasks(tasks, episodes, workers, backend, report)
        store = Store(folder)
        write_minari_index(store, store.metadata, space, can_be_made=isinstance(env, str))
    if out is None:
        logger.warning("the rollouts are in a temporary folder, %s: set out=FOLDER to keep them elsewhere", folder)
    return store


def _store_settings(
    env: EnvSpec,
    env_options: dict[str, Any],
    space: Any,
    policy: Policy,
    seed: int,
    max_steps: int | None,
    max_idle_steps: int | None,
) -> dict[str, Any]:
    """Return what the metadata of a store say about its episodes."""
    kind, size = envs.action_kind(space)
    settings = {
        "format": FORMAT,
        "env": env if isinstance(env, str) else policy_name(env),
        "env_options": env_options,
        "discrete": kind == "discrete",
        "action_dim": size,
        **({"nvec": list(space.nvec)} if isinstance(space, ChoiceSpace) else {}),
        "policy": policy_name(policy),
        "seed": seed,
        "max_steps": max_steps,
    }
    return settings | ({} if max_idle_steps is None else {"max_idle_steps": max_idle_steps})


def _run_collect_tasks(
    tasks: Sequence[CollectTask], episodes: int, workers: int, backend: str, report: Progress
) -> None:
    """Run the tasks of a collection and report their progress.

    Raises:
        ValueError: An episode failed; raised after all blocks before it are written.
    """
    sizes = [len(task.rollouts.seeds) for task in tasks]
    done = episodes - sum(sizes)
    report(done, episodes, "")
    pending, errors = set(range(len(tasks))), dict[int, str]()
    for index, result in run_tasks(run_collect_task, tasks, workers, backend):
        for name, content in result.files.items():
            write_bytes(tasks[index].folder / name, content)
        pending.remove(index)
        if result.error:
            errors[index] = result.error
        if errors and min(pending, default=len(tasks)) > (first := min(errors)):
            raise ValueError(f"{errors[first]}; the episodes before it are kept")
        done += sizes[index]
        report(done, episodes, f"{result.steps / sizes[index]:.0f} steps an episode")


def run_collect_task(task: CollectTask) -> CollectResult:
    """Play a block in a worker and write it as shards; if an episode fails, only the episodes that have ended."""
    results: Sequence[EpisodeResult | None]
    try:
        results, message = run_rollout_task(task.rollouts).episodes, ""
    except EpisodeError as error:
        results, message = error.episodes, str(error)
    try:
        for index, result in enumerate(results, task.rollouts.first_index):
            if result is not None and result.episode is not None:
                _validate_spaces(result.episode.at(index), task)
    except ValueError as error:
        results, message = [*results[: index - task.rollouts.first_index]], str(error)
    shards = {f"{run[0].index:06d}.h5": shard_bytes(run) for run in _consecutive(task.rollouts.first_index, results)}
    if not task.return_files:
        for name, content in shards.items():
            write_bytes(task.folder / name, content)
    steps = sum(result.length for result in results if result is not None)
    return CollectResult(steps, shards if task.return_files else {}, message)


def _validate_spaces(episode: Episode, task: CollectTask) -> None:
    """Check that an episode has the spaces of the store: an environment may have others each time it is made.

    Raises:
        ValueError: It has other actions or observations.
    """
    task.kind.validate(episode)
    if (found := episode.frames.shape[1:]) != task.observation_shape:
        raise ValueError(
            f"episode {episode.index}: observations must be {task.observation_shape} in all instances, got {found}"
        )


def _consecutive(first: int, episodes: Sequence[EpisodeResult | None]) -> list[list[Episode]]:
    """Group episodes with consecutive indices."""
    runs: list[list[Episode]] = [[]]
    for index, result in enumerate(episodes, first):
        if result is None:
            runs.append([])
        elif result.episode is not None:
            runs[-1].append(result.episode.at(index))
    return [run for run in runs if run]


def episode_seed(seed: int, index: int) -> int:
    """The environment seed of episode ``index``."""
    return training_seeds(seed, Stream.COLLECT, index)[0]


def _load_or_write_metadata(
    folder: Path, settings: dict[str, Any], episodes_per_shard: int | None, episodes: int, allow_new_policy: bool
) -> tuple[int, int]:
    """Write the metadata of a new store, or compare the settings with an existing store's.

    Returns:
        Number of episodes of a block, and index of the first episode of the current policy.

    Raises:
        ValueError: The store has other settings, or the folder holds something else.
    """
    path = folder / "metadata.json"
    if path.exists():
        metadata = renamed_metadata(read_json(path))
        validate_metadata(metadata, path)
        changes = metadata.get("policy_changes", [])
        current: dict[str, Any] = changes[-1] if changes else {"first": 0, "policy": metadata.get("policy")}
        if allow_new_policy and current["policy"] != settings["policy"]:
            current = {"first": _next_index(Store(folder)), "policy": settings["policy"]}
            changes = [*changes, current]
        requested = settings | ({} if episodes_per_shard is None else {"episodes_per_shard": episodes_per_shard})
        requested |= {name: requested.get(name) for name in ("max_idle_steps", "observation_shape", "nvec")}
        for name, value in requested.items():
            stored = current["policy"] if name == "policy" else metadata.get(name)
            if name == "env_options":
                stored = renamed_env_options(metadata["env"], stored)
            if stored != value:
                raise ValueError(
                    f"{folder} holds rollouts with {name} = {stored!r}, asked for {value!r}: use another folder"
                )
        if changes != metadata.get("policy_changes", []):
            write_json(path, metadata | {"policy_changes": changes})
        return int(metadata.get("episodes_per_shard") or MAX_EPISODES_PER_SHARD), int(current["first"])
    # hidden files are the lock and partly written files of a killed process
    if folder.exists() and any(not child.name.startswith(".") for child in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and not a rollout store: use another folder")
    episodes_per_shard = episodes_per_shard or min(MAX_EPISODES_PER_SHARD, max(1, episodes // 16))
    write_json(path, settings | {"episodes_per_shard": episodes_per_shard})
    return episodes_per_shard, 0


def _next_index(store: Store) -> int:
    """Return the index after a store's last episode."""
    return max((shard.first + len(shard.lengths) for shard in store.shards), default=0)


def _quarantine_damaged(folder: Path) -> None:
    """Rename shards that cannot be read, so that their episodes are collected again and nothing is deleted.

    Partly written files of killed workers are deleted; the lock excludes other writers.
    """
    for partial in (folder / "shards").glob(".*.part"):
        partial.unlink()
    for name in Store(folder).damaged:
        path, stamp = folder / "shards" / name, int(time.time())
        while (quarantined := path.with_name(f"{name}.damaged-{stamp}")).exists():  # the clock may have been set back
            stamp += 1
        path.rename(quarantined)


def _missing_blocks(store: Store, start: int, episodes: int, episodes_per_shard: int) -> Iterator[range]:
    """Yield ranges of missing episodes from ``start`` on; a range stays within one block."""
    missing = set(store.missing(episodes))
    first = start
    while first < episodes:
        count = 0
        while (
            first + count < episodes
            and first + count in missing
            and (count == 0 or (first + count) % episodes_per_shard)
        ):
            count += 1
        if count:
            yield range(first, first + count)
        first += count or 1
