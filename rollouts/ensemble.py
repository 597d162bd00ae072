"""Where dreams happen: in the world model itself (`SingleModel`), or in several memories (`ModelEnsemble`).

In the game the world is not the agent's memory. Here neither: dream n happens in world n modulo E, while the agent's memory
looks on, step by step, as it would in the game. A controller that lives off one memory's mistakes finds others in the next.
E dreams in a row begin alike and have the same luck, so that they differ by what the memories say.

References:
    Kurutach et al., Model-Ensemble Trust-Region Policy Optimization, 2018, https://arxiv.org/abs/1802.10592 (imagined
    trajectories, each step or life in a random model of an ensemble).
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
    """Where a batch of dreams stands, in each of the worlds and in the agent's mind."""

    latent: Float[Tensor, "batch latent"]
    """The latent in view."""
    agent: WorldState
    """The agent's memory of each dream."""
    members: tuple[WorldState, ...]
    """Each world's memory of its own dreams."""

    @property
    def controller_inputs(self) -> Float[Tensor, "batch features"]:
        """What a controller sees."""
        return self.agent.with_latent(self.latent).controller_inputs


class SingleModel:
    """The world model's own memory, which imagines and which the controller sees with."""

    group_size = 1
    """Dreams that begin alike and have the same luck."""

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
        """Real moments, the same for each controller."""
        return _start(self, self.agent, start_states, seed, burn_in)


class ModelEnsemble:
    """Several memories that imagine, and one that looks on.

    Args:
        world: the agent's world model; its memory is the mind.
        memories: the worlds' memories, of the same latents and actions.
        num_rollouts: dreams for each controller; dream n happens in world ``n % len(memories)``.
        population: controllers.

    Raises:
        ValueError: there is no memory, or one does not fit the agent's world model, or a world would have no dream.
    """

    def __init__(self, world: WorldModel, memories: Sequence[Memory], num_rollouts: int, population: int) -> None:
        self.members = [WorldModel(world.vae, memory, discrete=world.discrete).eval() for memory in memories]
        if not 1 <= len(memories) <= num_rollouts:
            raise ValueError(
                f"ensemble must be from 1 to as many as num_rollouts ({num_rollouts}), got {len(memories)}"
            )
        wanted = (world.latent_dim, world.action_dim, world.memory.density.noise_shapes)
        for number, memory in enumerate(memories):
            if (found := (memory.latent_dim, memory.action_dim, memory.density.noise_shapes)) != wanted:
                raise ValueError(
                    f"ensemble must have the latents, actions and noise of the agent's memory, {wanted}, got {found} "
                    f"for ensemble[{number}]"
                )
        self.agent, self.num_rollouts, self.population, self.group_size = world, num_rollouts, population, len(memories)
        order = torch.arange(population * num_rollouts, device=world.device)
        self.rows = [order[order % num_rollouts % len(memories) == number] for number in range(len(memories))]
        self.inverse_order = torch.cat(self.rows).argsort()
        """From the worlds' order, one after the other, to the dreams' own."""

    def sample_start_states(
        self, start_states: EncodedEpisodes | Float[Tensor, "starts latent"], seed: int, burn_in: int
    ) -> EnsembleState:
        """The same real moments for the mind and the worlds, as one world alone would begin there."""
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
        """One step in every world; the mind sees what was in view, and what was done."""
        steps, after = [], []
        for world, rows, state in zip(self.members, self.rows, at.members, strict=True):
            member_noise = Noise(*(part[rows] for part in noise))
            mixing, spread = (
                value[rows] if isinstance(value, Tensor) else value for value in (temperature, noise_temperature)
            )
            step, state = world.imagine_from(state, action[rows], member_noise, mixing, spread)  # type: ignore[arg-type]
            steps.append(step)
            after.append(state)
        joined = Step(*(torch.cat(parts)[self.inverse_order] for parts in zip(*steps, strict=True)))
        agent = self.agent.observe(at.agent, at.latent, action).with_latent(joined.latent)
        return joined, EnsembleState(joined.latent, agent, tuple(after))


def _start(
    model: SingleModel | ModelEnsemble, world: WorldModel, start_states: Any, seed: int, burn_in: int
) -> WorldState:
    """All controllers' dreams at their real moments, (population * dreams, ...), groups of them at the same one."""
    groups = -(-model.num_rollouts // model.group_size)
    state = sample_start_states(
        world, start_states, groups, np.random.default_rng([seed, Stream.START_STATES]), burn_in
    )
    group = torch.arange(model.num_rollouts, device=world.device) // model.group_size
    return _take(state, group.repeat(model.population))


def _take(state: WorldState, rows: Tensor) -> WorldState:
    """Some lives of many, in that order."""
    return WorldState(
        None if state.latent is None else state.latent[rows], tree_map(state.memory, lambda part: part[rows])
    )
