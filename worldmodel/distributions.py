"""Distributions with a temperature and a generator: Gaussian mixtures parameterized by precision, and their flows.

Start reading at `GaussianMixture`. Component k has precision ``P_k = diag(d_k) + U_k U_k^T``, so that density, gradient and
sample cost O(K (D (1 + R^2) + R^3)), without a D x D matrix.

Every class is a `torch.distributions.Distribution`. torch validates the parameters and values of a new distribution unless
``validate_args`` is false. The models pass False: training and dreams make a distribution per step.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution, Transform, constraints

from worldmodel.flows import AbstractFlow, broadcast_context
from worldmodel.low_rank import LOG_TWO_PI, GaussianLogProb, capacitance, matmul, noise, widest_dtype
from worldmodel.validation import validate_temperature

Temperature = float | Tensor
Batch = Float[Tensor, "*batch"]
Event = Float[Tensor, "*batch event"]
Value = Float[Tensor, "*#batch event"]
Samples = Float[Tensor, "*shape_batch event"]
Logits = Float[Tensor, "*batch components"]
Vectors = Float[Tensor, "*batch components event"]
Matrices = Float[Tensor, "*batch components event event"]
REAL_LOGITS, REAL_VECTORS, REAL_MATRICES = (constraints.independent(constraints.real, ndim) for ndim in (1, 2, 3))
"""Constraints of parameters with a number, a vector or a matrix for each component."""


def standard_gumbel(like: Tensor, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
    """Sample standard Gumbel numbers of a shape, on the device of ``like``."""
    # a uniform number in bfloat16 may round to 1, so sample at least in single precision
    wide = torch.promote_types(like.dtype, torch.float32)
    uniform = like.new_empty(shape, dtype=wide).uniform_(generator=generator)
    return -torch.log(-torch.log(uniform.clamp_(1e-20, 1 - 1e-7)))


class AbstractTemperedDistribution(Distribution):
    """A distribution over vectors, sampled at a temperature and with a generator."""

    support = constraints.real_vector
    arg_constraints: dict[str, constraints.Constraint] = {}

    @property
    def weights(self) -> Logits:
        """Probabilities of the components."""
        raise NotImplementedError

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        temperature: Temperature = 1.0,
        generator: Generator | None = None,
    ) -> Samples:
        """Draw samples of shape (*shape, *batch, D), without gradients.

        Temperature tau divides the logits by tau and multiplies the noise by sqrt(tau), in the base space of a flow. Samples at
        1 follow the density; as tau goes to 0, they approach `mode`.

        Args:
            sample_shape: Shape of the samples for each element of the batch.
            temperature: Finite and above zero; a number, or a tensor that broadcasts to (*shape, *batch).
            generator: Source of all random numbers. None: torch's default generator.

        Raises:
            ValueError: a temperature is not finite and above zero.
        """
        with torch.no_grad():
            return self._draw(tuple(sample_shape), temperature, generator)

    def rsample(
        self,
        sample_shape: Sequence[int] = (),
        temperature: Temperature = 1.0,
        generator: Generator | None = None,
    ) -> Samples:
        """Draw samples as `sample` does, with gradients.

        Raises:
            ValueError: a temperature is not finite and above zero.
            NotImplementedError: there are several components, whose choice has no gradient.
        """
        if not self.has_rsample:
            raise NotImplementedError("the choice of a component has no gradient: use sample or rsample_from_noise")
        return self._draw(tuple(sample_shape), temperature, generator)

    def entropy(self) -> Batch:
        """Return the entropy of a Gaussian in nats, ``D / 2 - log p(mean)``.

        Raises:
            NotImplementedError: there are several components, or a flow, and no closed form.
        """
        if not self.has_rsample:
            raise NotImplementedError("the entropy of a mixture has no closed form: average -log_prob over samples")
        # a flow has no mean in closed form either
        return 0.5 * self.event_shape[0] - self.log_prob(self.mean)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the distribution with its parameters expanded to a batch shape."""
        parameters = {
            name: (value := getattr(self, name)).expand(*batch_shape, *value.shape[-constraint.event_dim :])
            for name, constraint in self.arg_constraints.items()
        }
        return type(self)(**parameters, validate_args=self._validate_args)

    def _draw(self, sample_shape: tuple[int, ...], temperature: Temperature, generator: Generator | None) -> Tensor:
        """Draw samples as `sample` does, with gradients."""
        raise NotImplementedError

    def _validate_value(self, value: Tensor) -> None:
        if value.shape[-1:] != self.event_shape:
            raise ValueError(f"value must end in {self.event_shape[0]} dimensions, got {tuple(value.shape)}")
        if self._validate_args:
            self._validate_sample(value)


class AbstractGaussianMixture(AbstractTemperedDistribution):
    """Weights, means and sampling, common to all Gaussian mixtures."""

    logits: Tensor
    loc: Tensor

    def __init__(self, logits: Tensor, loc: Tensor, validate_args: bool | None) -> None:
        if loc.ndim < 2 or logits.shape != loc.shape[:-1]:
            raise ValueError(
                f"logits must have shape (*batch, K) and loc (*batch, K, D), got {tuple(logits.shape)} and {tuple(loc.shape)}"
            )
        self.logits, self.loc = logits, loc
        super().__init__(logits.shape[:-1], loc.shape[-1:], validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether there is a single component."""
        return self.num_components == 1

    @property
    def num_components(self) -> int:
        """K, number of components."""
        return self.logits.shape[-1]

    def log_prob(self, value: Value) -> Batch:
        """Return log p(value) in nats, summed over the event."""
        self._validate_value(value)
        return torch.logsumexp(self.logits.log_softmax(dim=-1) + self._component_log_prob(value), dim=-1)

    def rsample_from_noise(
        self,
        gumbel: Tensor,
        normal: Tensor,
        temperature: Temperature = 1.0,
    ) -> Samples:
        """Compute the samples that `sample` returns for given standard Gumbel and standard Normal numbers."""
        if isinstance(temperature, Tensor):
            temperature = temperature.to(self.logits).unsqueeze(-1)
        # Gumbel-max trick: argmax(logits / tau + noise) is a sample of softmax(logits / tau)
        chosen = (self.logits / temperature + gumbel).argmax(dim=-1)
        root = temperature.sqrt() if isinstance(temperature, Tensor) else math.sqrt(temperature)
        return self._gather_component(self.loc, chosen) + root * self._component_noise(chosen, normal)

    @property
    def weights(self) -> Logits:
        """Probabilities of the components."""
        return self.logits.softmax(dim=-1)

    @property
    def mean(self) -> Event:
        """Mean of the mixture."""
        return (self.weights.unsqueeze(-1) * self.loc).sum(dim=-2)

    @property
    def variance(self) -> Event:
        """Variance of each dimension: the mean of the components' variances, and the variance of their means."""
        spread = self.covariance.diagonal(dim1=-2, dim2=-1) + (self.loc - self.mean.unsqueeze(-2)).square()
        return (self.weights.unsqueeze(-1) * spread).sum(dim=-2)

    @property
    def mode(self) -> Event:
        """Mean of the component with the largest weight: the limit of samples as the temperature goes to zero."""
        return self._gather_component(self.loc, self.logits.argmax(dim=-1))

    @property
    def covariance(self) -> Matrices:
        """P_k^-1 as full matrices, computed in double precision."""
        raise NotImplementedError

    def _draw(self, sample_shape: tuple[int, ...], temperature: Temperature, generator: Generator | None) -> Tensor:
        validate_temperature(temperature)
        full = (*sample_shape, *self.batch_shape)
        gumbel = standard_gumbel(self.logits, (*full, self.num_components), generator)
        normal = self.loc.new_empty(*full, self._noise_dim).normal_(generator=generator)
        return self.rsample_from_noise(gumbel, normal, temperature)

    @property
    def _noise_dim(self) -> int:
        """Number of standard Normal numbers per sample."""
        return self.loc.shape[-1]

    def _component_log_prob(self, value: Tensor) -> Tensor:
        """Return log N(value; mu_k, P_k^-1) of every component, (*batch, K)."""
        raise NotImplementedError

    def _component_noise(self, chosen: Tensor, normal: Tensor) -> Tensor:
        """Return samples of N(0, P^-1) of the chosen components from standard Normal numbers (*full, normals)."""
        raise NotImplementedError

    def _gather_component(self, values: Tensor, chosen: Tensor) -> Tensor:
        """Select the chosen component from values (*batch, K, ...); ``chosen`` has shape (*shape, *batch)."""
        trailing = values.shape[len(self.batch_shape) + 1 :]
        index = chosen.reshape(*chosen.shape, 1, *(1 for _ in trailing)).expand(*chosen.shape, 1, *trailing)
        return (
            values.expand(*chosen.shape, self.num_components, *trailing).gather(chosen.ndim, index).squeeze(chosen.ndim)
        )


class GaussianMixture(AbstractGaussianMixture):
    """A mixture of K Gaussians over D dimensions, parameterized by precision.

    ``p(x) = sum_k pi_k N(x; mu_k, P_k^-1)``, with ``P_k = diag(exp(log_precision_k)) + U_k U_k^T``.

    Args:
        logits: (*batch, K), unnormalised log-weights.
        loc: (*batch, K, D), the means.
        log_precision: (*batch, K, D), log d_k.
        precision_factor: (*batch, K, D, R), U_k; None for a diagonal precision.
        validate_args: Whether to validate parameters and values. None: torch's default, True.

    Raises:
        ValueError: the shapes are inconsistent, or a parameter is NaN.

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
        logits: Logits,
        loc: Vectors,
        log_precision: Vectors,
        precision_factor: Float[Tensor, "*batch components event rank"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if log_precision.shape != loc.shape:
            raise ValueError(
                f"log_precision must have loc's shape {tuple(loc.shape)}, got {tuple(log_precision.shape)}"
            )
        if precision_factor is not None and precision_factor.shape[:-1] != loc.shape:
            raise ValueError(
                f"precision_factor must have shape {tuple(loc.shape)} + (R,), got {tuple(precision_factor.shape)}"
            )
        if precision_factor is not None and precision_factor.shape[-1] == 0:
            precision_factor = None
        self.log_precision, self.precision_factor = log_precision, precision_factor
        super().__init__(logits, loc, validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:  # type: ignore[override]
        """Constraints of the parameters."""
        factor = {} if self.precision_factor is None else {"precision_factor": REAL_MATRICES}
        return {"logits": REAL_LOGITS, "loc": REAL_VECTORS, "log_precision": REAL_VECTORS, **factor}

    def _component_log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.unsqueeze(-2).shape, self.loc.shape)
        factor = self.precision_factor
        return GaussianLogProb.apply(
            value.unsqueeze(-2).expand(shape),
            self.loc.expand(shape),
            self.log_precision.expand(shape),
            None if factor is None else factor.expand(*shape, factor.shape[-1]),
        )

    @property
    def _noise_dim(self) -> int:
        """D + R."""
        return self.loc.shape[-1] + (0 if self.precision_factor is None else self.precision_factor.shape[-1])

    def _component_noise(self, chosen: Tensor, normal: Tensor) -> Tensor:
        log_precision = self._gather_component(self.log_precision, chosen)
        if self.precision_factor is None:
            return normal * torch.exp(-0.5 * log_precision)
        factor = self._gather_component(self.precision_factor, chosen)  # (*full, D, R)
        own, common = normal.split((log_precision.shape[-1], factor.shape[-1]), dim=-1)
        return noise(log_precision, factor, own, common)

    @property
    def precision(self) -> Matrices:
        """P_k as full matrices."""
        diagonal = torch.diag_embed(self.log_precision.exp())
        factor = self.precision_factor
        return diagonal if factor is None else diagonal + matmul(factor, factor.mT)

    @property
    def covariance(self) -> Matrices:
        """P_k^-1 as full matrices, computed in double precision."""
        log_precision = self.log_precision.to(widest_dtype(self.log_precision))
        inverse = torch.diag_embed((-log_precision).exp())
        if self.precision_factor is not None:
            factor = self.precision_factor.to(log_precision.dtype)
            lower = torch.linalg.cholesky(capacitance(log_precision, factor))
            scaled = factor * (-log_precision).exp().unsqueeze(-1)  # D^-1 U
            inverse = inverse - scaled @ torch.cholesky_solve(scaled.mT, lower)
        return inverse.to(self.log_precision.dtype)


class FullGaussianMixture(AbstractGaussianMixture):
    """A mixture of K Gaussians with full precisions ``P_k = L_k L_k^T``, at a cost of O(K D^2).

    Args:
        logits: (*batch, K), unnormalised log-weights.
        loc: (*batch, K, D), the means.
        log_diagonal: (*batch, K, D), logarithm of the diagonal of L_k.
        tril: (*batch, K, D (D - 1) / 2), entries of L_k below the diagonal, row by row.
        validate_args: Whether to validate parameters and values. None: torch's default, True.

    Raises:
        ValueError: the shapes are inconsistent, or a parameter is NaN.
    """

    arg_constraints = {"logits": REAL_LOGITS, "loc": REAL_VECTORS, "log_diagonal": REAL_VECTORS, "tril": REAL_VECTORS}

    def __init__(
        self,
        logits: Logits,
        loc: Vectors,
        log_diagonal: Vectors,
        tril: Float[Tensor, "*batch components entries"],
        validate_args: bool | None = None,
    ) -> None:
        size = loc.shape[-1]
        if log_diagonal.shape != loc.shape or tril.shape != (*loc.shape[:-1], size * (size - 1) // 2):
            raise ValueError(
                f"log_diagonal must have loc's shape {tuple(loc.shape)} and tril end in {size * (size - 1) // 2}, "
                f"got {tuple(log_diagonal.shape)} and {tuple(tril.shape)}"
            )
        self.log_diagonal, self.tril = log_diagonal, tril
        self.lower = torch.diag_embed(log_diagonal.exp())
        rows, columns = torch.tril_indices(size, size, -1, device=loc.device)
        self.lower[..., rows, columns] = tril
        super().__init__(logits, loc, validate_args)

    def _component_log_prob(self, value: Tensor) -> Tensor:
        """Use ``log det P = 2 sum_i log L_ii`` and ``e^T P e = ||L^T e||^2``."""
        error = (value.unsqueeze(-2) - self.loc).unsqueeze(-2)
        quadratic = matmul(error, self.lower).squeeze(-2).square().sum(dim=-1)
        return self.log_diagonal.sum(dim=-1) - 0.5 * (quadratic + self.event_shape[0] * LOG_TWO_PI)

    def _component_noise(self, chosen: Tensor, normal: Tensor) -> Tensor:
        lower = self._gather_component(self.lower, chosen)
        return torch.linalg.solve_triangular(lower.mT, normal.unsqueeze(-1), upper=True).squeeze(-1)  # L^T x = n

    @property
    def precision(self) -> Matrices:
        """P_k."""
        return matmul(self.lower, self.lower.mT)

    @property
    def covariance(self) -> Matrices:
        """P_k^-1, computed in double precision."""
        return torch.cholesky_inverse(self.lower.to(widest_dtype(self.lower))).to(self.lower.dtype)


class TransformedMixture(AbstractTemperedDistribution):
    """The density of y where a flow f maps y to a base density: ``log p(y) = log p_base(f(y)) + log|det df/dy|``.

    This is torch's ``TransformedDistribution(base_dist, transforms)``, whose construction takes ten times as long. It has the
    attributes ``base_dist`` and ``transforms`` of that class.

    Args:
        base_dist: Mixture over u = f(y), which may be transformed itself.
        flow: The flow f.
        context: Context of a conditional flow, (*batch, C).
        validate_args: Whether to validate values. None: torch's default, True.
    """

    def __init__(
        self,
        base_dist: "AbstractGaussianMixture | TransformedMixture",
        flow: AbstractFlow,
        context: Float[Tensor, "*batch context"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.base_dist, self.flow, self.context = base_dist, flow, context
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args)

    def __repr__(self) -> str:
        """Return the base, and whether the flow has a context."""
        return f"TransformedMixture({self.base_dist!r}, conditional={self.context is not None})"

    @property
    def transforms(self) -> list[Transform]:
        """The transform from u to y."""
        return [self.flow.transform(self.context).inv]

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the base has a single component."""
        return self.base_dist.has_rsample

    def log_prob(self, value: Value) -> Batch:
        """Return log p(value) in nats, including the log-determinant."""
        self._validate_value(value)
        base_value, log_det = self.flow(*broadcast_context(value, self.context))
        return self.base_dist.log_prob(base_value) + log_det

    def rsample_from_noise(
        self,
        gumbel: Tensor,
        normal: Tensor,
        temperature: Temperature = 1.0,
    ) -> Samples:
        """Invert the flow at samples of the base."""
        drawn = self.base_dist.rsample_from_noise(gumbel, normal, temperature)
        return self.flow.inverse(*broadcast_context(drawn, self.context))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the distribution with its base and context expanded to a batch shape."""
        context = None if self.context is None else self.context.expand(*batch_shape, -1)
        return type(self)(self.base_dist.expand(batch_shape), self.flow, context, self._validate_args)

    @property
    def weights(self) -> Logits:
        """Probabilities of the base's components."""
        return self.base_dist.weights

    @property
    def mode(self) -> Event:
        """The base's mode mapped back: the limit of samples as the temperature goes to zero."""
        return self.flow.inverse(self.base_dist.mode, self.context)

    def _draw(self, sample_shape: tuple[int, ...], temperature: Temperature, generator: Generator | None) -> Tensor:
        drawn = self.base_dist._draw(sample_shape, temperature, generator)
        return self.flow.inverse(*broadcast_context(drawn, self.context))
