"""Policies for collecting: called at the start of an episode, they give the function that acts in it.

A policy is any picklable ``policy(action_space, rng) -> act``, with ``act(frame) -> action``; `agents.Agent` is one too.
"""

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np

import envs
from worldmodel.suggestions import did_you_mean

Act = Callable[[np.ndarray], Any]
"""From a frame (64, 64, 3) of bytes to an action."""

DRIFT = 50**-0.5
"""Standard deviation of a step of the random walk: across the whole range in about 50 steps."""
HOLD = 8
"""Steps that a discrete action is held, on average."""


class Policy(Protocol):
    """Begins an episode: all of its state and randomness live in the function it returns."""

    def __call__(self, space: gymnasium.Space[Any], rng: np.random.Generator, /) -> Act:
        """The function that acts in one episode."""
        ...


def uniform(space: gymnasium.Space[Any], rng: np.random.Generator) -> Act:
    """Independent, uniformly random actions."""
    kind, size = envs.action_kind(space)
    if kind == "discrete":
        return lambda frame: int(rng.integers(size))
    return lambda frame: rng.uniform(-1, 1, size).astype(np.float32)


def smooth_random(space: gymnasium.Space[Any], rng: np.random.Generator) -> Act:
    """A random walk through the actions: Brownian and reflected at the bounds for a Box, held for a while if discrete.

    Independent random actions cancel each other out; these lead to places.
    """
    kind, size = envs.action_kind(space)
    if kind == "discrete":
        held = int(rng.integers(size))

        def hold(frame: np.ndarray) -> int:
            nonlocal held
            if rng.random() < 1 / HOLD:
                held = int(rng.integers(size))
            return held

        return hold
    action = rng.uniform(-1, 1, size)

    def walk(frame: np.ndarray) -> np.ndarray:
        nonlocal action
        action = action + rng.normal(0, DRIFT, size)
        action = np.where(np.abs(action) > 1, np.sign(action) * 2 - action, action)
        return action.astype(np.float32)

    return walk


NAMES: dict[str, Policy] = {"smooth": smooth_random, "uniform": uniform, "random": uniform}
"""Policies that have a name; "random" is another one of "uniform"."""


def resolve_policy(policy: Policy | str) -> Policy:
    """The policy itself, or the one of a name.

    Raises:
        ValueError: there is none of that name, or what came is no policy.
    """
    if isinstance(policy, str):
        if policy not in NAMES:
            raise ValueError(f"policy must be one of {', '.join(NAMES)}, got {policy!r}{did_you_mean(policy, NAMES)}")
        return NAMES[policy]
    if not callable(policy):
        raise ValueError(f"policy must be a name or policy(action_space, rng), got {type(policy).__name__}")
    return policy


class MixturePolicy:
    """Each episode is played by one of several policies, drawn evenly: for rollouts that show more than one way to live.

    Args:
        policies: at least one; names, too.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, *policies: Policy | str) -> None:
        if not policies:
            raise ValueError("policies must hold at least one policy, got none")
        self.policies = tuple(map(resolve_policy, policies))

    @property
    def name(self) -> str:
        """The names of all of them."""
        return f"mixed({', '.join(map(policy_name, self.policies))})"

    def __call__(self, space: gymnasium.Space[Any], rng: np.random.Generator) -> Act:
        """Draw who plays, and begin."""
        return self.policies[int(rng.integers(len(self.policies)))](space, rng)


def policy_name(policy: Any) -> str:
    """What to call a policy in files and tables."""
    return str(getattr(policy, "name", "") or getattr(policy, "__name__", "") or type(policy).__name__)
