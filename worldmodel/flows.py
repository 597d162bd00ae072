"""Bijections with exact log-determinants.

A flow maps data y to a base space u: ``u, log_det = flow(y)`` with ``log_det = log|det du/dy|``, and ``flow.inverse(u)``
maps back.
"""

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu_, linear, softplus

from worldmodel.batches import to_float32
from worldmodel.validation import validate_positive_int

LOG_SCALE_BOUND = 3.0
"""The log-scale of a coupling stays in (-3, 3): no input, however far out, can make it overflow."""
MIN_BIN_SIZE, MIN_DERIVATIVE = 1e-3, 1e-3
"""No piece of a spline is narrower or lower than this share of the whole, and no slope at a knot below the second
(inside a piece it may be)."""
INPUT_BOUND = 10.0
"""What the couplings' networks see is squashed smoothly beyond about this, so that outliers cannot blow them up."""


class Coupling(nn.Module):
    """Half of the dimensions, changed one by one by functions whose parameters a network reads off the other half.

    The identity at initialisation: the network's last layer begins at zero. In a `Flow` the halves swap from coupling to
    coupling. With one dimension there is nothing to condition on: the parameters depend on the context alone.

    Args:
        features: D.
        hidden: widths of the hidden layers (three hidden layers make the paper's four linear ones).
        context: how many numbers of context the network sees too; 0: none.
        num_params: parameters of the function of one dimension.
    """

    def __init__(self, features: int, hidden: Sequence[int], context: int, num_params: int) -> None:
        super().__init__()
        validate_positive_int(features=features)
        if context < 0:
            raise ValueError(f"context must be zero or more, got {context}")
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden must hold widths of at least 1, got {tuple(hidden)}")
        self.features, self.context, self.num_params = features, context, num_params
        kept = features // 2
        changed = features - kept
        self.sizes = (kept, changed)
        layers: list[nn.Module] = []
        widths = (kept + context, *hidden)
        for size_in, size_out in itertools.pairwise(widths):
            layers += [_linear(size_in, size_out), nn.LeakyReLU()]
        last = _linear(widths[-1], num_params * changed)
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
        changed, log_slope = self._forward(changed, self._params(kept, context))
        return torch.cat((kept, changed), dim=-1), log_slope.sum(dim=-1)

    def inverse(
        self, value: Float[Tensor, "*batch features"], context: Float[Tensor, "*batch context"] | None = None
    ) -> Float[Tensor, "*batch features"]:
        """Map u back to y."""
        kept, changed = self._split(value)
        return torch.cat((kept, self._inverse(changed, self._params(kept, context))), dim=-1)

    def _forward(self, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The function of each dimension, and the logarithm of its slope; parameters are (*batch, numbers, changed)."""
        raise NotImplementedError

    def _inverse(self, value: Tensor, parameters: Tensor) -> Tensor:
        raise NotImplementedError

    def _split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        if value.shape[-1] != self.features:
            raise ValueError(f"value must end in {self.features} dimensions, got {tuple(value.shape)}")
        kept, changed = value.split(self.sizes, dim=-1)
        return kept, changed

    def _params(self, kept: Tensor, context: Tensor | None) -> Float[Tensor, "*batch numbers changed"]:
        if (context is None) != (self.context == 0):
            raise ValueError(f"context must {'have size ' + str(self.context) if self.context else 'be None'}")
        seen = INPUT_BOUND * torch.tanh(kept / INPUT_BOUND)
        x = seen if context is None else torch.cat((seen, context), dim=-1)
        for layer in self.network:  # by hand: calling modules would take as long as their arithmetic in a single dream
            x = linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else leaky_relu_(x)
        return to_float32(x).unflatten(-1, (self.num_params, self.sizes[1]))


class AffineCoupling(Coupling):
    """Half of the dimensions, scaled and shifted by functions of the other half: ``u_b = y_b exp(s(y_a)) + t(y_a)``.

    Args:
        features: D.
        hidden: widths of the hidden layers.
        context: how many numbers of context the network sees too; 0: none.

    References:
        Dinh, Sohl-Dickstein, Bengio, Density Estimation using Real NVP, 2016, https://arxiv.org/abs/1605.08803 (eq. 4-8).
        Razavi, Hosseini, Behzad, FRMDN, 2020, https://arxiv.org/abs/2008.02144.
    """

    def __init__(self, features: int, hidden: Sequence[int] = (128, 128, 128), context: int = 0) -> None:
        super().__init__(features, hidden, context, num_params=2)

    def _forward(self, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._scale_and_shift(parameters)
        return value * log_scale.exp() + shift, log_scale

    def _inverse(self, value: Tensor, parameters: Tensor) -> Tensor:
        log_scale, shift = self._scale_and_shift(parameters)
        return (value - shift) * (-log_scale).exp()

    def _scale_and_shift(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The log-scale, bounded by a scaled tanh, and the shift."""
        log_scale, shift = parameters.unbind(dim=-2)
        return LOG_SCALE_BOUND * torch.tanh(log_scale / LOG_SCALE_BOUND), shift


class SplineCoupling(Coupling):
    """Half of the dimensions through monotonic rational-quadratic splines that the other half shapes.

    Between -bound and bound a spline of ``bins`` pieces, outside the identity.

    Args:
        features: D.
        hidden: widths of the hidden layers.
        context: how many numbers of context the network sees too; 0: none.
        bins: pieces.
        bound: where the splines end.

    References:
        Durkan et al., Neural Spline Flows, 2019, https://arxiv.org/abs/1906.04032 (section 3.1).
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (128, 128, 128),
        context: int = 0,
        bins: int = 8,
        bound: float = 5.0,
    ) -> None:
        validate_positive_int(bins=bins)
        if not bound > 0:
            raise ValueError(f"bound must be above zero, got {bound}")
        super().__init__(features, hidden, context, num_params=3 * bins - 1)
        self.bins, self.bound = bins, bound

    def _forward(self, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic(value, *self._knots(parameters))

    def _inverse(self, value: Tensor, parameters: Tensor) -> Tensor:
        return rational_quadratic_inverse(value, *self._knots(parameters))

    def _knots(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Places (*batch, changed, bins + 1) of the knots, their values, and the slopes there."""
        widths, heights, slopes = parameters.mT.split((self.bins, self.bins, self.bins - 1), dim=-1)

        def places(raw: Tensor) -> Tensor:
            shares = MIN_BIN_SIZE + (1 - MIN_BIN_SIZE * self.bins) * raw.softmax(dim=-1)
            ends = 2 * self.bound * shares.cumsum(dim=-1)[..., :-1] - self.bound
            edge = torch.full_like(raw[..., :1], self.bound)
            return torch.cat((-edge, ends, edge), dim=-1)

        inner = MIN_DERIVATIVE + softplus(slopes + math.log(math.expm1(1 - MIN_DERIVATIVE)))  # 1 at initialisation
        one = torch.ones_like(parameters.mT[..., :1])  # the identity's slope, where the spline meets it
        return places(widths), places(heights), torch.cat((one, inner, one), dim=-1)


def rational_quadratic(
    value: Float[Tensor, "*batch"],
    knots_x: Float[Tensor, "*batch knots"],
    knots_y: Float[Tensor, "*batch knots"],
    derivatives: Float[Tensor, "*batch knots"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """A monotonic rational-quadratic spline through knots, and the logarithm of its slope; the identity outside.

    References:
        Durkan et al., Neural Spline Flows, 2019, https://arxiv.org/abs/1906.04032 (eq. 4 and 5).
    """
    inside, (x0, width, y0, height, low, high) = _bin(value, knots_x, knots_x, knots_y, derivatives)
    steep = height / width
    share = ((value - x0) / width).clamp(0, 1)
    between = share * (1 - share)
    below = steep + (low + high - 2 * steep) * between
    mapped = y0 + height * (steep * share.square() + low * between) / below
    slope = steep.square() * (high * share.square() + 2 * steep * between + low * (1 - share).square()) / below.square()
    return torch.where(inside, mapped, value), torch.where(inside, slope.log(), 0)


def rational_quadratic_inverse(
    value: Float[Tensor, "*batch"],
    knots_x: Float[Tensor, "*batch knots"],
    knots_y: Float[Tensor, "*batch knots"],
    derivatives: Float[Tensor, "*batch knots"],
) -> Float[Tensor, "*batch"]:
    """The way back through `rational_quadratic`: the root of a quadratic equation (Durkan et al., eq. 6 to 8)."""
    inside, (x0, width, y0, height, low, high) = _bin(value, knots_y, knots_x, knots_y, derivatives)
    steep = height / width
    over = (value - y0).clamp(min=0)
    bend = over * (low + high - 2 * steep)
    a, b, c = height * (steep - low) + bend, height * low - bend, -steep * over
    root = (2 * c) / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
    return torch.where(inside, x0 + width * root, value)


def _bin(
    value: Tensor, axis: Tensor, knots_x: Tensor, knots_y: Tensor, derivatives: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Which values lie within the knots on ``axis``, and of their pieces: begin and size on both axes, slopes at the ends."""
    inside = (value > axis[..., 0]) & (value < axis[..., -1])
    number = ((axis < value.unsqueeze(-1)).sum(dim=-1, keepdim=True) - 1).clamp(0, axis.shape[-1] - 2)

    def at(knots: Tensor, step: int) -> Tensor:
        return knots.gather(-1, number + step).squeeze(-1)

    x0, y0 = at(knots_x, 0), at(knots_y, 0)
    return inside, (x0, at(knots_x, 1) - x0, y0, at(knots_y, 1) - y0, at(derivatives, 0), at(derivatives, 1))


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

    def __init__(self, couplings: Sequence[Coupling]) -> None:
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
            value, part = coupling(_flip(value, number), context)
            value, log_det = _flip(value, number), log_det + part
        return value, log_det

    def inverse(
        self, value: Float[Tensor, "*batch features"], context: Float[Tensor, "*batch context"] | None = None
    ) -> Float[Tensor, "*batch features"]:
        """Map u back to y."""
        for number, coupling in reversed(list(enumerate(self.couplings))):
            value = _flip(cast(Coupling, coupling).inverse(_flip(value, number), context), number)
        return value


def _flip(value: Float[Tensor, "*batch features"], number: int) -> Float[Tensor, "*batch features"]:
    """Reverse the dimensions for every second coupling, so that each half is transformed; its own inverse."""
    return value.flip(-1) if number % 2 else value


def _linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer; one without inputs is its bias alone."""
    if in_features:
        return nn.Linear(in_features, out_features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "initializing zero-element tensors is a no-op" is what is wanted
        return nn.Linear(in_features, out_features)
