"""Dreams: many lives at once inside the world model, without a single real frame.

Start reading at `dream`. Each dream begins at a real moment: the memory first re-lives the steps before it (burn-in),
so that the controller wakes up in the middle of a life, not at its start.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rollouts.controllers import population_of
from worldmodel import WorldModel
from worldmodel.arguments import at_least_one
from worldmodel.batches import frames_to_uint8
from worldmodel.model import WorldState
from worldmodel.starts import EncodedEpisodes, begin, check_temperature

KEEPABLE = ("latents", "actions", "rewards", "frames")


class Dreams(NamedTuple):
    """What P controllers dreamed, N dreams each; arrays not asked for are None.

    After a dream's end its latents, actions and rewards are zero, and its frames are what the VAE makes of zeros.
    """

    returns: np.ndarray
    """(P, N) sums of the expected rewards."""
    lengths: np.ndarray
    """(P, N) steps until the dream ended."""
    terminated: np.ndarray
    """(P, N) whether it ended by itself, before the horizon."""
    latents: np.ndarray | None = None
    """(P, N, T + 1, latent)."""
    actions: np.ndarray | None = None
    """(P, N, T, actions)."""
    rewards: np.ndarray | None = None
    """(P, N, T)."""
    frames: np.ndarray | None = None
    """(P, N, T + 1, 64, 64, 3) bytes."""


@torch.no_grad()
def dream(
    world: WorldModel,
    controllers: Any,
    starts: EncodedEpisodes | Float[Tensor, "starts latent"],
    horizon: int = 1000,
    dreams: int = 16,
    temperature: float | Tensor = 1.0,
    seed: int = 0,
    *,
    burn_in: int = 32,
    threshold: float | None = None,
    keep: tuple[str, ...] = (),
) -> Dreams:
    """Dream P x N lives as one batch.

    All controllers dream from the same N starts.

    Args:
        world: the world model; its device is where the dream is computed.
        controllers: a (P, size) array of flat linear parameters, or one controller (`agents.LinearController`).
        starts: ``store.latents(vae)``, or a (S, latent) tensor of first latents.
        horizon: steps after which a dream is cut.
        dreams: N, dreams for each controller.
        temperature: above zero; 1 is the model's own uncertainty.
        seed: of starts and of all that is drawn.
        burn_in: real steps that the memory re-lives before a dream begins (where ``starts`` has them).
        threshold: end a dream when its termination probability exceeds this; None: draw with that probability.
        keep: which histories to return, of "latents", "actions", "rewards", "frames".

    Raises:
        ValueError: an argument is out of range or has the wrong shape.
    """
    at_least_one(horizon=horizon, dreams=dreams)
    if unknown := [name for name in keep if name not in KEEPABLE]:
        raise ValueError(f"keep takes names of {', '.join(KEEPABLE)}, got {unknown[0]!r}")
    check_temperature(temperature)
    world.eval()
    device = world.device
    family, parameters = population_of(controllers, world.features, world.actions)
    parameters = parameters.to(device)
    population = len(parameters)
    generator = Generator(device).manual_seed(seed)
    state = begin(world, starts, dreams, np.random.default_rng([seed, 1]), burn_in)
    state = WorldState(*_repeat((state.latent, state.memory), population))
    shape = (population, dreams)
    assert state.latent is not None
    history: dict[str, list[Tensor]] = {"latents": [state.latent], "actions": [], "rewards": []}
    returns = torch.zeros(population * dreams, dtype=torch.float64, device=device)
    lengths = torch.zeros(population * dreams, dtype=torch.int64, device=device)
    alive = torch.ones(population * dreams, dtype=torch.bool, device=device)
    for _ in range(horizon):
        assert state.latent is not None
        features = torch.cat((state.latent, state.hidden), dim=-1).view(*shape, -1)
        action = world.squash(family.outputs(parameters, features)).flatten(0, 1)
        step, state = world.imagine(state, action, temperature, generator)
        reward = torch.where(alive, step.reward, 0)
        returns += reward
        lengths += alive
        for name, value in {"latents": step.latent, "actions": action, "rewards": reward}.items():
            if name in keep or (name == "latents" and "frames" in keep):
                history[name].append(value * (alive if value.ndim == 1 else alive[:, None]))
        alive = alive & ~(step.terminated if threshold is None else step.termination > threshold)
        if not alive.any():
            break

    def stacked(name: str) -> np.ndarray | None:
        return torch.stack(history[name], dim=1).unflatten(0, shape).cpu().numpy() if name in keep else None

    return Dreams(
        returns.view(shape).cpu().numpy(),
        lengths.view(shape).cpu().numpy(),
        ~alive.view(shape).cpu().numpy(),
        stacked("latents"),
        stacked("actions"),
        stacked("rewards"),
        frames=decode(world, torch.stack(history["latents"], dim=1).unflatten(0, shape)) if "frames" in keep else None,
    )


@torch.no_grad()
def decode(world: WorldModel, latents: Float[Tensor, "*batch latent"], chunk: int = 256) -> np.ndarray:
    """Latents as pictures: (*batch, 64, 64, 3) bytes, decoded ``chunk`` at a time."""
    flat = latents.reshape(-1, latents.shape[-1])
    pictures = [frames_to_uint8(world.vae.decode(part)).cpu() for part in flat.split(chunk)]
    return torch.cat(pictures).numpy().reshape(*latents.shape[:-1], 64, 64, 3)


def _repeat(value: Any, times: int) -> Any:
    """Repeat a tensor, or every tensor in nested tuples, along its first axis: (N, ...) -> (times * N, ...)."""
    if isinstance(value, Tensor):
        return value.repeat(times, *(1 for _ in value.shape[1:]))
    parts = [_repeat(part, times) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


@torch.no_grad()
def dream_along(
    world: WorldModel,
    latents: Float[Tensor, "frames latent"],
    actions: Float[Tensor, "steps actions"],
    start: int,
    dreams: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    burn_in: int = 32,
) -> tuple[Float[Tensor, "dreams frames latent"], Float[Tensor, "dreams steps"]]:
    """Dream a real episode on from ``start`` under its own actions: what the model thinks would have been seen.

    Args:
        world: the world model.
        latents: (T + 1, latent): the real episode's.
        actions: (T, actions): the real episode's action inputs.
        start: the last frame that the dream sees.
        dreams: how many times to dream.
        temperature: above zero.
        seed: of all that is drawn.
        burn_in: real steps before ``start`` that the memory re-lives.

    Returns:
        Latents (dreams, steps + 1, latent), beginning with the real one at ``start``, and rewards (dreams, steps).
    """
    check_temperature(temperature)
    if not 0 <= start < len(actions):
        raise ValueError(f"start must be from 0 to {len(actions) - 1}, got {start}")
    world.eval()
    weight = next(world.memory.parameters())
    latents, actions = torch.as_tensor(latents).to(weight), torch.as_tensor(actions).to(weight)
    generator = Generator(weight.device).manual_seed(seed)
    state = world.initial(dreams)
    for time in range(max(0, start - burn_in), start):
        state = world.observe(state, latents[time].expand(dreams, -1), actions[time].expand(dreams, -1))
    state = state.seeing(latents[start].expand(dreams, -1).contiguous())
    dreamed, rewards = [state.latent], []
    for action in actions[start:]:
        step, state = world.imagine(state, action.expand(dreams, -1), temperature, generator)
        dreamed.append(step.latent)
        rewards.append(step.reward)
    return torch.stack([latent for latent in dreamed if latent is not None], dim=1), torch.stack(rewards, dim=1)
