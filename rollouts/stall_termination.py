"""Where a life ends that was cut because nothing more was earned: with its last reward, not with its last frame."""

import numpy as np

from rollouts.encoded_dataset import EncodedDataset, EncodedEpisode
from rollouts.shards import EpisodeMeta


def is_stalled(rewards: np.ndarray, terminated: bool, max_idle_steps: int | None) -> bool:
    """Whether an episode was cut after ``max_idle_steps`` steps without a reward above zero."""
    return bool(
        max_idle_steps is not None
        and not terminated
        and len(rewards) >= max_idle_steps
        and not (np.asarray(rewards)[-max_idle_steps:] > 0).any()
    )


def is_complete(meta: EpisodeMeta, max_idle_steps: int | None) -> bool:
    """Whether an episode came to an end of its own: the game's, or after ``max_idle_steps`` steps that earned nothing.

    One that was cut for want of patience would have earned next to nothing more, so stretches up to the cut count as whole.
    """
    return bool(meta.terminated) or is_stalled(meta.rewards, False, max_idle_steps)


STALL_TERMINATED = "ended with their last rewards"
"""In what is said of the data of a memory that learned where lives end."""


class StallTerminated(EncodedDataset):
    """Encoded episodes, of which those that `is_stalled` end with their last reward, as if the game had ended there.

    What follows is ``max_idle_steps`` steps in vain, and no picture says so: a car on the grass, or one that drives back along
    the road, looks like others that do well. A memory of these steps lets the dream go on and earn again. Instead it learns
    when lives end, with a chance for each step (a hazard), and a dream ends there.

    Args:
        latents: encoded episodes.
        max_idle_steps: with which they were cut.

    Raises:
        ValueError: no episode that was cut had a reward above zero: where nothing is earned, nothing tells when it was lost.
    """

    def __init__(self, latents: EncodedDataset, max_idle_steps: int) -> None:
        super().__init__(latents.store, latents.folder)
        self.termination_note = f", {STALL_TERMINATED} (patience {max_idle_steps})"
        self._ends: list[tuple[int, bool]] = []
        for index in range(len(self)):
            _, _, _, rewards, terminated = super().episode(index)
            stalled = is_stalled(rewards, bool(len(terminated) and terminated[-1]), max_idle_steps)
            earned = np.flatnonzero(rewards > 0)
            steps = len(rewards) if not stalled else int(earned[-1]) + 1 if len(earned) else 1
            self._ends.append((steps, stalled))
        stalled_steps = [steps for steps, stalled in self._ends if stalled]
        if stalled_steps and max(stalled_steps) == 1:
            raise ValueError(
                "terminate_on_stall needs episodes that earn something before they stall, "
                f"got {len(stalled_steps)} of {len(self)} that stalled at once"
            )

    @property
    def lengths(self) -> list[int]:
        """Steps of each episode."""
        return [steps for steps, _ in self._ends]

    def episode(self, index: int) -> EncodedEpisode:
        """One episode, up to its end."""
        mean, logvar, action, reward, terminated = super().episode(index)
        steps, stalled = self._ends[index]
        if not stalled:
            return EncodedEpisode(mean, logvar, action, reward, terminated)
        ended = np.zeros(steps, np.float32)
        ended[-1] = 1.0
        return EncodedEpisode(mean[: steps + 1], logvar[: steps + 1], action[:steps], reward[:steps], ended)
