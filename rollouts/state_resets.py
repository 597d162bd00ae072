"""Episodes that start along the trajectory of another episode, such as behind an obstacle that few controllers pass.

Start reading at `replay`. It needs an environment that can save its state, such as `envs.mario.env.SuperMarioBros` and
`envs.car_racing.fast_env.FastCarRacing`.

References:
    Salimans and Chen, Learning Montezuma's Revenge from a Single Demonstration, 2018, https://arxiv.org/abs/1812.03381.
    Ecoffet, Huizinga, Lehman, Stanley and Clune, Go-Explore, 2019, https://arxiv.org/abs/1901.10995.
"""

import contextlib
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch

from worldmodel import WorldModel
from worldmodel.mdn_rnn import State
from worldmodel.rollouts.env_cache import EnvSpec, open_env


class Trajectory(NamedTuple):
    """A played episode, with what is needed to replay it, and the steps at which other episodes start."""

    seed: int
    actions: tuple[Any, ...]
    reset_steps: tuple[int, ...]
    """Steps at which episodes start, each below ``len(actions)``."""

    @classmethod
    def sample_resets(
        cls, seed: int, actions: tuple[Any, ...], num_resets: int, reset_horizon: int, rng: np.random.Generator
    ) -> "Trajectory":
        """Return a trajectory with ``num_resets`` reset steps.

        A third of them, rounded down, is from the last ``reset_horizon`` steps, where the episode failed; the others are
        from the whole episode. Each part is divided into equal strata, and one step is drawn from each.
        """
        num_last, length = num_resets // 3, len(actions)
        first = max(0, length - reset_horizon)
        reset_steps = [
            *_stratified_steps(0, length, num_resets - num_last, rng),
            *_stratified_steps(first, length, num_last, rng),
        ]
        return cls(seed, actions, tuple(reset_steps))


def _stratified_steps(first: int, end: int, count: int, rng: np.random.Generator) -> list[int]:
    """Draw ``count`` steps from ``first`` to before ``end``, one from each of ``count`` equal strata."""
    steps = first + ((np.arange(count) + rng.random(count)) / max(1, count) * (end - first)).astype(int)
    return [int(step) for step in steps]


class ResetState(NamedTuple):
    """A state at which an episode can start."""

    env_state: Any
    """Snapshot of the environment's ``save_state``."""
    frame: np.ndarray
    """Frame of this state, (64, 64, 3) uint8."""
    memory: State
    """Memory state of the world model after the steps before; batch size 1."""


@runtime_checkable
class SupportsSnapshots(Protocol):
    """An unwrapped environment that can restore a state of an episode, after a reset with the episode's seed."""

    def save_state(self) -> Any:
        """Return a snapshot of the current state."""
        ...

    def load_state(self, snapshot: Any) -> Any:
        """Continue from a snapshot."""
        ...


def unwrap_snapshot_env(env: gymnasium.Env[Any, Any]) -> SupportsSnapshots:
    """Return the environment without its wrappers, if it can restore states.

    Raises:
        ValueError: It has no ``save_state`` and ``load_state``.
    """
    inner = env.unwrapped
    if not isinstance(inner, SupportsSnapshots):
        raise ValueError(
            "state resets need an environment with save_state and load_state, such as FastCarRacing or Super Mario Bros, "
            f"got {inner}"
        )
    return inner


def validate_state_resets(env: EnvSpec, options: dict[str, Any]) -> None:
    """Raise a ValueError if the environment cannot restore states."""
    with contextlib.closing(open_env(env, options)) as game:
        unwrap_snapshot_env(game)


@torch.no_grad()
def replay(env: gymnasium.Env[Any, Any], world: WorldModel, trajectory: Trajectory) -> dict[int, ResetState]:
    """Replay a trajectory.

    Args:
        env: Environment of the trajectory; it must be deterministic given its seed and actions.
        world: World model that encodes the frames and updates its memory, as for a controller.
        trajectory: Seed, actions and reset steps.

    Returns:
        States by reset step, ``trajectory.reset_steps``.

    Raises:
        ValueError: The environment cannot restore states.
    """
    snapshot_env, last = unwrap_snapshot_env(env), max(trajectory.reset_steps)
    frame, _ = env.reset(seed=trajectory.seed)
    memory, reset_states = world.initial(1), dict[int, ResetState]()
    for step, action in enumerate(trajectory.actions[: last + 1]):
        if step in trajectory.reset_steps:
            reset_states[step] = ResetState(snapshot_env.save_state(), frame, memory)
        if step < last:
            latent = world.encode(torch.from_numpy(frame)[None])
            memory = world.observe(memory, latent, world.action_inputs(np.asarray(action)[None]))
            frame, *_ = env.step(action)
    return reset_states


def restore(env: gymnasium.Env[Any, Any], reset_state: ResetState, seed: int) -> np.ndarray:
    """Restore a state of the episode with this seed in an environment; return the state's frame."""
    env.reset(seed=seed)  # generates the track of the saved state; wrappers need it, too
    unwrap_snapshot_env(env).load_state(reset_state.env_state)
    return reset_state.frame
