"""Several choices at once (MultiDiscrete, MultiBinary) as one Box: a one-hot block a choice, one number a choice of two.

Start reading at `ChoiceSpace`.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from worldmodel.envs.wrappers import MAX_ACTIONS

Choices = spaces.MultiDiscrete | spaces.MultiBinary


class ChoiceSpace(spaces.Box):
    """Choices as numbers (n,) in [-1, 1]: the largest number of a block is chosen, or for a choice of two the sign.

    `round` maps any numbers to those of their choices: one-hot blocks, and 0 or 1 for a choice of two.

    Args:
        nvec: Number of options of each choice.
    """

    def __init__(self, nvec: Sequence[int]) -> None:
        self.nvec = tuple(map(int, nvec))
        self.widths = [1 if options == 2 else options for options in self.nvec]
        super().__init__(-1, 1, (sum(self.widths),), np.float32)

    @classmethod
    def of(cls, space: Choices) -> "ChoiceSpace":
        """Return the space of a MultiDiscrete or MultiBinary.

        Raises:
            ValueError: There are too many options.
        """
        sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else np.full(space.shape, 2)
        if (total := int(np.sum(sizes))) > MAX_ACTIONS:
            cure = "take fewer with gymnasium.wrappers.TransformAction"
            raise ValueError(f"action space must have up to {MAX_ACTIONS} options, got {total}: {cure}")
        return cls(np.asarray(sizes).flatten().tolist())

    def __repr__(self) -> str:
        """Return the constructor call."""
        return f"ChoiceSpace({list(self.nvec)})"

    def __eq__(self, other: object) -> bool:
        """Whether another space holds the same choices; a plain Box with equal bounds is equal, too."""
        return super().__eq__(other) and getattr(other, "nvec", self.nvec) == self.nvec

    def choose(self, numbers: np.ndarray) -> np.ndarray:
        """Map numbers (*batch, n) to choices (*batch, len(nvec)) int64 from 0."""
        blocks = np.split(np.asarray(numbers), np.cumsum(self.widths)[:-1], axis=-1)
        chosen = [
            block[..., 0] > 0 if options == 2 else block.argmax(axis=-1)
            for options, block in zip(self.nvec, blocks, strict=True)
        ]
        return np.stack(chosen, axis=-1).astype(np.int64)

    def encode(self, choices: np.ndarray) -> np.ndarray:
        """Map choices (*batch, len(nvec)) from 0 to numbers (*batch, n) float32.

        Raises:
            ValueError: A choice is out of range.
        """
        if choices.shape[-1:] != (len(self.nvec),) or (choices < 0).any() or (choices >= self.nvec).any():
            raise ValueError(f"actions must be {len(self.nvec)} choices below {list(self.nvec)}, got {choices}"[:200])
        blocks = [
            column[..., None] if options == 2 else np.eye(options)[column]
            for options, column in zip(self.nvec, np.moveaxis(choices, -1, 0), strict=True)
        ]
        return np.concatenate(blocks, axis=-1).astype(np.float32)

    def round(self, numbers: np.ndarray) -> np.ndarray:
        """Map numbers (*batch, n) to those of their choices."""
        return self.encode(self.choose(numbers))

    def sample(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Return the numbers of random choices, each uniform."""
        return self.round(super().sample(*args, **kwargs))


class EncodeChoices(gymnasium.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Takes MultiDiscrete or MultiBinary actions as numbers of a `ChoiceSpace`."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.action_space
        assert isinstance(space, Choices)
        self.choices, self._numbers = space, ChoiceSpace.of(space)
        self.action_space = self._numbers

    def standard_actions(self, actions: np.ndarray) -> np.ndarray:
        """Map the environment's actions (T, ...) to numbers (T, n)."""
        return encode_choices(actions, self.choices)

    def action(self, action: Any) -> np.ndarray:
        """Map numbers to the environment's action."""
        chosen = self._numbers.choose(action).reshape(self.choices.shape) + getattr(self.choices, "start", 0)
        return chosen.astype(self.choices.dtype)


def encode_choices(actions: np.ndarray, space: Choices) -> np.ndarray:
    """Map the actions (T, ...) of a space to numbers (T, n) of its `ChoiceSpace`.

    Raises:
        ValueError: A choice is out of range.
    """
    if actions.dtype.kind == "f" and not (np.isfinite(actions) & (actions == np.floor(actions))).all():
        raise ValueError(f"actions must be whole numbers, got {actions}"[:200])
    numbers, start = ChoiceSpace.of(space), np.reshape(getattr(space, "start", 0), -1)
    if np.size(actions) != len(actions) * len(numbers.nvec):
        raise ValueError(
            f"actions must be (T, {len(numbers.nvec)}) choices below {list(numbers.nvec)}, got {actions.shape}"
        )
    return numbers.encode(actions.reshape(len(actions), -1).astype(np.int64) - start)
