"""Returns over a fixed horizon in dreams and in the real environment, from the same start states.

Start reading at `own_returns`.
"""

from collections.abc import Sequence

import numpy as np

from worldmodel import Memory, WorldModel, rollouts
from worldmodel.agents.config.schema import DREAMS
from worldmodel.agents.runs.start_states import ComparableStartStates, time_limit
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.store.encoded_dataset import EncodedDataset
from worldmodel.rollouts.store.stall_termination import is_complete


def own_returns(
    world: WorldModel,
    controller: Controller,
    latents: EncodedDataset,
    episodes: range,
    horizon: int,
    temperature: float,
    seed: int,
    max_idle_steps: int | None = None,
    ensemble: Sequence[Memory] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute returns of a controller over ``horizon`` steps in dreams and in real episodes that it played.

    Both start from states of these episodes.

    Args:
        world: World model of the dreams.
        controller: Controller that played the episodes.
        latents: Encoded store of the episodes.
        episodes: Indices of the episodes in the store.
        horizon: Number of steps.
        temperature: Temperature of the dreams.
        seed: Seed of the dreams.
        max_idle_steps: Number of idle steps that truncate an episode; None: no idle truncation.
        ensemble: Memories of the dreams; None: the memory of ``world``.

    Returns:
        The return of each of `DREAMS` dreams, (DREAMS,), and `contributions` of the real episodes, (episodes,).
    """
    start_states = ComparableStartStates(latents, episodes, horizon, max_idle_steps)
    dreams = rollouts.dream(world, controller, start_states, horizon, DREAMS, temperature, seed=seed, ensemble=ensemble)
    rewards = [np.asarray(latents.episode(index).reward) for index in episodes]
    real = [horizon_returns(one, count, horizon) for one, count in zip(rewards, start_states.counts, strict=True)]
    return dreams.returns, contributions(real)


def contributions(returns: Sequence[Sequence[float]]) -> np.ndarray:
    """Return a number for each episode: their mean is that of the returns from all steps, with the standard error of a ratio.

    Args:
        returns: Returns from the start steps of each episode.

    References:
        Cochran, Sampling Techniques, 3rd edition, 1977 (section 2.11, ratio estimates).
    """
    sums, counts = (np.array([measure(one) for one in returns], np.float64) for measure in (np.sum, len))
    mean = sums.sum() / counts.sum()
    return mean + (sums - mean * counts) / counts.mean()


def common_horizon(
    latents: EncodedDataset,
    episodes: range,
    horizon: int,
    max_idle_steps: int | None = None,
) -> int:
    """Return the horizon, or the length of the shortest truncated episode if that is less: dreams have no time limit."""
    store = latents.store
    complete = [is_complete(store.episode_metadata(index), max_idle_steps) for index in episodes]
    limit = time_limit([store.lengths[index] for index in episodes], complete)
    return horizon if limit is None else max(1, min(horizon, limit))


def horizon_returns(rewards: np.ndarray, count: int, horizon: int) -> list[float]:
    """Return the returns over ``horizon`` steps, or up to the end, from each of the first ``count`` steps."""
    return [float(rewards[step : step + horizon].sum(dtype=np.float64)) for step in range(count)]
