"""Lives as tasks for workers: who plays what, from which seeds, and from where.

Start reading at `run_rollout_task`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from rollouts.actors import BatchedActor, WorldModelActor, make_actor
from rollouts.controllers import Controller
from rollouts.env_cache import PortableEnv, env_key, worker_env
from rollouts.policies import Policy
from rollouts.runner import EpisodeResult, run_episodes
from rollouts.state_resets import ResetState, Trajectory, replay
from rollouts.workers import Shared
from worldmodel import WorldModel


class RolloutTask(NamedTuple):
    """A task for a worker: lives in one environment."""

    env: PortableEnv
    options: dict[str, Any]
    policy: "Policy | ControllerBatch"
    seeds: list[int]
    num_envs: int
    max_idle_steps: int | None
    max_steps: int | None
    trajectory: Trajectory | None = None
    """Lives begin along it, each at the step of its number in `reset_steps`; None: where episodes do."""
    reset_steps: tuple[int, ...] = ()
    return_actions: bool = False
    """Whether `EpisodeResult.actions` are wanted."""
    first_index: int = 0
    """The number of its first life among all of a call."""
    on_episode_end: Callable[[], None] | None = None
    """Called at the end of each episode; picklable where tasks go to other processes."""


@dataclass(frozen=True)
class FileCounter:
    """Counts, across the processes of a machine, in the size of a file."""

    path: Path

    def __call__(self) -> None:
        """Count one more."""
        with self.path.open("ab", buffering=0) as file:
            file.write(b".")

    @property
    def count(self) -> int:
        """Number of calls so far."""
        return self.path.stat().st_size if self.path.exists() else 0


class ControllerBatch(NamedTuple):
    """Who plays a group: a controller for each life, on one world model."""

    world: Shared
    controller: Controller
    parameters: np.ndarray
    """(lives, size) float32."""


class RolloutResult(NamedTuple):
    """What came of a group."""

    episodes: list[EpisodeResult]
    steps: int
    """That the game took for them: those of the way that was gone again, too."""


def run_rollout_task(task: RolloutTask) -> RolloutResult:
    """Live a group's lives in a worker; the world model and the environments stay for the next group."""
    num_envs = min(task.num_envs, len(task.seeds))
    environments = [worker_env(task.env, task.options, slot) for slot in range(num_envs)]
    space, policy, reset_states, replayed_steps = environments[0].action_space, task.policy, list[ResetState](), 0
    if isinstance(policy, ControllerBatch):
        world = policy.world.get()
        if task.trajectory is not None:
            by_step, replayed_steps = _replayed(task, task.trajectory, world, policy.world.key, environments[0])
            reset_states = [by_step[step] for step in task.reset_steps]
        parameters, initial_states = (
            torch.from_numpy(policy.parameters),
            [reset_state.memory for reset_state in reset_states],
        )
        actor: BatchedActor = WorldModelActor(
            world, policy.controller, parameters, space, num_envs, initial_states=initial_states
        )
    else:
        actor = make_actor(policy, space, task.seeds, num_envs=num_envs)
    indices = range(task.first_index, task.first_index + len(task.seeds))
    episodes = run_episodes(
        environments,
        actor,
        task.seeds,
        max_idle_steps=task.max_idle_steps,
        max_steps=task.max_steps,
        reset_states=reset_states,
        episode_indices=indices,
        on_episode_end=task.on_episode_end,
    )
    steps = sum(result.length for result in episodes) + replayed_steps
    return RolloutResult(
        episodes if task.return_actions else [result._replace(actions=()) for result in episodes], steps
    )


_last_replay: list[Any] = [None, {}]
"""What the moments that this process knows are of, and these."""


def _replayed(
    task: RolloutTask, trajectory: Trajectory, world: WorldModel, key: str, env: gymnasium.Env[Any, Any]
) -> tuple[dict[int, ResetState], int]:
    """The moments of a task's way, which each worker goes once for all tasks along it, and the steps of that."""
    cache_key, steps = (repr(trajectory), env_key(task.env, task.options), key), 0
    if _last_replay[0] != cache_key:
        _last_replay[:] = cache_key, replay(env, world, trajectory)
        steps = max(trajectory.reset_steps)
    return _last_replay[1], steps
