"""Many real lives in lockstep: one process steps its environments and thinks for all of them in one batch.

Start reading at `live`. No frame leaves the process; only returns do. `rollouts.played` and `agents.evaluate` stand on it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

import envs
from rollouts.controllers import Controller
from rollouts.workers import worker_env
from worldmodel import WorldModel
from worldmodel.batches import frames_to_float

EnvSpec = str | Callable[[], gymnasium.Env[Any, Any]]
"""What names an environment: an id for `envs.make`, or a picklable function that makes one."""


class Life(NamedTuple):
    """One episode that was lived."""

    total: float
    """The sum of its rewards."""
    length: int
    """Its steps."""
    info: dict[str, Any]
    """What the environment said with the last step, numbers, strings and flags only."""


class Group(NamedTuple):
    """A task for a worker: which lives to live, with what."""

    world: str
    """Folder of the world model."""
    family: Controller
    env: EnvSpec
    options: dict[str, Any]
    parameters: np.ndarray
    """(lives, size) float32."""
    seeds: list[int]
    lanes: int
    patience: int | None
    max_steps: int | None


def play_group(task: Group) -> list[Life]:
    """Live one task's lives in a worker; the world model and the environments stay for the next task."""
    world = _world(task.world)
    lanes = min(task.lanes, len(task.seeds))
    games = [worker_env(task.env, task.options, slot) for slot in range(lanes)]
    parameters = torch.from_numpy(task.parameters)
    return live(world, task.family, games, parameters, task.seeds, task.patience, task.max_steps)


@torch.no_grad()
def live(
    world: WorldModel,
    family: Controller,
    games: Sequence[gymnasium.Env[Any, Any]],
    parameters: Tensor,
    seeds: Sequence[int],
    patience: int | None = None,
    max_steps: int | None = None,
) -> list[Life]:
    """Live ``len(seeds)`` episodes in ``games``, a free one taking the next episode.

    The latent a controller sees is the posterior's mean.

    Args:
        world: the world model.
        family: how parameters act.
        games: environments with 64x64x3 frames; as many lives go on at once.
        parameters: (lives, size): the controller of each life.
        seeds: the environment seed of each life.
        patience: give up a life after this many steps without a reward above zero (training only); None: never.
        max_steps: cut lives here; None: when the environment says so.
    """
    check_actions(world, games[0].action_space)
    lives: list[Life | None] = [None] * len(seeds)
    waiting = list(range(len(seeds)))[::-1]
    lanes: list[_Lane] = []
    for game in games:
        if waiting:
            lanes.append(_Lane(game, index := waiting.pop(), seeds[index]))
    state = world.initial(max(len(lanes), 1)).memory
    while lanes:
        frames = torch.from_numpy(np.stack([lane.frame for lane in lanes]))
        latent = world.vae.encode(frames_to_float(frames)).loc
        features = torch.cat((latent, state.hidden[:, -1]), dim=-1)[:, None]
        outputs = family.outputs(parameters[[lane.index for lane in lanes]], features)[:, 0]
        action = world.squash(outputs)
        commands = action.argmax(dim=-1).numpy() if world.discrete else action.numpy()
        state = world.observe(world.initial(len(lanes))._replace(memory=state), latent, action).memory
        kept = []
        for row, lane in enumerate(lanes):
            if not lane.step(commands[row], patience, max_steps):
                kept.append(row)
                continue
            lives[lane.index] = lane.life()
            if waiting:
                lane.begin(index := waiting.pop(), seeds[index])
                for part in state:
                    part[row] = 0
                kept.append(row)
        if len(kept) < len(lanes):
            lanes = [lanes[row] for row in kept]
            state = type(state)(*(part[kept] for part in state))
    return [life for life in lives if life is not None]


class _Lane:
    """One environment and the life that goes on in it."""

    def __init__(self, game: gymnasium.Env[Any, Any], index: int, seed: int) -> None:
        self.game = game
        self.begin(index, seed)

    def begin(self, index: int, seed: int) -> None:
        self.index, self.total, self.length, self.idle = index, 0.0, 0, 0
        self.info: dict[str, Any] = {}
        self.frame, _ = self.game.reset(seed=seed)

    def step(self, action: Any, patience: int | None, max_steps: int | None) -> bool:
        """Take a step; say whether the life is over."""
        self.frame, earned, terminated, truncated, self.info = self.game.step(action)
        reward = float(earned)
        self.total += reward
        self.length += 1
        self.idle = 0 if reward > 0 else self.idle + 1
        hopeless = patience is not None and self.idle >= patience
        return bool(terminated or truncated or hopeless or (max_steps is not None and self.length >= max_steps))

    def life(self) -> Life:
        plain = {key: value for key, value in self.info.items() if isinstance(value, bool | int | float | str)}
        return Life(self.total, self.length, plain)


def check_actions(world: WorldModel, space: gymnasium.Space[Any]) -> None:
    """Refuse an action space that the world model was not made for."""
    kind, size = envs.action_kind(space)
    if (kind == "discrete", size) != (world.discrete, world.actions):
        made = "discrete" if world.discrete else "box"
        raise ValueError(
            f"the world model was made for {world.actions} {made} actions, the environment has {size} {kind} actions"
        )


@lru_cache(maxsize=2)
def _world(folder: str) -> WorldModel:
    return WorldModel.load(folder).eval()
