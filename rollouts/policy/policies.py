"""Policies for collecting rollouts.

Start reading at `Policy`. A policy is any picklable ``policy(action_space, rng) -> act``, called at the start of an episode,
with ``act(frame) -> action``. An `agents.Agent` is a policy, too.
"""

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np

from worldmodel import envs
from worldmodel.messages import did_you_mean

Act = Callable[[np.ndarray], Any]
"""Maps a frame (64, 64, 3) uint8, or a vector (n,) float32, to an action."""

DRIFT = 50**-0.5
"""Standard deviation of a random-walk step: the walk crosses the range [-1, 1] in about 50 steps."""
HOLD = 8
"""Average number of steps that a discrete action is repeated."""


class Policy(Protocol):
    """Starts an episode; the returned function holds all state and randomness."""

    def __call__(self, space: gymnasium.Space[Any], rng: np.random.Generator, /) -> Act:
        """Return the act function of one episode."""
        ...


def uniform(space: gymnasium.Space[Any], rng: np.random.Generator) -> Act:
    """Choose independent, uniformly random actions."""
    kind, size = envs.action_kind(space)
    if kind == "discrete":
        return lambda frame: int(rng.integers(size))
    return lambda frame: rng.uniform(-1, 1, size).astype(np.float32)


def smooth_random(space: gymnasium.Space[Any], rng: np.random.Generator) -> Act:
    """Choose actions by a random walk: Brownian and reflected at the bounds for a Box, repeated for a while if discrete.

    Independent random actions cancel out on average; correlated ones explore further.
    """
    kind, size = envs.action_kind(space)
    if kind == "discrete":
        current = int(rng.integers(size))

        def hold(frame: np.ndarray) -> int:
            nonlocal current
            if rng.random() < 1 / HOLD:
                current = int(rng.integers(size))
            return current

        return hold
    action = rng.uniform(-1, 1, size)

    def walk(frame: np.ndarray) -> np.ndarray:
        nonlocal action
        action = action + rng.normal(0, DRIFT, size)
        action = np.where(np.abs(action) > 1, np.sign(action) * 2 - action, action)
        return action.astype(np.float32)

    return walk


NAMES: dict[str, Policy] = {"smooth": smooth_random, "uniform": uniform, "random": uniform}
"""Policies by name; "random" is an alias of "uniform"."""


def resolve_policy(policy: Policy | str) -> Policy:
    """Return the policy itself, or the policy of a name.

    Raises:
        ValueError: The name is unknown, or the value is not callable.
    """
    if isinstance(policy, str):
        if policy not in NAMES:
            raise ValueError(f"policy must be one of {', '.join(NAMES)}, got {policy!r}{did_you_mean(policy, NAMES)}")
        return NAMES[policy]
    if not callable(policy):
        raise ValueError(f"policy must be a name or policy(action_space, rng), got {type(policy).__name__}")
    return policy


class MixturePolicy:
    """Plays each episode with one of several policies, drawn uniformly, for more varied rollouts.

    Args:
        policies: At least one policy or name.

    Raises:
        ValueError: There is none.
    """

    def __init__(self, *policies: Policy | str) -> None:
        if not policies:
            raise ValueError("policies must hold at least one policy, got none")
        self.policies = tuple(map(resolve_policy, policies))

    @property
    def name(self) -> str:
        """Names of all policies."""
        return f"mixed({', '.join(map(policy_name, self.policies))})"

    def __call__(self, space: gymnasium.Space[Any], rng: np.random.Generator) -> Act:
        """Draw a policy and start its episode."""
        return self.policies[int(rng.integers(len(self.policies)))](space, rng)


def policy_name(policy: Any) -> str:
    """Return the name of a policy in files and tables."""
    return str(getattr(policy, "name", "") or getattr(policy, "__name__", "") or type(policy).__name__)
