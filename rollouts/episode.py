"""One episode, as it is recorded."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

TEST_SEEDS = 2**24
"""Environment seeds below this are for tests: no training draws them."""


def training_seeds(*entropy: int, count: int = 1) -> list[int]:
    """Environment seeds that follow from ``entropy``, from `TEST_SEEDS` to 2**31 (what every environment accepts)."""
    words = np.random.SeedSequence(entropy).generate_state(count, np.uint64)
    return [int(word % np.uint64(2**31 - TEST_SEEDS)) + TEST_SEEDS for word in words]


@dataclass(frozen=True, eq=False)
class Episode:
    """T actions and T + 1 frames: ``actions[t]`` leads from ``frames[t]`` to ``frames[t + 1]`` and earns ``rewards[t]``.

    Raises:
        ValueError: lengths do not fit together.
    """

    frames: np.ndarray
    """(T + 1, 64, 64, 3) bytes."""
    actions: np.ndarray
    """(T, n) float32 in [-1, 1], or (T,) int64."""
    rewards: np.ndarray
    """(T,) float32."""
    terminated: bool
    """Whether the last step ended the episode in the game itself."""
    truncated: bool
    """Whether the episode was cut (a time limit, or ``max_steps``)."""
    seed: int = 0
    """What the environment was reset with."""
    index: int = 0
    """Its place in the store."""

    def __post_init__(self) -> None:
        if not len(self.frames) - 1 == len(self.actions) == len(self.rewards):
            came = (len(self.frames), len(self.actions), len(self.rewards))
            raise ValueError(
                f"an episode has T + 1 frames, T actions and T rewards, got {came[0]}, {came[1]}, {came[2]}"
            )

    def __len__(self) -> int:
        """T, the number of steps."""
        return len(self.actions)

    def __repr__(self) -> str:
        """Index, length, return and how it ended."""
        ending = "terminated" if self.terminated else "truncated" if self.truncated else "unfinished"
        return f"Episode({self.index}, steps={len(self)}, return={float(self.rewards.sum()):.1f}, {ending})"

    def at(self, index: int) -> Self:
        """The same episode with another place in a store."""
        return replace(self, index=index)

    def first(self, steps: int) -> Self:
        """The episode's first ``steps`` steps."""
        if steps >= len(self):
            return self
        return replace(
            self,
            frames=self.frames[: steps + 1],
            actions=self.actions[:steps],
            rewards=self.rewards[:steps],
            terminated=False,
            truncated=True,
        )
