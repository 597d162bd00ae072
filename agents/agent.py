"""An agent: a world model that sees and remembers, and a controller that acts on both."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import gymnasium
import numpy as np
import torch

from agents.controller import Controller, load_controller, validate_controller
from rollouts.actors import WorldModelActor
from worldmodel import WorldModel
from worldmodel.io import fingerprint
from worldmodel.paths import folder_path


@dataclass(frozen=True, eq=False)
class Agent:
    """Acts in the real game: encode the frame, act on (latent, hidden), remember both.

    It is also a policy for `rollouts.collect`: called with an action space and a generator at the start of an
    episode, it gives the function from frames to actions for that episode.

    Args:
        world: the world model.
        controller: fits the world model's latent, hidden and actions.
        action_noise: standard deviation of noise added to Box actions (kept in [-1, 1]), or the probability of a random
            discrete action; for collecting varied rollouts.
        param_noise: standard deviation of noise added to the controller's parameters, drawn anew for each episode: as
            varied, but
            each episode is played by one controller that knows what it wants (parameter noise; Plappert and others,
            2018, https://arxiv.org/abs/1706.01905).

    Example:
        >>> from agents.controller import LinearController
        >>> from worldmodel import VAE, FRMDN, Memory
        >>> world = WorldModel(VAE(), Memory(FRMDN(input_size=35, output_size=32)))
        >>> Agent(world, LinearController.sized(world)).controller.size
        867
    """

    world: WorldModel
    controller: Controller
    action_noise: float = 0.0
    param_noise: float = 0.0

    def __post_init__(self) -> None:
        validate_controller(self.controller, self.world)
        for name, value in (("action_noise", self.action_noise), ("param_noise", self.param_noise)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be zero or more and finite, got {value}")

    @property
    def name(self) -> str:
        """Tells agents apart in the metadata of a store."""
        weights = (
            fingerprint(self.world)[:8],
            hashlib.sha256(self.controller.parameters.numpy().tobytes()).hexdigest()[:8],
        )
        param_noise = f"-spread-{self.param_noise:g}" if self.param_noise else ""
        return f"agent-{'-'.join(weights)}-exploration-{self.action_noise:g}{param_noise}"

    def __call__(self, space: gymnasium.Space[Any], rng: np.random.Generator) -> Callable[[np.ndarray], Any]:
        """Begin an episode: the function from a frame (64, 64, 3) to an action."""
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
        """Begin many episodes: `rollouts.runner` acts in them as one batch."""
        parameters = self.controller.parameters.expand(len(rngs), -1)
        if self.param_noise:
            noise = np.stack([rng.normal(0, self.param_noise, self.controller.size) for rng in rngs])
            parameters = parameters + torch.from_numpy(noise).to(parameters)
        return WorldModelActor(self.world, self.controller, parameters, space, num_envs, self.action_noise, rngs, rows)

    def save(self, folder: str | os.PathLike[str], compact: bool = False) -> None:
        """Write a world model folder with ``controller.safetensors`` beside it; ``compact``: see `WorldModel.save`."""
        self.world.save(folder, compact)
        self.controller.save(folder_path(folder, "folder") / "controller.safetensors")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: a file is missing or damaged, or the controller does not fit the world model.
        """
        return cls(WorldModel.load(folder), load_controller(folder_path(folder, "folder") / "controller.safetensors"))
