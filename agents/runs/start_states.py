"""Parts of encoded episodes that give dreams their start states.

Start reading at `RecentStartStates` (evolution) and `ComparableStartStates` (comparison with real returns).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from worldmodel.rollouts.store.encoded_dataset import EncodedDataset, EncodedEpisode
from worldmodel.rollouts.store.stall_termination import is_complete

INITIAL_STATE_FRACTION = 0.25
"""Fraction of the items of `RecentStartStates` that contain only an initial state."""


class RecentStartStates:
    """Start states from the most recent episodes of an encoded store.

    Each episode is cut after its last positive reward: no action is rewarded in the states after it (in CarRacing, off the
    track), so evolution has no signal there. Further items contain only the initial state of an episode, because each real
    episode starts in one.

    Args:
        latents: Encoded store.
        count: Number of episodes at the start of the store to consider.
        num_recent: Number of the most recent of these episodes to use.
    """

    def __init__(self, latents: EncodedDataset, count: int, num_recent: int) -> None:
        self.latents, self.count, self.num_recent = latents, count, num_recent
        self.num_initial = round(num_recent * INITIAL_STATE_FRACTION / (1 - INITIAL_STATE_FRACTION))

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
    """Start states from encoded real episodes: all steps from which a dream can be compared with the episode.

    A dream draws one of these steps uniformly. Whether a step counts does not depend on what happens after it: terminated
    episodes are cut at the same step as truncated ones (`num_comparable_steps`).

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
        self.latents, self.episodes, self.horizon = latents, episodes, horizon
        lengths = [len(latents.episode(index).action) for index in episodes]
        complete = [is_complete(latents.store.episode_metadata(index), max_idle_steps) for index in episodes]
        limit = time_limit(lengths, complete)
        self.counts = [num_comparable_steps(steps, limit, horizon) for steps in lengths]
        """Number of start steps in each episode."""

    def __len__(self) -> int:
        """Return the number of start steps."""
        return sum(self.counts)

    def episode(self, index: int) -> EncodedEpisode:
        """Return the episode with this start step, cut after its last start step."""
        number = int(np.searchsorted(np.cumsum(self.counts), index, side="right"))
        return self.latents.episode(self.episodes[number]).window(0, self.counts[number])


def time_limit(lengths: Sequence[int], complete: Sequence[bool]) -> int | None:
    """Return the number of steps after which episodes are truncated; None: none of them is.

    Args:
        lengths: Number of steps of each episode.
        complete: Whether each episode is complete, and not truncated.
    """
    return min((steps for steps, ended in zip(lengths, complete, strict=True) if not ended), default=None)


def num_comparable_steps(steps: int, limit: int | None, horizon: int) -> int:
    """Return the number of first steps of an episode from which its return is comparable with a dream of ``horizon`` steps.

    A dream has no time limit, so ``horizon`` steps must fit before that of the game, even where the episode terminates earlier:
    otherwise the late start steps would be those that a termination follows. One step counts in any case.
    """
    return steps if limit is None else min(steps, max(1, limit - horizon + 1))
