"""Actors: policies as the runner calls them, several environments at a time.

Start reading at `make_actor`. `WorldModelActor` computes the actions of all environments as one batch.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from torch import Tensor

import envs
from rollouts.controllers import Controller
from rollouts.policies import Act, Policy
from worldmodel import WorldModel
from worldmodel.batches import tree_map
from worldmodel.mdn_rnn import State
from worldmodel.rng import Stream


class BatchedActor(Protocol):
    """Acts for the lives that go on in some lanes; their states and their randomness live in it."""

    def reset(self, slot: int, episode: int) -> None:
        """Life number ``episode`` begins in a lane; what was there before is forgotten."""
        ...

    def act(self, frames: np.ndarray, slots: Sequence[int]) -> Sequence[Any]:
        """An action for each of ``frames`` (n, 64, 64, 3), which are seen in ``slots`` (n)."""
        ...


@runtime_checkable
class BatchedPolicy(Protocol):
    """A policy that acts for many episodes faster than one by one (`agents.Agent`)."""

    def batched_actor(
        self,
        space: gymnasium.Space[Any],
        rngs: Sequence[np.random.Generator],
        rows: Sequence[int] | None,
        num_envs: int,
    ) -> BatchedActor:
        """A mind for one life for each generator; ``rows`` and ``num_envs`` as in `WorldModelActor`."""
        ...


def make_actor(
    policy: Policy,
    space: gymnasium.Space[Any],
    seeds: Sequence[int],
    rows: Sequence[int] | None = None,
    num_envs: int = 1,
) -> BatchedActor:
    """The mind of a policy in the episodes with these seeds; each has a random stream of its own.

    Rows and lanes are for policies that think in batches (`WorldModelActor`).
    """
    rngs = [np.random.default_rng([seed, Stream.POLICY]) for seed in seeds]
    if isinstance(policy, BatchedPolicy):
        return policy.batched_actor(space, rngs, rows, num_envs)
    return PerEnvActor(policy, space, rngs)


class PerEnvActor:
    """A plain policy, life by life."""

    def __init__(self, policy: Policy, space: gymnasium.Space[Any], rngs: Sequence[np.random.Generator]) -> None:
        self.policy, self.space, self.rngs = policy, space, rngs
        self.functions: dict[int, Act] = {}

    def reset(self, slot: int, episode: int) -> None:
        """A fresh function for the episode."""
        self.functions[slot] = self.policy(self.space, self.rngs[episode])

    def act(self, frames: np.ndarray, slots: Sequence[int]) -> Sequence[Any]:
        """Ask one after the other."""
        return [self.functions[slot](frame) for slot, frame in zip(slots, frames, strict=True)]


class WorldModelActor:
    """A world model and its controllers: all frames are encoded, remembered and answered as one batch.

    The latent a controller sees is the posterior's mean.

    Args:
        world: the world model.
        controller: how parameters act.
        parameters: (lives, size): the controller of each life.
        space: of the environments' actions.
        num_envs: how many lives go on at once.
        action_noise: standard deviation of noise on Box actions, or the probability of a random choice.
        rngs: a generator for each life; only exploration draws from them.
        rows: where in the batch each life is computed. With rows the batch has all ``num_envs`` at all times, so that a
            life's numbers depend on nothing that happens beside it, to the last bit on one machine. None: only
            who lives is computed.
        initial_states: what each life remembers when it begins, a batch of one; none: nothing.

    Raises:
        ValueError: the world model was not made for these actions.
    """

    def __init__(
        self,
        world: WorldModel,
        controller: Controller,
        parameters: Tensor,
        space: gymnasium.Space[Any],
        num_envs: int,
        action_noise: float = 0.0,
        rngs: Sequence[np.random.Generator] = (),
        rows: Sequence[int] | None = None,
        initial_states: Sequence[State] = (),
    ) -> None:
        validate_action_space(world, space)
        self.world, self.controller, self.parameters = world.eval(), controller, parameters
        self.action_noise, self.rngs, self.rows, self.initial_states = action_noise, rngs, rows, initial_states
        self.device = world.device
        self.memory = world.initial(num_envs).memory
        self.frames = np.zeros((num_envs, 64, 64, 3), np.uint8)
        self.episodes = [0] * num_envs
        """The life in each row of the batch."""
        self.row: dict[int, int] = {}
        """The row of each lane."""

    @torch.no_grad()
    def reset(self, slot: int, episode: int) -> None:
        """Forget what was remembered in this lane, and remember what the life begins with."""
        row = self.row[slot] = slot if self.rows is None else self.rows[episode]
        self.episodes[row] = episode
        for number, part in enumerate(self.memory):
            part[row] = self.initial_states[episode][number][0] if self.initial_states else 0

    @torch.no_grad()
    def act(self, frames: np.ndarray, slots: Sequence[int]) -> Sequence[Any]:
        """Encode, act, remember."""
        world, rows = self.world, [self.row[slot] for slot in slots]
        computed = rows
        if self.rows is not None:
            self.frames[rows] = frames
            frames, computed = self.frames, list(range(len(self.frames)))
        place = {row: number for number, row in enumerate(computed)}
        parameters = self.parameters[[self.episodes[row] for row in computed]].to(self.device)
        latent = world.encode(torch.from_numpy(frames))
        state = world.initial(len(computed))._replace(memory=tree_map(self.memory, lambda part: part[computed]))
        features = state.with_latent(latent).controller_inputs[:, None]
        action = world.squash(self.controller.outputs(parameters, features)[:, 0])
        if self.action_noise:
            for row in rows:
                action[place[row]] = self._add_noise(action[place[row]], self.rngs[self.episodes[row]])
        for part, new in zip(self.memory, world.observe(state, latent, action).memory, strict=True):
            part[computed] = new
        commands = (action.argmax(dim=-1) if world.discrete else action).cpu().numpy()
        return [commands[place[row]] for row in rows]

    def _add_noise(self, action: Tensor, rng: np.random.Generator) -> Tensor:
        if not self.world.discrete:
            noise = torch.from_numpy(rng.normal(0, self.action_noise, action.shape).astype(np.float32))
            return (action + noise.to(action)).clamp(-1, 1)
        if rng.random() >= self.action_noise:
            return action
        return torch.zeros_like(action).index_fill_(0, torch.tensor(int(rng.integers(len(action)))), 1.0)


def validate_action_space(world: WorldModel, space: gymnasium.Space[Any]) -> None:
    """Refuse an action space that the world model was not made for."""
    kind, size = envs.action_kind(space)
    if (kind == "discrete", size) != (world.discrete, world.action_dim):
        made = "discrete" if world.discrete else "box"
        raise ValueError(
            f"the world model was made for {world.action_dim} {made} actions, the environment has {size} {kind} actions"
        )
