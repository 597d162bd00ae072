"""Dreams: many lives at once inside the world model, without a single real frame.

Start reading at `dream`. Each dream begins at a real moment: the memory first re-lives the steps before it (burn-in),
so that the controller wakes up in the middle of a life, not at its start.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rollouts.controllers import check_fits, population_of
from rollouts.worlds import Alone, Worlds
from worldmodel import Memory, WorldModel
from worldmodel.formatting import format_number
from worldmodel.progress import Progress, callback, shows_progress, silent
from worldmodel.rng import Stream
from worldmodel.start_states import EncodedEpisodes
from worldmodel.validation import validate_positive_int, validate_seed, validate_temperature
from worldmodel.world_model import Noise, Step

LUCK_STEPS = 32
"""Noise is drawn for this many steps at once."""
LOOK = 16
"""Steps between two looks at whether a dream is still going on."""
LEAST = 1e-20
"""An exponential number of zero would make its logarithm infinite."""
LEAST_WEIGHT = 1e-6
"""A dream whose ends are weighed is over when its rewards count no more than this."""
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

    def __repr__(self) -> str:
        """Sizes, mean return and mean length."""
        controllers, dreams = self.returns.shape
        kept = [name for name in KEEPABLE if getattr(self, name) is not None]
        return (
            f"Dreams(controllers={controllers}, dreams={dreams}, mean return={format_number(self.returns.mean())}, "
            f"mean length={self.lengths.mean():.0f}, keep={kept})"
        )


@shows_progress("dream", "steps")
@torch.inference_mode()
def dream(
    world: WorldModel,
    controllers: Any,
    starts: EncodedEpisodes | Float[Tensor, "starts latent"],
    horizon: int = 1000,
    dreams: int = 16,
    temperature: float | np.ndarray | Tensor = 1.0,
    seed: int = 0,
    *,
    noise_temperature: float | np.ndarray | Tensor | None = None,
    burn_in: int = 32,
    threshold: float | None = None,
    hazard_ratio: float = 1.0,
    weigh_ends: bool = False,
    keep: tuple[str, ...] = (),
    compile: bool = False,
    worlds: Sequence[Memory] | None = None,
    progress: Progress | bool = silent,
) -> Dreams:
    """Dream P x N lives as one batch.

    Dream n has a source of randomness of its own, the same for all controllers: they wake up at the same moment and have the
    same luck, so that returns differ by what they do (common random numbers; Ng and Jordan, 2000). What a controller dreams
    depends neither on the other controllers nor on the number of dreams, but for the rounding of sums over another batch.

    Args:
        world: the world model; its device is where the dream is computed.
        controllers: a (P, size) array of flat linear parameters, or one controller (`agents.LinearController`).
        starts: ``store.latents(vae)``, or a (S, latent) tensor of first latents.
        horizon: steps after which a dream is cut.
        dreams: N, dreams for each controller.
        temperature: above zero; 1 is the model's own uncertainty. One number, or one for each of the N dreams.
        seed: of starts and of all that is drawn.
        noise_temperature: another temperature for the Gaussian noise, so that ``temperature`` is the mixture's alone.
        burn_in: real steps that the memory re-lives before a dream begins (where ``starts`` has them).
        threshold: end a dream when its termination probability exceeds this; None: draw with that probability (or weigh).
        hazard_ratio: above 1, dreams end more often than the memory expects (and below, less often): a step that is survived
            with probability q is survived with q ** hazard_ratio, as if it were taken so many times. What evolves there
            keeps further from where lives end.
        weigh_ends: draw no ends, but weigh each reward with the chance that the dream has not ended before: returns of the same
            mean, with less chance in them. Dreams then last until hardly any would still go on; their rewards are weighed.
        keep: which histories to return, of "latents", "actions", "rewards", "frames".
        compile: whether to compile a step with `torch.compile`: some seconds at first, then faster; for long dreams.
        worlds: memories that imagine instead of the world model's own, dream n in the n-th of them, again and again; the
            world model's memory looks on for the controller, as it does in the game (`rollouts.worlds`).
        progress: called as ``progress(steps, horizon, note)`` now and then; True: a bar.

    Raises:
        ValueError: an argument is out of range or has the wrong shape.

    References:
        Ng and Jordan, PEGASUS, 2000, https://arxiv.org/abs/1301.3878.
    """
    validate_positive_int(horizon=horizon, dreams=dreams)
    validate_seed(seed)
    if not (hazard_ratio > 0 and math.isfinite(hazard_ratio)):
        raise ValueError(f"hazard_ratio must be finite and above zero, got {hazard_ratio}")
    if (hazard_ratio != 1 or weigh_ends) and threshold is not None:
        raise ValueError(
            f"threshold must be None beside hazard_ratio or weigh_ends: nothing is drawn with it, got {threshold}"
        )
    if unknown := [name for name in keep if name not in KEEPABLE]:
        raise ValueError(f"keep takes names of {', '.join(KEEPABLE)}, got {unknown[0]!r}")
    world.eval()
    family, parameters = population_of(controllers, world.num_features, world.action_dim)
    check_fits(family, world)
    parameters, population = parameters.to(world.device), len(parameters)
    shape = (population, dreams)
    mixing, spread = _temperature("temperature", temperature, shape, world.device), None
    if noise_temperature is not None:
        spread = _temperature("noise_temperature", noise_temperature, shape, world.device)
    place = Alone(world, dreams, population) if worlds is None else Worlds(world, worlds, dreams, population)

    def live(state: Any, noise: Noise) -> tuple[Tensor, Step, Any]:
        features = state.controller_inputs.view(*shape, -1)
        action = world.squash(family.outputs(parameters, features)).flatten(0, 1)
        return action, *place.imagine(state, action, noise, mixing, spread)

    step_once = torch.compile(live, dynamic=False) if compile else live
    state: Any = place.begin(starts, seed, burn_in)
    diary = _Diary(state.latent, shape, keep)
    report = callback(progress)
    report(0, horizon, "")
    fortune = luck(world, seed, dreams, population, place.together)
    for number, noise in enumerate(itertools.islice(fortune, horizon), 1):
        action, step, state = step_once(state, noise)
        if hazard_ratio != 1:
            chance = 1 - (1 - step.termination) ** hazard_ratio
            step = step._replace(termination=chance, terminated=noise.uniform < chance)
        if weigh_ends:
            diary.write_weighed(action, step)
        else:
            diary.write(action, step, step.terminated if threshold is None else step.termination > threshold)
        if number % LOOK == 0:
            report(number, horizon, "")
            if not diary.alive.any():  # not at every step: a look waits for the device
                break
    report(horizon, horizon, "")
    return diary.read(world)


class _Diary:
    """What happened in P x N dreams so far, step by step.

    Args:
        latent: (P * N, latent): where they began.
        shape: (P, N).
        keep: as `dream` takes it.
    """

    def __init__(self, latent: Tensor, shape: tuple[int, int], keep: tuple[str, ...]) -> None:
        self.shape, self.keep = shape, keep
        self.returns = latent.new_zeros(len(latent), dtype=torch.float64)
        self.lengths = latent.new_zeros(len(latent), dtype=torch.int64)
        self.alive = latent.new_ones(len(latent), dtype=torch.bool)
        self.weight: Tensor | float = 1.0
        """Of the rewards to come."""
        self.history: dict[str, list[Tensor]] = {
            name: [latent] if name == "latents" else []
            for name in ("latents", "actions", "rewards")
            if name in keep or (name == "latents" and "frames" in keep)
        }

    def write(self, action: Tensor, step: Step, ended: Tensor) -> None:
        """A step of every dream; one that is over may drift anywhere, even to NaN: it counts no more."""
        reward = torch.where(self.alive, step.reward, 0) * self.weight
        self.returns += reward
        self.lengths += self.alive
        values = {"latents": step.latent, "actions": action, "rewards": reward}
        for name, parts in self.history.items():
            value = values[name]
            parts.append(torch.where(self.alive if value.ndim == 1 else self.alive[:, None], value, 0))
        self.alive = self.alive & ~ended

    def write_weighed(self, action: Tensor, step: Step) -> None:
        """A step that may be the last one: rewards to come count as much less."""
        weight = self.weight * (1 - step.termination)
        self.write(action, step, weight < LEAST_WEIGHT)
        self.weight = weight

    def read(self, world: WorldModel) -> Dreams:
        """All of it, up to the end of the longest dream; ``world`` decodes the frames."""
        last = int(self.lengths.max())
        found = {
            name: torch.stack(parts[: last + (name == "latents")], dim=1).unflatten(0, self.shape)
            for name, parts in self.history.items()
        }
        kept = {name: found[name].cpu().numpy() for name in self.keep if name in found}
        if "frames" in self.keep:
            kept["frames"] = world.decode(found["latents"])
        returns, lengths, ended = (
            part.view(self.shape).cpu().numpy() for part in (self.returns, self.lengths, ~self.alive)
        )
        return Dreams(returns, lengths, ended, **kept)


def luck(world: WorldModel, seed: int, dreams: int, population: int, together: int = 1) -> Iterator[Noise]:
    """The noise of one step after the other, (population * dreams, ...): that of dream n follows from (seed, n) alone.

    It is drawn for `LUCK_STEPS` steps at once, from one generator for each dream, or for so many dreams ``together``.
    """
    sources = [np.random.default_rng([seed, Stream.DREAM, number]) for number in range(-(-dreams // together))]
    whose = np.arange(dreams) // together
    gumbel, normal = world.memory.density.noise_shapes
    like = next(world.memory.parameters())

    def to_tensor(blocks: list[np.ndarray]) -> Tensor:
        each = torch.from_numpy(np.stack(blocks, axis=1)[:, whose]).to(like)  # (time, dreams, ...)
        return each.repeat(1, population, *(1 for _ in each.shape[2:]))

    while True:
        block = [
            (
                -np.log(np.maximum(source.standard_exponential((LUCK_STEPS, *gumbel), np.float32), LEAST)),
                source.standard_normal((LUCK_STEPS, *normal), np.float32),
                source.random(LUCK_STEPS, np.float32),
            )
            for source in sources
        ]
        parts = (to_tensor(list(part)).unbind(0) for part in zip(*block, strict=True))
        yield from itertools.starmap(Noise, zip(*parts, strict=True))


def _temperature(
    name: str, value: float | np.ndarray | Tensor, shape: tuple[int, int], device: torch.device
) -> float | Tensor:
    """A temperature for all dreams, or (P * N,): the same N for every controller."""
    if isinstance(value, np.ndarray | Tensor) and value.ndim:
        each = torch.as_tensor(value, dtype=torch.float32, device=device)
        if each.shape != shape[1:]:
            raise ValueError(f"{name} must be a number or have shape ({shape[1]},), got {tuple(each.shape)}")
        validate_temperature(each)
        return each.repeat(shape[0])
    validate_temperature(value)
    return float(value)


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
    validate_temperature(temperature)
    validate_seed(seed)
    if not 0 <= start < len(actions):
        raise ValueError(f"start must be from 0 to {len(actions) - 1}, got {start}")
    world.eval()
    weight = next(world.memory.parameters())
    latents, actions = torch.as_tensor(latents).to(weight), torch.as_tensor(actions).to(weight)
    generator = Generator(weight.device).manual_seed(seed)
    before = slice(max(0, start - burn_in), start)
    state = world.replay(latents[before].expand(dreams, -1, -1), actions[before].expand(dreams, -1, -1))
    state = state.with_latent(latents[start].expand(dreams, -1).contiguous())
    dreamed, rewards = [state.latent], []
    for action in actions[start:]:
        step, state = world.imagine(state, action.expand(dreams, -1), temperature, generator)
        dreamed.append(step.latent)
        rewards.append(step.reward)
    return torch.stack([latent for latent in dreamed if latent is not None], dim=1), torch.stack(rewards, dim=1)
