"""Episodes that begin along the way of another one, so that what lies behind an obstacle is practised before all get past it.

Start reading at `retrace`. It needs an environment that remembers its state, such as `envs.mario.SuperMarioBros` and
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


class Way(NamedTuple):
    """An episode that was lived: enough to live it again, and the steps at which others shall begin."""

    seed: int
    actions: tuple[Any, ...]
    at: tuple[int, ...]
    """Steps, each below ``len(actions)``."""

    @classmethod
    def of(cls, seed: int, actions: tuple[Any, ...], count: int, stretch: int, rng: np.random.Generator) -> "Way":
        """The way of a life, with ``count`` steps of it to begin at.

        A third of them, rounded down, is from its last ``stretch`` steps, where it failed; the others are spread over all
        of it. Each is drawn from one of so many equal parts.
        """
        last, length = count // 3, len(actions)
        begin = max(0, length - stretch)
        at = [*_spread(0, length, count - last, rng), *_spread(begin, length, last, rng)]
        return cls(seed, actions, tuple(at))


def _spread(begin: int, end: int, count: int, rng: np.random.Generator) -> list[int]:
    """So many steps from ``begin`` to before ``end``, one from each of as many equal parts."""
    steps = begin + ((np.arange(count) + rng.random(count)) / max(1, count) * (end - begin)).astype(int)
    return [int(step) for step in steps]


class Moment(NamedTuple):
    """Where a life may begin."""

    snapshot: Any
    """What the environment's ``save_state`` gave."""
    frame: np.ndarray
    """What is seen there, (64, 64, 3) bytes."""
    memory: State
    """What a world model remembers there of the way; a batch of one."""


@runtime_checkable
class Remembers(Protocol):
    """An environment, without its wrappers, that can go back to a moment of an episode after a reset with its seed."""

    def save_state(self) -> Any:
        """The present moment."""
        ...

    def load_state(self, snapshot: Any) -> Any:
        """Go on from a moment."""
        ...


def check_remembers(game: gymnasium.Env[Any, Any]) -> Remembers:
    """The environment without its wrappers, if it can go back to a moment.

    Raises:
        ValueError: it has no ``save_state`` and ``load_state``.
    """
    inner = game.unwrapped
    if not isinstance(inner, Remembers):
        raise ValueError(
            "moments needs an environment with save_state and load_state, such as FastCarRacing or Super Mario Bros, "
            f"got {inner}"
        )
    return inner


@torch.no_grad()
def retrace(game: gymnasium.Env[Any, Any], world: WorldModel, way: Way) -> dict[int, Moment]:
    """Go a way again; the moments at its steps ``way.at``.

    Args:
        game: the environment in which the way was gone; its seed and its actions decide everything.
        world: sees and remembers, as it does for a controller.
        way: what was done.
    """
    remembers, last = check_remembers(game), max(way.at)
    frame, _ = game.reset(seed=way.seed)
    state, moments = world.initial(1), dict[int, Moment]()
    for step, action in enumerate(way.actions[: last + 1]):
        if step in way.at:
            moments[step] = Moment(remembers.save_state(), frame, state.memory)
        if step < last:
            latent = world.encode(torch.from_numpy(frame)[None])
            state = world.observe(state, latent, world.action_inputs(np.asarray(action)[None]))
            frame, *_ = game.step(action)
    return moments


def go_to(game: gymnasium.Env[Any, Any], moment: Moment, seed: int) -> np.ndarray:
    """Let an environment go on from a moment of the episode with this seed; the frame that is seen there."""
    game.reset(seed=seed)  # lays the track that the moment is of; wrappers want it, too
    check_remembers(game).load_state(moment.snapshot)
    return moment.frame
