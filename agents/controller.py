"""Controllers: small functions from what is seen (latent, hidden) to actions.

A controller is a kind (`LinearController`, `HiddenController`) and a flat vector of parameters, which evolution changes.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rollouts.controllers import linear_outputs, linear_size, mlp_outputs, mlp_size
from rollouts.controllers import validate_controller as validate_controller
from worldmodel import WorldModel
from worldmodel.io import error_context, read_tensors, write_tensors
from worldmodel.validation import validate_positive_int

Inputs = Literal["z", "z+h"]


@dataclass(frozen=True, eq=False)
class Controller(ABC):
    """What all controllers have in common.

    A Box action is tanh of the outputs, a discrete action their argmax (`WorldModel.squash`).

    Args:
        num_inputs: numbers seen: the first ones of latent and hidden (32 and 256 for the published sizes).
        action_dim: numbers put out.
        parameters: (size,); None: zeros.

    Raises:
        ValueError: sizes are below 1, or parameters have the wrong shape or are not finite.
    """

    num_inputs: int
    action_dim: int
    parameters: Float[Tensor, "size"] = field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        validate_positive_int(num_inputs=self.num_inputs, action_dim=self.action_dim)
        given = self.parameters
        parameters = torch.zeros(self.size) if given is None else torch.as_tensor(np.asarray(given)).float().clone()
        if parameters.shape != (self.size,):
            raise ValueError(f"parameters must have shape ({self.size},), got {tuple(parameters.shape)}")
        if not torch.isfinite(parameters).all():
            raise ValueError("parameters must be finite numbers, got NaN or infinity")
        object.__setattr__(self, "parameters", parameters)

    @property
    @abstractmethod
    def size(self) -> int:
        """How many parameters there are."""

    @abstractmethod
    def outputs(
        self, parameters: Float[Tensor, "population size"], features: Float[Tensor, "population lives features"]
    ) -> Float[Tensor, "population lives actions"]:
        """Raw outputs of a population of this kind; features beyond ``num_inputs`` are not seen."""

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as safetensors; `load_controller` reads them."""

    def __call__(self, features: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch actions"]:
        """This controller's raw outputs."""
        flat = features.reshape(1, -1, features.shape[-1])
        return self.outputs(self.parameters[None].to(features), flat)[0].view(*features.shape[:-1], self.action_dim)

    def with_parameters(self, parameters: np.ndarray | Tensor) -> Self:
        """The same kind of controller with other parameters."""
        return replace(self, parameters=torch.as_tensor(np.asarray(parameters)))


@dataclass(frozen=True, eq=False)
class LinearController(Controller):
    """A linear map with a bias to raw action outputs, ``W x + b``; its parameters are W row by row, then b.

    Example:
        >>> LinearController(num_inputs=288, action_dim=3).size
        867

    References:
        Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 2.4).
    """

    @classmethod
    def for_world_model(cls, world: WorldModel, inputs: Inputs = "z+h") -> Self:
        """A controller of zeros that fits a world model, and sees latent and hidden, or the latent alone."""
        return cls(num_inputs_of(world, inputs), world.action_dim)

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return linear_size(self.num_inputs, self.action_dim)

    @property
    def weight(self) -> Float[Tensor, "actions inputs"]:
        """W."""
        return self.parameters[: self.num_inputs * self.action_dim].view(self.action_dim, self.num_inputs)

    @property
    def bias(self) -> Float[Tensor, "actions"]:
        """The vector b."""
        return self.parameters[self.num_inputs * self.action_dim :]

    def outputs(self, parameters: Tensor, features: Tensor) -> Tensor:
        """W x + b for a whole population."""
        return linear_outputs(parameters, features[..., : self.num_inputs])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as safetensors: ``weight`` (actions, inputs) and ``bias`` (actions,)."""
        write_tensors(path, {"weight": self.weight, "bias": self.bias})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is missing, truncated, or not a linear controller.
        """
        found = load_controller(path)
        if not isinstance(found, cls):
            raise ValueError(f"{path} must hold a linear controller, got {found}")
        return found


@dataclass(frozen=True, eq=False)
class HiddenController(Controller):
    """A layer of ``hidden_units`` tanh units between what is seen and the outputs.

    Its parameters are those of the first linear map, as in `LinearController`, then those of the second.

    Example:
        >>> HiddenController(num_inputs=32, action_dim=3, hidden_units=16).size
        579
    """

    hidden_units: int = 16

    def __post_init__(self) -> None:
        validate_positive_int(hidden_units=self.hidden_units)
        super().__post_init__()

    @classmethod
    def for_world_model(cls, world: WorldModel, inputs: Inputs = "z+h", hidden_units: int = 16) -> Self:
        """A controller of zeros that fits a world model, and sees latent and hidden, or the latent alone."""
        return cls(num_inputs_of(world, inputs), world.action_dim, hidden_units=hidden_units)

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return mlp_size(self.num_inputs, self.hidden_units, self.action_dim)

    def outputs(self, parameters: Tensor, features: Tensor) -> Tensor:
        """W2 tanh(W1 x + b1) + b2 for a whole population."""
        return mlp_outputs(parameters, features[..., : self.num_inputs], self.hidden_units)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as safetensors: of the hidden layer, and ``weight`` and ``bias`` of the outputs."""
        first, second = self.parameters.split(
            (linear_size(self.num_inputs, self.hidden_units), linear_size(self.hidden_units, self.action_dim))
        )
        below, above = (
            LinearController(self.num_inputs, self.hidden_units, first),
            LinearController(self.hidden_units, self.action_dim, second),
        )
        tensors = {"hidden.weight": below.weight, "hidden.bias": below.bias, "weight": above.weight, "bias": above.bias}
        write_tensors(path, tensors)


def num_inputs_of(world: WorldModel, inputs: Inputs) -> int:
    """How many numbers a controller sees."""
    if inputs not in ("z+h", "z"):
        raise ValueError(f"inputs must be 'z' or 'z+h', got {inputs!r}")
    return world.num_features if inputs == "z+h" else world.latent_dim


def load_controller(path: str | os.PathLike[str]) -> Controller:
    """Read a controller of any kind; nothing in the file is executed.

    Raises:
        ValueError: the file is missing, truncated, or not a controller.
    """
    tensors = read_tensors(path)
    with error_context(path, wrap_value_errors=True):
        return _controller(path, tensors)


def _controller(path: str | os.PathLike[str], tensors: dict[str, Tensor]) -> Controller:
    above = _layer(tensors.get("weight"), tensors.get("bias"))
    if above is None or not set(tensors) <= {"weight", "bias", "hidden.weight", "hidden.bias"}:
        raise _foreign(path, tensors)
    if "hidden.weight" not in tensors:
        return above
    below = _layer(tensors["hidden.weight"], tensors.get("hidden.bias"))
    if below is None or below.action_dim != above.num_inputs:
        raise _foreign(path, tensors)
    return HiddenController(
        below.num_inputs,
        above.action_dim,
        torch.cat((below.parameters, above.parameters)),
        hidden_units=above.num_inputs,
    )


def _layer(weight: Tensor | None, bias: Tensor | None) -> LinearController | None:
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        return None
    return LinearController(weight.shape[1], weight.shape[0], torch.cat((weight.flatten(), bias)).float())


def _foreign(path: str | os.PathLike[str], tensors: dict[str, Tensor]) -> ValueError:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return ValueError(f"{path} must hold weight (actions, inputs) and bias (actions,), got {found}")
