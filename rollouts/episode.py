"""A recorded episode, and the validation of its observations and actions. Start reading at `Episode`."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from worldmodel.messages import format_number
from worldmodel.validation import TEST_SEEDS as TEST_SEEDS

FRAME = (64, 64, 3)
"""Shape of a frame."""


def training_seeds(*entropy: int, count: int = 1) -> list[int]:
    """Return environment seeds derived from ``entropy``, from `TEST_SEEDS` to 2**31 (a range all environments accept)."""
    words = np.random.SeedSequence(entropy).generate_state(count, np.uint64)
    return [int(word % np.uint64(2**31 - TEST_SEEDS)) + TEST_SEEDS for word in words]


@dataclass(frozen=True, eq=False)
class Episode:
    """T actions and T + 1 frames: ``actions[t]`` leads from ``frames[t]`` to ``frames[t + 1]`` with ``rewards[t]``.

    Raises:
        ValueError: The lengths do not match.
    """

    frames: np.ndarray
    """Observations: frames (T + 1, 64, 64, 3) uint8, or vectors (T + 1, n) float32."""
    actions: np.ndarray
    """(T, n) float32 in [-1, 1], or (T,) int64."""
    rewards: np.ndarray
    """(T,) float32."""
    terminated: bool
    """Whether the last step terminated the episode."""
    truncated: bool
    """Whether the episode was truncated (a time limit, ``max_steps`` or ``max_idle_steps``)."""
    seed: int = 0
    """Seed of the environment's reset."""
    index: int = 0
    """Index in the store."""

    def __post_init__(self) -> None:
        if not len(self.frames) - 1 == len(self.actions) == len(self.rewards):
            lengths = (len(self.frames), len(self.actions), len(self.rewards))
            raise ValueError(
                f"an episode must have T + 1 frames, T actions and T rewards, got {lengths[0]}, {lengths[1]}, {lengths[2]}"
            )

    def __len__(self) -> int:
        """T, the number of steps."""
        return len(self.actions)

    def __repr__(self) -> str:
        """Return index, length, return and the kind of end."""
        ending = "terminated" if self.terminated else "truncated" if self.truncated else "unfinished"
        return f"Episode({self.index}, steps={len(self)}, return={format_number(self.rewards.sum(dtype=np.float64))}, {ending})"

    def at(self, index: int) -> Self:
        """Return the same episode with another index."""
        return replace(self, index=index)

    def first(self, steps: int) -> Self:
        """Return the episode's first ``steps`` steps, as a truncated episode."""
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


def observation_dtype(shape: tuple[int, ...]) -> type[np.generic]:
    """Return the type of observations: bytes of frames (64, 64, 3), single precision of vectors (n,)."""
    return np.uint8 if len(shape) > 1 else np.float32


def validate_frame(frame: Any, shape: tuple[int, ...] = FRAME) -> np.ndarray:
    """Return a copy of a frame or a vector, since an environment may reuse its array.

    Raises:
        ValueError: It has another shape or dtype.
    """
    dtype = observation_dtype(shape)
    if not isinstance(frame, np.ndarray) or frame.dtype != dtype or frame.shape != shape:
        actual = f"{frame.shape} {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"frames must be {shape} {dtype.__name__}, got {actual}")
    return frame.copy()


def validate_action(action: Any, discrete: bool, size: int) -> Any:
    """Return a policy's action: an integer below ``size`` if discrete, else ``size`` finite numbers.

    Raises:
        ValueError: It is neither.
    """
    values = np.asarray(action)
    if discrete:
        if values.size == 1 and values.dtype.kind in "biu" and 0 <= values.item() < size:
            return action if values.ndim == 0 else values.item()
        raise ValueError(f"action must be a whole number from 0 to {size - 1}, got {str(action)[:40]}")
    if values.size == size and values.dtype.kind in "biuf" and np.isfinite(values).all():
        return action if values.shape == (size,) else values.reshape(size)
    raise ValueError(f"action must be {size} finite numbers, got {str(action)[:40]}")
