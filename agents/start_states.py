"""Start states of dreams: parts of encoded episodes to sample them from."""

import numpy as np

import rollouts
from rollouts.stall_termination import is_complete


class RecentStartStates:
    """The newest of the first episodes of an encoded store, each up to its last reward, as places where dreams start.

    From the grass behind it, where random play ends, evolution would learn nothing: no action earns anything there. Behind
    them come the first steps alone, as many as make up the share of ``initial_state_fraction``: every real life begins
    there, and
    what a controller never practised it cannot do.
    """

    def __init__(
        self,
        latents: rollouts.encoded_dataset.EncodedDataset,
        count: int,
        num_recent: int,
        initial_state_fraction: float = 0.0,
    ) -> None:
        self.latents, self.count, self.num_recent = latents, count, num_recent
        self.num_initial = round(num_recent * initial_state_fraction / (1 - initial_state_fraction))

    @property
    def identity(self) -> str:
        """How many, encoded by which VAE."""
        which = f"{self.num_recent} of the first {self.count} episodes of {self.latents.store.env}"
        return (
            f"{which}, up to their last rewards, {self.num_initial} beginnings, encoded by {self.latents.folder.name}"
        )

    def __len__(self) -> int:
        """Episodes."""
        return self.num_recent + self.num_initial

    def episode(self, index: int) -> rollouts.encoded_dataset.EncodedEpisode:
        """One episode."""
        episode = self.latents.episode(self.count - self.num_recent + index % self.num_recent)
        earned = np.flatnonzero(np.asarray(episode.reward) > 0)
        steps = int(earned[-1]) + 1 if len(earned) and index < self.num_recent else 1
        mean, logvar, *course = episode
        return type(episode)(mean[: steps + 1], logvar[: steps + 1], *(part[:steps] for part in course))


class ComparableStartStates:
    """Encoded real episodes, each up to the last step that `horizon_returns` counts from.

    A dream draws an episode, then a step of it, all equally likely.
    ``max_idle_steps``: that with which they were cut (`rollouts.stall_termination.is_complete`).
    """

    def __init__(
        self,
        latents: rollouts.encoded_dataset.EncodedDataset,
        episodes: range,
        horizon: int,
        max_idle_steps: int | None = None,
    ) -> None:
        self.latents, self.episodes, self.horizon, self.max_idle_steps = latents, episodes, horizon, max_idle_steps

    def __len__(self) -> int:
        """Episodes."""
        return len(self.episodes)

    def episode(self, index: int) -> rollouts.encoded_dataset.EncodedEpisode:
        """One episode."""
        episode = self.latents.episode(self.episodes[index])
        mean, logvar, *course = episode
        ended = is_complete(self.latents.store.episode_metadata(self.episodes[index]), self.max_idle_steps)
        steps = num_comparable_steps(len(episode.action), ended, self.horizon)
        return type(episode)(mean[: steps + 1], logvar[: steps + 1], *(part[:steps] for part in course))


def num_comparable_steps(steps: int, terminated: bool, horizon: int) -> int:
    """From how many first steps of an episode a dream of ``horizon`` steps has its like in it.

    A dream knows no time limit: what a limit cut short, where there was more than a horizon of it, does not count.
    """
    return steps if terminated else max(1, steps - horizon + 1)
