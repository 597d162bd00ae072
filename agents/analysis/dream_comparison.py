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
from worldmodel.agents.runs.start_states import time_limit
from worldmodel.batches import tree_map
from worldmodel.imagination import Imaginer, imagine
from worldmodel.rollouts.ensemble import ModelEnsemble
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.store.encoded_dataset import EncodedEpisode
from worldmodel.rollouts.store.stall_termination import is_stalled
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
"""Numbers of start states of returns and of open-loop predictions, and number of dreams of each, in each member."""
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
    attainable: float | None = None
    """Correlation of the return of one sampled dream with that of others from the same state: that of a true world model. The
    game's own noise bounds it. None: unknown."""
    survival_attainable: float | None = None
    """The same for survival."""


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

    rewards: np.ndarray
    """(S, D, T)."""
    survival: np.ndarray
    """(S, D, T): probability that no step so far terminates."""
    latents: Tensor
    """(S, D, T, latent)."""

    @property
    def returns(self) -> np.ndarray:
        """(S, D, T): cumulative rewards, weighted by the probability that the dream has not ended before."""
        return self._cumulative(self.survival)

    def sampled(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return cumulative rewards and survival (0 or 1), both (S, D, T), of dreams with sampled terminations."""
        survived = (rng.random(self.survival.shape[:2])[..., None] < self.survival).astype(np.float64)
        return self._cumulative(survived), survived

    def _cumulative(self, survival: np.ndarray) -> np.ndarray:
        alive = np.concatenate((np.ones_like(survival[..., :1]), survival[..., :-1]), axis=2)
        return (self.rewards * alive).cumsum(axis=2)


def _dream(
    world: WorldModel,
    members: list[Memory],
    starts: Sequence[StartState],
    policy: Callable[[Any], Tensor] | np.ndarray,
    num_steps: int,
    seed: int,
) -> _Dreams:
    """Dream from each start state; ``policy`` is a function of the state, or actions (S, T, actions) of an open loop.

    Each member of an ensemble dreams with the same noise: dream ``n * members + m`` is that of member m with noise n.
    """
    num_dreams = NUM_DREAMS * len(members)
    generator = torch.Generator(world.device).manual_seed(seed)

    def burn_in(model: WorldModel) -> Any:
        return tree_map(burn_in_states(model, starts), lambda part: part.repeat_interleave(num_dreams, 0))

    model: Imaginer = world
    state: Any = burn_in(world)
    if members != [world.memory]:
        model = ensemble = ModelEnsemble(world, members, len(starts) * num_dreams, 1)
        state = ensemble.join(state, list(map(burn_in, ensemble.members)))
    behavior: Callable[[Any], Tensor] | Tensor
    if isinstance(policy, np.ndarray):
        behavior = torch.from_numpy(policy).to(state.latent).repeat_interleave(num_dreams, 0).transpose(0, 1)
    else:
        behavior = policy
    shared = (world.noise(len(starts) * NUM_DREAMS, generator) for _ in range(num_steps))
    noise = (Noise(*(part.repeat_interleave(len(members), 0) for part in one)) for one in shared)
    steps = [imagined.step for imagined in imagine(model, state, behavior, noise)]

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(step, name) for step in steps], dim=1).unflatten(0, (len(starts), num_dreams))

    survival = (1 - stacked("termination").double()).cumprod(dim=2)
    return _Dreams(stacked("reward").double().cpu().numpy(), survival.cpu().numpy(), stacked("latent"))


def _starts(
    episodes: Sequence[EncodedEpisode], num: int, rng: np.random.Generator, horizon: int, limit: int | None = None
) -> list[StartState]:
    """Return up to ``num`` random steps of episodes, in the order of time.

    ``horizon`` steps of the game follow each of them, as if no episode ended before the time limit ``limit`` (None: there is
    none): then the choice does not depend on what happens after a step.
    """
    every = [StartState(episode, step) for episode in episodes for step in range(len(episode.action))]
    return _draw([one for one in every if _is_comparable(one.step, horizon, limit)], num, rng)


def _draw(starts: list[StartState], num: int, rng: np.random.Generator) -> list[StartState]:
    """Return up to ``num`` random start states, in the given order."""
    return [starts[index] for index in np.sort(rng.permutation(len(starts))[:num])]


def _is_comparable(step: int, horizon: int, limit: int | None) -> bool:
    """Whether ``horizon`` steps after a start step fit before the time limit."""
    return limit is None or step + horizon <= limit


def _time_limit(episodes: Sequence[EncodedEpisode], max_idle_steps: int | None) -> int | None:
    """Return the number of steps after which episodes are truncated; None: none of them is."""
    complete = [
        bool(one.terminated[-1]) or is_stalled(one.reward, False, max_idle_steps) for one in episodes if len(one.action)
    ]
    return time_limit([len(one.action) for one in episodes if len(one.action)], complete)


def _promises(
    behavior: str,
    starts: Sequence[StartState],
    limit: int | None,
    dreams: _Dreams,
    other: _Dreams | None = None,
) -> list[Promise]:
    """Compare dreams with the real steps after their start states, for each of `HORIZONS`."""
    rows, parts = [], (dreams.returns, dreams.survival)
    samples = dreams.sampled(np.random.default_rng(0))
    for horizon in HORIZONS:
        usable = np.array([_is_comparable(start.step, horizon, limit) for start in starts])
        if usable.sum() < MIN_STARTS:
            continue
        pairs = [(start.episode, start.step) for start, used in zip(starts, usable, strict=True) if used]
        real = np.array([np.sum(one.reward[step : step + horizon], dtype=np.float64) for one, step in pairs])
        ended = [bool(np.any(one.terminated[step : step + horizon])) for one, step in pairs]
        survived = 1.0 - np.array(ended)
        promised, survival = (part[usable, :, horizon - 1].mean(axis=1) for part in parts)
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
                *(
                    _attainable(part[usable, :, horizon - 1], sample[usable, :, horizon - 1])
                    for part, sample in zip(parts, samples, strict=True)
                ),
            )
        )
    return rows


def _attainable(expected: np.ndarray, sampled: np.ndarray) -> float | None:
    """Return the mean correlation of one sampled dream with the mean of those of other noise; None: samples are constant.

    Args:
        expected: Expected values of dreams (S, D).
        sampled: Sampled values of the same dreams (S, D).
    """
    expected, sampled = (part.reshape(len(part), NUM_DREAMS, -1) for part in (expected, sampled))
    total = expected.sum(axis=1)
    others = [(total - expected[:, number]).mean(axis=1) for number in range(NUM_DREAMS)]
    found = [correlation(other, sampled[:, number, 0]) for number, other in enumerate(others)]
    known = [one for one in found if one is not None]
    return float(np.mean(known)) if known else None


def correlation(predicted: np.ndarray, real: np.ndarray) -> float | None:
    """Return Pearson's correlation; 0 if the predictions are constant (`MIN_VARIATION`), None if the real values are."""
    x, y = (values - values.mean() for values in (predicted, real))
    predicted_std, real_std = (float(np.sqrt((one**2).mean())) for one in (x, y))
    if real_std <= 1e-6 * max(1.0, float(np.abs(real).max())):
        return None
    return 0.0 if predicted_std <= MIN_VARIATION * real_std else float((x * y).mean() / (predicted_std * real_std))


def recorded_promises(
    world: WorldModel,
    members: list[Memory],
    episodes: Sequence[EncodedEpisode],
    rng: np.random.Generator,
    max_idle_steps: int | None = None,
) -> tuple[list[Promise], Agreement | None]:
    """Compare dreams under recorded actions with recorded rewards; also return the agreement of an ensemble.

    After the end of an episode the actions of other episodes follow: the end of the recording tells a dream nothing.
    """
    limit = _time_limit(episodes, max_idle_steps)
    starts = _starts(episodes, NUM_STARTS, rng, HORIZONS[0], limit)
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
    return _promises("recorded", starts, limit, dreams, others), agreement


@torch.inference_mode()
def controller_promises(
    world: WorldModel,
    episodes: Sequence[EncodedEpisode],
    controller: Controller,
    members: Sequence[Memory] | None = None,
    seed: int = 0,
    max_idle_steps: int | None = None,
) -> list[Promise]:
    """Compare dreams of a controller with its real episodes, from the same states.

    Args:
        world: World model.
        episodes: Encoded episodes that the controller played.
        controller: Controller.
        members: Memories that imagine; None: the world model's own.
        seed: Seed of start states and noise.
        max_idle_steps: Number of idle steps that truncate an episode; None: no idle truncation.
    """
    rng = np.random.default_rng([seed, 1])
    limit = _time_limit(episodes, max_idle_steps)
    starts = _starts(episodes, NUM_STARTS, rng, HORIZONS[0], limit)
    if len(starts) < MIN_STARTS:
        return []

    def policy(state: Any) -> Tensor:
        return world.squash(controller(state.controller_inputs))

    dreams = _dream(world, list(members or [world.memory]), starts, policy, HORIZONS[-1], seed)
    return _promises("controller", starts, limit, dreams)


def measure_drift(
    world: WorldModel, members: list[Memory], episodes: Sequence[EncodedEpisode], rng: np.random.Generator
) -> tuple[list[Drift], int, int]:
    """Measure open-loop predictions, over the longest of `DRIFT_HORIZONS` that enough start states have.

    Returns:
        The drift at each horizon, the number of steps with a better prediction than both baselines, and that of all steps.
    """
    for furthest in reversed(DRIFT_HORIZONS):
        every = [StartState(one, step) for one in episodes for step in range(len(one.action) - furthest + 1)]
        starts = _draw(every, NUM_DRIFT_STARTS, rng)
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

    # members share the noise, so their means are independent over its draws; the variance of a mean of N draws is the sample
    # variance divided by N
    draws = dreamed.reshape(len(starts), NUM_DREAMS, len(members), *dreamed.shape[2:]).mean(axis=2)
    noise = draws.var(axis=1, ddof=1).sum(axis=(0, 2)) / NUM_DREAMS
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
