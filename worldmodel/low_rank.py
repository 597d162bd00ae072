"""Algebra of precisions ``P = diag(d) + U U^T``: densities, gradients and samples without a D x D matrix.

Start reading at `GaussianLogProb`; `worldmodel.distributions` uses it.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG_TWO_PI = math.log(2 * math.pi)
MAX_UNROLLED_RANK = 4
"""Largest rank whose R x R Cholesky factor is unrolled; this is far faster than batched LAPACK."""


class GaussianLogProb(torch.autograd.Function):
    """log N(value; loc, P^-1) with ``P = diag(d) + U U^T``, and its gradient in closed form.

    With e = value - loc, w = U^T e, C = I_R + U^T D^-1 U and G = P^-1 U = D^-1 U C^-1:

        log N  = (sum log d + log det C - sum d e^2 - |w|^2 - D log 2 pi) / 2
        d/dloc = P e = d e + U w,    d/dlog d = (1 - sum_r G_r U_r - d e^2) / 2,    d/dU = G - e w^T

    In single precision, the error of log det C grows with the condition number of C: |log N| is wrong by 0.01 nats and more
    once U's columns are nearly collinear and |U_r|^2 / d exceeds about 10^5. Double precision would take up to twice as long.

    One autograd node replaces about thirty, so that training does not spend its time on autograd overhead. The function can
    be differentiated once.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, loc: Tensor, log_precision: Tensor, factor: Tensor | None) -> Tensor:
        """Return the log-density."""
        error, precision = value - loc, log_precision.exp()
        weighted = precision * error  # D e
        twice = log_precision.sum(dim=-1) - (weighted * error).sum(dim=-1) - error.shape[-1] * LOG_TWO_PI
        if factor is not None:
            w = (error.unsqueeze(-1) * factor).sum(dim=-2)
            lower = _cholesky(capacitance(log_precision, factor))
            twice = twice + 2 * _log_diagonal(lower).to(twice.dtype) - w.square().sum(dim=-1)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(error, weighted, *(() if factor is None else (precision, factor, w)))
            ctx.lower = None if factor is None else lower
        return 0.5 * twice

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient."""
        error, weighted, *rest = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        by_log, by_factor = 1 - weighted * error, None
        if rest:
            precision, factor, w = rest
            g = _solve_rows(ctx.lower, factor / precision.unsqueeze(-1))
            by_log = by_log - (g * factor).sum(dim=-1)
            by_factor = grad.unsqueeze(-1) * (g - error.unsqueeze(-1) * w.unsqueeze(-2))
            weighted = weighted + (factor * w.unsqueeze(-2)).sum(dim=-1)  # P e
        by_loc = grad * weighted
        return -by_loc, by_loc, grad * (0.5 * by_log), by_factor


def widest_dtype(like: Tensor) -> torch.dtype:
    """Return double precision, or single precision on Apple's GPUs."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def matmul(one: Tensor, other: Tensor) -> Tensor:
    """Multiply matrices in their own dtype, also under `torch.autocast`, which would round them to bfloat16."""
    if not torch.is_autocast_enabled(one.device.type):
        return one @ other
    with torch.autocast(one.device.type, enabled=False):
        return one @ other


def capacitance(
    log_precision: Float[Tensor, "*batch event"], factor: Float[Tensor, "*batch event rank"]
) -> Float[Tensor, "*batch rank rank"]:
    """Return I_R + U^T D^-1 U."""
    return _identity_plus(factor, factor * (-log_precision).exp().unsqueeze(-1))


def _identity_plus(
    factor: Float[Tensor, "*batch event rank"], scaled: Float[Tensor, "*batch event rank"]
) -> Float[Tensor, "*batch rank rank"]:
    """Return I_R + A^T B, for a symmetric A^T B."""
    rank = factor.shape[-1]
    if rank > MAX_UNROLLED_RANK:
        inner = matmul(factor.mT, scaled)
    else:  # a few long sums are faster than many small matrix products
        columns, others = factor.unbind(dim=-1), scaled.unbind(dim=-1)
        products = {(i, j): (columns[i] * others[j]).sum(dim=-1) for i in range(rank) for j in range(i + 1)}
        rows = [torch.stack([products[max(i, j), min(i, j)] for j in range(rank)], dim=-1) for i in range(rank)]
        inner = torch.stack(rows, dim=-2)
    return inner + torch.eye(rank, dtype=inner.dtype, device=inner.device)


def noise(
    log_precision: Float[Tensor, "*batch event"],
    factor: Float[Tensor, "*batch event rank"],
    n1: Float[Tensor, "*batch event"],
    n2: Float[Tensor, "*batch rank"],
) -> Float[Tensor, "*batch event"]:
    """Return a sample of N(0, (D + U U^T)^-1) from standard Normal numbers n1 (D numbers) and n2 (R numbers).

    Woodbury's identity solves ``(D + U U^T) x = D^1/2 n1 + U n2``. With V = D^-1/2 U and C = I_R + V^T V, large terms cancel
    analytically:

        x = D^-1/2 (n1 - V C^-1 (V^T n1 - n2))

    The result along V is of size 1 / |V|, a difference of numbers of size 1, and the condition number of C is |V|^2. The
    bracket is therefore computed in double precision, except on Apple's GPUs, which have none. It has only D + R numbers.
    """
    wide = widest_dtype(n1)
    scale = torch.exp(-0.5 * log_precision)
    n1, n2, v = n1.to(wide), n2.to(wide), factor.to(wide) * scale.to(wide).unsqueeze(-1)
    difference = (v.mT @ n1.unsqueeze(-1)).squeeze(-1) - n2
    solved = _solve(_cholesky(_identity_plus(v, v)), difference)
    return scale * (n1 - (v @ solved.unsqueeze(-1)).squeeze(-1)).to(scale.dtype)


CholeskyFactor = list[list[Tensor]] | Tensor
"""A lower Cholesky factor: rows of scalars (*batch,) if unrolled, otherwise one (*batch, R, R) tensor."""


def _cholesky(matrix: Float[Tensor, "*batch rank rank"]) -> CholeskyFactor:
    rank = matrix.shape[-1]
    if rank > MAX_UNROLLED_RANK:
        # LAPACK supports no other dtypes
        wide = matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()
        triangle, failed = torch.linalg.cholesky_ex(wide)
        # the exact matrix is I plus a Gram matrix, so only rounding can make it indefinite
        return torch.linalg.cholesky(_nearest_valid(wide)).to(wide.dtype) if failed.any() else triangle
    lower: list[list[Tensor]] = []
    for i in range(rank):
        row: list[Tensor] = []
        for j in range(i + 1):
            rest = matrix[..., i, j]
            for k in range(j):
                rest = rest - row[k] * (lower[j][k] if j < i else row[k])
            # the exact pivot is at least 1 (I plus a Gram matrix); correct a smaller one after rounding
            row.append(rest.clamp(min=1.0).sqrt() if i == j else rest / lower[j][j])
        lower.append(row)
    return lower


def _nearest_valid(matrix: Float[Tensor, "*batch rank rank"]) -> Float[Tensor, "*batch rank rank"]:
    """Return the nearest matrix with eigenvalues of at least 1, as in I plus a Gram matrix; in the widest precision."""
    values, vectors = torch.linalg.eigh(matrix.to(widest_dtype(matrix)))
    return (vectors * values.clamp(min=1.0).unsqueeze(-2)) @ vectors.mT


def _log_diagonal(lower: CholeskyFactor) -> Float[Tensor, "*batch"]:
    """Return the sum of the logarithms of a Cholesky factor's diagonal."""
    if isinstance(lower, Tensor):
        return lower.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    return torch.stack([row[-1] for row in lower]).log().sum(dim=0)


def _solve(lower: CholeskyFactor, right: Float[Tensor, "*batch rank"]) -> Float[Tensor, "*batch rank"]:
    """Solve L L^T x = b."""
    if isinstance(lower, Tensor):
        return torch.cholesky_solve(right.unsqueeze(-1).to(lower.dtype), lower).squeeze(-1).to(right.dtype)
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


def _solve_rows(lower: CholeskyFactor, right: Float[Tensor, "*batch event rank"]) -> Float[Tensor, "*batch event rank"]:
    """Multiply every row of ``right`` by (L L^T)^-1."""
    if isinstance(lower, Tensor):
        return torch.cholesky_solve(right.mT.to(lower.dtype), lower).mT.to(right.dtype)
    return _solve([[entry.unsqueeze(-1) for entry in row] for row in lower], right)
