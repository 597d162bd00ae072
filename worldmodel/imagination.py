"""The loop of a dream: a policy acts, the model imagines the next step.

Start reading at `imagine`. Batched dreams (`rollouts.dream`), the dream environments (`envs.DreamEnv`), the page, videos and
comparisons use this loop.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from worldmodel.world_model import Noise, Step, WorldModel, WorldState

NOISE_BLOCK = 32
"""Number of steps for which noise is drawn at once."""
MIN_EXPONENTIAL = 1e-20
"""Lower bound of an exponential random number; the logarithm of zero is infinite."""


@runtime_checkable
class Imaginer(Protocol):
    """A model that imagines steps: `worldmodel.WorldModel` or `rollouts.ensemble.ModelEnsemble`."""

    def imagine_from(
        self,
        state: Any,
        action: Tensor,
        noise: Noise,
        temperature: float | Tensor = 1.0,
    ) -> tuple[Step, Any]:
        """Return the next step and the state after it."""
        ...


class Imagined(NamedTuple):
    """A step of a dream: the action, its result, the state after it, and the random numbers."""

    action: Float[Tensor, "batch actions"]
    step: Step
    state: Any
    noise: Noise

    def with_hazard_ratio(self, ratio: float) -> Step:
        """Return the step with the survival probability q ** ratio in place of q."""
        if ratio == 1:
            return self.step
        probability = 1 - (1 - self.step.termination) ** ratio
        return self.step._replace(termination=probability, terminated=self.noise.uniform < probability)


def imagine(
    model: Imaginer,
    state: Any,
    policy: Callable[[Any], Tensor] | Float[Tensor, "steps batch actions"],
    noise: Iterable[Noise],
    temperature: float | Tensor = 1.0,
    compile: bool = False,
) -> Iterator[Imagined]:
    """Imagine one step for each item of ``noise``; the caller decides where the dream ends.

    Args:
        model: World model or ensemble.
        state: State at which the dream starts, a `WorldState` or the state of an ensemble.
        policy: Function from the current state to actions (batch, actions), in the form that `WorldModel.squash` returns; or
            the actions of each step, an open loop.
        noise: Random numbers of each step, such as `sample_noise`.
        temperature: Sampling temperature above zero, one number or one for each dream.
        compile: Whether to compile the policy and the step with `torch.compile`.
    """
    act = _replay(policy) if isinstance(policy, Tensor) else policy

    def take_step(state: Any, noise: Noise) -> tuple[Tensor, Step, Any]:
        action = act(state)
        return action, *model.imagine_from(state, action, noise, temperature)

    take_step = torch.compile(take_step, dynamic=False) if compile else take_step
    for numbers in noise:
        imagined = Imagined(*take_step(state, numbers), numbers)
        state = imagined.state
        yield imagined


def _replay(actions: Tensor) -> Callable[[Any], Tensor]:
    """Return a policy that takes given actions (steps, batch, actions), one after another."""
    remaining = iter(actions)
    return lambda state: next(remaining)


def imagine_steps(
    world: WorldModel,
    state: WorldState,
    policy: Callable[[Any], Tensor] | Float[Tensor, "steps batch actions"],
    num_steps: int,
    temperature: float = 1.0,
    generator: Generator | None = None,
) -> Iterator[Imagined]:
    """Imagine ``num_steps`` steps with noise from ``generator``."""
    noise = itertools.islice(sample_noise(world, len(state.latent), generator), num_steps)
    return imagine(world, state, policy, noise, temperature)


def sample_noise(world: WorldModel, batch: int, generator: Generator | None = None) -> Iterator[Noise]:
    """Yield the random numbers of one step after another, without end. None: torch's default generator."""
    while True:
        yield world.noise(batch, generator)


class NoiseStreams(Iterator[Noise]):
    """The random numbers of a batch of dreams, each from its own generator.

    Args:
        world: World model.
        rngs: Generator of each dream.
    """

    def __init__(self, world: WorldModel, rngs: Sequence[np.random.Generator]) -> None:
        self.rngs = list(rngs)
        self._position = np.full(len(self.rngs), NOISE_BLOCK)
        """Step of each dream in its block of numbers."""
        like = next(world.memory.parameters())
        shapes = (*world.memory.density.noise_shapes, ())
        self._blocks = [like.new_empty(NOISE_BLOCK, len(self.rngs), *shape) for shape in shapes]

    def restart(self, dream: int, rng: np.random.Generator) -> None:
        """Give a dream another generator from the next step on."""
        self.rngs[dream], self._position[dream] = rng, NOISE_BLOCK

    def __next__(self) -> Noise:
        """Return the numbers of the next step."""
        for dream in np.flatnonzero(self._position == NOISE_BLOCK):
            rng, (gumbel, normal, uniform) = self.rngs[dream], (block.shape[2:] for block in self._blocks)
            exponential = rng.standard_exponential((NOISE_BLOCK, *gumbel), np.float32)
            drawn = (
                -np.log(np.maximum(exponential, MIN_EXPONENTIAL)),
                rng.standard_normal((NOISE_BLOCK, *normal), np.float32),
                rng.random((NOISE_BLOCK, *uniform), np.float32),
            )
            for block, numbers in zip(self._blocks, drawn, strict=True):
                block[:, dream] = torch.from_numpy(numbers)
            self._position[dream] = 0
        if (self._position == self._position[0]).all():  # dreams that started together: a copy is faster than an index
            noise = Noise(*(block[self._position[0]].clone() for block in self._blocks))
        else:
            steps, dreams = torch.from_numpy(self._position), torch.arange(len(self.rngs))
            noise = Noise(*(block[steps, dreams] for block in self._blocks))
        self._position += 1
        return noise
