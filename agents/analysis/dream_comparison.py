"""Dreams beside recorded episodes, from the same states: returns, survival and latents.

Start reading at `recorded_promises` and `measure_drift`. All dreams have temperature 1 and use the expected continuation, which
has less noise than sampled terminations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldmodel import Memory, WorldModel
from worldmodel.batches import tree_map
from worldmodel.imagination import Imaginer, imagine
from worldmodel.rollouts.ensemble import ModelEnsemble
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.store.encoded_dataset import EncodedEpisode
from worldmodel.start_states import StartState, burn_in_states
from worldmodel.world_model import Noise

HORIZONS = (10, 30, 100)
"""Numbers of steps of compared returns."""
MAIN_HORIZON, SURVIVAL_HORIZON = 30, 10
"""Horizons of the main numbers of rewards and of terminations.

A dream soon leaves the states that recorded actions steer in, and then its terminations are not those of the recording.
"""
DRIFT_HORIZONS = (1, 5, 10, 20, 50, 100)
"""Numbers of steps of open-loop predictions."""
NUM_STARTS, NUM_DRIFT_STARTS, NUM_DREAMS = 96, 48, 4
"""Numbers of start states of returns and of open-loop predictions, and minimum number of dreams of each."""
MIN_STARTS = 8
"""Minimum number of start states; a horizon with fewer is left out."""
MIN_VARIATION = 1e-3
"""Minimum standard deviation of predictions that vary, as a fraction of that of the real values: the rest is rounding."""
MARGIN = 0.01
"""Minimum difference of explained variances of a better prediction."""


@dataclass(frozen=True)
class Promise:
    """Dreamed and real returns over a horizon from the same states, and the probability that no step terminates."""

    behavior: str
    """The actions: "recorded" (open loop) or "controller" (closed loop, from states of its own episodes)."""
    horizon: int
    num_starts: int
    dream: float
    """Mean dreamed return."""
    real: float
    """Mean real return."""
    correlation: float | None
    """Correlation of both over start states; 0 if dreamed returns are constant; None if real ones are."""
    other_actions: float | None
    """The same for dreams under actions of another episode. Dreams that ignore actions have the same correlation."""
    dream_survival: float
    real_survival: float
    survival_correlation: float | None
    """Correlation of the dreamed survival probability with real survival, 0 or None as above."""


@dataclass(frozen=True)
class Drift:
    """Explained variance of latents after a number of steps under the real actions: 1 - squared error / variance."""

    horizon: int
    num_starts: int
    mean: float
    """Of the mean of all dreams, corrected for their finite number."""
    dream: float
    """Of a single dream."""
    persistence: float
    """Of the latent of the start state."""
    other: float
    """Of a latent of another episode."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of the members of an ensemble on the returns of recorded actions over `MAIN_HORIZON` steps."""

    num_members: int
    correlation: float | None
    """Mean correlation of two members over start states; None: a member is constant."""
    spread: float | None
    """Standard deviation over members divided by that over start states; None: returns are constant."""


class _Dreams(NamedTuple):
    """Dreams from S start states, D each, of T steps."""

    returns: np.ndarray
    """(S, D, T): cumulative rewards, weighted by the probability that the dream has not ended before."""
    survival: np.ndarray
    """(S, D, T): probability that no step so far terminates."""
    latents: Tensor
    """(S, D, T, latent)."""


def _dream(
    world: WorldModel,
    members: list[Memory],
    starts: Sequence[StartState],
    policy: Callable[[Any], Tensor] | np.ndarray,
    num_steps: int,
    seed: int,
) -> _Dreams:
    """Dream from each start state; ``policy`` is a function of the state, or actions (S, T, actions) of an open loop.

    The members of an ensemble share the noise of a dream.
    """
    each = -(-NUM_DREAMS // len(members))
    num_dreams = each * len(members)
    generator = torch.Generator(world.device).manual_seed(seed)

    def burn_in(model: WorldModel) -> Any:
        return tree_map(burn_in_states(model, starts), lambda part: part.repeat_interleave(num_dreams, 0))

    model: Imaginer = world
    state: Any = burn_in(world)
    if members != [world.memory]:
        model = ensemble = ModelEnsemble(world, members, len(starts) * num_dreams, 1)
        state = ensemble.join(state, list(map(burn_in, ensemble.members)))
    if isinstance(policy, np.ndarray):
        actions = torch.from_numpy(policy).to(state.latent).repeat_interleave(num_dreams, 0)
        remaining = iter(actions.unbind(1))
        policy = lambda state: next(remaining)  # noqa: E731
    shared = (world.noise(len(starts) * each, generator) for _ in range(num_steps))
    noise = (Noise(*(part.repeat_interleave(len(members), 0) for part in one)) for one in shared)
    steps = [imagined.step for imagined in imagine(model, state, policy, noise)]

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(step, name) for step in steps], dim=1).unflatten(0, (len(starts), num_dreams))

    survival = (1 - stacked("termination").double()).cumprod(dim=2)
    alive = torch.cat((torch.ones_like(survival[..., :1]), survival[..., :-1]), dim=2)
    returns = (stacked("reward").double() * alive).cumsum(dim=2)
    return _Dreams(returns.cpu().numpy(), survival.cpu().numpy(), stacked("latent"))


def _starts(
    episodes: Sequence[EncodedEpisode], num: int, rng: np.random.Generator, horizon: int, may_end: bool = True
) -> list[StartState]:
    """Return up to ``num`` random steps of episodes, in the order of time.

    ``horizon`` steps follow each of them; with ``may_end``, or fewer in an episode that terminates.
    """
    found = []
    for episode in episodes:
        steps = len(episode.action)
        count = steps if may_end and episode.terminated[-1] else max(steps - horizon + 1, 0)
        found += [StartState(episode, step) for step in range(count)]
    return [found[index] for index in np.sort(rng.permutation(len(found))[:num])]


def _is_comparable(start: StartState, horizon: int) -> bool:
    """Whether the return over ``horizon`` steps is known: the episode has these steps, or terminates before."""
    left = len(start.episode.action) - start.step
    return left >= horizon or bool(start.episode.terminated[-1])


def _promises(
    behavior: str, starts: Sequence[StartState], dreams: _Dreams, other: _Dreams | None = None
) -> list[Promise]:
    """Compare dreams with the real steps after their start states, for each of `HORIZONS`."""
    rows = []
    for horizon in HORIZONS:
        usable = np.array([_is_comparable(start, horizon) for start in starts])
        if usable.sum() < MIN_STARTS:
            continue
        pairs = [(start.episode, start.step) for start, used in zip(starts, usable, strict=True) if used]
        real = np.array([np.sum(one.reward[step : step + horizon], dtype=np.float64) for one, step in pairs])
        ended = [bool(np.any(one.terminated[step : step + horizon])) for one, step in pairs]
        survived = 1.0 - np.array(ended)
        promised, survival = (part[usable, :, horizon - 1].mean(axis=1) for part in dreams[:2])
        others = None
        if other is not None and other.returns.shape[2] >= horizon:
            others = correlation(other.returns[usable, :, horizon - 1].mean(axis=1), real)
        rows.append(
            Promise(
                behavior,
                horizon,
                len(pairs),
                float(promised.mean()),
                float(real.mean()),
                correlation(promised, real),
                others,
                float(survival.mean()),
                float(survived.mean()),
                correlation(survival, survived),
            )
        )
    return rows


def correlation(predicted: np.ndarray, real: np.ndarray) -> float | None:
    """Return Pearson's correlation; 0 if the predictions are constant (`MIN_VARIATION`), None if the real values are."""
    x, y = (values - values.mean() for values in (predicted, real))
    predicted_std, real_std = (float(np.sqrt((one**2).mean())) for one in (x, y))
    if real_std <= 1e-6 * max(1.0, float(np.abs(real).max())):
        return None
    return 0.0 if predicted_std <= MIN_VARIATION * real_std else float((x * y).mean() / (predicted_std * real_std))


def recorded_promises(
    world: WorldModel, members: list[Memory], episodes: Sequence[EncodedEpisode], rng: np.random.Generator
) -> tuple[list[Promise], Agreement | None]:
    """Compare dreams under recorded actions with recorded rewards; also return the agreement of an ensemble.

    After the end of an episode the actions of other episodes follow: the end of the recording tells a dream nothing.
    """
    starts = _starts(episodes, NUM_STARTS, rng, HORIZONS[0])
    if len(starts) < MIN_STARTS:
        return [], None

    def actions(start: StartState | None, num_steps: int) -> np.ndarray:
        parts = [] if start is None else [start.episode.action[start.step :]]
        while sum(map(len, parts)) < num_steps:
            episode = episodes[int(rng.integers(len(episodes)))]
            parts.append(episode.action[rng.integers(len(episode.action)) :])
        return np.concatenate(parts)[:num_steps]

    recorded = np.stack([actions(start, HORIZONS[-1]) for start in starts])
    replaced = np.stack([actions(None, MAIN_HORIZON) for _ in starts])
    dreams, others = (
        _dream(world, members, starts, one, one.shape[1], int(rng.integers(2**31))) for one in (recorded, replaced)
    )
    agreement = None
    if len(members) > 1:
        returns = dreams.returns[:, :, MAIN_HORIZON - 1].reshape(len(starts), -1, len(members)).mean(axis=1)
        pairs = [correlation(returns[:, i], returns[:, j]) for i in range(len(members)) for j in range(i)]
        known = [one for one in pairs if one is not None]
        spread = float(returns.std(axis=1, ddof=1).mean())
        scale = float(returns.mean(axis=1).std())
        agreement = Agreement(
            len(members), float(np.mean(known)) if known else None, spread / scale if scale > 1e-9 else None
        )
    return _promises("recorded", starts, dreams, others), agreement


@torch.inference_mode()
def controller_promises(
    world: WorldModel,
    episodes: Sequence[EncodedEpisode],
    controller: Controller,
    members: Sequence[Memory] | None = None,
    seed: int = 0,
) -> list[Promise]:
    """Compare dreams of a controller with its real episodes, from the same states.

    Args:
        world: World model.
        episodes: Encoded episodes that the controller played.
        controller: Controller.
        members: Memories that imagine; None: the world model's own.
        seed: Seed of start states and noise.
    """
    rng = np.random.default_rng([seed, 1])
    starts = _starts(episodes, NUM_STARTS, rng, HORIZONS[0])
    if len(starts) < MIN_STARTS:
        return []

    def policy(state: Any) -> Tensor:
        return world.squash(controller(state.controller_inputs))

    dreams = _dream(world, list(members or [world.memory]), starts, policy, HORIZONS[-1], seed)
    return _promises("controller", starts, dreams)


def measure_drift(
    world: WorldModel, members: list[Memory], episodes: Sequence[EncodedEpisode], rng: np.random.Generator
) -> tuple[list[Drift], int, int]:
    """Measure open-loop predictions, over the longest of `DRIFT_HORIZONS` that enough start states have.

    Returns:
        The drift at each horizon, the number of steps with a better prediction than both baselines, and that of all steps.
    """
    for furthest in reversed(DRIFT_HORIZONS):
        starts = _starts(episodes, NUM_DRIFT_STARTS, rng, furthest, may_end=False)
        if len(starts) >= MIN_STARTS:
            break
    else:
        return [], 0, 0
    after = [(start.episode, slice(start.step, start.step + furthest)) for start in starts]
    actions = np.stack([np.asarray(episode.action[steps]) for episode, steps in after])
    real = np.stack(
        [np.asarray(episode.mean[steps.start + 1 : steps.stop + 1], np.float64) for episode, steps in after]
    )
    first = np.stack([np.asarray(start.episode.mean[start.step], np.float64) for start in starts])
    dreamed = _dream(world, members, starts, actions, furthest, int(rng.integers(2**31))).latents.double().cpu().numpy()
    others = []
    for start in starts:
        different = [one for one in episodes if one is not start.episode] or [start.episode]
        frames = different[int(rng.integers(len(different)))].mean
        others.append(np.asarray(frames[rng.integers(len(frames))], np.float64))
    center = np.concatenate([np.asarray(one.mean, np.float64) for one in episodes]).mean(axis=0)
    total = np.maximum(((real - center) ** 2).sum(axis=(0, 2)), 1e-12)

    def explained(predicted: np.ndarray, correction: np.ndarray | float = 0.0) -> np.ndarray:
        return 1 - (((predicted - real) ** 2).sum(axis=(0, 2)) - correction) / total

    # the variance of a mean of D dreams is the sample variance divided by D
    noise = dreamed.var(axis=1, ddof=1).sum(axis=(0, 2)) / dreamed.shape[1]
    curves = [
        explained(dreamed.mean(axis=1), noise),
        explained(dreamed[:, 0]),
        explained(first[:, None]),
        explained(np.stack(others)[:, None]),
    ]
    better = curves[0] > np.maximum(curves[2], 0) + MARGIN
    rows = [
        Drift(horizon, len(starts), *(float(curve[horizon - 1]) for curve in curves))
        for horizon in DRIFT_HORIZONS
        if horizon <= furthest
    ]
    return rows, int(better.sum()), furthest
