"""Controllers: small functions from what is seen (latent, hidden) to actions."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rollouts.controllers import linear_outputs, linear_size
from worldmodel import WorldModel
from worldmodel.checkpoints import read_tensors, write_tensors


@dataclass(frozen=True, eq=False)
class LinearController:
    """A linear map with a bias from (latent, hidden) to raw action outputs: ``W x + b``.

    A Box action is tanh of the outputs, a discrete action their argmax (`WorldModel.squash`).

    Args:
        inputs: numbers seen (32 latents and 256 hidden for the published sizes).
        actions: numbers put out.
        parameters: (size,): W row by row, then b; None: zeros.

    Example:
        >>> LinearController(inputs=288, actions=3).size
        867

    References:
        Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 2.4).
    """

    inputs: int
    actions: int
    parameters: Float[Tensor, "size"] = field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.inputs < 1 or self.actions < 1:
            raise ValueError(f"inputs and actions must be at least 1, got {self.inputs} and {self.actions}")
        given = self.parameters
        parameters = torch.zeros(self.size) if given is None else torch.as_tensor(np.asarray(given)).float().clone()
        if parameters.shape != (self.size,):
            raise ValueError(f"parameters must have shape ({self.size},), got {tuple(parameters.shape)}")
        if not torch.isfinite(parameters).all():
            raise ValueError("parameters must be finite numbers, got NaN or infinity")
        object.__setattr__(self, "parameters", parameters)

    @classmethod
    def sized(cls, world: WorldModel) -> Self:
        """A controller of zeros that fits a world model."""
        return cls(world.features, world.actions)

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return linear_size(self.inputs, self.actions)

    outputs = staticmethod(linear_outputs)

    def __call__(self, features: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch actions"]:
        """This controller's raw outputs."""
        flat = features.reshape(1, -1, features.shape[-1])
        return self.outputs(self.parameters[None].to(features), flat)[0].view(*features.shape[:-1], self.actions)

    def having(self, parameters: np.ndarray | Tensor) -> Self:
        """The same kind of controller with other parameters."""
        return type(self)(self.inputs, self.actions, torch.as_tensor(np.asarray(parameters)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as safetensors: ``weight`` (actions, inputs) and ``bias`` (actions,)."""
        weight = self.parameters[: self.inputs * self.actions].view(self.actions, self.inputs)
        write_tensors(path, {"weight": weight, "bias": self.parameters[self.inputs * self.actions :]})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is missing, truncated, or not a linear controller.
        """
        tensors = read_tensors(Path(path))
        weight, bias = tensors.get("weight"), tensors.get("bias")
        if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise ValueError(f"{path} must hold weight (actions, inputs) and bias (actions,), got {found}")
        return cls(weight.shape[1], weight.shape[0], torch.cat((weight.flatten(), bias)).float())
