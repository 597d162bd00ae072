"""Where a life ends that was cut because nothing more was earned: with its last reward, not with its last frame."""

import numpy as np

from rollouts.latents import EncodedEpisode, Latents
from rollouts.shards import Course


def stalled(rewards: np.ndarray, terminated: bool, patience: int | None) -> bool:
    """Whether an episode was cut after ``patience`` steps without a reward above zero."""
    return bool(
        patience is not None
        and not terminated
        and len(rewards) >= patience
        and not (np.asarray(rewards)[-patience:] > 0).any()
    )


def over(course: Course, patience: int | None) -> bool:
    """Whether an episode came to an end of its own: the game's, or after ``patience`` steps that earned nothing.

    One that was cut for want of patience would have earned next to nothing more, so stretches up to the cut count as whole.
    """
    return bool(course.terminated) or stalled(course.rewards, False, patience)


TOLD = "ended with their last rewards"
"""In what is said of the data of a memory that learned where lives end."""


class Ended(Latents):
    """Encoded episodes, of which those that `stalled` end with their last reward, as if the game had ended there.

    What follows is ``patience`` steps in vain, and no picture says so: a car on the grass, or one that drives back along
    the road, looks like others that do well. A memory of these steps lets the dream go on and earn again. Instead it learns
    when lives end, with a chance for each step (a hazard), and a dream ends there.

    Args:
        latents: encoded episodes.
        patience: with which they were cut.

    Raises:
        ValueError: no episode that was cut had a reward above zero: where nothing is earned, nothing tells when it was lost.
    """

    def __init__(self, latents: Latents, patience: int) -> None:
        super().__init__(latents.store, latents.folder)
        self.ending = f", {TOLD} (patience {patience})"
        self._ends: list[tuple[int, bool]] = []
        for index in range(len(self)):
            _, _, _, rewards, terminated = super().episode(index)
            cut = stalled(rewards, bool(len(terminated) and terminated[-1]), patience)
            earned = np.flatnonzero(rewards > 0)
            steps = len(rewards) if not cut else int(earned[-1]) + 1 if len(earned) else 1
            self._ends.append((steps, cut))
        cut_short = [steps for steps, cut in self._ends if cut]
        if cut_short and max(cut_short) == 1:
            raise ValueError(
                "stalls_end needs episodes that earn something before they stall, "
                f"got {len(cut_short)} of {len(self)} that stalled at once"
            )

    @property
    def lengths(self) -> list[int]:
        """Steps of each episode."""
        return [steps for steps, _ in self._ends]

    def episode(self, index: int) -> EncodedEpisode:
        """One episode, up to its end."""
        mean, logvar, action, reward, terminated = super().episode(index)
        steps, cut = self._ends[index]
        if not cut:
            return EncodedEpisode(mean, logvar, action, reward, terminated)
        ended = np.zeros(steps, np.float32)
        ended[-1] = 1.0
        return EncodedEpisode(mean[: steps + 1], logvar[: steps + 1], action[:steps], reward[:steps], ended)
