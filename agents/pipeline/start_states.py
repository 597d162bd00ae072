"""Parts of encoded episodes that give dreams their start states.

Start reading at `RecentStartStates` (evolution) and `ComparableStartStates` (comparison with real returns).
"""

from typing import Any

import numpy as np

from worldmodel.rollouts.store.encoded_dataset import EncodedDataset, EncodedEpisode
from worldmodel.rollouts.store.stall_termination import is_complete


class RecentStartStates:
    """Start states from the most recent episodes of an encoded store.

    Each episode is cut after its last positive reward: no action is rewarded in the states after it (in CarRacing, off the
    track), so evolution has no signal there. Further items contain only the initial state of an episode, because each real
    episode starts in one.

    Args:
        latents: Encoded store.
        count: Number of episodes at the start of the store to consider.
        num_recent: Number of the most recent of these episodes to use.
        initial_state_fraction: Fraction of the items that contain only an initial state, in [0, 1).
    """

    def __init__(
        self,
        latents: EncodedDataset,
        count: int,
        num_recent: int,
        initial_state_fraction: float = 0.25,
    ) -> None:
        self.latents, self.count, self.num_recent = latents, count, num_recent
        self.num_initial = round(num_recent * initial_state_fraction / (1 - initial_state_fraction))

    @property
    def identity(self) -> dict[str, Any]:
        """The episodes and their VAE; a resumed search must have the same."""
        return {
            "env": self.latents.store.env,
            "episodes": self.count,
            "recent": self.num_recent,
            "initial": self.num_initial,
            "vae": self.latents.folder.name,
        }

    def __len__(self) -> int:
        """Return the number of items."""
        return self.num_recent + self.num_initial

    def episode(self, index: int) -> EncodedEpisode:
        """Return the item with this index, as an encoded episode."""
        episode = self.latents.episode(self.count - self.num_recent + index % self.num_recent)
        rewarded = np.flatnonzero(np.asarray(episode.reward) > 0)
        steps = int(rewarded[-1]) + 1 if len(rewarded) and index < self.num_recent else 1
        return episode.window(0, steps)


class ComparableStartStates:
    """Start states from encoded real episodes, each cut after the last start step of `horizon_returns`.

    A dream draws an episode uniformly, then a step of it uniformly.

    Args:
        latents: Encoded store.
        episodes: Indices of the episodes in the store.
        horizon: Number of steps of a dream.
        max_idle_steps: Number of idle steps that truncate an episode (`rollouts.store.stall_termination.is_complete`); None: no
            idle truncation.
    """

    def __init__(
        self,
        latents: EncodedDataset,
        episodes: range,
        horizon: int,
        max_idle_steps: int | None = None,
    ) -> None:
        self.latents, self.episodes, self.horizon, self.max_idle_steps = latents, episodes, horizon, max_idle_steps

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.episodes)

    def episode(self, index: int) -> EncodedEpisode:
        """Return the episode with this index, cut."""
        episode = self.latents.episode(self.episodes[index])
        complete = is_complete(self.latents.store.episode_metadata(self.episodes[index]), self.max_idle_steps)
        steps = num_comparable_steps(len(episode.action), complete, self.horizon)
        return episode.window(0, steps)


def num_comparable_steps(steps: int, terminated: bool, horizon: int) -> int:
    """Return the number of first steps of an episode from which its return is comparable with a dream of ``horizon`` steps.

    These are all steps of a terminated episode. In a truncated one, a start step needs ``horizon`` steps after it, because
    dreams have no time limit; one step counts in any case.
    """
    return steps if terminated else max(1, steps - horizon + 1)
