"""An agent: a world model, and a controller whose inputs are the latent and the hidden state.

Start reading at `Agent`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import gymnasium
import numpy as np
import torch

from worldmodel import WorldModel
from worldmodel.envs.dream_env import action_space
from worldmodel.io.files import array_digest, fingerprint
from worldmodel.io.paths import folder_path
from worldmodel.rng import Stream
from worldmodel.rollouts.episode import validate_frame
from worldmodel.rollouts.policy.actors import WorldModelActor
from worldmodel.rollouts.policy.controllers import Controller, validate_controller


@dataclass(frozen=True, eq=False)
class Agent:
    """A world model and a controller that act: encode the frame, compute the action, update the hidden state.

    `reset` starts an episode, `act` maps a frame to an action. An agent is also a policy for `rollouts.collect`:
    calling it with an action space and a generator returns the function from frames to actions for one episode.

    Args:
        world: World model.
        controller: Controller whose sizes match the world model's latent, hidden state and actions.
        action_noise: Standard deviation of the noise on Box actions, which stay in [-1, 1], or probability of a random
            discrete action. It varies collected rollouts.
        param_noise: Standard deviation of the noise on the controller's parameters. It is drawn once per episode, so the
            controller is deterministic within an episode.

    Raises:
        ValueError: The controller does not fit the world model, or a noise is negative or not finite.

    References:
        Plappert et al., Parameter Space Noise for Exploration, 2018, https://arxiv.org/abs/1706.01905.

    Example:
        >>> from worldmodel.rollouts.policy.controllers import LinearController
        >>> from worldmodel import VAE, FRMDN, Memory
        >>> world = WorldModel(VAE(), Memory(FRMDN(input_size=35, output_size=32)))
        >>> agent = Agent(world, LinearController.for_world_model(world))
        >>> agent.controller.size
        867
        >>> agent.reset(seed=0)
        >>> agent.act(np.zeros((64, 64, 3), np.uint8)).shape
        (3,)
    """

    world: WorldModel
    controller: Controller
    action_noise: float = 0.0
    param_noise: float = 0.0
    _actor: WorldModelActor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        validate_controller(self.controller, self.world)
        for name, value in (("action_noise", self.action_noise), ("param_noise", self.param_noise)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be zero or more and finite, got {value}")

    @property
    def name(self) -> str:
        """Identifier of the weights and the noise, for the metadata of a store."""
        weights = (
            fingerprint(self.world)[:8],
            array_digest(self.controller.parameters.numpy(), digits=8),
        )
        param_noise = f"-spread-{self.param_noise:g}" if self.param_noise else ""
        return f"agent-{'-'.join(weights)}-exploration-{self.action_noise:g}{param_noise}"

    def __call__(self, space: gymnasium.Space[Any], rng: np.random.Generator) -> Callable[[np.ndarray], Any]:
        """Start an episode; return the function from a frame or a vector to an action."""
        actor = self.batched_actor(space, [rng])
        actor.reset(0, 0)
        return lambda frame: actor.act(frame[None], [0])[0]

    def batched_actor(
        self,
        space: gymnasium.Space[Any],
        rngs: Sequence[np.random.Generator],
        rows: Sequence[int] | None = None,
        num_envs: int = 1,
    ) -> WorldModelActor:
        """Start many episodes, one for each generator; `rollouts.runner` computes their actions as one batch.

        Args:
            space: Action space.
            rngs: Generator of each episode.
            rows: Row of the batch for each episode (`rollouts.policy.actors.WorldModelActor`); None: any row.
            num_envs: Number of environments that run at the same time.
        """
        parameters = self.controller.parameters.expand(len(rngs), -1)
        if self.param_noise:
            noise = np.stack([rng.normal(0, self.param_noise, self.controller.size) for rng in rngs])
            parameters = parameters + torch.from_numpy(noise).to(parameters)
        return WorldModelActor(self.world, self.controller, parameters, space, num_envs, self.action_noise, rngs, rows)

    def reset(self, seed: int | None = None) -> None:
        """Start an episode with the initial hidden state.

        Args:
            seed: Seed of ``action_noise`` and ``param_noise``; a rollout with this policy seed has the same noise. None: a
                random seed.
        """
        space = action_space(self.world)
        actor = self.batched_actor(space, [np.random.default_rng(None if seed is None else [seed, Stream.NOISE])])
        actor.reset(0, 0)
        object.__setattr__(self, "_actor", actor)

    def act(self, frame: np.ndarray) -> Any:
        """Return the action at the next frame of an episode; the first call starts one if `reset` did not.

        Args:
            frame: Frame, uint8 (64, 64, 3), or a vector, float32 (n,), as `envs.make` shows it.

        Returns:
            A float32 array (action_dim,) in [-1, 1] for a Box space, an int for a discrete one.

        Raises:
            ValueError: The frame has another shape or dtype.
        """
        validate_frame(frame, self.world.observation_shape)
        if self._actor is None:
            self.reset()
        assert self._actor is not None
        action = self._actor.act(frame[None], [0])[0]
        return int(action) if self.world.discrete else action

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the present episode, for a copy in another process."""
        return self.__dict__ | {"_actor": None}

    def save(self, folder: str | os.PathLike[str], compact: bool = False) -> None:
        """Write the world model and ``controller.safetensors`` to a folder.

        Args:
            folder: Path of the folder.
            compact: Whether to write half precision, as in `WorldModel.save`.
        """
        self.world.save(folder, compact)
        self.controller.save(folder_path(folder, "folder") / "controller.safetensors")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read the files of `save`.

        Raises:
            ValueError: A file is missing or damaged, or the controller does not fit the world model.
        """
        return cls(WorldModel.load(folder), Controller.load(folder_path(folder, "folder") / "controller.safetensors"))
