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

from rollouts.controllers import as_population, validate_controller
from rollouts.ensemble import ModelEnsemble, SingleModel
from worldmodel import Memory, WorldModel
from worldmodel.formatting import format_number
from worldmodel.progress import Progress, callback, shows_progress, silent
from worldmodel.rng import Stream
from worldmodel.start_states import EncodedEpisodes
from worldmodel.validation import validate_positive_int, validate_seed, validate_temperature
from worldmodel.world_model import Noise, Step

NOISE_BLOCK = 32
"""Noise is drawn for this many steps at once."""
SYNC_EVERY = 16
"""Steps between two looks at whether a dream is still going on."""
MIN_EXPONENTIAL = 1e-20
"""An exponential number of zero would make its logarithm infinite."""
MIN_CONTINUATION = 1e-6
"""A dream whose ends are weighed is over when its rewards count no more than this."""
HISTORIES = ("latents", "actions", "rewards", "frames")


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
        controllers, num_rollouts = self.returns.shape
        kept = [name for name in HISTORIES if getattr(self, name) is not None]
        return (
            f"Dreams(controllers={controllers}, num_rollouts={num_rollouts}, mean return={format_number(self.returns.mean())}, "
            f"mean length={self.lengths.mean():.0f}, keep={kept})"
        )


@shows_progress("dream", "steps")
@torch.inference_mode()
def dream(
    world: WorldModel,
    controllers: Any,
    start_states: EncodedEpisodes | Float[Tensor, "starts latent"],
    horizon: int = 1000,
    num_rollouts: int = 16,
    temperature: float | np.ndarray | Tensor = 1.0,
    seed: int = 0,
    *,
    noise_temperature: float | np.ndarray | Tensor | None = None,
    burn_in: int = 32,
    termination_threshold: float | None = None,
    termination_hazard_ratio: float = 1.0,
    use_expected_continuation: bool = False,
    keep: tuple[str, ...] = (),
    compile: bool = False,
    ensemble: Sequence[Memory] | None = None,
    progress: Progress | bool = silent,
) -> Dreams:
    """Dream P x N lives as one batch.

    Dream n has a source of randomness of its own, the same for all controllers: they wake up at the same moment and have the
    same luck, so that returns differ by what they do (common random numbers; Ng and Jordan, 2000). What a controller dreams
    depends neither on the other controllers nor on the number of dreams, but for the rounding of sums over another batch.

    Args:
        world: the world model; its device is where the dream is computed.
        controllers: a (P, size) array of flat linear parameters, or one controller (`agents.LinearController`).
        start_states: ``store.latents(vae)``, or a (S, latent) tensor of first latents.
        horizon: steps after which a dream is cut.
        num_rollouts: N, dreams for each controller.
        temperature: above zero; 1 is the model's own uncertainty. One number, or one for each of the N dreams.
        seed: of starts and of all that is drawn.
        noise_temperature: another temperature for the Gaussian noise, so that ``temperature`` is the mixture's alone.
        burn_in: real steps that the memory re-lives before a dream begins (where ``start_states`` has them).
        termination_threshold: end a dream when its termination probability exceeds this; None: draw with that
            probability (or weigh).
        termination_hazard_ratio: above 1, dreams end more often than the memory expects (and below, less often): a
            step that is survived with probability q is survived with q ** termination_hazard_ratio, as if it were
            taken so many times. What evolves there keeps further from where lives end.
        use_expected_continuation: draw no ends, but weigh each reward with the chance that the dream has not ended
            before: returns of the same mean, with less chance in them. Dreams then last until hardly any would still
            go on; their rewards are weighed.
        keep: which histories to return, of "latents", "actions", "rewards", "frames".
        compile: whether to compile a step with `torch.compile`: some seconds at first, then faster; for long dreams.
        ensemble: memories that imagine instead of the world model's own, dream n in the n-th of them, again and again; the
            world model's memory looks on for the controller, as it does in the game (`rollouts.ensemble`).
        progress: called as ``progress(steps, horizon, note)`` now and then; True: a bar.

    Raises:
        ValueError: an argument is out of range or has the wrong shape.

    References:
        Ng and Jordan, PEGASUS, 2000, https://arxiv.org/abs/1301.3878.
    """
    validate_positive_int(horizon=horizon, num_rollouts=num_rollouts)
    validate_seed(seed)
    if not (termination_hazard_ratio > 0 and math.isfinite(termination_hazard_ratio)):
        raise ValueError(f"termination_hazard_ratio must be finite and above zero, got {termination_hazard_ratio}")
    if (termination_hazard_ratio != 1 or use_expected_continuation) and termination_threshold is not None:
        raise ValueError(
            f"termination_threshold must be None beside termination_hazard_ratio "
            f"or use_expected_continuation: nothing is drawn with it, got {termination_threshold}"
        )
    if unknown := [name for name in keep if name not in HISTORIES]:
        raise ValueError(f"keep takes names of {', '.join(HISTORIES)}, got {unknown[0]!r}")
    world.eval()
    controller, parameters = as_population(controllers, world.num_features, world.action_dim)
    validate_controller(controller, world)
    parameters, population = parameters.to(world.device), len(parameters)
    shape = (population, num_rollouts)
    mixture_temperature, gaussian_temperature = _temperature("temperature", temperature, shape, world.device), None
    if noise_temperature is not None:
        gaussian_temperature = _temperature("noise_temperature", noise_temperature, shape, world.device)
    model = (
        SingleModel(world, num_rollouts, population)
        if ensemble is None
        else ModelEnsemble(world, ensemble, num_rollouts, population)
    )

    def imagine_step(state: Any, noise: Noise) -> tuple[Tensor, Step, Any]:
        features = state.controller_inputs.view(*shape, -1)
        action = world.squash(controller.outputs(parameters, features)).flatten(0, 1)
        return action, *model.imagine(state, action, noise, mixture_temperature, gaussian_temperature)

    step_once = torch.compile(imagine_step, dynamic=False) if compile else imagine_step
    state: Any = model.sample_start_states(start_states, seed, burn_in)
    buffer = _TrajectoryBuffer(state.latent, shape, keep)
    report = callback(progress)
    report(0, horizon, "")
    noise_steps = common_random_numbers(world, seed, num_rollouts, population, model.group_size)
    for number, noise in enumerate(itertools.islice(noise_steps, horizon), 1):
        action, step, state = step_once(state, noise)
        if termination_hazard_ratio != 1:
            chance = 1 - (1 - step.termination) ** termination_hazard_ratio
            step = step._replace(termination=chance, terminated=noise.uniform < chance)
        if use_expected_continuation:
            buffer.add_weighted(action, step)
        else:
            buffer.add(
                action,
                step,
                step.terminated if termination_threshold is None else step.termination > termination_threshold,
            )
        if number % SYNC_EVERY == 0:
            report(number, horizon, "")
            if not buffer.active.any():  # not at every step: a look waits for the device
                break
    report(horizon, horizon, "")
    return buffer.to_dreams(world)


class _TrajectoryBuffer:
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
        self.active = latent.new_ones(len(latent), dtype=torch.bool)
        self.continuation: Tensor | float = 1.0
        """Of the rewards to come."""
        self.history: dict[str, list[Tensor]] = {
            name: [latent] if name == "latents" else []
            for name in ("latents", "actions", "rewards")
            if name in keep or (name == "latents" and "frames" in keep)
        }

    def add(self, action: Tensor, step: Step, ended: Tensor) -> None:
        """A step of every dream; one that is over may drift anywhere, even to NaN: it counts no more."""
        reward = torch.where(self.active, step.reward, 0) * self.continuation
        self.returns += reward
        self.lengths += self.active
        values = {"latents": step.latent, "actions": action, "rewards": reward}
        for name, parts in self.history.items():
            value = values[name]
            parts.append(torch.where(self.active if value.ndim == 1 else self.active[:, None], value, 0))
        self.active = self.active & ~ended

    def add_weighted(self, action: Tensor, step: Step) -> None:
        """A step that may be the last one: rewards to come count as much less."""
        continuation = self.continuation * (1 - step.termination)
        self.add(action, step, continuation < MIN_CONTINUATION)
        self.continuation = continuation

    def to_dreams(self, world: WorldModel) -> Dreams:
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
            part.view(self.shape).cpu().numpy() for part in (self.returns, self.lengths, ~self.active)
        )
        return Dreams(returns, lengths, ended, **kept)


def common_random_numbers(
    world: WorldModel, seed: int, num_rollouts: int, population: int, group_size: int = 1
) -> Iterator[Noise]:
    """The noise of one step after the other, (population * dreams, ...): that of dream n follows from (seed, n) alone.

    It is drawn for `NOISE_BLOCK` steps at once, from one generator for each dream, or for so many dreams ``group_size``.
    """
    rngs = [np.random.default_rng([seed, Stream.DREAM, number]) for number in range(-(-num_rollouts // group_size))]
    group = np.arange(num_rollouts) // group_size
    gumbel, normal = world.memory.density.noise_shapes
    like = next(world.memory.parameters())

    def to_tensor(blocks: list[np.ndarray]) -> Tensor:
        each = torch.from_numpy(np.stack(blocks, axis=1)[:, group]).to(like)  # (time, dreams, ...)
        return each.repeat(1, population, *(1 for _ in each.shape[2:]))

    while True:
        block = [
            (
                -np.log(np.maximum(rng.standard_exponential((NOISE_BLOCK, *gumbel), np.float32), MIN_EXPONENTIAL)),
                rng.standard_normal((NOISE_BLOCK, *normal), np.float32),
                rng.random(NOISE_BLOCK, np.float32),
            )
            for rng in rngs
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
def open_loop_rollout(
    world: WorldModel,
    latents: Float[Tensor, "frames latent"],
    actions: Float[Tensor, "steps actions"],
    start_step: int,
    num_rollouts: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    burn_in: int = 32,
) -> tuple[Float[Tensor, "dreams frames latent"], Float[Tensor, "dreams steps"]]:
    """Dream a real episode on from ``start_step`` under its own actions: what the model thinks would have been seen.

    Args:
        world: the world model.
        latents: (T + 1, latent): the real episode's.
        actions: (T, actions): the real episode's action inputs.
        start_step: the last frame that the dream sees.
        num_rollouts: how many times to dream.
        temperature: above zero.
        seed: of all that is drawn.
        burn_in: real steps before ``start_step`` that the memory re-lives.

    Returns:
        Latents (dreams, steps + 1, latent), beginning with the real one at ``start_step``, and rewards (dreams, steps).
    """
    validate_temperature(temperature)
    validate_seed(seed)
    if not 0 <= start_step < len(actions):
        raise ValueError(f"start_step must be from 0 to {len(actions) - 1}, got {start_step}")
    world.eval()
    weight = next(world.memory.parameters())
    latents, actions = torch.as_tensor(latents).to(weight), torch.as_tensor(actions).to(weight)
    generator = Generator(weight.device).manual_seed(seed)
    before = slice(max(0, start_step - burn_in), start_step)
    state = world.replay(latents[before].expand(num_rollouts, -1, -1), actions[before].expand(num_rollouts, -1, -1))
    state = state.with_latent(latents[start_step].expand(num_rollouts, -1).contiguous())
    imagined, rewards = [state.latent], []
    for action in actions[start_step:]:
        step, state = world.imagine(state, action.expand(num_rollouts, -1), temperature, generator)
        imagined.append(step.latent)
        rewards.append(step.reward)
    return torch.stack([latent for latent in imagined if latent is not None], dim=1), torch.stack(rewards, dim=1)
