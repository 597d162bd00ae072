"""Controllers: small functions from the latent and the hidden state to an action.

Start reading at `LinearController`. A controller is a class (`LinearController`, `HiddenController`) and a flat vector of
parameters, which evolution optimizes.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel import WorldModel
from worldmodel.io.files import error_context, read_tensors, write_tensors
from worldmodel.rollouts.policy.controllers import linear_outputs, linear_size, mlp_outputs, mlp_size
from worldmodel.rollouts.policy.controllers import validate_controller as validate_controller
from worldmodel.validation import validate_positive_int

Inputs = Literal["z", "z+h"]


@dataclass(frozen=True, eq=False)
class Controller(ABC):
    """Base class of the controllers.

    A Box action is the tanh of the outputs, a discrete action their argmax (`WorldModel.squash`).

    Args:
        num_inputs: Number of inputs, the first values of ``(latent, hidden)`` (288 = 32 + 256 in the paper).
        action_dim: Number of outputs.
        parameters: Flat vector of parameters, (size,); None: zeros.

    Raises:
        ValueError: Sizes are below 1, or parameters have the wrong shape or are not finite.
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
        """Number of parameters."""

    @abstractmethod
    def outputs(
        self, parameters: Float[Tensor, "population size"], inputs: Float[Tensor, "population episodes inputs"]
    ) -> Float[Tensor, "population episodes actions"]:
        """Return the raw outputs of a population of this kind; only the first ``num_inputs`` inputs are used."""

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as safetensors, for `load_controller`."""

    def __call__(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch actions"]:
        """Return the raw outputs of this controller."""
        flat = inputs.reshape(1, -1, inputs.shape[-1])
        return self.outputs(self.parameters[None].to(inputs), flat)[0].view(*inputs.shape[:-1], self.action_dim)

    def with_parameters(self, parameters: np.ndarray | Tensor) -> Self:
        """Return the same kind of controller with other parameters."""
        return replace(self, parameters=torch.as_tensor(np.asarray(parameters)))


@dataclass(frozen=True, eq=False)
class LinearController(Controller):
    """A linear map with a bias, ``W x + b``. The parameters are W row by row, then b.

    Example:
        >>> LinearController(num_inputs=288, action_dim=3).size
        867

    References:
        Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 2.4).
    """

    @classmethod
    def for_world_model(cls, world: WorldModel, inputs: Inputs = "z+h") -> Self:
        """Return a controller with zero parameters; its inputs are the latent and the hidden state, or the latent alone."""
        return cls(num_inputs_of(world, inputs), world.action_dim)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return linear_size(self.num_inputs, self.action_dim)

    @property
    def weight(self) -> Float[Tensor, "actions inputs"]:
        """The matrix W."""
        return self.parameters[: self.num_inputs * self.action_dim].view(self.action_dim, self.num_inputs)

    @property
    def bias(self) -> Float[Tensor, "actions"]:
        """The vector b."""
        return self.parameters[self.num_inputs * self.action_dim :]

    def outputs(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """Return W x + b of a population."""
        return linear_outputs(parameters, inputs[..., : self.num_inputs])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as safetensors: ``weight`` (actions, inputs) and ``bias`` (actions,)."""
        write_tensors(path, {"weight": self.weight, "bias": self.bias})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read the file of `save`.

        Raises:
            ValueError: The file is missing, truncated, or not a linear controller.
        """
        found = load_controller(path)
        if not isinstance(found, cls):
            raise ValueError(f"{path} must hold a linear controller, got {found}")
        return found


@dataclass(frozen=True, eq=False)
class HiddenController(Controller):
    """A network with one hidden layer of ``hidden_units`` tanh units, ``W2 tanh(W1 x + b1) + b2``.

    The parameters are those of the first linear map, as in `LinearController`, then those of the second.

    Args:
        num_inputs, action_dim, parameters: As in `Controller`.
        hidden_units: Number of hidden units.

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
        """Return a controller with zero parameters; its inputs are the latent and the hidden state, or the latent alone."""
        return cls(num_inputs_of(world, inputs), world.action_dim, hidden_units=hidden_units)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return mlp_size(self.num_inputs, self.hidden_units, self.action_dim)

    def outputs(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """Return W2 tanh(W1 x + b1) + b2 of a population."""
        return mlp_outputs(parameters, inputs[..., : self.num_inputs], self.hidden_units)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as safetensors: ``hidden.weight``, ``hidden.bias``, ``weight`` and ``bias``."""
        first, second = self.parameters.split(
            (linear_size(self.num_inputs, self.hidden_units), linear_size(self.hidden_units, self.action_dim))
        )
        hidden, output = (
            LinearController(self.num_inputs, self.hidden_units, first),
            LinearController(self.hidden_units, self.action_dim, second),
        )
        tensors = {
            "hidden.weight": hidden.weight,
            "hidden.bias": hidden.bias,
            "weight": output.weight,
            "bias": output.bias,
        }
        write_tensors(path, tensors)


def num_inputs_of(world: WorldModel, inputs: Inputs) -> int:
    """Return the number of inputs of a controller: of ``(latent, hidden)``, or of the latent alone.

    Raises:
        ValueError: ``inputs`` is neither "z" nor "z+h".
    """
    if inputs not in ("z+h", "z"):
        raise ValueError(f"inputs must be 'z' or 'z+h', got {inputs!r}")
    return world.num_features if inputs == "z+h" else world.latent_dim


def load_controller(path: str | os.PathLike[str]) -> Controller:
    """Read a controller of any kind; no code in the file is executed.

    Raises:
        ValueError: The file is missing, truncated, or not a controller.
    """
    tensors = read_tensors(path)
    with error_context(path, wrap_value_errors=True):
        return _controller(path, tensors)


def _controller(path: str | os.PathLike[str], tensors: dict[str, Tensor]) -> Controller:
    output = _layer(tensors.get("weight"), tensors.get("bias"))
    if output is None or not set(tensors) <= {"weight", "bias", "hidden.weight", "hidden.bias"}:
        raise _not_a_controller(path, tensors)
    if "hidden.weight" not in tensors:
        return output
    hidden = _layer(tensors["hidden.weight"], tensors.get("hidden.bias"))
    if hidden is None or hidden.action_dim != output.num_inputs:
        raise _not_a_controller(path, tensors)
    return HiddenController(
        hidden.num_inputs,
        output.action_dim,
        torch.cat((hidden.parameters, output.parameters)),
        hidden_units=output.num_inputs,
    )


def _layer(weight: Tensor | None, bias: Tensor | None) -> LinearController | None:
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        return None
    return LinearController(weight.shape[1], weight.shape[0], torch.cat((weight.flatten(), bias)).float())


def _not_a_controller(path: str | os.PathLike[str], tensors: dict[str, Tensor]) -> ValueError:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return ValueError(f"{path} must hold weight (actions, inputs) and bias (actions,), got {shapes}")
