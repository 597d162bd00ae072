"""Dreams: rollouts of controllers inside the world model, batched, without real frames.

Start reading at `dream`. Each dream starts at a random step of a real episode. The memory first replays the steps before
it (burn-in).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from worldmodel import Memory, WorldModel
from worldmodel.imagination import Imaginer, NoiseStreams, imagine, imagine_steps
from worldmodel.messages import format_number
from worldmodel.rng import Stream
from worldmodel.rollouts.ensemble import ModelEnsemble, dream_start_states
from worldmodel.rollouts.pictures import enlarge, gif, with_picture
from worldmodel.rollouts.policy.controllers import as_controllers
from worldmodel.start_states import EncodedClip, EncodedEpisodes, StartState, burn_in_states
from worldmodel.training.progress import Progress, callback, shows_progress, silent
from worldmodel.validation import validate_positive_int, validate_seed, validate_temperature
from worldmodel.world_model import Noise, Step

SYNC_EVERY = 16
"""Number of steps between two checks for active dreams."""
MIN_CONTINUATION = 1e-6
"""A dream with expected continuation ends when the weight of its rewards is below this."""
HISTORIES = ("latents", "actions", "rewards", "frames")


class Dreams(NamedTuple):
    """Results of P controllers with N dreams each; arrays that were not requested are None.

    After the end of a dream its latents, actions and rewards are zero; its frames are the decoded zero latent.
    """

    returns: np.ndarray
    """(P, N) sums of expected rewards."""
    lengths: np.ndarray
    """(P, N) number of steps until the dream ended."""
    terminated: np.ndarray
    """(P, N) whether the dream terminated before the horizon."""
    latents: np.ndarray | None = None
    """(P, N, T + 1, latent)."""
    actions: np.ndarray | None = None
    """(P, N, T, actions)."""
    rewards: np.ndarray | None = None
    """(P, N, T)."""
    frames: np.ndarray | None = None
    """(P, N, T + 1, 64, 64, 3) uint8, or vectors (P, N, T + 1, n) float32."""

    def __repr__(self) -> str:
        """Return sizes, mean return and mean length."""
        controllers, num_rollouts = self.returns.shape
        kept = [name for name in HISTORIES if getattr(self, name) is not None]
        return (
            f"Dreams(controllers={controllers}, num_rollouts={num_rollouts}, mean return={format_number(self.returns.mean())}, "
            f"mean length={self.lengths.mean():.0f}, keep={kept})"
        )

    def _repr_html_(self) -> str:
        """Return a film of the first dream as HTML for a notebook, if frames were kept."""
        if self.frames is None or self.frames.ndim < 6:
            return with_picture(repr(self), None)
        film = self.frames[0, 0, : int(self.lengths[0, 0]) + 1]
        return with_picture(repr(self), gif(enlarge(film)))


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
    burn_in: int = 32,
    termination_hazard_ratio: float = 1.0,
    use_expected_continuation: bool = False,
    keep: tuple[str, ...] = (),
    compile: bool = False,
    ensemble: Sequence[Memory] | None = None,
    progress: Progress | bool = silent,
) -> Dreams:
    """Dream P x N rollouts as one batch.

    Dream n has its own random stream, which all controllers share: the same start state and the same noise. Returns then
    differ only by the actions (common random numbers; Ng and Jordan, 2000). A controller's dreams do not depend on the
    other controllers or on the number of dreams, up to rounding errors of sums over another batch size.

    Args:
        world: World model; its device computes the dreams.
        controllers: Array (P, size) of flat linear parameters, or an `agents.LinearController` or `agents.HiddenController`
            with the parameters of one or of a population.
        start_states: ``store.latents(vae)``, or a tensor (S, latent) of first latents.
        horizon: Maximum number of steps of a dream.
        num_rollouts: N, the number of dreams per controller.
        temperature: Sampling temperature above zero; 1 is the model's own uncertainty. A number, or one per dream (N,).
        seed: Seed of the start states and of all noise.
        burn_in: Number of real steps that the memory replays before a dream (where ``start_states`` has them).
        termination_hazard_ratio: Exponent r of the survival probability: a step survives with q ** r instead of q. Above
            1 dreams end earlier than the memory predicts, below 1 later. Controllers evolved with r above 1 keep a
            larger distance from terminal states.
        use_expected_continuation: Whether to weight each reward with the probability that the dream has not ended before,
            instead of sampling terminations. Returns have the same mean and less variance. Dreams last until this
            probability is close to zero; their rewards are the weighted ones.
        keep: Arrays to return, of "latents", "actions", "rewards", "frames".
        compile: Whether to compile a step with `torch.compile`: takes some seconds once, then steps are faster.
        ensemble: Memories that imagine in place of the world model's own; dream n uses memory n modulo their number. The
            world model's memory observes the dream and gives the controller's inputs (`rollouts.ensemble`).
        progress: Called as ``progress(steps, horizon, note)``. True: a progress bar.

    Returns:
        Returns, lengths and terminations, and the arrays in ``keep``.

    Raises:
        ValueError: An argument is out of range or has the wrong shape.

    References:
        Ng and Jordan, PEGASUS, 2000, https://arxiv.org/abs/1301.3878.
    """
    validate_positive_int(horizon=horizon, num_rollouts=num_rollouts)
    validate_seed(seed)
    if not (termination_hazard_ratio > 0 and math.isfinite(termination_hazard_ratio)):
        raise ValueError(f"termination_hazard_ratio must be finite and above zero, got {termination_hazard_ratio}")
    if unknown := [name for name in keep if name not in HISTORIES]:
        raise ValueError(f"keep must hold names of {', '.join(HISTORIES)}, got {unknown[0]!r}")
    world.eval()
    controller = as_controllers(controllers, world)
    parameters = controller.parameters.reshape(-1, controller.size).to(world.device)
    shape = population, num_rollouts = len(parameters), num_rollouts
    temperatures = _temperatures(temperature, shape, world.device)
    model: Imaginer = world
    state: Any
    if ensemble is None:
        state, group_size = dream_start_states(world, start_states, seed, burn_in, num_rollouts, population), 1
    else:
        model = ModelEnsemble(world, ensemble, num_rollouts, population)
        state, group_size = model.start_states(start_states, seed, burn_in), len(ensemble)

    def policy(state: Any) -> Tensor:
        inputs = state.controller_inputs.view(*shape, -1)
        return world.squash(controller.outputs(parameters, inputs)).flatten(0, 1)

    buffer = _TrajectoryBuffer(state.latent, shape, keep)
    report = callback(progress)
    report(0, horizon, "")
    noise = itertools.islice(common_random_numbers(world, seed, num_rollouts, population, group_size), horizon)
    for number, imagined in enumerate(imagine(model, state, policy, noise, temperatures, compile=compile), 1):
        step = imagined.with_hazard_ratio(termination_hazard_ratio)
        (buffer.add_weighted if use_expected_continuation else buffer.add)(imagined.action, step)
        if number % SYNC_EVERY == 0:
            report(number, horizon, "")
            if not buffer.active.any():  # reading it at every step would synchronize with the device each time
                break
    report(horizon, horizon, "")
    return buffer.to_dreams(world)


class _TrajectoryBuffer:
    """Collects the steps of P x N dreams.

    Args:
        latent: (P * N, latent): latents of the start states.
        shape: (P, N).
        keep: As in `dream`.
    """

    def __init__(self, latent: Tensor, shape: tuple[int, int], keep: tuple[str, ...]) -> None:
        self.shape, self.keep = shape, keep
        self.returns = latent.new_zeros(len(latent), dtype=torch.float64)
        self.lengths = latent.new_zeros(len(latent), dtype=torch.int64)
        self.active = latent.new_ones(len(latent), dtype=torch.bool)
        self.continuation: Tensor | float = 1.0
        """Weight of the rewards of the next step."""
        self.history: dict[str, list[Tensor]] = {
            name: [latent] if name == "latents" else []
            for name in ("latents", "actions", "rewards")
            if name in keep or (name == "latents" and "frames" in keep)
        }

    def add(self, action: Tensor, step: Step, ended: Tensor | None = None) -> None:
        """Add a step of every dream; values of ended dreams are masked, since they may diverge to NaN.

        Args:
            action: Action of each dream.
            step: Result of the action.
            ended: Whether each dream ends with this step. None: where it terminates.
        """
        reward = torch.where(self.active, step.reward, 0) * self.continuation
        self.returns += reward
        self.lengths += self.active
        values = {"latents": step.latent, "actions": action, "rewards": reward}
        for name, parts in self.history.items():
            value = values[name]
            parts.append(torch.where(self.active if value.ndim == 1 else self.active[:, None], value, 0))
        self.active = self.active & ~(step.terminated if ended is None else ended)

    def add_weighted(self, action: Tensor, step: Step) -> None:
        """Add a step; its termination probability lowers the weight of later rewards."""
        continuation = self.continuation * (1 - step.termination)
        self.add(action, step, continuation < MIN_CONTINUATION)
        self.continuation = continuation

    def to_dreams(self, world: WorldModel) -> Dreams:
        """Return all arrays up to the end of the longest dream; ``world`` decodes the frames."""
        last = int(self.lengths.max())
        arrays = {
            name: torch.stack(parts[: last + (name == "latents")], dim=1).unflatten(0, self.shape)
            for name, parts in self.history.items()
        }
        kept = {name: arrays[name].cpu().numpy() for name in self.keep if name in arrays}
        if "frames" in self.keep:
            kept["frames"] = world.decode(arrays["latents"])
        returns, lengths, ended = (
            part.view(self.shape).cpu().numpy() for part in (self.returns, self.lengths, ~self.active)
        )
        return Dreams(returns, lengths, ended, **kept)


def common_random_numbers(
    world: WorldModel, seed: int, num_rollouts: int, population: int, group_size: int = 1
) -> Iterator[Noise]:
    """Yield the noise of each step, (population * dreams, ...); the noise of dream n depends on (seed, n) alone.

    Dreams of a group of ``group_size`` share their noise.
    """
    rngs = [np.random.default_rng([seed, Stream.NOISE, number]) for number in range(-(-num_rollouts // group_size))]
    rows = (torch.arange(num_rollouts, device=world.device) // group_size).repeat(population)
    every = len(rows) == len(rngs)  # one controller, whose dreams have noise of their own
    for noise in NoiseStreams(world, rngs):
        yield noise if every else Noise(*(part[rows] for part in noise))


def _temperatures(value: float | np.ndarray | Tensor, shape: tuple[int, int], device: torch.device) -> float | Tensor:
    """Return one temperature for all dreams, or (P * N,): the same N values for every controller."""
    if isinstance(value, np.ndarray | Tensor) and value.ndim:
        values = torch.as_tensor(value, dtype=torch.float32, device=device)
        if values.shape != shape[1:]:
            raise ValueError(f"temperature must be a number or have shape ({shape[1]},), got {tuple(values.shape)}")
        validate_temperature(values)
        return values.repeat(shape[0])
    validate_temperature(value)
    return float(value)


@torch.no_grad()
def open_loop_rollout(
    world: WorldModel,
    latents: Float[Tensor, "frames latent"],
    actions: Float[Tensor, "steps actions"],
    start_step: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> Float[Tensor, "frames latent"]:
    """Continue a real episode from ``start_step`` in the world model, with the episode's own actions.

    Args:
        world: World model.
        latents: (T + 1, latent): latents of the real episode.
        actions: (T, actions): action inputs of the real episode.
        start_step: Index of the last real latent.
        temperature: Sampling temperature above zero.
        seed: Seed of all noise.

    Returns:
        Latents (steps + 1, latent), starting with the real one at ``start_step``.

    Raises:
        ValueError: ``start_step``, ``temperature`` or ``seed`` is out of range.
    """
    validate_temperature(temperature)
    validate_seed(seed)
    if not 0 <= start_step < len(actions):
        raise ValueError(f"start_step must be from 0 to {len(actions) - 1}, got {start_step}")
    world.eval()
    weight = next(world.memory.parameters())
    latents, actions = torch.as_tensor(latents).to(weight), torch.as_tensor(actions).to(weight)
    start = StartState(EncodedClip(latents.cpu().numpy(), actions.cpu().numpy()), start_step)
    state, following = burn_in_states(world, [start]), actions[start_step:, None]
    generator = Generator(weight.device).manual_seed(seed)
    dreamed = imagine_steps(world, state, following, len(following), temperature, generator)
    return torch.cat([state.latent, *(imagined.step.latent for imagined in dreamed)])
