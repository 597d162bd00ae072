"""Gaussian mixtures by precision, and densities seen through a flow.

Start reading at `GaussianMixture.log_prob`. Component k has precision ``P_k = diag(d_k) + U_k U_k^T``, so that density,
gradient and sample cost O(K D (1 + R)) and no D x D matrix is ever built.
"""

import math
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.autograd.function import once_differentiable

from worldmodel.arguments import check_temperature

LOG_TWO_PI = math.log(2 * math.pi)
UNROLLED = 4
"""Up to this rank the R x R Cholesky factor is written out by hand: far faster than batched LAPACK."""


@runtime_checkable
class Bijection(Protocol):
    """What `Flowed` needs of a flow."""

    def __call__(self, value: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map y to u; return u and log|det du/dy|."""
        ...

    def inverse(self, value: Tensor, context: Tensor | None = None) -> Tensor:
        """Map u to y."""
        ...


class _Mixture:
    """What all Gaussian mixtures share: weights, means, and how one draws from them."""

    def __init__(self, logits: Float[Tensor, "*batch mixtures"], loc: Float[Tensor, "*batch mixtures event"]) -> None:
        if loc.ndim < 2 or logits.shape != loc.shape[:-1]:
            raise ValueError(
                f"logits must have shape (*batch, K) and loc (*batch, K, D), got {tuple(logits.shape)} and {tuple(loc.shape)}"
            )
        self.logits, self.loc = logits, loc

    @property
    def batch_shape(self) -> Size:
        """Shape of the batch."""
        return self.logits.shape[:-1]

    @property
    def event_shape(self) -> Size:
        """(D,)."""
        return self.loc.shape[-1:]

    @property
    def mixtures(self) -> int:
        """K."""
        return self.logits.shape[-1]

    def log_prob(self, value: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch"]:
        """Log p(value) in nats, summed over the event."""
        if value.shape[-1:] != self.event_shape:
            raise ValueError(f"value must end in {self.event_shape[0]} dimensions, got {tuple(value.shape)}")
        return torch.logsumexp(self.logits.log_softmax(dim=-1) + self._component_log_prob(value), dim=-1)

    def sample(
        self,
        shape: tuple[int, ...] = (),
        temperature: float | Tensor = 1.0,
        generator: Generator | None = None,
        noise_temperature: float | Tensor | None = None,
    ) -> Float[Tensor, "*shape_batch event"]:
        """Draw samples of shape (*shape, *batch, D).

        Temperature tau divides the mixture's logits by tau and multiplies the noise by sqrt(tau): at 1 these are samples of
        the density, towards 0 its mode.

        Args:
            shape: how many, for each element of the batch.
            temperature: finite and above zero; a number, or a tensor that broadcasts to (*shape, *batch).
            generator: the source of all randomness; None: torch's own.
            noise_temperature: another temperature for the noise; None: the same.

        Raises:
            ValueError: a temperature is not finite and above zero.
        """
        check_temperature(temperature)
        if noise_temperature is not None:
            check_temperature(noise_temperature)
        full = (*shape, *self.batch_shape)
        # In bfloat16 a uniform number could round to 1, so it is drawn in single precision at least.
        wide = torch.promote_types(self.logits.dtype, torch.float32)
        uniform = self.logits.new_empty(*full, self.mixtures, dtype=wide).uniform_(generator=generator)
        gumbel = -torch.log(-torch.log(uniform.clamp_(1e-20, 1 - 1e-7)))
        normal = self.loc.new_empty(*full, self.normals).normal_(generator=generator)
        return self.from_noise(gumbel, normal, temperature, noise_temperature)

    def from_noise(
        self,
        gumbel: Float[Tensor, "*shape_batch mixtures"],
        normal: Float[Tensor, "*shape_batch normals"],
        temperature: float | Tensor = 1.0,
        noise_temperature: float | Tensor | None = None,
    ) -> Float[Tensor, "*shape_batch event"]:
        """The samples that standard Gumbel and standard Normal numbers stand for: `sample` without its randomness."""
        mixing, spread = temperature, temperature if noise_temperature is None else noise_temperature
        if isinstance(mixing, Tensor):
            mixing = mixing.to(self.logits).unsqueeze(-1)
        if isinstance(spread, Tensor):
            spread = spread.to(self.loc).unsqueeze(-1)
        # Gumbel's trick: argmax(logits / tau + noise) is a draw from the tempered weights.
        chosen = (self.logits / mixing + gumbel).argmax(dim=-1)
        root = spread.sqrt() if isinstance(spread, Tensor) else math.sqrt(spread)
        return self._pick(self.loc, chosen) + root * self._noise(chosen, normal)

    @property
    def normals(self) -> int:
        """How many standard Normal numbers a sample takes."""
        return self.loc.shape[-1]

    @property
    def mean(self) -> Float[Tensor, "*batch event"]:
        """The mixture's mean."""
        return (self.logits.softmax(dim=-1).unsqueeze(-1) * self.loc).sum(dim=-2)

    @property
    def mode(self) -> Float[Tensor, "*batch event"]:
        """The mean of the heaviest component: where samples go as the temperature goes to zero."""
        return self._pick(self.loc, self.logits.argmax(dim=-1))

    def _component_log_prob(self, value: Tensor) -> Tensor:
        """Log N(value; mu_k, P_k^-1) of every component, (*batch, K)."""
        raise NotImplementedError

    def _noise(self, chosen: Tensor, normal: Tensor) -> Tensor:
        """Draws from N(0, P^-1) of the chosen components, made of standard normals (*full, normals)."""
        raise NotImplementedError

    def _pick(self, values: Tensor, chosen: Tensor) -> Tensor:
        """The chosen component's part of (*batch, K, ...) values; ``chosen`` has shape (*shape, *batch)."""
        trailing = values.shape[len(self.batch_shape) + 1 :]
        index = chosen.reshape(*chosen.shape, 1, *(1 for _ in trailing)).expand(*chosen.shape, 1, *trailing)
        return values.expand(*chosen.shape, self.mixtures, *trailing).gather(chosen.ndim, index).squeeze(chosen.ndim)


class GaussianMixture(_Mixture):
    """A mixture of K Gaussians over D dimensions, each given by its precision.

    ``p(x) = sum_k pi_k N(x; mu_k, P_k^-1)``, with ``P_k = diag(exp(log_precision_k)) + U_k U_k^T``.

    Args:
        logits: (*batch, K), unnormalised log-weights.
        loc: (*batch, K, D), the means.
        log_precision: (*batch, K, D), log d_k.
        precision_factor: (*batch, K, D, R), U_k; None for a diagonal precision.

    Raises:
        ValueError: shapes do not fit together.

    Example:
        >>> g = GaussianMixture(torch.zeros(5), torch.zeros(5, 32), torch.zeros(5, 32))
        >>> g.log_prob(torch.zeros(32))
        tensor(-29.4060)

    References:
        Razavi, Hosseini, Behzad, FRMDN: Flow-based Recurrent Mixture Density Network, 2020,
        https://arxiv.org/abs/2008.02144.
    """

    def __init__(
        self,
        logits: Float[Tensor, "*batch mixtures"],
        loc: Float[Tensor, "*batch mixtures event"],
        log_precision: Float[Tensor, "*batch mixtures event"],
        precision_factor: Float[Tensor, "*batch mixtures event rank"] | None = None,
    ) -> None:
        super().__init__(logits, loc)
        if log_precision.shape != loc.shape:
            raise ValueError(
                f"log_precision must have loc's shape {tuple(loc.shape)}, got {tuple(log_precision.shape)}"
            )
        if precision_factor is not None and precision_factor.shape[:-1] != loc.shape:
            raise ValueError(
                f"precision_factor must have shape {tuple(loc.shape)} and a rank behind it, got {tuple(precision_factor.shape)}"
            )
        if precision_factor is not None and precision_factor.shape[-1] == 0:
            precision_factor = None
        self.log_precision, self.precision_factor = log_precision, precision_factor

    def __repr__(self) -> str:
        """Shapes."""
        rank = 0 if self.precision_factor is None else self.precision_factor.shape[-1]
        shapes = f"batch={tuple(self.batch_shape)}, event={tuple(self.event_shape)}"
        return f"GaussianMixture({shapes}, mixtures={self.mixtures}, rank={rank})"

    def _component_log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.unsqueeze(-2).shape, self.loc.shape)
        factor = self.precision_factor
        return _LogNormal.apply(
            value.unsqueeze(-2).expand(shape),
            self.loc.expand(shape),
            self.log_precision.expand(shape),
            None if factor is None else factor.expand(*shape, factor.shape[-1]),
        )

    @property
    def normals(self) -> int:
        """How many standard Normal numbers a sample takes: D + R."""
        return self.loc.shape[-1] + (0 if self.precision_factor is None else self.precision_factor.shape[-1])

    def _noise(self, chosen: Tensor, normal: Tensor) -> Tensor:
        log_precision = self._pick(self.log_precision, chosen)
        if self.precision_factor is None:
            return normal * torch.exp(-0.5 * log_precision)
        # b = D^1/2 n1 + U n2 has covariance P, so P^-1 b has covariance P^-1; Woodbury solves P x = b.
        factor = self._pick(self.precision_factor, chosen)  # (*full, D, R)
        own, common = normal.split((log_precision.shape[-1], factor.shape[-1]), dim=-1)
        right = own * torch.exp(0.5 * log_precision) + (factor @ common.unsqueeze(-1)).squeeze(-1)
        return _woodbury(log_precision, factor, right)

    @property
    def precision(self) -> Float[Tensor, "*batch mixtures event event"]:
        """P_k, in full."""
        diagonal = torch.diag_embed(self.log_precision.exp())
        return (
            diagonal if self.precision_factor is None else diagonal + self.precision_factor @ self.precision_factor.mT
        )

    @property
    def covariance(self) -> Float[Tensor, "*batch mixtures event event"]:
        """P_k^-1, in full."""
        inverse = torch.diag_embed((-self.log_precision).exp())
        if self.precision_factor is None:
            return inverse
        scaled = self.precision_factor * (-self.log_precision).exp().unsqueeze(-1)  # D^-1 U
        return inverse - scaled @ torch.cholesky_solve(scaled.mT, torch.linalg.cholesky(self._capacitance()))

    def _capacitance(self) -> Float[Tensor, "*batch mixtures rank rank"]:
        """I_R + U^T D^-1 U."""
        assert self.precision_factor is not None
        return _capacitance(self.log_precision, self.precision_factor)


class FullGaussianMixture(_Mixture):
    """A mixture of K Gaussians with full precisions ``P_k = L_k L_k^T``: the rival that costs O(K D^2).

    Args:
        logits: (*batch, K), unnormalised log-weights.
        loc: (*batch, K, D), the means.
        log_diagonal: (*batch, K, D), the logarithms of L's diagonal.
        below: (*batch, K, D (D - 1) / 2), L's entries below it, row by row.

    Raises:
        ValueError: shapes do not fit together.
    """

    def __init__(
        self,
        logits: Float[Tensor, "*batch mixtures"],
        loc: Float[Tensor, "*batch mixtures event"],
        log_diagonal: Float[Tensor, "*batch mixtures event"],
        below: Float[Tensor, "*batch mixtures entries"],
    ) -> None:
        super().__init__(logits, loc)
        size = loc.shape[-1]
        if log_diagonal.shape != loc.shape or below.shape != (*loc.shape[:-1], size * (size - 1) // 2):
            raise ValueError(
                f"log_diagonal must have loc's shape {tuple(loc.shape)} and below end in {size * (size - 1) // 2}, "
                f"got {tuple(log_diagonal.shape)} and {tuple(below.shape)}"
            )
        self.log_diagonal = log_diagonal
        lower = torch.diag_embed(log_diagonal.exp())
        rows, columns = torch.tril_indices(size, size, -1, device=loc.device)
        lower[..., rows, columns] = below
        self.lower = lower

    def __repr__(self) -> str:
        """Shapes."""
        shapes = f"batch={tuple(self.batch_shape)}, event={tuple(self.event_shape)}"
        return f"FullGaussianMixture({shapes}, mixtures={self.mixtures})"

    def _component_log_prob(self, value: Tensor) -> Tensor:
        """With ``log det P = 2 sum_i log L_ii`` and ``e^T P e = ||L^T e||^2``."""
        error = (value.unsqueeze(-2) - self.loc).unsqueeze(-2)
        quadratic = (error @ self.lower).squeeze(-2).square().sum(dim=-1)
        return self.log_diagonal.sum(dim=-1) - 0.5 * (quadratic + self.event_shape[0] * LOG_TWO_PI)

    def _noise(self, chosen: Tensor, normal: Tensor) -> Tensor:
        lower = self._pick(self.lower, chosen)
        return torch.linalg.solve_triangular(lower.mT, normal.unsqueeze(-1), upper=True).squeeze(-1)  # L^T x = n

    @property
    def precision(self) -> Float[Tensor, "*batch mixtures event event"]:
        """P_k."""
        return self.lower @ self.lower.mT

    @property
    def covariance(self) -> Float[Tensor, "*batch mixtures event event"]:
        """P_k^-1."""
        return torch.cholesky_inverse(self.lower)


class Flowed:
    """The density of y when a flow maps it to a base density: ``log p(y) = log p_base(f(y)) + log|det df/dy|``.

    Args:
        base: a `GaussianMixture` or `FullGaussianMixture` over u = f(y).
        flow: the bijection f.
        context: what a conditional flow sees, (*batch, C).
    """

    def __init__(
        self,
        base: GaussianMixture | FullGaussianMixture,
        flow: Bijection,
        context: Float[Tensor, "*batch context"] | None = None,
    ) -> None:
        self.base, self.flow, self.context = base, flow, context

    def __repr__(self) -> str:
        """The base, and whether the flow sees a context."""
        return f"Flowed({self.base!r}, conditional={self.context is not None})"

    @property
    def batch_shape(self) -> Size:
        """Shape of the batch."""
        return self.base.batch_shape

    @property
    def event_shape(self) -> Size:
        """(D,)."""
        return self.base.event_shape

    def log_prob(self, value: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch"]:
        """Log p(value) in nats, the log-determinant included."""
        base_value, log_det = self.flow(value, self._context(value))
        return self.base.log_prob(base_value) + log_det

    def sample(
        self,
        shape: tuple[int, ...] = (),
        temperature: float | Tensor = 1.0,
        generator: Generator | None = None,
        noise_temperature: float | Tensor | None = None,
    ) -> Float[Tensor, "*shape_batch event"]:
        """Draw from the base at a temperature (see `GaussianMixture.sample`), and map back through the flow."""
        drawn = self.base.sample(shape, temperature, generator, noise_temperature)
        return self.flow.inverse(drawn, self._context(drawn))

    def from_noise(
        self,
        gumbel: Float[Tensor, "*shape_batch mixtures"],
        normal: Float[Tensor, "*shape_batch normals"],
        temperature: float | Tensor = 1.0,
        noise_temperature: float | Tensor | None = None,
    ) -> Float[Tensor, "*shape_batch event"]:
        """The samples that standard Gumbel and standard Normal numbers stand for."""
        drawn = self.base.from_noise(gumbel, normal, temperature, noise_temperature)
        return self.flow.inverse(drawn, self._context(drawn))

    @property
    def mode(self) -> Float[Tensor, "*batch event"]:
        """The base's mode mapped back: where samples go as the temperature goes to zero."""
        return self.flow.inverse(self.base.mode, self.context)

    def _context(self, value: Tensor) -> Tensor | None:
        return None if self.context is None else self.context.expand(*value.shape[:-1], self.context.shape[-1])


class _LogNormal(torch.autograd.Function):
    """log N(value; loc, P^-1) with ``P = diag(d) + U U^T``, and its gradient in closed form.

    With e = value - loc, w = U^T e, C = I_R + U^T D^-1 U and G = P^-1 U = D^-1 U C^-1:

        log N  = (sum log d + log det C - sum d e^2 - |w|^2 - D log 2 pi) / 2
        d/dloc = P e = d e + U w,    d/dlog d = (1 - sum_r G_r U_r - d e^2) / 2,    d/dU = G - e w^T

    One node in place of some thirty: training spends its time in the recurrent network, not in bookkeeping. It can be
    differentiated once.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, loc: Tensor, log_precision: Tensor, factor: Tensor | None) -> Tensor:
        error, precision = value - loc, log_precision.exp()
        pull = precision * error  # D e
        twice = log_precision.sum(dim=-1) - (pull * error).sum(dim=-1) - error.shape[-1] * LOG_TWO_PI
        if factor is not None:
            reach = (error.unsqueeze(-1) * factor).sum(dim=-2)  # w
            lower = _cholesky(_capacitance(log_precision, factor))
            twice = twice + 2 * _log_diagonal(lower) - reach.square().sum(dim=-1)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(error, pull, *(() if factor is None else (precision, factor, reach)))
            ctx.lower = None if factor is None else lower
        return 0.5 * twice

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        error, pull, *rest = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        by_log, by_factor = 1 - pull * error, None
        if rest:
            precision, factor, reach = rest
            solved = _solve_rows(ctx.lower, factor / precision.unsqueeze(-1))  # G
            by_log = by_log - (solved * factor).sum(dim=-1)
            by_factor = grad.unsqueeze(-1) * (solved - error.unsqueeze(-1) * reach.unsqueeze(-2))
            pull = pull + (factor * reach.unsqueeze(-2)).sum(dim=-1)
        by_loc = grad * pull
        return -by_loc, by_loc, grad * (0.5 * by_log), by_factor


def _capacitance(
    log_precision: Float[Tensor, "*batch event"], factor: Float[Tensor, "*batch event rank"]
) -> Float[Tensor, "*batch rank rank"]:
    """I_R + U^T D^-1 U."""
    rank, scaled = factor.shape[-1], factor * (-log_precision).exp().unsqueeze(-1)
    if rank > UNROLLED:
        inner = factor.mT @ scaled
    else:  # a few long sums beat many tiny matrix products
        columns, others = factor.unbind(dim=-1), scaled.unbind(dim=-1)
        products = {(i, j): (columns[i] * others[j]).sum(dim=-1) for i in range(rank) for j in range(i + 1)}
        rows = [torch.stack([products[max(i, j), min(i, j)] for j in range(rank)], dim=-1) for i in range(rank)]
        inner = torch.stack(rows, dim=-2)
    return inner + torch.eye(rank, dtype=inner.dtype, device=inner.device)


def _woodbury(
    log_precision: Float[Tensor, "*batch event"],
    factor: Float[Tensor, "*batch event rank"],
    right: Float[Tensor, "*batch event"],
) -> Float[Tensor, "*batch event"]:
    """Solve (D + U U^T) x = b as ``x = D^-1 b - D^-1 U (I + U^T D^-1 U)^-1 U^T D^-1 b``."""
    inverse = (-log_precision).exp()
    scaled = inverse * right
    inner = (factor.mT @ scaled.unsqueeze(-1)).squeeze(-1)  # (*B, R)
    solved = _solve(_cholesky(_capacitance(log_precision, factor)), inner)
    return scaled - inverse * (factor @ solved.unsqueeze(-1)).squeeze(-1)


Triangle = list[list[Tensor]] | Tensor
"""A lower Cholesky factor: rows of scalars (*batch,) when written out, one (*batch, R, R) tensor otherwise."""


def _cholesky(matrix: Float[Tensor, "*batch rank rank"]) -> Triangle:
    rank = matrix.shape[-1]
    if rank > UNROLLED:
        return torch.linalg.cholesky(matrix)
    lower: list[list[Tensor]] = []
    for i in range(rank):
        row: list[Tensor] = []
        for j in range(i + 1):
            rest = matrix[..., i, j]
            for k in range(j):
                rest = rest - row[k] * (lower[j][k] if j < i else row[k])
            # The true pivot is at least 1 (I plus a Gram matrix); rounding must not push it below.
            row.append(rest.clamp(min=1.0).sqrt() if i == j else rest / lower[j][j])
        lower.append(row)
    return lower


def _log_diagonal(lower: Triangle) -> Float[Tensor, "*batch"]:
    """The sum of the logarithms of a Cholesky factor's diagonal."""
    if isinstance(lower, Tensor):
        return lower.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    return torch.stack([row[-1] for row in lower]).log().sum(dim=0)


def _solve(lower: Triangle, right: Float[Tensor, "*batch rank"]) -> Float[Tensor, "*batch rank"]:
    """Solve L L^T x = b."""
    if isinstance(lower, Tensor):
        return torch.cholesky_solve(right.unsqueeze(-1), lower).squeeze(-1)
    rank = right.shape[-1]
    forward: list[Tensor] = []
    for i in range(rank):
        rest = right[..., i]
        for k in range(i):
            rest = rest - lower[i][k] * forward[k]
        forward.append(rest / lower[i][i])
    backward: list[Tensor] = []
    for i in reversed(range(rank)):
        rest = forward[i]
        for k in range(i + 1, rank):
            rest = rest - lower[k][i] * backward[rank - 1 - k]
        backward.append(rest / lower[i][i])
    return torch.stack(backward[::-1], dim=-1)


def _solve_rows(lower: Triangle, right: Float[Tensor, "*batch event rank"]) -> Float[Tensor, "*batch event rank"]:
    """Every row of ``right`` times (L L^T)^-1."""
    if isinstance(lower, Tensor):
        return torch.cholesky_solve(right.mT, lower).mT
    return _solve([[entry.unsqueeze(-1) for entry in row] for row in lower], right)
