"""Memories that imagine a dream's steps: the world model's own (`SingleModel`), or an ensemble (`ModelEnsemble`).

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
    """State of a batch of dreams: the agent's and those of the ensemble."""

    latent: Float[Tensor, "batch latent"]
    """Current latent."""
    agent: WorldState
    """The agent's state of each dream."""
    members: tuple[WorldState, ...]
    """For each ensemble member, the states of its dreams."""

    @property
    def controller_inputs(self) -> Float[Tensor, "batch features"]:
        """Inputs of a controller."""
        return self.agent.with_latent(self.latent).controller_inputs


class SingleModel:
    """Imagines with the world model's own memory, which also gives the controller's inputs.

    Args:
        world: World model.
        num_rollouts: Number of dreams per controller.
        population: Number of controllers.
    """

    group_size = 1
    """Number of consecutive dreams with the same start state and noise."""

    def __init__(self, world: WorldModel, num_rollouts: int, population: int) -> None:
        self.agent, self.num_rollouts, self.population, self.imagine = (
            world,
            num_rollouts,
            population,
            world.imagine_from,
        )

    def sample_start_states(
        self, start_states: EncodedEpisodes | Float[Tensor, "starts latent"], seed: int, burn_in: int
    ) -> WorldState:
        """Return start states, the same for each controller."""
        return _start(self, self.agent, start_states, seed, burn_in)


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
        self.members = [WorldModel(world.vae, memory, discrete=world.discrete).eval() for memory in memories]
        if not 1 <= len(memories) <= num_rollouts:
            raise ValueError(
                f"ensemble must have from 1 to num_rollouts ({num_rollouts}) memories, got {len(memories)}"
            )
        expected = (world.latent_dim, world.action_dim, world.memory.density.noise_shapes)
        for index, memory in enumerate(memories):
            if (actual := (memory.latent_dim, memory.action_dim, memory.density.noise_shapes)) != expected:
                raise ValueError(
                    f"ensemble must have the latents, actions and noise of the agent's memory, {expected}, got {actual} "
                    f"for ensemble[{index}]"
                )
        self.agent, self.num_rollouts, self.population, self.group_size = world, num_rollouts, population, len(memories)
        order = torch.arange(population * num_rollouts, device=world.device)
        self.rows = [order[order % num_rollouts % len(memories) == number] for number in range(len(memories))]
        self.inverse_order = torch.cat(self.rows).argsort()
        """Permutation from member order (all dreams of member 0, then of member 1, ...) to dream order."""

    def sample_start_states(
        self, start_states: EncodedEpisodes | Float[Tensor, "starts latent"], seed: int, burn_in: int
    ) -> EnsembleState:
        """Return the start states of the agent and of all members; they equal those of a single model."""
        agent, *members = (_start(self, world, start_states, seed, burn_in) for world in (self.agent, *self.members))
        assert agent.latent is not None
        return EnsembleState(agent.latent, agent, tuple(map(_take, members, self.rows)))

    def imagine(
        self,
        at: EnsembleState,
        action: Float[Tensor, "batch actions"],
        noise: Noise,
        temperature: float | Tensor = 1.0,
        noise_temperature: float | Tensor | None = None,
    ) -> tuple[Step, EnsembleState]:
        """Imagine one step with every member; the agent's memory observes the current latent and the action."""
        steps, after = [], []
        for world, rows, state in zip(self.members, self.rows, at.members, strict=True):
            member_noise = Noise(*(part[rows] for part in noise))
            temperatures = (
                value[rows] if isinstance(value, Tensor) else value for value in (temperature, noise_temperature)
            )
            step, state = world.imagine_from(state, action[rows], member_noise, *temperatures)  # type: ignore[arg-type]
            steps.append(step)
            after.append(state)
        joined = Step(*(torch.cat(parts)[self.inverse_order] for parts in zip(*steps, strict=True)))
        agent = self.agent.observe(at.agent, at.latent, action).with_latent(joined.latent)
        return joined, EnsembleState(joined.latent, agent, tuple(after))


def _start(
    model: SingleModel | ModelEnsemble, world: WorldModel, start_states: Any, seed: int, burn_in: int
) -> WorldState:
    """Return start states (population * dreams, ...), shared by all controllers and by groups of dreams."""
    groups = -(-model.num_rollouts // model.group_size)
    state = sample_start_states(
        world, start_states, groups, np.random.default_rng([seed, Stream.START_STATES]), burn_in
    )
    group = torch.arange(model.num_rollouts, device=world.device) // model.group_size
    return _take(state, group.repeat(model.population))


def _take(state: WorldState, rows: Tensor) -> WorldState:
    """Select rows of a batch of states, in that order."""
    return WorldState(
        None if state.latent is None else state.latent[rows], tree_map(state.memory, lambda tensor: tensor[rows])
    )
