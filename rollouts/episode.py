"""One episode, as it is recorded."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from worldmodel.formatting import format_number
from worldmodel.validation import TEST_SEEDS as TEST_SEEDS

FRAME = (64, 64, 3)
"""A frame's shape."""


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
        return f"Episode({self.index}, steps={len(self)}, return={format_number(self.rewards.sum(dtype=np.float64))}, {ending})"

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


def validate_frame(frame: Any) -> np.ndarray:
    """A copy of a frame: an environment may draw the next one into the same array.

    Raises:
        ValueError: it is none of ours.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape != FRAME:
        came = f"{frame.shape} {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"frames must be (64, 64, 3) uint8, got {came}")
    return frame.copy()


def validate_action(action: Any, discrete: bool, size: int) -> Any:
    """What a policy wants done: a whole number below ``size``, or as many finite numbers.

    Raises:
        ValueError: it is neither.
    """
    values = np.asarray(action)
    if discrete:
        if values.size == 1 and values.dtype.kind in "biu" and 0 <= values.item() < size:
            return action if values.ndim == 0 else values.item()
        raise ValueError(f"action must be a whole number from 0 to {size - 1}, got {str(action)[:40]}")
    if values.size == size and values.dtype.kind in "biuf" and np.isfinite(values).all():
        return action if values.shape == (size,) else values.reshape(size)
    raise ValueError(f"action must be {size} finite numbers, got {str(action)[:40]}")
