"""One episode, and how it is played."""

from dataclasses import dataclass, replace
from typing import Any, Self

import gymnasium
import numpy as np

from rollouts.policies import Policy

__all__ = ["Episode", "Policy", "play"]


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


def play(
    env: gymnasium.Env[Any, Any], policy: Policy, seed: int, index: int = 0, max_steps: int | None = None
) -> Episode:
    """Play one episode; the same environment, policy and seed give the same episode.

    Args:
        env: with 64x64x3 byte frames (`envs.make`).
        policy: see `rollouts.policies`.
        seed: of the environment and, in a stream of its own, of the policy.
        index: the episode's place in a store.
        max_steps: cut here; None: when the environment says so.
    """
    act = policy(env.action_space, np.random.default_rng([seed, 2]))
    frame, _ = env.reset(seed=seed)
    frames, actions, rewards = [frame], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        action = act(frame)
        frame, reward, terminated, truncated, _ = env.step(action)
        frames.append(frame)
        actions.append(action)
        rewards.append(reward)
        truncated = truncated or (max_steps is not None and len(actions) >= max_steps and not terminated)
    kind = np.int64 if isinstance(env.action_space, gymnasium.spaces.Discrete) else np.float32
    return Episode(
        np.stack(frames),
        np.asarray(actions, dtype=kind),
        np.asarray(rewards, dtype=np.float32),
        bool(terminated),
        bool(truncated),
        seed,
        index,
    )
