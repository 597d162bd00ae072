"""Rollouts as tasks for workers: environment, policy, seeds and reset states.

Start reading at `run_rollout_tasks`.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from worldmodel import WorldModel
from worldmodel.rollouts.env_cache import PortableEnv, env_key, worker_env
from worldmodel.rollouts.executors.workers import Shared, run_tasks
from worldmodel.rollouts.policy.actors import BatchedActor, WorldModelActor, make_actor
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.policy.policies import Policy
from worldmodel.rollouts.runner import EpisodeResult, run_episodes
from worldmodel.rollouts.state_resets import ResetState, Trajectory, replay
from worldmodel.training.progress import Progress


class RolloutTask(NamedTuple):
    """A worker's task: episodes in one environment."""

    env: PortableEnv
    options: dict[str, Any]
    policy: "Policy | ControllerBatch | Shared"
    """A policy, also one that is shared, or controllers."""
    seeds: list[int]
    num_envs: int
    max_idle_steps: int | None
    max_steps: int | None
    trajectory: Trajectory | None = None
    """Trajectory along which episodes start, each at its entry of ``reset_steps``. None: episodes start at a reset."""
    reset_steps: tuple[int, ...] = ()
    return_actions: bool = False
    """Whether to return `EpisodeResult.actions`."""
    first_index: int = 0
    """Index of its first episode among all episodes of a call."""
    fixed_batch: bool = False
    """Whether the batch of a `BatchedPolicy` always has ``num_envs`` rows, so that an episode does not depend on the others."""
    record: bool = False
    """Whether to return `EpisodeResult.episode`."""
    on_episode_end: Callable[[], None] | None = None
    """Called at the end of each episode; picklable if tasks run in other processes."""


class ControllerBatch(NamedTuple):
    """Controllers of a task, one per episode, on one world model."""

    world: Shared
    controller: Controller
    parameters: np.ndarray
    """(episodes, size) float32."""


class RolloutResult(NamedTuple):
    """Result of one or more tasks."""

    episodes: list[EpisodeResult]
    steps: int
    """Number of environment steps, including the replay of a trajectory."""


def run_rollout_tasks(tasks: list[RolloutTask], workers: int, backend: str, progress: Progress) -> RolloutResult:
    """Run tasks in workers; return all episodes in order. ``progress`` gets the number of episodes as they end."""
    steps, results = 0, dict[int, list[EpisodeResult]]()
    total = sum(len(task.seeds) for task in tasks)
    progress(0, total, "")
    with tempfile.TemporaryDirectory(prefix="worldmodel-") as folder:
        (ended := Path(folder) / "ended").touch()  # its size is the number of ended episodes, of all processes

        def report() -> None:  # episodes repeated after a worker's death count twice
            progress(max(sum(map(len, results.values())), min(ended.stat().st_size, total - 1)), total, "")

        def count_and_report() -> None:
            _append_byte(ended)
            report()

        if backend == "loky":  # other machines cannot access the file
            count = count_and_report if workers == 1 else partial(_append_byte, ended)
            tasks = [task._replace(on_episode_end=count) for task in tasks]
        for index, result in run_tasks(run_rollout_task, tasks, workers, backend, report):
            results[index] = result.episodes
            steps += result.steps
            report()
    return RolloutResult([episode for index in range(len(tasks)) for episode in results[index]], steps)


def _append_byte(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b".")


def run_rollout_task(task: RolloutTask) -> RolloutResult:
    """Play a task's episodes in a worker, which keeps the world model and the environments for later tasks."""
    environments = [worker_env(task.env, task.options, slot) for slot in range(min(task.num_envs, len(task.seeds)))]
    policy = task.policy.get() if isinstance(task.policy, Shared) else task.policy
    space, reset_states, replayed_steps = environments[0].action_space, list[ResetState](), 0
    indices = range(task.first_index, task.first_index + len(task.seeds))
    if isinstance(policy, ControllerBatch):
        world = policy.world.get()
        if task.trajectory is not None:
            by_step, replayed_steps = _cached_replay(task, task.trajectory, world, policy.world.key, environments[0])
            reset_states = [by_step[step] for step in task.reset_steps]
        parameters, memories = torch.from_numpy(policy.parameters), [reset_state.memory for reset_state in reset_states]
        actor: BatchedActor = WorldModelActor(
            world, policy.controller, parameters, space, len(environments), initial_states=memories
        )
    else:
        rows = [index % task.num_envs for index in indices] if task.fixed_batch else None
        actor = make_actor(policy, space, task.seeds, rows, task.num_envs)
    episodes = run_episodes(
        environments,
        actor,
        task.seeds,
        max_idle_steps=task.max_idle_steps,
        max_steps=task.max_steps,
        record=task.record,
        reset_states=reset_states,
        episode_indices=indices,
        on_episode_end=task.on_episode_end,
    )
    steps = sum(result.length for result in episodes) + replayed_steps
    return RolloutResult(
        episodes if task.return_actions else [result._replace(actions=()) for result in episodes], steps
    )


_last_replay: list[Any] = [None, {}]
"""Key of the last replay in this process, and its states by reset step."""


def _cached_replay(
    task: RolloutTask, trajectory: Trajectory, world: WorldModel, key: str, env: gymnasium.Env[Any, Any]
) -> tuple[dict[int, ResetState], int]:
    """Return the states of a task's trajectory, replayed once per worker, and the number of steps of this replay."""
    cache_key, steps = (repr(trajectory), env_key(task.env, task.options), key), 0
    if _last_replay[0] != cache_key:
        _last_replay[:] = cache_key, replay(env, world, trajectory)
        steps = max(trajectory.reset_steps)
    return _last_replay[1], steps
