"""An ensemble of memories that imagines the steps of dreams.

Start reading at `ModelEnsemble`. Dream n uses memory n modulo E, and the agent's own memory observes the dream, step by
step, as it observes a real episode. A controller that exploits the errors of one memory then meets other errors in the next
dream. E consecutive dreams share their start state and their noise, so that they differ only by their memories.

References:
    Kurutach et al., Model-Ensemble Trust-Region Policy Optimization, 2018, https://arxiv.org/abs/1802.10592 (imagined
    trajectories, each step or episode in a random model of an ensemble).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel import Memory, WorldModel
from worldmodel.batches import tree_map
from worldmodel.rng import Stream
from worldmodel.start_states import EncodedEpisodes, sample_start_states
from worldmodel.world_model import Noise, Step, WorldState


class EnsembleState(NamedTuple):
    """State of a batch of dreams: the agent's, and those of the members for their dreams."""

    agent: WorldState
    members: tuple[WorldState, ...]

    @property
    def latent(self) -> Float[Tensor, "batch latent"]:
        """Current latent."""
        return self.agent.latent

    @property
    def controller_inputs(self) -> Float[Tensor, "batch features"]:
        """Inputs of a controller."""
        return self.agent.controller_inputs


class ModelEnsemble:
    """Imagines with several memories, while the agent's memory observes.

    Args:
        world: World model of the agent.
        memories: Ensemble members, for the same latents and actions.
        num_rollouts: Number of dreams per controller; dream n uses member ``n % len(memories)``.
        population: Number of controllers.

    Raises:
        ValueError: The ensemble is empty or larger than ``num_rollouts``, or a member does not fit the world model.
    """

    def __init__(self, world: WorldModel, memories: Sequence[Memory], num_rollouts: int, population: int) -> None:
        self.members = [
            WorldModel(world.vae, memory, discrete=world.discrete, nvec=world.nvec).eval() for memory in memories
        ]
        if not 1 <= len(memories) <= num_rollouts:
            raise ValueError(
                f"ensemble must have from 1 to num_rollouts ({num_rollouts}) memories, got {len(memories)}"
            )
        expected = _sizes(world.memory)
        for index, memory in enumerate(memories):
            if (actual := _sizes(memory)) != expected:
                raise ValueError(
                    f"ensemble must have the latents, actions and noise of the agent's memory, {expected}, got {actual} "
                    f"for ensemble[{index}]"
                )
        self.agent, self.num_rollouts, self.population = world, num_rollouts, population
        order = torch.arange(population * num_rollouts, device=world.device)
        self.rows = [order[order % num_rollouts % len(memories) == number] for number in range(len(memories))]
        self.inverse_order = torch.cat(self.rows).argsort()
        """Permutation from member order (all dreams of member 0, then of member 1, ...) to dream order."""

    def start_states(
        self, start_states: EncodedEpisodes | Float[Tensor, "starts latent"], seed: int, burn_in: int
    ) -> EnsembleState:
        """Return the start states of the agent and of all members (`dream_start_states`)."""
        agent, *members = (
            dream_start_states(
                world, start_states, seed, burn_in, self.num_rollouts, self.population, len(self.members)
            )
            for world in (self.agent, *self.members)
        )
        return self.join(agent, members)

    def join(self, agent: WorldState, members: Sequence[WorldState]) -> EnsembleState:
        """Return the state of all dreams from those of the agent and of each member, all of them with all dreams."""
        return EnsembleState(agent, tuple(map(_take, members, self.rows)))

    def imagine_from(
        self,
        state: EnsembleState,
        action: Float[Tensor, "batch actions"],
        noise: Noise,
        temperature: float | Tensor = 1.0,
    ) -> tuple[Step, EnsembleState]:
        """Imagine one step with every member; the agent's memory observes the current latent and the action."""
        steps, after = [], []
        for world, rows, before in zip(self.members, self.rows, state.members, strict=True):
            member_noise = Noise(*(part[rows] for part in noise))
            own = temperature[rows] if isinstance(temperature, Tensor) else temperature
            step, following = world.imagine_from(before, action[rows], member_noise, own)
            steps.append(step)
            after.append(following)
        joined = Step(*(torch.cat(parts)[self.inverse_order] for parts in zip(*steps, strict=True)))
        memory = self.agent.observe(state.agent, state.latent, action)
        return joined, EnsembleState(WorldState(joined.latent, memory), tuple(after))


def dream_start_states(
    world: WorldModel,
    start_states: EncodedEpisodes | Float[Tensor, "starts latent"],
    seed: int,
    burn_in: int,
    num_rollouts: int,
    population: int,
    group_size: int = 1,
) -> WorldState:
    """Return start states (population * num_rollouts, ...): the same for each controller and for a group of dreams."""
    groups = -(-num_rollouts // group_size)
    rng = np.random.default_rng([seed, Stream.START_STATES])
    state = sample_start_states(world, start_states, groups, rng, burn_in)
    group = torch.arange(num_rollouts, device=world.device) // group_size
    return _take(state, group.repeat(population))


def _take(state: WorldState, rows: Tensor) -> WorldState:
    """Select rows of a batch of states, in that order."""
    return WorldState(state.latent[rows], tree_map(state.memory, lambda tensor: tensor[rows]))


def _sizes(memory: Memory) -> tuple[Any, ...]:
    """Return what members must have in common: sizes of latents, actions and noise, and whether they are residual."""
    return memory.latent_dim, memory.action_dim, memory.density.noise_shapes, memory.density.residual
