"""Actors choose the actions of several environments at once.

Start reading at `make_actor`. `WorldModelActor` computes the actions of all environments as one batch.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldmodel import WorldModel, envs
from worldmodel.batches import tree_map
from worldmodel.envs.choices import ChoiceSpace
from worldmodel.mdn_rnn import State
from worldmodel.rng import Stream
from worldmodel.rollouts.episode import observation_dtype
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.policy.policies import Act, Policy
from worldmodel.world_model import WorldState


class BatchedActor(Protocol):
    """Chooses actions for the episodes in several environment slots; holds their recurrent states and generators."""

    def reset(self, slot: int, episode: int) -> None:
        """Start the episode with number ``episode`` in a slot; the state of the previous episode is discarded."""
        ...

    def act(self, frames: np.ndarray, slots: Sequence[int]) -> Sequence[Any]:
        """Return an action for each of ``frames`` (n, 64, 64, 3) or vectors; ``slots`` (n) are the slots of these frames."""
        ...


@runtime_checkable
class BatchedPolicy(Protocol):
    """A policy that acts in many episodes as one batch (`agents.Agent`)."""

    def batched_actor(
        self,
        space: gymnasium.Space[Any],
        rngs: Sequence[np.random.Generator],
        rows: Sequence[int] | None,
        num_envs: int,
    ) -> BatchedActor:
        """Return an actor for one episode per generator; ``rows`` and ``num_envs`` as in `WorldModelActor`."""
        ...


def make_actor(
    policy: Policy,
    space: gymnasium.Space[Any],
    seeds: Sequence[int],
    rows: Sequence[int] | None = None,
    num_envs: int = 1,
) -> BatchedActor:
    """Return the actor of a policy for the episodes with these seeds; each episode has its own random stream.

    Only a `BatchedPolicy` uses ``rows`` and ``num_envs`` (see `WorldModelActor`).
    """
    rngs = [np.random.default_rng([seed, Stream.NOISE]) for seed in seeds]
    if isinstance(policy, BatchedPolicy):
        return policy.batched_actor(space, rngs, rows, num_envs)
    return PerEnvActor(policy, space, rngs)


class PerEnvActor:
    """Calls a plain policy once per environment."""

    def __init__(self, policy: Policy, space: gymnasium.Space[Any], rngs: Sequence[np.random.Generator]) -> None:
        self.policy, self.space, self.rngs = policy, space, rngs
        self.functions: dict[int, Act] = {}

    def reset(self, slot: int, episode: int) -> None:
        """Make a new act function for the episode."""
        self.functions[slot] = self.policy(self.space, self.rngs[episode])

    def act(self, frames: np.ndarray, slots: Sequence[int]) -> Sequence[Any]:
        """Call the act functions one after the other."""
        return [self.functions[slot](frame) for slot, frame in zip(slots, frames, strict=True)]


class WorldModelActor:
    """Encodes the frames of all environments, computes their actions and updates their memories as one batch.

    A controller's latent input is the mean of the posterior q(z|x).

    Args:
        world: World model.
        controller: Kind of the controllers.
        parameters: (episodes, size): controller parameters of each episode.
        space: Action space of the environments.
        num_envs: Number of environments.
        action_noise: Standard deviation of the Gaussian noise on Box actions, or the probability of a uniformly random
            discrete action, or of another choice of a `ChoiceSpace`.
        rngs: One generator per episode; only action noise draws from them.
        rows: Batch row of each episode. With rows the batch size is always ``num_envs``, so that an episode's numbers
            do not depend on the other episodes (bit-equal on one machine). None: the batch holds active episodes only.
        initial_states: Memory state at the start of each episode, with batch size 1. Empty: zeros.

    Raises:
        ValueError: The world model was made for other actions.
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
        self.world, self.controller, self.parameters, self.space = world.eval(), controller, parameters, space
        self.action_noise, self.rngs, self.rows, self.initial_states = action_noise, rngs, rows, initial_states
        self.device = world.device
        self.memory = world.initial(num_envs)
        self.frames = np.zeros((num_envs, *world.observation_shape), observation_dtype(world.observation_shape))
        self.episodes = [0] * num_envs
        """Episode in each row of the batch."""
        self.row: dict[int, int] = {}
        """Row of each slot."""

    @torch.no_grad()
    def reset(self, slot: int, episode: int) -> None:
        """Set the memory state of a slot to the episode's initial state."""
        row = self.row[slot] = slot if self.rows is None else self.rows[episode]
        self.episodes[row] = episode
        for index, tensor in enumerate(self.memory):
            tensor[row] = self.initial_states[episode][index][0] if self.initial_states else 0

    @torch.no_grad()
    def act(self, frames: np.ndarray, slots: Sequence[int]) -> Sequence[Any]:
        """Encode the frames, compute the actions, update the memory states."""
        world, rows = self.world, [self.row[slot] for slot in slots]
        computed = rows
        if self.rows is not None and frames.shape[1:] == self.frames.shape[1:]:  # others are refused below
            self.frames[rows] = frames
            frames, computed = self.frames, list(range(len(self.frames)))
        position = {row: index for index, row in enumerate(computed)}
        parameters = self.parameters[[self.episodes[row] for row in computed]].to(self.device)
        latent = world.encode(torch.from_numpy(frames))
        state = WorldState(latent, tree_map(self.memory, lambda part: part[computed]))
        inputs = state.controller_inputs[:, None]
        action = world.squash(self.controller.outputs(parameters, inputs)[:, 0])
        if self.action_noise:
            for row in rows:
                action[position[row]] = self._add_noise(action[position[row]], self.rngs[self.episodes[row]])
        for tensor, new in zip(self.memory, world.observe(state, latent, action), strict=True):
            tensor[computed] = new
        commands = (action.argmax(dim=-1) if world.discrete else action).cpu().numpy()
        return [commands[position[row]] for row in rows]

    def _add_noise(self, action: Tensor, rng: np.random.Generator) -> Tensor:
        if isinstance(self.space, ChoiceSpace):
            random = self.space.round(rng.uniform(-1, 1, action.shape))
            chosen = np.repeat(rng.random(len(self.space.nvec)) < self.action_noise, self.space.widths)
            return torch.where(torch.from_numpy(chosen).to(action.device), torch.from_numpy(random).to(action), action)
        if not self.world.discrete:
            noise = torch.from_numpy(rng.normal(0, self.action_noise, action.shape).astype(np.float32))
            return (action + noise.to(action)).clamp(-1, 1)
        if rng.random() >= self.action_noise:
            return action
        return torch.zeros_like(action).index_fill_(0, torch.tensor(int(rng.integers(len(action)))), 1.0)


def validate_action_space(world: WorldModel, space: gymnasium.Space[Any]) -> None:
    """Check that the world model was made for an action space.

    Raises:
        ValueError: The kind or the number of actions differs.
    """
    kind, size = envs.action_kind(space)
    if (nvec := getattr(space, "nvec", ())) != world.nvec:
        of_world, of_env = (f"choices {list(one)}" if one else "no choices" for one in (world.nvec, nvec))
        raise ValueError(f"the world model was made for actions with {of_world}, the environment has {of_env}")
    if (kind == "discrete", size) != (world.discrete, world.action_dim):
        world_kind = "discrete" if world.discrete else "box"
        raise ValueError(
            f"the world model was made for {world.action_dim} {world_kind} actions, the environment has {size} {kind} actions"
        )
