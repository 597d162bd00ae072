"""Where dreams begin: real moments, with the memory of what came before them.

Dreaming in batches (`rollouts.dream`) and dreaming as an environment (`envs.DreamEnv`) both start here.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.model import WorldModel, WorldState


@runtime_checkable
class EncodedEpisodes(Protocol):
    """Encoded real episodes (`rollouts.Store.latents`)."""

    def __len__(self) -> int: ...

    def episode(self, index: int) -> Any:
        """One episode with ``mean`` (T+1, latent) and ``action`` (T, actions)."""
        ...


@torch.no_grad()
def begin(
    world: WorldModel,
    starts: EncodedEpisodes | Float[Tensor, "starts latent"],
    count: int,
    rng: np.random.Generator,
    burn_in: int = 32,
) -> WorldState:
    """Draw ``count`` real moments and bring a state there: the latent in view, the memory of the steps before.

    Raises:
        ValueError: there is no start, or its latents do not fit the world model.
    """
    if burn_in < 0:
        raise ValueError(f"burn_in must be zero or more, got {burn_in}")
    weight = next(world.memory.parameters())
    if isinstance(starts, Tensor | np.ndarray):
        choices = torch.as_tensor(starts)
        if choices.ndim != 2 or len(choices) == 0 or choices.shape[1] != world.latent:
            raise ValueError(f"starts must have shape (S, {world.latent}) with S > 0, got {tuple(choices.shape)}")
        latent = choices[torch.from_numpy(rng.integers(len(choices), size=count))].to(weight)
        return world.initial(count).seeing(latent)
    if len(starts) == 0:
        raise ValueError("starts must hold at least one episode, got none")
    past = torch.zeros(count, burn_in, world.latent + world.actions)
    known = torch.zeros(count, burn_in, dtype=torch.bool)
    latent = torch.zeros(count, world.latent)
    for row in range(count):
        episode = starts.episode(int(rng.integers(len(starts))))
        mean, action = episode.mean, episode.action
        if mean.shape[1] != world.latent or action.shape[1] != world.actions:
            raise ValueError(
                f"starts must hold {world.latent} latents and {world.actions} actions, "
                f"got {mean.shape[1]} and {action.shape[1]}"
            )
        if not len(action):
            raise ValueError("starts must hold episodes with at least one step, got one without")
        moment = int(rng.integers(len(action)))  # never the last frame: the episode has ended there
        before = min(moment, burn_in)
        seen = torch.from_numpy(np.array(mean[moment - before : moment + 1], np.float32))
        if before:
            done = torch.from_numpy(np.array(action[moment - before : moment], np.float32))
            past[row, -before:] = torch.cat((seen[:-1], done), dim=1)
            known[row, -before:] = True
        latent[row] = seen[-1]
    past, known, latent = past.to(weight), known.to(weight.device), latent.to(weight)
    state = world.initial(count)
    for time in range(burn_in):
        seen, done = past[:, time].split((world.latent, world.actions), dim=1)
        after = world.observe(state, seen, done).memory
        mask = known[:, time, None, None]
        memory = type(after)(*(torch.where(mask, new, old) for new, old in zip(after, state.memory, strict=True)))
        state = WorldState(None, memory)
    return state.seeing(latent)


def check_temperature(temperature: float | Tensor) -> None:
    """Refuse temperatures that are not finite and above zero."""
    values = torch.as_tensor(temperature)
    if not bool(((values > 0) & torch.isfinite(values)).all()):
        raise ValueError(f"temperature must be finite and above zero, got {temperature}")
