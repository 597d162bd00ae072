"""Parts of encoded episodes in which dreams begin: where there is something to learn, or something to compare with."""

from collections.abc import Sequence

import numpy as np

import rollouts
from agents.controller import Controller
from agents.settings import DREAMS
from rollouts.stall_termination import is_complete
from worldmodel import Memory, WorldModel


class Beginnings:
    """The newest of the first episodes of an encoded store, each up to its last reward, as places where dreams start.

    From the grass behind it, where random play ends, evolution would learn nothing: no action earns anything there. Behind
    them come the first steps alone, as many as make up the share of ``beginnings``: every real life begins there, and
    what a controller never practised it cannot do.
    """

    def __init__(
        self, latents: rollouts.encoded_dataset.EncodedDataset, count: int, newest: int, beginnings: float = 0.0
    ) -> None:
        self.latents, self.count, self.newest = latents, count, newest
        self.first = round(newest * beginnings / (1 - beginnings))

    @property
    def identity(self) -> str:
        """How many, encoded by which VAE."""
        which = f"{self.newest} of the first {self.count} episodes of {self.latents.store.env}"
        return f"{which}, up to their last rewards, {self.first} beginnings, encoded by {self.latents.folder.name}"

    def __len__(self) -> int:
        """Episodes."""
        return self.newest + self.first

    def episode(self, index: int) -> rollouts.encoded_dataset.EncodedEpisode:
        """One episode."""
        episode = self.latents.episode(self.count - self.newest + index % self.newest)
        earned = np.flatnonzero(np.asarray(episode.reward) > 0)
        steps = int(earned[-1]) + 1 if len(earned) and index < self.newest else 1
        mean, logvar, *course = episode
        return type(episode)(mean[: steps + 1], logvar[: steps + 1], *(part[:steps] for part in course))


class Comparable:
    """Encoded real episodes, each up to the last step that `lived` counts from: dreams that begin there have their like.

    A dream draws an episode, then a step of it, all equally likely.
    ``patience``: that with which they were cut (`rollouts.stall_termination.is_complete`).
    """

    def __init__(
        self,
        latents: rollouts.encoded_dataset.EncodedDataset,
        episodes: range,
        horizon: int,
        patience: int | None = None,
    ) -> None:
        self.latents, self.episodes, self.horizon, self.patience = latents, episodes, horizon, patience

    def __len__(self) -> int:
        """Episodes."""
        return len(self.episodes)

    def episode(self, index: int) -> rollouts.encoded_dataset.EncodedEpisode:
        """One episode."""
        episode = self.latents.episode(self.episodes[index])
        mean, logvar, *course = episode
        ended = is_complete(self.latents.store.episode_metadata(self.episodes[index]), self.patience)
        steps = comparable(len(episode.action), ended, self.horizon)
        return type(episode)(mean[: steps + 1], logvar[: steps + 1], *(part[:steps] for part in course))


def own_returns(
    world: WorldModel,
    controller: Controller,
    latents: rollouts.encoded_dataset.EncodedDataset,
    episodes: range,
    horizon: int,
    temperature: float,
    seed: int,
    patience: int | None = None,
    worlds: Sequence[Memory] | None = None,
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
        patience: with which the episodes were cut.
        worlds: memories that the dreams happen in; None: the world model's own.

    Returns:
        The return of each of `DREAMS` dreams, and each real episode's mean return.
    """
    starts = Comparable(latents, episodes, horizon, patience)
    dreams = rollouts.dream(world, controller, starts, horizon, DREAMS, temperature, seed=seed, ensemble=worlds)
    ends = [is_complete(latents.store.episode_metadata(index), patience) for index in episodes]
    rewards = [np.asarray(latents.episode(index).reward) for index in episodes]
    real = [np.mean(lived(one, ended, horizon)) for one, ended in zip(rewards, ends, strict=True)]
    return dreams.returns, np.array(real)


def common_horizon(
    latents: rollouts.encoded_dataset.EncodedDataset, episodes: range, horizon: int, patience: int | None = None
) -> int:
    """The horizon, or the length of the shortest episode that a limit cut before it: a dream does not know the limit."""
    store = latents.store
    cut = [store.lengths[index] for index in episodes if not is_complete(store.episode_metadata(index), patience)]
    return max(1, min([horizon, *cut]))


def comparable(steps: int, terminated: bool, horizon: int) -> int:
    """From how many first steps of an episode a dream of ``horizon`` steps has its like in it.

    A dream knows no time limit: what a limit cut short, where there was more than a horizon of it, does not count.
    """
    return steps if terminated else max(1, steps - horizon + 1)


def lived(rewards: np.ndarray, terminated: bool, horizon: int) -> list[float]:
    """Returns from each of an episode's `comparable` steps: over ``horizon`` steps, or up to an end of its own."""
    count = comparable(len(rewards), terminated, horizon)
    return [float(rewards[at : at + horizon].sum(dtype=np.float64)) for at in range(count)]
