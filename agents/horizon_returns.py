"""Returns over a fixed horizon, in dreams and in the real environment, from the same start states.

Start reading at `own_returns`.
"""

from collections.abc import Sequence

import numpy as np

import rollouts
from agents.config.schema import DREAMS
from agents.controller import Controller
from agents.start_states import ComparableStartStates, num_comparable_steps
from rollouts.stall_termination import is_complete
from worldmodel import Memory, WorldModel


def own_returns(
    world: WorldModel,
    controller: Controller,
    latents: rollouts.encoded_dataset.EncodedDataset,
    episodes: range,
    horizon: int,
    temperature: float,
    seed: int,
    max_idle_steps: int | None = None,
    ensemble: Sequence[Memory] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns of a controller in dreams, and in the game, over ``horizon`` steps from states of its own real episodes.

    Args:
        world: the world model.
        controller: the controller that played the episodes.
        latents: the encoded store that holds them.
        episodes: which of the store's episodes they are.
        horizon: number of steps.
        temperature: of the dreams.
        seed: of the dreams.
        max_idle_steps: with which the episodes were cut.
        ensemble: memories that the dreams happen in; None: the world model's own.

    Returns:
        The return of each of `DREAMS` dreams, and each real episode's mean return.
    """
    starts = ComparableStartStates(latents, episodes, horizon, max_idle_steps)
    dreams = rollouts.dream(world, controller, starts, horizon, DREAMS, temperature, seed=seed, ensemble=ensemble)
    ends = [is_complete(latents.store.episode_metadata(index), max_idle_steps) for index in episodes]
    rewards = [np.asarray(latents.episode(index).reward) for index in episodes]
    real = [np.mean(horizon_returns(one, ended, horizon)) for one, ended in zip(rewards, ends, strict=True)]
    return dreams.returns, np.array(real)


def common_horizon(
    latents: rollouts.encoded_dataset.EncodedDataset, episodes: range, horizon: int, max_idle_steps: int | None = None
) -> int:
    """The horizon, or the length of the shortest episode that a limit cut before it: a dream does not know the limit."""
    store = latents.store
    cut = [store.lengths[index] for index in episodes if not is_complete(store.episode_metadata(index), max_idle_steps)]
    return max(1, min([horizon, *cut]))


def horizon_returns(rewards: np.ndarray, terminated: bool, horizon: int) -> list[float]:
    """Returns from each of an episode's `num_comparable_steps` steps: over ``horizon`` steps, or up to an end of its own."""
    count = num_comparable_steps(len(rewards), terminated, horizon)
    return [float(rewards[at : at + horizon].sum(dtype=np.float64)) for at in range(count)]
