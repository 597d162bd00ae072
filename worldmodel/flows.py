"""Normalizing flows with exact log-determinants.

A flow maps data y to a base space u: ``u, log_det = flow(y)`` with ``log_det = log|det du/dy|``. ``flow.inverse(u)`` maps back.
Start reading at `Flow` and `AffineCoupling`.
"""

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn.functional import leaky_relu_, linear, softplus

from worldmodel.batches import to_float32
from worldmodel.low_rank import matmul, widest_dtype
from worldmodel.validation import validate_positive_int

LOG_SCALE_BOUND = 3.0
"""The log-scale of a coupling stays in (-3, 3), so that no input makes it overflow."""
MIN_BIN_SIZE, MIN_DERIVATIVE = 1e-3, 1e-3
"""Smallest width and height of a spline bin, as a fraction of the whole; smallest derivative at a knot (inside a bin the
derivative may be smaller)."""
RIDGE, MIN_RIDGE = 1e-3, 1e-8
"""What `WhiteningFlow` adds to each variance: a fraction of it, and at least this."""
INPUT_BOUND = 10.0
"""Inputs of the couplings' networks are smoothly bounded to (-10, 10), so that outliers do not make them diverge."""


Values = Float[Tensor, "*batch features"]
LogDet = Float[Tensor, "*batch"]
Context = Float[Tensor, "*batch context"]


class AbstractFlow(nn.Module):
    """An invertible map y -> u with its log-determinant, also given a context: a coupling, or a flow of couplings."""

    def forward(self, value: Values, context: Context | None = None) -> tuple[Values, LogDet]:
        """Map y to u, with log|det du/dy|."""
        raise NotImplementedError

    def inverse(self, value: Values, context: Context | None = None) -> Values:
        """Map u back to y."""
        raise NotImplementedError

    def transform(self, context: Context | None = None, cache_size: int = 0) -> "FlowTransform":
        """Return the map y -> u for a context, as a transform of torch."""
        return FlowTransform(self, context, cache_size)


class FlowTransform(Transform):
    """A flow with a fixed context as a `torch.distributions.Transform` from y to u.

    A module has parameters to train, takes the context as an argument, and returns u and the log-determinant from one pass
    through its networks. A Transform returns u alone and composes with torch's: ``TransformedDistribution(base,
    [flow.transform(context).inv])`` is a density of y.

    Args:
        flow: Flow or coupling.
        context: Its context, (*batch, C); it is broadcast to the values.
        cache_size: 1 keeps the last pass, so that its log-determinant costs nothing. 0: no cache.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, flow: AbstractFlow, context: Tensor | None = None, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.flow, self.context = flow, context
        self._log_det: Tensor | None = None

    def with_cache(self, cache_size: int = 1) -> "FlowTransform":
        """Return the transform with another size of the cache."""
        return FlowTransform(self.flow, self.context, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self.flow(*broadcast_context(x, self.context))
        self._log_det = log_det if self._cache_size else None
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        self._log_det = None
        return self.flow.inverse(*broadcast_context(y, self.context))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log|det dy/dx|, with torch's names: y = f(x)."""
        if self._log_det is not None and x is self._cached_x_y[0]:
            return self._log_det
        return self.flow(*broadcast_context(x, self.context))[1]


def broadcast_context(value: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Broadcast the batch shapes of values and their context."""
    if context is None or context.shape[:-1] == value.shape[:-1]:
        return value, context
    shape = torch.broadcast_shapes(value.shape[:-1], context.shape[:-1])
    return value.expand(*shape, -1), context.expand(*shape, -1)


class Coupling(AbstractFlow):
    """Transform half of the dimensions elementwise; a network computes the parameters from the other half.

    The initial coupling is the identity, because the network's last layer starts at zero. In a `Flow` the halves swap from
    coupling to coupling. With one dimension the parameters depend on the context alone.

    Args:
        num_features: D, number of dimensions.
        hidden: Widths of the hidden layers. Three hidden layers are the four linear layers of the paper.
        context: Size of the context, a second input of the network. 0: no context.
        num_params: Number of parameters per transformed dimension.

    Raises:
        ValueError: ``num_features`` is below 1.
    """

    def __init__(self, num_features: int, hidden: Sequence[int], context: int, num_params: int) -> None:
        super().__init__()
        validate_positive_int(num_features=num_features)
        self.num_features, self.context, self.num_params = num_features, context, num_params
        kept = num_features // 2
        changed = num_features - kept
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
        """Return the arguments."""
        return f"num_features={self.num_features}, context={self.context}"

    def forward(self, value: Values, context: Context | None = None) -> tuple[Values, LogDet]:
        """Map y to u, with log|det du/dy|."""
        kept, changed = self._split(value)
        changed, log_derivative = self._forward(changed, self._params(kept, context))
        return torch.cat((kept, changed), dim=-1), log_derivative.sum(dim=-1)

    def inverse(self, value: Values, context: Context | None = None) -> Values:
        """Map u back to y."""
        kept, changed = self._split(value)
        return torch.cat((kept, self._inverse(changed, self._params(kept, context))), dim=-1)

    def _forward(self, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transformed values and the log-derivatives; ``parameters`` is (*batch, params, changed)."""
        raise NotImplementedError

    def _inverse(self, value: Tensor, parameters: Tensor) -> Tensor:
        raise NotImplementedError

    def _split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        if value.shape[-1] != self.num_features:
            raise ValueError(f"value must end in {self.num_features} dimensions, got {tuple(value.shape)}")
        kept, changed = value.split(self.sizes, dim=-1)
        return kept, changed

    def _params(self, kept: Tensor, context: Tensor | None) -> Float[Tensor, "*batch params changed"]:
        if (context is None) != (self.context == 0):
            raise ValueError(f"context must {'have size ' + str(self.context) if self.context else 'be None'}")
        bounded = INPUT_BOUND * torch.tanh(kept / INPUT_BOUND)
        x = bounded if context is None else torch.cat((bounded, context), dim=-1)
        for layer in self.network:  # for one dream, calling the modules takes as long as their arithmetic
            x = linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else leaky_relu_(x)
        return to_float32(x).unflatten(-1, (self.num_params, self.sizes[1]))


class AffineCoupling(Coupling):
    """Scale and shift half of the dimensions by functions of the other half: ``u_b = y_b exp(s(y_a)) + t(y_a)``.

    Args:
        num_features: D, number of dimensions.
        hidden: Widths of the hidden layers.
        context: Size of the context, a second input of the network. 0: no context.

    References:
        Dinh, Sohl-Dickstein, Bengio, Density Estimation using Real NVP, 2016, https://arxiv.org/abs/1605.08803 (eq. 4-8).
        Razavi, Hosseini, Behzad, FRMDN, 2020, https://arxiv.org/abs/2008.02144.
    """

    def __init__(self, num_features: int, hidden: Sequence[int] = (128, 128, 128), context: int = 0) -> None:
        super().__init__(num_features, hidden, context, num_params=2)

    def _forward(self, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._scale_and_shift(parameters)
        return value * log_scale.exp() + shift, log_scale

    def _inverse(self, value: Tensor, parameters: Tensor) -> Tensor:
        log_scale, shift = self._scale_and_shift(parameters)
        return (value - shift) * (-log_scale).exp()

    def _scale_and_shift(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-scale, bounded by a scaled tanh, and the shift."""
        log_scale, shift = parameters.unbind(dim=-2)
        return LOG_SCALE_BOUND * torch.tanh(log_scale / LOG_SCALE_BOUND), shift


class SplineCoupling(Coupling):
    """Transform half of the dimensions by monotonic rational-quadratic splines; the other half gives their parameters.

    The spline has ``bins`` bins in [-bound, bound] and is the identity outside.

    Args:
        num_features: D, number of dimensions.
        hidden: Widths of the hidden layers.
        context: Size of the context, a second input of the network. 0: no context.
        bins: Number of bins.
        bound: Bound of the splines.

    References:
        Durkan et al., Neural Spline Flows, 2019, https://arxiv.org/abs/1906.04032 (section 3.1).
    """

    def __init__(
        self,
        num_features: int,
        hidden: Sequence[int] = (128, 128, 128),
        context: int = 0,
        bins: int = 8,
        bound: float = 5.0,
    ) -> None:
        validate_positive_int(bins=bins)
        if bins * MIN_BIN_SIZE >= 1:
            raise ValueError(f"bins must be below {1 / MIN_BIN_SIZE:.0f}, got {bins}")
        if not bound > 0:
            raise ValueError(f"bound must be above zero, got {bound}")
        super().__init__(num_features, hidden, context, num_params=3 * bins - 1)
        self.bins, self.bound = bins, bound

    def _forward(self, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mapped, log_derivative = rational_quadratic(value, *self._knots(parameters))
        return mapped.to(value.dtype), log_derivative.to(value.dtype)

    def _inverse(self, value: Tensor, parameters: Tensor) -> Tensor:
        return rational_quadratic_inverse(value, *self._knots(parameters)).to(value.dtype)

    def _knots(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the knots' x, y and derivatives, each (*batch, changed, bins + 1)."""
        # in bfloat16, sums of bin sizes round to the same knot
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        widths, heights, derivatives = parameters.mT.split((self.bins, self.bins, self.bins - 1), dim=-1)

        def knots(raw: Tensor) -> Tensor:
            fractions = MIN_BIN_SIZE + (1 - MIN_BIN_SIZE * self.bins) * raw.softmax(dim=-1)
            ends = 2 * self.bound * fractions.cumsum(dim=-1)[..., :-1] - self.bound
            edge = torch.full_like(raw[..., :1], self.bound)
            return torch.cat((-edge, ends, edge), dim=-1)

        inner = MIN_DERIVATIVE + softplus(derivatives + math.log(math.expm1(1 - MIN_DERIVATIVE)))  # 1 at initialisation
        one = torch.ones_like(parameters.mT[..., :1])  # at the ends, the derivative of the identity outside
        return knots(widths), knots(heights), torch.cat((one, inner, one), dim=-1)


def rational_quadratic(
    value: Float[Tensor, "*batch"],
    knots_x: Float[Tensor, "*batch knots"],
    knots_y: Float[Tensor, "*batch knots"],
    derivatives: Float[Tensor, "*batch knots"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return a monotonic rational-quadratic spline of ``value``, and its log-derivative; the identity outside the knots.

    References:
        Durkan et al., Neural Spline Flows, 2019, https://arxiv.org/abs/1906.04032 (eq. 4 and 5).
    """
    inside, (x0, width, y0, height, low, high) = _bin(value, knots_x, knots_x, knots_y, derivatives)
    slope = height / width
    fraction = ((value - x0) / width).clamp(0, 1)
    product = fraction * (1 - fraction)
    denominator = slope + (low + high - 2 * slope) * product
    mapped = y0 + height * (slope * fraction.square() + low * product) / denominator
    numerator = slope.square() * (high * fraction.square() + 2 * slope * product + low * (1 - fraction).square())
    derivative = numerator / denominator.square()
    return torch.where(inside, mapped, value), torch.where(inside, derivative.log(), 0)


def rational_quadratic_inverse(
    value: Float[Tensor, "*batch"],
    knots_x: Float[Tensor, "*batch knots"],
    knots_y: Float[Tensor, "*batch knots"],
    derivatives: Float[Tensor, "*batch knots"],
) -> Float[Tensor, "*batch"]:
    """Invert `rational_quadratic`: return the root of a quadratic equation (Durkan et al., eq. 6 to 8)."""
    inside, (x0, width, y0, height, low, high) = _bin(value, knots_y, knots_x, knots_y, derivatives)
    slope = height / width
    offset = (value - y0).clamp(min=0)
    curvature_term = offset * (low + high - 2 * slope)
    a, b, c = height * (slope - low) + curvature_term, height * low - curvature_term, -slope * offset
    root = (2 * c) / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
    return torch.where(inside, x0 + width * root, value)


def _bin(
    value: Tensor, axis: Tensor, knots_x: Tensor, knots_y: Tensor, derivatives: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return which values are inside the knots on ``axis``, and the x, width, y, height and end derivatives of their bins."""
    inside = (value > axis[..., 0]) & (value < axis[..., -1])
    number = ((axis < value.unsqueeze(-1)).sum(dim=-1, keepdim=True) - 1).clamp(0, axis.shape[-1] - 2)

    def at(knots: Tensor, step: int) -> Tensor:
        return knots.gather(-1, number + step).squeeze(-1)

    x0, y0 = at(knots_x, 0), at(knots_y, 0)
    return inside, (x0, at(knots_x, 1) - x0, y0, at(knots_y, 1) - y0, at(derivatives, 0), at(derivatives, 1))


class Flow(AbstractFlow):
    """A composition of couplings; their log-determinants are summed.

    The halves swap from coupling to coupling: every second coupling gets the dimensions in reverse order.

    Args:
        couplings: Couplings with the same ``num_features``. An empty list is the identity.
        alternating: Whether the halves are the odd and the even dimensions, so that neighbours, such as samples of speech or
            pixels of a row, predict each other. False: the first and the second half.

    Raises:
        ValueError: the couplings have different ``num_features``.

    Example:
        >>> flow = Flow([AffineCoupling(4), AffineCoupling(4)])
        >>> u, log_det = flow(torch.ones(2, 4))  # the identity at initialisation
        >>> u.equal(torch.ones(2, 4)), log_det
        (True, tensor([0., 0.], grad_fn=<AddBackward0>))

    References:
        Dinh, Sohl-Dickstein, Bengio, Density Estimation using Real NVP, 2016, https://arxiv.org/abs/1605.08803 (section 3.4:
        the checkerboard of an image is the alternation of a row).
    """

    order: Tensor
    inverse_order: Tensor

    def __init__(self, couplings: Sequence[Coupling], alternating: bool = False) -> None:
        super().__init__()
        if len({coupling.num_features for coupling in couplings}) > 1:
            raise ValueError(f"couplings must have the same num_features, got {[c.num_features for c in couplings]}")
        self.couplings, self.alternating = nn.ModuleList(couplings), alternating
        dimensions = torch.arange(couplings[0].num_features if couplings else 0)
        order = torch.cat((dimensions[1::2], dimensions[::2])) if alternating else dimensions
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("inverse_order", order.argsort(), persistent=False)

    def forward(self, value: Values, context: Context | None = None) -> tuple[Values, LogDet]:
        """Map y to u, with log|det du/dy|."""
        value, log_det = self._permuted(value, self.order), value.new_zeros(value.shape[:-1])
        for number, coupling in enumerate(self.couplings):
            value, part = coupling(_flip(value, number), context)
            value, log_det = _flip(value, number), log_det + part
        return self._permuted(value, self.inverse_order), log_det

    def inverse(self, value: Values, context: Context | None = None) -> Values:
        """Map u back to y."""
        value = self._permuted(value, self.order)
        for number, coupling in reversed(list(enumerate(self.couplings))):
            value = _flip(cast(AbstractFlow, coupling).inverse(_flip(value, number), context), number)
        return self._permuted(value, self.inverse_order)

    def _permuted(self, value: Values, order: Tensor) -> Values:
        return value[..., order] if self.alternating and len(order) else value


def _flip(value: Float[Tensor, "*batch features"], number: int) -> Float[Tensor, "*batch features"]:
    """Reverse the dimensions for every second coupling, so that both halves are transformed; it is its own inverse."""
    return value.flip(-1) if number % 2 else value


def _linear(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear layer; without inputs it has a bias alone."""
    if in_features:
        return nn.Linear(in_features, out_features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the no-op on zero-element tensors is intended
        return nn.Linear(in_features, out_features)


class WhiteningFlow(AbstractFlow):
    """The fixed linear map ``u = L^-1 (y - z - m)`` that whitens data y, or their differences to a latent z.

    m is the mean and ``L L^T`` the covariance of the data. A density of u instead of y starts where the data are. With
    differences, z is the last D numbers of the context, and a recurrent network need not carry z through its state; without,
    z is zero.

    Args:
        num_features: D, size of y and z.
        difference: Whether to whiten differences.

    References:
        Kessy, Lewin, Strimmer, Optimal Whitening and Decorrelation, 2018, https://arxiv.org/abs/1512.00809 (Cholesky).
    """

    def __init__(self, num_features: int, difference: bool = False) -> None:
        super().__init__()
        self.difference = difference
        self.mean: Tensor
        self.root: Tensor
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("root", torch.eye(num_features))

    @torch.no_grad()
    def fit(self, data: Float[Tensor, "steps features"]) -> None:
        """Set m and L to the statistics of data or differences; a ridge of a thousandth of each variance bounds L^-1.

        Raises:
            ValueError: there are fewer than two steps, or a number is not finite.
        """
        if len(data) < 2 or not torch.isfinite(data).all():
            raise ValueError(f"data must be at least two finite vectors, got {tuple(data.shape)}")
        values = data.to(widest_dtype(data))
        covariance = torch.cov(values.mT).reshape(2 * values.shape[1:])
        ridge = (covariance.diagonal() * RIDGE).clamp(min=MIN_RIDGE)
        self.mean.copy_(values.mean(dim=0))
        self.root.copy_(torch.linalg.cholesky(covariance + ridge.diag()))

    def forward(self, value: Values, context: Context | None = None) -> tuple[Values, LogDet]:
        """Map y to u, with log|det du/dy|."""
        difference = (value - self._latent(context) - self.mean).to(self.root.dtype)  # also under autocast
        columns = difference.reshape(-1, len(self.root)).mT  # (features, values)
        solved = torch.linalg.solve_triangular(self.root, columns, upper=False).mT.reshape(difference.shape)
        return solved, self.log_det.expand(difference.shape[:-1])

    def inverse(self, value: Values, context: Context | None = None) -> Values:
        """Map u back to y."""
        return matmul(value, self.root.mT) + self.mean + self._latent(context)

    @property
    def log_det(self) -> Float[Tensor, ""]:
        """``log|det du/dy|``, the same for all values."""
        return -self.root.diagonal().log().sum()

    def _latent(self, context: Context | None) -> Values | float:
        if not self.difference:
            return 0.0
        if context is None:
            raise ValueError(f"context must end in a latent of {len(self.mean)} dimensions, got None")
        return context[..., -len(self.mean) :]
