"""Search coordinates of evolution in which the inputs of a controller are whitened.

Start reading at `Whitening`. CMA-ES starts with equal steps along all coordinates. Controller inputs have different scales
and are correlated; a hidden state has a large mean, so a step of its weights mostly shifts the bias. Along the scaled
principal components of the inputs, equal steps change the actions equally.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel import WorldModel
from worldmodel.io.files import array_digest, read_tensors, write_tensors
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.start_states import EncodedEpisodes

RIDGE = 0.1
"""Fraction of the mean variance that is added to each variance. Directions far below it are mostly noise and stay small."""
MIN_VARIANCE = 1e-12
"""Smallest mean variance, for inputs that do not vary."""
EPISODES = 64
"""Maximal number of episodes that `Whitening.fit` uses, evenly spaced over all episodes."""


class Whitening:
    """A linear map between coordinates ``y`` of a search and the parameters of a controller.

    Inputs x are whitened to ``u = A^T (x - m)``. Weights V and a bias c on u are equal to weights ``V A^T`` and a bias
    ``c - V A^T m`` on x. Only the first layer is mapped.

    Args:
        controller: Controller of the kind that is evolved.
        mean: m, (inputs,).
        matrix: A, (inputs, inputs); its columns are directions.
    """

    def __init__(
        self, controller: Controller, mean: Float[np.ndarray, "inputs"], matrix: Float[np.ndarray, "inputs inputs"]
    ) -> None:
        self.num_inputs, self.size = controller.num_inputs, controller.size
        self.num_outputs = controller.first_layer_size
        self.mean, self.matrix = mean, matrix

    @classmethod
    def from_inputs(cls, controller: Controller, inputs: Float[np.ndarray, "n features"]) -> Self:
        """Fit the whitening to samples of the inputs.

        A direction with variance v gets the variance ``v / (v + 0.1 mean(v))``: nearly 1 for large v, small for
        directions that are mostly noise.

        Args:
            controller: Controller of the kind that is evolved.
            inputs: Samples, (n, num_inputs or more) with n > 1; only the first ``num_inputs`` are used.

        Raises:
            ValueError: The inputs have another shape, or are not finite.
        """
        samples, count = np.asarray(inputs, dtype=np.float64), controller.num_inputs
        if samples.ndim != 2 or len(samples) < 2 or samples.shape[1] < count or not np.isfinite(samples).all():
            raise ValueError(f"inputs must be finite, (n, {count} or more) with n > 1, got {samples.shape}")
        samples = samples[:, :count]
        variance, directions = np.linalg.eigh(np.cov(samples, rowvar=False).reshape(count, count))
        scale = np.sqrt(np.maximum(variance, 0) + RIDGE * max(float(variance.mean()), MIN_VARIANCE))
        return cls(controller, samples.mean(axis=0), directions / scale)

    @classmethod
    @torch.no_grad()
    def fit(cls, world: WorldModel, episodes: EncodedEpisodes, controller: Controller) -> Self:
        """Fit the whitening to the controller inputs of real, encoded episodes.

        Raises:
            ValueError: The episodes have fewer than two steps.
        """
        return cls.from_inputs(controller, controller_inputs(world, episodes, EPISODES).double().numpy())

    @classmethod
    def load_or_fit(cls, path: Path, world: WorldModel, episodes: EncodedEpisodes, controller: Controller) -> Self:
        """Read the whitening of a resumed search from a file, or `fit` and write it if the file does not exist.

        Raises:
            ValueError: The file is damaged, or belongs to another controller.
        """
        if path.exists():
            tensors = {name: tensor.numpy() for name, tensor in read_tensors(path).items()}
            shapes = {"mean": (controller.num_inputs,), "whitening": (controller.num_inputs, controller.num_inputs)}
            finite = all(np.isfinite(array).all() for array in tensors.values())
            if {name: array.shape for name, array in tensors.items()} != shapes or not finite:
                raise ValueError(f"{path} must hold the whitening of {controller}; remove it to start again")
            return cls(controller, tensors["mean"], tensors["whitening"])
        path.parent.mkdir(parents=True, exist_ok=True)
        fitted = cls.fit(world, episodes, controller)
        write_tensors(path, {"mean": torch.from_numpy(fitted.mean), "whitening": torch.from_numpy(fitted.matrix)})
        return fitted

    @property
    def identity(self) -> str:
        """Hash of the map; a resumed search must have the same."""
        return array_digest(self.mean, self.matrix)

    def whitened(self, inputs: Float[Tensor, "n features"]) -> Float[Tensor, "n inputs"]:
        """Return the whitened inputs ``u = A^T (x - m)``."""
        mean, matrix = (torch.from_numpy(part).to(inputs) for part in (self.mean, self.matrix))
        return (inputs[:, : self.num_inputs] - mean) @ matrix

    def to_parameters(self, y: Float[np.ndarray, "*population size"]) -> Float[np.ndarray, "*population size"]:
        """Convert coordinates of the search to parameters of the controller."""
        weight, bias, rest = self._parts(y)
        weight = weight @ self.matrix.T
        return self._flat(weight, bias - weight @ self.mean, rest)

    def to_coordinates(
        self, parameters: Float[np.ndarray, "*population size"]
    ) -> Float[np.ndarray, "*population size"]:
        """Convert parameters of the controller to coordinates of the search: the inverse of `to_parameters`."""
        weight, bias, rest = self._parts(parameters)
        return self._flat(
            np.linalg.solve(self.matrix, weight.swapaxes(-1, -2)).swapaxes(-1, -2), bias + weight @ self.mean, rest
        )

    def _parts(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the weights and the bias of the first layer, and all other parameters."""
        weights = self.num_inputs * self.num_outputs
        weight = flat[..., :weights].reshape(*flat.shape[:-1], self.num_outputs, self.num_inputs)
        return weight, flat[..., weights : weights + self.num_outputs], flat[..., weights + self.num_outputs :]

    @staticmethod
    def _flat(weight: np.ndarray, bias: np.ndarray, rest: np.ndarray) -> np.ndarray:
        return np.concatenate((weight.reshape(*bias.shape[:-1], -1), bias, rest), axis=-1)


def controller_inputs(
    world: WorldModel, episodes: EncodedEpisodes, max_episodes: int
) -> Float[Tensor, "steps features"]:
    """Return the controller inputs at all steps of at most ``max_episodes`` encoded episodes, evenly spaced over all."""
    step = max(1, -(-len(episodes) // max_episodes))
    inputs = [episode_inputs(world, episodes.episode(index)) for index in range(0, len(episodes), step)]
    return torch.cat(inputs or [torch.zeros(0, world.num_features)])


@torch.no_grad()
def episode_inputs(world: WorldModel, episode: Any) -> Float[Tensor, "steps features"]:
    """Return the controller inputs at each step of an encoded episode: the latent, and the hidden state before the step."""
    parameter = next(world.memory.parameters())
    latent = torch.from_numpy(np.array(episode.mean, np.float32)).to(parameter)
    action = torch.from_numpy(np.array(episode.action, np.float32)).to(parameter)
    hidden = world.initial(1).hidden[:, -1]
    if len(action):
        after, _ = world.memory.unroll(latent[None, :-1], action[None])
        hidden = torch.cat((hidden, after[0, :, : world.hidden_size]))
    return torch.cat((latent, hidden), dim=1).cpu()
