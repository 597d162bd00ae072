"""Lives as tasks for workers: who plays what, from which seeds, and from where.

Start reading at `play_group`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from rollouts.controllers import Controller
from rollouts.lockstep import Life, Mind, Together, live, mind_of
from rollouts.opening import Opened, env_key, worker_env
from rollouts.policies import Policy
from rollouts.ways import Moment, Way, retrace
from rollouts.workers import Shared
from worldmodel import WorldModel


class Group(NamedTuple):
    """A task for a worker: lives in one environment."""

    env: Opened
    options: dict[str, Any]
    player: "Policy | Controllers"
    seeds: list[int]
    lanes: int
    patience: int | None
    max_steps: int | None
    way: Way | None = None
    """Lives begin along it, each at the step of its number in `begins`; None: where episodes do."""
    begins: tuple[int, ...] = ()
    actions: bool = False
    """Whether `Life.actions` are wanted."""
    first: int = 0
    """The number of its first life among all of a call."""
    on_end: Callable[[], None] | None = None
    """Called at the end of each episode; picklable where tasks go to other processes."""


@dataclass(frozen=True)
class Counter:
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


class Controllers(NamedTuple):
    """Who plays a group: a controller for each life, on one world model."""

    world: Shared
    family: Controller
    parameters: np.ndarray
    """(lives, size) float32."""


class Played(NamedTuple):
    """What came of a group."""

    lives: list[Life]
    steps: int
    """That the game took for them: those of the way that was gone again, too."""


def play_group(task: Group) -> Played:
    """Live a group's lives in a worker; the world model and the environments stay for the next group."""
    lanes = min(task.lanes, len(task.seeds))
    games = [worker_env(task.env, task.options, slot) for slot in range(lanes)]
    space, player, moments, retraced = games[0].action_space, task.player, list[Moment](), 0
    if isinstance(player, Controllers):
        world = player.world.get()
        if task.way is not None:
            known, retraced = _retraced(task, task.way, world, player.world.mark, games[0])
            moments = [known[step] for step in task.begins]
        parameters, memories = torch.from_numpy(player.parameters), [moment.memory for moment in moments]
        mind: Mind = Together(world, player.family, parameters, space, lanes, memories=memories)
    else:
        mind = mind_of(player, space, task.seeds, lanes=lanes)
    numbers = range(task.first, task.first + len(task.seeds))
    lives = live(games, mind, task.seeds, patience=task.patience, max_steps=task.max_steps, begins=moments,
                 numbers=numbers, on_end=task.on_end)  # fmt: skip
    steps = sum(life.length for life in lives) + retraced
    return Played(lives if task.actions else [life._replace(actions=()) for life in lives], steps)


_last_way: list[Any] = [None, {}]
"""What the moments that this process knows are of, and these."""


def _retraced(
    task: Group, way: Way, world: WorldModel, mark: str, game: gymnasium.Env[Any, Any]
) -> tuple[dict[int, Moment], int]:
    """The moments of a task's way, which each worker goes once for all tasks along it, and the steps of that."""
    key, steps = (repr(way), env_key(task.env, task.options), mark), 0
    if _last_way[0] != key:
        _last_way[:] = key, retrace(game, world, way)
        steps = max(way.at)
    return _last_way[1], steps
