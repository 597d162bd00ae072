"""Where dreams happen: in the world model itself (`Alone`), or in several worlds with one mind that looks on (`Worlds`).

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


class Places(NamedTuple):
    """Where a batch of dreams stands, in each of the worlds and in the agent's mind."""

    latent: Float[Tensor, "batch latent"]
    """The latent in view."""
    mind: WorldState
    """The agent's memory of each dream."""
    worlds: tuple[WorldState, ...]
    """Each world's memory of its own dreams."""

    @property
    def features(self) -> Float[Tensor, "batch features"]:
        """What a controller sees."""
        return self.mind.with_latent(self.latent).controller_inputs


class Alone:
    """The world model's own memory, which imagines, and which the controller sees with; ``dreams`` for each controller."""

    together = 1
    """Dreams that begin alike and have the same luck."""

    def __init__(self, world: WorldModel, dreams: int, population: int) -> None:
        self.mind, self.dreams, self.population, self.imagine = world, dreams, population, world.imagine_from

    def begin(self, starts: EncodedEpisodes | Float[Tensor, "starts latent"], seed: int, burn_in: int) -> WorldState:
        """Real moments, the same for each controller."""
        return _awake(self, self.mind, starts, seed, burn_in)


class Worlds:
    """Several memories that imagine, and one that looks on.

    Args:
        world: the agent's world model; its memory is the mind.
        memories: the worlds' memories, of the same latents and actions.
        dreams: dreams for each controller; dream n happens in world ``n % len(memories)``.
        population: controllers.

    Raises:
        ValueError: there is no memory, or one does not fit the agent's world model, or a world would have no dream.
    """

    def __init__(self, world: WorldModel, memories: Sequence[Memory], dreams: int, population: int) -> None:
        self.worlds = [WorldModel(world.vae, memory, discrete=world.discrete).eval() for memory in memories]
        if not 1 <= len(memories) <= dreams:
            raise ValueError(f"worlds must be from 1 to as many as dreams ({dreams}), got {len(memories)}")
        wanted = (world.latent_dim, world.action_dim, world.memory.density.noise_shapes)
        for number, memory in enumerate(memories):
            if (found := (memory.latent_dim, memory.action_dim, memory.density.noise_shapes)) != wanted:
                raise ValueError(
                    f"worlds must have the latents, actions and noise of the agent's memory, {wanted}, got {found} "
                    f"for worlds[{number}]"
                )
        self.mind, self.dreams, self.population, self.together = world, dreams, population, len(memories)
        order = torch.arange(population * dreams, device=world.device)
        self.rows = [order[order % dreams % len(memories) == number] for number in range(len(memories))]
        self.back = torch.cat(self.rows).argsort()
        """From the worlds' order, one after the other, to the dreams' own."""

    def begin(self, starts: EncodedEpisodes | Float[Tensor, "starts latent"], seed: int, burn_in: int) -> Places:
        """The same real moments for the mind and the worlds, as one world alone would begin there."""
        mind, *worlds = (_awake(self, world, starts, seed, burn_in) for world in (self.mind, *self.worlds))
        assert mind.latent is not None
        return Places(mind.latent, mind, tuple(map(_rows, worlds, self.rows)))

    def imagine(
        self,
        at: Places,
        action: Float[Tensor, "batch actions"],
        noise: Noise,
        temperature: float | Tensor = 1.0,
        noise_temperature: float | Tensor | None = None,
    ) -> tuple[Step, Places]:
        """One step in every world; the mind sees what was in view, and what was done."""
        steps, after = [], []
        for world, rows, state in zip(self.worlds, self.rows, at.worlds, strict=True):
            luck = Noise(*(part[rows] for part in noise))
            mixing, spread = (
                value[rows] if isinstance(value, Tensor) else value for value in (temperature, noise_temperature)
            )
            step, state = world.imagine_from(state, action[rows], luck, mixing, spread)  # type: ignore[arg-type]
            steps.append(step)
            after.append(state)
        together = Step(*(torch.cat(parts)[self.back] for parts in zip(*steps, strict=True)))
        mind = self.mind.observe(at.mind, at.latent, action).with_latent(together.latent)
        return together, Places(together.latent, mind, tuple(after))


def _awake(place: Alone | Worlds, world: WorldModel, starts: Any, seed: int, burn_in: int) -> WorldState:
    """All controllers' dreams at their real moments, (population * dreams, ...), groups of them at the same one."""
    groups = -(-place.dreams // place.together)
    state = sample_start_states(world, starts, groups, np.random.default_rng([seed, Stream.START_STATES]), burn_in)
    group = torch.arange(place.dreams, device=world.device) // place.together
    return _rows(state, group.repeat(place.population))


def _rows(state: WorldState, rows: Tensor) -> WorldState:
    """Some lives of many, in that order."""
    return WorldState(
        None if state.latent is None else state.latent[rows], tree_map(state.memory, lambda part: part[rows])
    )
