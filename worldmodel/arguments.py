"""Bad arguments, told in one line."""

import math

import torch
from torch import Tensor


def at_least_one(**numbers: int | None) -> None:
    """Refuse numbers below one; None means "not given".

    Raises:
        ValueError: names the argument.
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_seed(seed: int) -> None:
    """Refuse seeds that numpy (below zero) or torch (from 2^63 on) cannot take.

    Raises:
        ValueError: names what came.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be from 0 to 2**63 - 1, got {seed}")


def check_temperature(temperature: float | Tensor) -> None:
    """Refuse temperatures that are not finite and above zero.

    Raises:
        ValueError: names what came.
    """
    if isinstance(temperature, Tensor):
        if not bool(((temperature > 0) & torch.isfinite(temperature)).all()):
            raise ValueError("temperature must be finite and above zero everywhere")
    elif not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be finite and above zero, got {temperature}")
