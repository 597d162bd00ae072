"""Bijections with exact log-determinants.

A flow maps data y to a base space u: ``u, log_det = flow(y)`` with ``log_det = log|det du/dy|``, and ``flow.inverse(u)``
maps back.
"""

import itertools
import warnings
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

LOG_SCALE_BOUND = 3.0
"""The log-scale of a coupling stays in (-3, 3): no input, however far out, can make it overflow."""
INPUT_BOUND = 10.0
"""What the couplings' networks see is squashed smoothly beyond about this, so that outliers cannot blow them up."""


class AffineCoupling(nn.Module):
    """Half of the dimensions, scaled and shifted by functions of the other half: ``u_b = y_b exp(s(y_a)) + t(y_a)``.

    The identity at initialisation. In a `Flow` the halves swap from coupling to coupling. With one dimension there is
    nothing to condition on: the scale and shift depend on the context alone.

    Args:
        features: D.
        hidden: widths of the hidden layers (three hidden layers make the paper's four linear ones).
        context: how many numbers of context the network sees too; 0: none.

    References:
        Dinh, Sohl-Dickstein, Bengio, Density Estimation using Real NVP, 2016, https://arxiv.org/abs/1605.08803 (eq. 4-8).
        Razavi, Hosseini, Behzad, FRMDN, 2020, https://arxiv.org/abs/2008.02144.
    """

    def __init__(self, features: int, hidden: Sequence[int] = (128, 128, 128), context: int = 0) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(f"features must be at least 1, got {features}")
        if context < 0:
            raise ValueError(f"context must be zero or more, got {context}")
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden must hold widths of at least 1, got {tuple(hidden)}")
        self.features, self.context = features, context
        kept = features // 2
        changed = features - kept
        self.sizes = (kept, changed)
        layers: list[nn.Module] = []
        widths = (kept + context, *hidden)
        for size_in, size_out in itertools.pairwise(widths):
            layers += [_linear(size_in, size_out), nn.LeakyReLU()]
        last = _linear(widths[-1], 2 * changed)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(*layers, last)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"features={self.features}, context={self.context}"

    def forward(
        self, value: Float[Tensor, "*batch features"], context: Float[Tensor, "*batch context"] | None = None
    ) -> tuple[Float[Tensor, "*batch features"], Float[Tensor, "*batch"]]:
        """Map y to u, with log|det du/dy|."""
        kept, changed = self._split(value)
        log_scale, shift = self._scale_and_shift(kept, context)
        return torch.cat((kept, changed * log_scale.exp() + shift), dim=-1), log_scale.sum(dim=-1)

    def inverse(
        self, value: Float[Tensor, "*batch features"], context: Float[Tensor, "*batch context"] | None = None
    ) -> Float[Tensor, "*batch features"]:
        """Map u back to y."""
        kept, changed = self._split(value)
        log_scale, shift = self._scale_and_shift(kept, context)
        return torch.cat((kept, (changed - shift) * (-log_scale).exp()), dim=-1)

    def _split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        if value.shape[-1] != self.features:
            raise ValueError(f"value must end in {self.features} dimensions, got {tuple(value.shape)}")
        kept, changed = value.split(self.sizes, dim=-1)
        return kept, changed

    def _scale_and_shift(self, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The log-scale, bounded by a scaled tanh, and the shift."""
        if (context is None) != (self.context == 0):
            raise ValueError(f"context must {'have size ' + str(self.context) if self.context else 'be None'}")
        seen = INPUT_BOUND * torch.tanh(kept / INPUT_BOUND)
        log_scale, shift = self.network(seen if context is None else torch.cat((seen, context), dim=-1)).chunk(
            2, dim=-1
        )
        return LOG_SCALE_BOUND * torch.tanh(log_scale / LOG_SCALE_BOUND), shift


class Flow(nn.Module):
    """Couplings one after the other; the log-determinants add up.

    The halves swap from coupling to coupling: every second coupling sees the dimensions in reverse order.

    Args:
        couplings: bijections with the same features; an empty list is the identity.

    Example:
        >>> flow = Flow([AffineCoupling(4), AffineCoupling(4)])
        >>> u, log_det = flow(torch.ones(2, 4))  # the identity at initialisation
        >>> u.equal(torch.ones(2, 4)), log_det
        (True, tensor([0., 0.], grad_fn=<AddBackward0>))
    """

    def __init__(self, couplings: Sequence[AffineCoupling]) -> None:
        super().__init__()
        if len({coupling.features for coupling in couplings}) > 1:
            raise ValueError(f"couplings must have the same features, got {[c.features for c in couplings]}")
        self.couplings = nn.ModuleList(couplings)

    def forward(
        self, value: Float[Tensor, "*batch features"], context: Float[Tensor, "*batch context"] | None = None
    ) -> tuple[Float[Tensor, "*batch features"], Float[Tensor, "*batch"]]:
        """Map y to u, with log|det du/dy|."""
        log_det = value.new_zeros(value.shape[:-1])
        for number, coupling in enumerate(self.couplings):
            value, part = coupling(_turn(value, number), context)
            value, log_det = _turn(value, number), log_det + part
        return value, log_det

    def inverse(
        self, value: Float[Tensor, "*batch features"], context: Float[Tensor, "*batch context"] | None = None
    ) -> Float[Tensor, "*batch features"]:
        """Map u back to y."""
        for number, coupling in reversed(list(enumerate(self.couplings))):
            value = _turn(cast(AffineCoupling, coupling).inverse(_turn(value, number), context), number)
        return value


def _turn(value: Float[Tensor, "*batch features"], number: int) -> Float[Tensor, "*batch features"]:
    """Reverse the dimensions for every second coupling, so that each half is transformed; its own inverse."""
    return value.flip(-1) if number % 2 else value


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer; one without inputs is its bias alone."""
    if inputs:
        return nn.Linear(inputs, outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "initializing zero-element tensors is a no-op" is what is wanted
        return nn.Linear(inputs, outputs)
