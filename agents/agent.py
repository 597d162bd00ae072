"""An agent: a world model that sees and remembers, and a controller that acts on both."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
import torch

from agents.controller import LinearController
from rollouts.lockstep import check_actions
from worldmodel import WorldModel
from worldmodel.batches import frames_to_float
from worldmodel.checkpoints import fingerprint


@dataclass(frozen=True, eq=False)
class Agent:
    """Acts in the real game: encode the frame, act on (latent, hidden), remember both.

    It is also a policy for `rollouts.collect`: called with an action space and a generator at the start of an
    episode, it gives the function from frames to actions for that episode.

    Args:
        world: the world model.
        controller: fits the world model's latent, hidden and actions.
        exploration: standard deviation of noise added to Box actions (kept in [-1, 1]), or the probability of a random
            discrete action; for collecting varied rollouts.

    Example:
        >>> from worldmodel import VAE, FRMDN, Memory
        >>> world = WorldModel(VAE(), Memory(FRMDN(inputs=35, outputs=32)))
        >>> Agent(world, LinearController.sized(world)).controller.size
        867
    """

    world: WorldModel
    controller: LinearController
    exploration: float = 0.0

    def __post_init__(self) -> None:
        wanted = (self.world.features, self.world.actions)
        came = (self.controller.inputs, self.controller.actions)
        if wanted != came:
            raise ValueError(
                f"controller must have {wanted[0]} inputs and {wanted[1]} actions, got {came[0]} and {came[1]}"
            )
        if not self.exploration >= 0:
            raise ValueError(f"exploration must be zero or more, got {self.exploration}")

    @property
    def name(self) -> str:
        """Tells agents apart in the metadata of a store."""
        weights = (
            fingerprint(self.world)[:8],
            hashlib.sha256(self.controller.parameters.numpy().tobytes()).hexdigest()[:8],
        )
        return f"agent-{'-'.join(weights)}-exploration-{self.exploration:g}"

    def __call__(self, space: gymnasium.Space[Any], rng: np.random.Generator) -> Callable[[np.ndarray], Any]:
        """Begin an episode: the function from a frame (64, 64, 3) to an action."""
        check_actions(self.world, space)
        world = self.world.eval()
        state = world.initial(1)

        @torch.no_grad()
        def act(frame: np.ndarray) -> Any:
            nonlocal state
            latent = world.vae.encode(frames_to_float(torch.from_numpy(frame[None]))).loc
            action = world.squash(self.controller(torch.cat((latent, state.hidden), dim=-1)))
            if self.exploration:
                action = self._explore(action, rng)
            state = world.observe(state, latent, action)
            return int(action.argmax()) if world.discrete else action[0].numpy()

        return act

    def _explore(self, action: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        if not self.world.discrete:
            noise = torch.from_numpy(rng.normal(0, self.exploration, action.shape).astype(np.float32))
            return (action + noise).clamp(-1, 1)
        if rng.random() >= self.exploration:
            return action
        choice = torch.tensor([[int(rng.integers(self.world.actions))]])
        return torch.zeros_like(action).scatter_(-1, choice, 1.0)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a world model folder with ``controller.safetensors`` beside it."""
        self.world.save(folder)
        self.controller.save(Path(folder) / "controller.safetensors")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: a file is missing or damaged, or the controller does not fit the world model.
        """
        return cls(WorldModel.load(folder), LinearController.load(Path(folder) / "controller.safetensors"))
