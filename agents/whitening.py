"""The coordinates that evolution searches in: what a controller sees, decorrelated and closer to one scale.

CMA-ES begins with equal steps along all parameters. What a controller sees is far from equal: a hidden state has a large mean,
so that a step of its weights is mostly a step of the bias, and its numbers move together. Steps that are equal along
the principal components of what is seen change the actions equally, wherever they point.
"""

import hashlib
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from agents.controller import Controller, HiddenController
from worldmodel import WorldModel
from worldmodel.io import read_tensors, write_tensors
from worldmodel.start_states import EncodedEpisodes

FLOOR = 0.1
"""Directions with less than this share of the mean variance are not blown up to the full scale: they are mostly noise."""
EPISODES = 64
"""From at most so many episodes, spread over all, what is seen is learned."""


class Whitening:
    """A linear map between coordinates ``y`` of a search and a controller's parameters.

    With ``u = A^T (x - m)``, where m is the mean of what is seen and A whitens it, weights V and a bias c on u are weights
    ``V A^T`` and a bias ``c - V A^T m`` on x. Parameters of layers above the first are what they are.

    Args:
        controller: the family: its first layer is what is mapped.
        features: what was seen, (n, inputs or more) with n > 1; only the controller's inputs count.

    Raises:
        ValueError: the features have another shape, or are not finite.
    """

    def __init__(self, controller: Controller, features: Float[np.ndarray, "n features"]) -> None:
        self.num_inputs, self.size = controller.num_inputs, controller.size
        self.num_outputs = (
            controller.hidden_units if isinstance(controller, HiddenController) else controller.action_dim
        )
        features = np.asarray(features, dtype=np.float64)
        if (
            features.ndim != 2
            or len(features) < 2
            or features.shape[1] < self.num_inputs
            or not np.isfinite(features).all()
        ):
            raise ValueError(
                f"features must be finite, (n, {self.num_inputs} or more) with n > 1, got {features.shape}"
            )
        features = features[:, : self.num_inputs]
        variance, directions = np.linalg.eigh(np.cov(features, rowvar=False).reshape(self.num_inputs, self.num_inputs))
        scale = np.sqrt(np.maximum(variance, 0) + FLOOR * max(float(variance.mean()), 1e-12))
        self.mean: np.ndarray = features.mean(axis=0)
        """m, (inputs,)."""
        self.whitening: np.ndarray = directions / scale
        """A, (inputs, inputs): its columns are directions."""

    @classmethod
    @torch.no_grad()
    def fit(cls, world: WorldModel, episodes: EncodedEpisodes, controller: Controller) -> Self:
        """The coordinates in which what ``world`` makes of real, encoded episodes is decorrelated.

        Directions whose variance is far above a tenth of the mean one have a standard deviation of nearly 1, those far below
        it a small one: they are mostly noise.

        Raises:
            ValueError: there are not two steps in the episodes.
        """
        return cls(controller, controller_inputs(world, episodes, EPISODES).double().numpy())

    @classmethod
    def load_or_fit(cls, path: Path, world: WorldModel, episodes: EncodedEpisodes, controller: Controller) -> Self:
        """`fit` these episodes at the first call, and what that call wrote from then on: a search goes on in its own.

        Raises:
            ValueError: the file is damaged, or of another controller.
        """
        if path.exists():
            tensors = {name: tensor.numpy() for name, tensor in read_tensors(path).items()}
            shapes = {"mean": (controller.num_inputs,), "whitening": (controller.num_inputs, controller.num_inputs)}
            finite = all(np.isfinite(array).all() for array in tensors.values())
            if {name: array.shape for name, array in tensors.items()} != shapes or not finite:
                raise ValueError(f"{path} must hold the coordinates of {controller}; remove it to start again")
            again = cls(controller, np.eye(2, controller.num_inputs))
            again.mean, again.whitening = tensors["mean"], tensors["whitening"]
            return again
        path.parent.mkdir(parents=True, exist_ok=True)
        made = cls.fit(world, episodes, controller)
        write_tensors(path, {"mean": torch.from_numpy(made.mean), "whitening": torch.from_numpy(made.whitening)})
        return made

    @property
    def identity(self) -> str:
        """Tells searches in different coordinates apart."""
        return hashlib.sha256(self.mean.tobytes() + self.whitening.tobytes()).hexdigest()[:16]

    def whitened(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n inputs"]:
        """u: what a controller sees, in the directions of this search."""
        mean, whitening = (torch.from_numpy(part).to(features) for part in (self.mean, self.whitening))
        return (features[:, : self.num_inputs] - mean) @ whitening

    def to_parameters(self, y: Float[np.ndarray, "*population size"]) -> Float[np.ndarray, "*population size"]:
        """A controller's parameters at coordinates of the search."""
        weight, bias, rest = self._parts(y)
        weight = weight @ self.whitening.T
        return self._flat(weight, bias - weight @ self.mean, rest)

    def to_coordinates(
        self, parameters: Float[np.ndarray, "*population size"]
    ) -> Float[np.ndarray, "*population size"]:
        """Where in the search a controller's parameters are: the inverse of `to_parameters`."""
        weight, bias, rest = self._parts(parameters)
        return self._flat(
            np.linalg.solve(self.whitening, weight.swapaxes(-1, -2)).swapaxes(-1, -2), bias + weight @ self.mean, rest
        )

    def _parts(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first layer's weights and bias, and all parameters behind them."""
        weights = self.num_inputs * self.num_outputs
        weight = flat[..., :weights].reshape(*flat.shape[:-1], self.num_outputs, self.num_inputs)
        return weight, flat[..., weights : weights + self.num_outputs], flat[..., weights + self.num_outputs :]

    @staticmethod
    def _flat(weight: np.ndarray, bias: np.ndarray, rest: np.ndarray) -> np.ndarray:
        return np.concatenate((weight.reshape(*bias.shape[:-1], -1), bias, rest), axis=-1)


def controller_inputs(
    world: WorldModel, episodes: EncodedEpisodes, max_episodes: int
) -> Float[Tensor, "steps features"]:
    """What a controller sees in encoded episodes, step after step: in at most so many of them, spread over all."""
    step = max(1, -(-len(episodes) // max_episodes))
    found = [episode_inputs(world, episodes.episode(index)) for index in range(0, len(episodes), step)]
    return torch.cat(found or [torch.zeros(0, world.num_features)])


@torch.no_grad()
def episode_inputs(world: WorldModel, episode: Any) -> Float[Tensor, "steps features"]:
    """Latent and hidden of one encoded episode, step by step, as a controller sees them: the hidden state before the step."""
    like = next(world.memory.parameters())
    latent = torch.from_numpy(np.array(episode.mean, np.float32)).to(like)
    action = torch.from_numpy(np.array(episode.action, np.float32)).to(like)
    hidden = world.initial(1).hidden
    if len(action):
        after, _ = world.memory.unroll(latent[None, :-1], action[None])
        hidden = torch.cat((hidden, after[0]))
    return torch.cat((latent, hidden), dim=1).cpu()
