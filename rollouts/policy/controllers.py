"""Populations of controllers as one tensor operation: P parameter vectors compute the actions of P x N episodes.

Start reading at `Controller`. Dreams and rollouts both use this arithmetic; `agents.evolution.controller` adds names and files.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel import WorldModel


@runtime_checkable
class Controller(Protocol):
    """A family of controllers: maps flat parameters and inputs to action outputs."""

    @property
    def size(self) -> int:
        """Number of parameters of one controller."""
        ...

    @property
    def parameters(self) -> Tensor:
        """Parameters of one controller (size,) or of a population (population, size)."""
        ...

    def outputs(
        self, parameters: Float[Tensor, "population size"], inputs: Float[Tensor, "population episodes inputs"]
    ) -> Float[Tensor, "population episodes actions"]:
        """Return each member's raw outputs (before tanh or argmax) in each of its episodes."""
        ...


def validate_controller(controller: Any, world: WorldModel) -> None:
    """Check that a controller fits a world model; sizes that the controller does not declare are not checked.

    Raises:
        ValueError: The inputs are neither the latent nor latent and hidden state, or the number of actions differs.
    """
    inputs, actions = (
        getattr(controller, "num_inputs", world.num_features),
        getattr(controller, "action_dim", world.action_dim),
    )
    if inputs not in (world.latent_dim, world.num_features) or actions != world.action_dim:
        raise ValueError(
            f"controller must have {world.num_features} inputs (or {world.latent_dim}, the latent's) and "
            f"{world.action_dim} actions, "
            f"got {inputs} and {actions}"
        )


def linear_size(num_inputs: int, action_dim: int) -> int:
    """Return the number of parameters of a linear controller with a bias: 867 for 32 + 256 inputs and 3 actions."""
    return (num_inputs + 1) * action_dim


def linear_outputs(
    parameters: Float[Tensor, "population size"],
    inputs: Float[Tensor, "population episodes inputs"],
) -> Float[Tensor, "population episodes actions"]:
    """Return W x + b for a population; a flat vector holds W (actions, inputs) row by row, then b (actions)."""
    population, _, num_inputs = inputs.shape
    action_dim, rest = divmod(parameters.shape[-1], num_inputs + 1)
    if rest or not action_dim:
        raise ValueError(
            f"parameters of a linear controller for {num_inputs} inputs must be a multiple of {num_inputs + 1} long, "
            f"got {parameters.shape[-1]}"
        )
    weight = parameters[:, : action_dim * num_inputs].view(population, action_dim, num_inputs)
    bias = parameters[:, action_dim * num_inputs :].view(population, 1, action_dim)
    return torch.baddbmm(bias, inputs, weight.transpose(1, 2))


def mlp_size(num_inputs: int, hidden_units: int, action_dim: int) -> int:
    """Return the number of parameters of a controller with one hidden layer, biases included."""
    return linear_size(num_inputs, hidden_units) + linear_size(hidden_units, action_dim)


def mlp_outputs(
    parameters: Float[Tensor, "population size"],
    inputs: Float[Tensor, "population episodes inputs"],
    hidden_units: int,
) -> Float[Tensor, "population episodes actions"]:
    """Return W2 tanh(W1 x + b1) + b2 for a population; a flat vector holds the first layer, then the second."""
    first_layer = linear_size(inputs.shape[-1], hidden_units)
    return linear_outputs(parameters[:, first_layer:], linear_outputs(parameters[:, :first_layer], inputs).tanh())


class Linear:
    """The family of linear controllers, for parameters given as a bare array (population, size)."""

    def __init__(self, parameters: Float[Tensor, "population size"]) -> None:
        self.parameters = parameters

    @property
    def size(self) -> int:
        """Number of parameters of one controller."""
        return self.parameters.shape[-1]

    outputs = staticmethod(linear_outputs)


class Population:
    """Several members of one family of controllers, in the form that `rollouts.dream` takes.

    Args:
        controller: Family of the members.
        parameters: (population, size) or (size,).

    Raises:
        ValueError: The parameters have another shape.
    """

    def __init__(self, controller: Controller, parameters: np.ndarray | Tensor) -> None:
        self.controller = controller
        self.parameters = torch.as_tensor(np.asarray(parameters))
        if self.parameters.ndim == 1:
            self.parameters = self.parameters[None]
        if self.parameters.ndim != 2 or self.parameters.shape[1] != controller.size:
            expected, actual = controller.size, tuple(self.parameters.shape)
            raise ValueError(f"population must have shape (P, {expected}), got {actual}")

    @property
    def size(self) -> int:
        """Number of parameters of one controller."""
        return self.controller.size

    def outputs(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """Return each member's raw outputs."""
        return self.controller.outputs(parameters, inputs)


def as_population(
    controllers: object, num_inputs: int, action_dim: int
) -> tuple[Controller, Float[Tensor, "population size"]]:
    """Split one controller, or an array of flat linear controllers, into its family and a (P, size) tensor.

    Raises:
        ValueError: The size differs from that of a linear controller for these inputs and actions, or a parameter is
            not finite.
    """
    if isinstance(controllers, Controller):
        controller = controllers.controller if isinstance(controllers, Population) else controllers
        parameters = torch.as_tensor(controllers.parameters)
        parameters = parameters if parameters.ndim == 2 else parameters[None]
        if parameters.shape[1] != controller.size:
            raise ValueError(f"parameters must have shape (P, {controller.size}), got {tuple(parameters.shape)}")
    else:
        parameters = torch.as_tensor(np.asarray(controllers))
        if parameters.ndim == 1:
            parameters = parameters[None]
        if parameters.ndim != 2 or parameters.shape[1] != (size := linear_size(num_inputs, action_dim)):
            raise ValueError(f"controllers must have shape (P, {size}), got {tuple(parameters.shape)}")
        controller = Linear(parameters[:1])
    if not torch.isfinite(parameters).all():
        raise ValueError("controllers must hold finite numbers, got NaN or infinity")
    return controller, parameters.float()
