"""Treat idle truncation as termination after the last reward. Start reading at `StallTerminated`."""

import numpy as np

from worldmodel.rollouts.store.encoded_dataset import EncodedDataset, EncodedEpisode
from worldmodel.rollouts.store.shards import EpisodeMeta


def is_stalled(rewards: np.ndarray, terminated: bool, max_idle_steps: int | None) -> bool:
    """Whether an episode was truncated after ``max_idle_steps`` steps without a positive reward."""
    return bool(
        max_idle_steps is not None
        and not terminated
        and len(rewards) >= max_idle_steps
        and not (np.asarray(rewards)[-max_idle_steps:] > 0).any()
    )


def is_complete(meta: EpisodeMeta, max_idle_steps: int | None) -> bool:
    """Whether an episode terminated or was truncated after ``max_idle_steps`` steps without a positive reward.

    An idle episode would have earned almost nothing more, so windows up to its truncation count as complete.
    """
    return bool(meta.terminated) or is_stalled(meta.rewards, False, max_idle_steps)


class StallTerminated(EncodedDataset):
    """Encoded episodes in which an idle truncation (`is_stalled`) becomes a termination ``delay`` steps after the last reward.

    The ``max_idle_steps`` steps after it earn nothing, but not every frame shows this: a car that drives back along the road
    looks like cars that do well. A memory trained on these steps lets dreams continue and earn again. Trained on this dataset
    it predicts a termination probability at each step (a hazard), and dreams end there. Without a delay, nothing in view
    announces the end, and dreams of good controllers end too often; after some steps the car is off the road.

    Args:
        latents: Encoded episodes.
        max_idle_steps: Number of idle steps after which the episodes were truncated.
        delay: Number of steps after the last reward; at most ``max_idle_steps``.

    Raises:
        ValueError: No idle episode has a positive reward, so the step of its failure is unknown.
    """

    def __init__(self, latents: EncodedDataset, max_idle_steps: int, delay: int = 0) -> None:
        if not 0 <= delay <= max_idle_steps:
            raise ValueError(f"stall_delay must be from 0 to max_idle_steps, {max_idle_steps}, got {delay}")
        super().__init__(latents.store, latents.folder)
        self.stall_steps, self.stall_delay = max_idle_steps, delay
        self._ends: list[tuple[int, bool]] = []
        num_stalled = num_earning = 0
        for index in range(len(self)):
            _, _, _, rewards, terminated = super().episode(index)
            stalled = is_stalled(rewards, bool(len(terminated) and terminated[-1]), max_idle_steps)
            earned = np.flatnonzero(rewards > 0)
            last = int(earned[-1]) if len(earned) else 0
            self._ends.append((min(last + 1 + delay, len(rewards)) if stalled else len(rewards), stalled))
            num_stalled += stalled
            num_earning += stalled and len(earned) > 0
        if num_stalled and not num_earning:
            raise ValueError(
                "stall_delay needs episodes that earn something before they stall, "
                f"got {num_stalled} of {len(self)} that stall from their first step"
            )

    @property
    def lengths(self) -> list[int]:
        """Number of steps of each episode."""
        return [steps for steps, _ in self._ends]

    def episode(self, index: int) -> EncodedEpisode:
        """Return one episode, up to its termination."""
        steps, stalled = self._ends[index]
        episode = super().episode(index).window(0, steps)
        return (
            episode._replace(terminated=(np.arange(1, steps + 1) == steps).astype(np.float32)) if stalled else episode
        )
