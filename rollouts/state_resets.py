"""Episodes that begin along the way of another one, so that what lies behind an obstacle is practised before all get past it.

Start reading at `replay`. It needs an environment that remembers its state, such as `envs.mario.SuperMarioBros` and
`envs.fast_car_racing.FastCarRacing`.

References:
    Salimans and Chen, Learning Montezuma's Revenge from a Single Demonstration, 2018, https://arxiv.org/abs/1812.03381.
    Ecoffet, Huizinga, Lehman, Stanley and Clune, Go-Explore, 2019, https://arxiv.org/abs/1901.10995.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch

from worldmodel import WorldModel
from worldmodel.mdn_rnn import State


class Trajectory(NamedTuple):
    """An episode that was lived: enough to live it again, and the steps at which others shall begin."""

    seed: int
    actions: tuple[Any, ...]
    reset_steps: tuple[int, ...]
    """Steps, each below ``len(actions)``."""

    @classmethod
    def sample_resets(
        cls, seed: int, actions: tuple[Any, ...], num_resets: int, reset_horizon: int, rng: np.random.Generator
    ) -> "Trajectory":
        """The way of a life, with ``num_resets`` steps of it to begin at.

        A third of them, rounded down, is from its last ``reset_horizon`` steps, where it failed; the others are spread over all
        of it. Each is drawn from one of so many equal parts.
        """
        num_last, length = num_resets // 3, len(actions)
        first = max(0, length - reset_horizon)
        reset_steps = [
            *_stratified_steps(0, length, num_resets - num_last, rng),
            *_stratified_steps(first, length, num_last, rng),
        ]
        return cls(seed, actions, tuple(reset_steps))


def _stratified_steps(first: int, end: int, count: int, rng: np.random.Generator) -> list[int]:
    """So many steps from ``first`` to before ``end``, one from each of as many equal parts."""
    steps = first + ((np.arange(count) + rng.random(count)) / max(1, count) * (end - first)).astype(int)
    return [int(step) for step in steps]


class ResetState(NamedTuple):
    """Where a life may begin."""

    env_state: Any
    """What the environment's ``save_state`` gave."""
    frame: np.ndarray
    """What is seen there, (64, 64, 3) bytes."""
    memory: State
    """What a world model remembers there of the way; a batch of one."""


@runtime_checkable
class SupportsSnapshots(Protocol):
    """An environment, without its wrappers, that can go back to a moment of an episode after a reset with its seed."""

    def save_state(self) -> Any:
        """The present moment."""
        ...

    def load_state(self, snapshot: Any) -> Any:
        """Go on from a moment."""
        ...


def unwrap_snapshot_env(env: gymnasium.Env[Any, Any]) -> SupportsSnapshots:
    """The environment without its wrappers, if it can go back to a moment.

    Raises:
        ValueError: it has no ``save_state`` and ``load_state``.
    """
    inner = env.unwrapped
    if not isinstance(inner, SupportsSnapshots):
        raise ValueError(
            "num_state_resets needs an environment with save_state and load_state, such as FastCarRacing or Super Mario Bros, "
            f"got {inner}"
        )
    return inner


@torch.no_grad()
def replay(env: gymnasium.Env[Any, Any], world: WorldModel, trajectory: Trajectory) -> dict[int, ResetState]:
    """Go a way again; the moments at its steps ``trajectory.reset_steps``.

    Args:
        env: the environment in which the way was gone; its seed and its actions decide everything.
        world: sees and remembers, as it does for a controller.
        trajectory: what was done.
    """
    snapshot_env, last = unwrap_snapshot_env(env), max(trajectory.reset_steps)
    frame, _ = env.reset(seed=trajectory.seed)
    state, reset_states = world.initial(1), dict[int, ResetState]()
    for step, action in enumerate(trajectory.actions[: last + 1]):
        if step in trajectory.reset_steps:
            reset_states[step] = ResetState(snapshot_env.save_state(), frame, state.memory)
        if step < last:
            latent = world.encode(torch.from_numpy(frame)[None])
            state = world.observe(state, latent, world.action_inputs(np.asarray(action)[None]))
            frame, *_ = env.step(action)
    return reset_states


def restore(env: gymnasium.Env[Any, Any], reset_state: ResetState, seed: int) -> np.ndarray:
    """Let an environment go on from a moment of the episode with this seed; the frame that is seen there."""
    env.reset(seed=seed)  # lays the track that the moment is of; wrappers want it, too
    unwrap_snapshot_env(env).load_state(reset_state.env_state)
    return reset_state.frame
