"""Controllers: small functions from the latent and the hidden state to an action.

Start reading at `Controller`. Here, and only here, flat parameters become actions. P parameter vectors compute the actions of
P x N episodes as one tensor operation, in dreams and in environments.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel import WorldModel
from worldmodel.io.files import error_context, read_tensors, write_tensors
from worldmodel.validation import validate_positive_int


@dataclass(frozen=True, eq=False)
class Controller(ABC):
    """Base class of the controllers: a kind of controller, and the parameters of one or of a population.

    A Box action is the tanh of the outputs, a discrete action their argmax (`WorldModel.squash`).

    Args:
        num_inputs: Number of inputs, the first values of ``(latent, hidden)`` (288 = 32 + 256 in the paper).
        action_dim: Number of outputs.
        parameters: Flat vector of parameters, (size,), or those of a population, (P, size); None: zeros.

    Raises:
        ValueError: Sizes are below 1, or parameters have the wrong shape or are not finite.
    """

    num_inputs: int
    action_dim: int
    parameters: Float[Tensor, "*population size"] = field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        validate_positive_int(num_inputs=self.num_inputs, action_dim=self.action_dim)
        given = self.parameters
        parameters = torch.zeros(self.size) if given is None else torch.as_tensor(np.asarray(given)).float().clone()
        if parameters.ndim not in (1, 2) or parameters.shape[-1] != self.size:
            raise ValueError(
                f"parameters must have shape ({self.size},) or (P, {self.size}), got {tuple(parameters.shape)}"
            )
        if not torch.isfinite(parameters).all():
            raise ValueError("parameters must be finite numbers, got NaN or infinity")
        object.__setattr__(self, "parameters", parameters)

    @classmethod
    def for_world_model(cls, world: WorldModel, inputs: Literal["z", "z+h"] = "z+h", **settings: Any) -> Self:
        """Return a controller with zero parameters.

        Args:
            world: World model.
            inputs: Inputs: "z+h", the latent and the hidden state, or "z", the latent alone.
            settings: Further arguments, such as ``hidden_units``.
        """
        if inputs not in ("z+h", "z"):
            raise ValueError(f"inputs must be 'z' or 'z+h', got {inputs!r}")
        return cls(world.num_features if inputs == "z+h" else world.latent_dim, world.action_dim, **settings)

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of parameters of one controller."""

    @property
    @abstractmethod
    def first_layer_size(self) -> int:
        """Number of units of the first layer, whose weights (units, inputs) and bias are the first parameters."""

    @abstractmethod
    def outputs(
        self, parameters: Float[Tensor, "population size"], inputs: Float[Tensor, "population episodes inputs"]
    ) -> Float[Tensor, "population episodes actions"]:
        """Return each member's raw outputs (before tanh or argmax) in its episodes, from the first ``num_inputs`` inputs."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the weights of one controller by their names in a file."""

    def __call__(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch actions"]:
        """Return the raw outputs of one controller."""
        flat = inputs.reshape(1, -1, inputs.shape[-1])
        return self.outputs(self.parameters[None].to(inputs), flat)[0].view(*inputs.shape[:-1], self.action_dim)

    def with_parameters(self, parameters: np.ndarray | Tensor) -> Self:
        """Return the same kind of controller with other parameters."""
        return replace(self, parameters=torch.as_tensor(np.asarray(parameters)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights of one controller as safetensors, for `load`."""
        if self.parameters.ndim != 1:
            raise ValueError(f"parameters must be those of one controller, got shape {tuple(self.parameters.shape)}")
        write_tensors(path, self.tensors())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file of `save`; no code in it is executed. `Controller.load` reads controllers of any kind.

        Raises:
            ValueError: The file is missing, truncated, or not a controller of this kind.
        """
        tensors = read_tensors(path)
        with error_context(path, wrap_value_errors=True):
            controller = _from_tensors(tensors)
            if not isinstance(controller, cls):
                raise ValueError(f"must hold a {cls.__name__}, got {controller}")
        return controller


@dataclass(frozen=True, eq=False)
class LinearController(Controller):
    """A linear map with a bias, ``W x + b``. The parameters are W row by row, then b.

    Example:
        >>> LinearController(num_inputs=288, action_dim=3).size
        867

    References:
        Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 2.4).
    """

    @property
    def size(self) -> int:
        """Number of parameters of one controller."""
        return (self.num_inputs + 1) * self.action_dim

    @property
    def first_layer_size(self) -> int:
        """Number of outputs."""
        return self.action_dim

    @property
    def weight(self) -> Float[Tensor, "*population actions inputs"]:
        """The matrix W."""
        return self.parameters[..., : -self.action_dim].unflatten(-1, (self.action_dim, self.num_inputs))

    @property
    def bias(self) -> Float[Tensor, "*population actions"]:
        """The vector b."""
        return self.parameters[..., -self.action_dim :]

    def outputs(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """Return W x + b of a population."""
        return _affine(parameters, inputs[..., : self.num_inputs], self.action_dim)

    def tensors(self) -> dict[str, Tensor]:
        """Return ``weight`` (actions, inputs) and ``bias`` (actions,)."""
        return {"weight": self.weight, "bias": self.bias}


@dataclass(frozen=True, eq=False)
class HiddenController(Controller):
    """A network with one hidden layer of ``hidden_units`` tanh units, ``W2 tanh(W1 x + b1) + b2``.

    The parameters are W1, b1, W2 and b2, each matrix row by row.

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

    @property
    def _layer_sizes(self) -> tuple[int, int]:
        return (self.num_inputs + 1) * self.hidden_units, (self.hidden_units + 1) * self.action_dim

    @property
    def size(self) -> int:
        """Number of parameters of one controller."""
        return sum(self._layer_sizes)

    @property
    def first_layer_size(self) -> int:
        """Number of hidden units."""
        return self.hidden_units

    def outputs(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """Return W2 tanh(W1 x + b1) + b2 of a population."""
        first, second = parameters.split(self._layer_sizes, dim=1)
        hidden = _affine(first, inputs[..., : self.num_inputs], self.hidden_units).tanh()
        return _affine(second, hidden, self.action_dim)

    def tensors(self) -> dict[str, Tensor]:
        """Return ``hidden.weight``, ``hidden.bias``, ``weight`` and ``bias``."""
        first, second = self.parameters.split(self._layer_sizes, dim=-1)
        hidden = LinearController(self.num_inputs, self.hidden_units, first).tensors()
        output = LinearController(self.hidden_units, self.action_dim, second).tensors()
        return {f"hidden.{name}": value for name, value in hidden.items()} | output


def as_controllers(controllers: Any, world: WorldModel) -> Controller:
    """Return one controller, a population of them, or an array (P, size) of flat linear parameters as a `Controller`.

    Raises:
        ValueError: It does not fit the world model, or a parameter is not finite.
    """
    if not isinstance(controllers, Controller):
        try:
            controllers = LinearController.for_world_model(world).with_parameters(controllers)
        except ValueError as error:
            raise ValueError(f"controllers must be linear controllers of the world model: {error}") from None
    validate_controller(controllers, world)
    return controllers


def validate_controller(controller: Controller, world: WorldModel) -> None:
    """Check that a controller fits a world model.

    Raises:
        ValueError: The inputs are neither the latent nor latent and hidden state, or the number of actions differs.
    """
    sizes = (controller.num_inputs, controller.action_dim)
    if sizes not in ((world.latent_dim, world.action_dim), (world.num_features, world.action_dim)):
        raise ValueError(
            f"controller must have {world.num_features} inputs (or {world.latent_dim}, the latent's) and "
            f"{world.action_dim} actions, got {sizes[0]} and {sizes[1]}"
        )


def _affine(
    parameters: Float[Tensor, "population layer"], inputs: Float[Tensor, "population episodes inputs"], num_outputs: int
) -> Float[Tensor, "population episodes outputs"]:
    """Return W x + b of a population; a flat vector holds W (outputs, inputs) row by row, then b (outputs)."""
    population, _, num_inputs = inputs.shape
    weight, bias = parameters.split((num_outputs * num_inputs, num_outputs), dim=1)
    return torch.baddbmm(bias[:, None], inputs, weight.view(population, num_outputs, num_inputs).transpose(1, 2))


def _from_tensors(tensors: dict[str, Tensor]) -> Controller:
    """Invert `Controller.tensors`."""
    prefixes = ("hidden.", "") if "hidden.weight" in tensors else ("",)
    names = [f"{prefix}{name}" for prefix in prefixes for name in ("weight", "bias")]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    layers = [(shapes.get(f"{prefix}weight", ()), shapes.get(f"{prefix}bias")) for prefix in prefixes]
    valid = shapes.keys() == set(names) and all(len(weight) == 2 and bias == weight[:1] for weight, bias in layers)
    if not valid:
        raise ValueError(f"must hold weight (actions, inputs) and bias (actions,), got {shapes}")
    parameters = torch.cat([tensors[name].flatten() for name in names]).float()
    num_units, num_inputs = layers[0][0]
    if len(layers) == 1:
        return LinearController(num_inputs, num_units, parameters)
    return HiddenController(num_inputs, layers[1][0][0], parameters, num_units)
