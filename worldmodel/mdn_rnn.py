"""Recurrent mixture density networks: a recurrent network maps a sequence to a distribution at each time.

Start reading at `RMDN`. An `FRMDN` adds a normalizing flow to it. The memory of a world model and the densities of speech and
images use both.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.batches import to_float32
from worldmodel.distributions import (
    AbstractTemperedDistribution,
    FullGaussianMixture,
    GaussianMixture,
    TransformedMixture,
)
from worldmodel.flows import AffineCoupling, Flow, SplineCoupling, WhiteningFlow
from worldmodel.validation import constructor_repr, validate_positive_int

LOG_PRECISION_RANGE = (-10.0, 14.0)
"""Bounds of a component's log-precision; standard deviations are from 0.0009 to 148. The upper bound limits the density of
data without variation (silence, a constant frame): log p is at most 6.1 nats per dimension, without
factors and before a flow."""
FACTOR_SCALE = 0.1
"""Initial scale of the precision factors U, relative to the other outputs of the layer."""


def _autocast_if_supported(x: Tensor) -> AbstractContextManager[Any]:
    """Keep autocast, but disable it on CPUs without bfloat16 instructions, where torch's LSTM raises an error."""
    if x.is_cpu and torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.is_available():
        return torch.autocast("cpu", enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return nullcontext()


class State(NamedTuple):
    """The recurrent state, batch first."""

    hidden: Float[Tensor, "batch layers hidden"]
    cell: Float[Tensor, "batch layers cell"]
    """The cells of the LSTM; a residual network appends the latest latent."""


class RMDN(nn.Module):
    """A recurrent mixture density network with one joint mixture of K Gaussians over the event at each time.

    ``p(y_t | x_1..t) = sum_k pi_k N(y_t; mu_k, P_k^-1)``. The logits, means, log-precisions and factors are linear functions of
    the hidden state.

    Args:
        input_size: Size of the input at each time.
        output_size: D, size of the event.
        hidden_size: Number of hidden units in each recurrent layer.
        num_components: K, number of mixture components.
        rank: R, rank of U in the precision ``P = D + U U^T``. 0: the precision is diagonal.
        num_layers: Number of recurrent layers.
        full: Whether precisions are full, ``P = L L^T``, at a cost of O(K D^2). This requires rank 0.
        residual: Whether the mixture is over the whitened difference of the event and the first D inputs, the latest latent
            (`worldmodel.flows.WhiteningFlow`), and this latent is beside the hidden state in ``features``.
        whiten: Whether the mixture is over the whitened event (`worldmodel.flows.WhiteningFlow`).

    Example:
        >>> m = RMDN(input_size=35, output_size=32)
        >>> dist, state = m(torch.zeros(2, 7, 35))
        >>> dist.log_prob(torch.zeros(2, 7, 32)).shape
        torch.Size([2, 7])

    References:
        Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122. Ha's code has one scalar mixture per
        dimension. That is another model (`worldmodel.baselines.PerDimensionRMDN`), and its likelihoods are not comparable.
        Razavi, Hosseini, Behzad, FRMDN, 2020, https://arxiv.org/abs/2008.02144.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        hidden_size: int = 256,
        num_components: int = 5,
        rank: int = 0,
        num_layers: int = 1,
        full: bool = False,
        residual: bool = False,
        whiten: bool = False,
    ) -> None:
        super().__init__()
        validate_positive_int(
            input_size=input_size,
            output_size=output_size,
            hidden_size=hidden_size,
            num_components=num_components,
            num_layers=num_layers,
        )
        if rank < 0:
            raise ValueError(f"rank must be zero or more, got {rank}")
        if full and rank:
            raise ValueError(f"rank must be 0 with full, got {rank}")
        if residual and input_size < output_size:
            raise ValueError(f"input_size must be at least output_size {output_size} with residual, got {input_size}")
        if residual and whiten:
            raise ValueError("whiten must be False with residual, which whitens differences, got True")
        self.input_size, self.output_size, self.hidden_size = input_size, output_size, hidden_size
        self.num_components, self.rank, self.num_layers, self.full = num_components, rank, num_layers, full
        self.residual, self.whiten, self.num_features = residual, whiten, hidden_size + (output_size if residual else 0)
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True)
        self.head = nn.Linear(self.num_features, sum(self._sizes()))
        self.whitening = WhiteningFlow(output_size, difference=residual) if residual or whiten else None
        self.reset_parameters()

    def _sizes(self) -> tuple[int, int, int, int]:
        """Return the sizes of the head's outputs: logits, means, log-precisions, and other precision parameters."""
        k, d = self.num_components, self.output_size
        precision_params = d * (d - 1) // 2 if self.full else d * self.rank
        return k, k * d, k * d, k * precision_params

    def reset_parameters(self) -> None:
        """Initialize near N(0, 1): equal weights, slightly different means, unit precision; open forget gates."""
        if self.head.weight.is_meta:  # nothing to fill, and sampling on the meta device imports torch's compiler
            return
        with torch.no_grad():
            logits, loc, log_precision, precision_params = self.head.weight.split(self._sizes())
            logits.zero_()
            log_precision.mul_(0.1)
            precision_params.mul_(FACTOR_SCALE)
            logits, loc, log_precision, precision_params = self.head.bias.split(self._sizes())
            logits.zero_()
            log_precision.zero_()
            loc.normal_(0.0, 0.5)
            if self.full:
                precision_params.zero_()
            else:
                precision_params.normal_(0.0, FACTOR_SCALE)
            for name, parameter in self.lstm.named_parameters():
                if name.startswith("bias_ih"):  # the forget gates start open (Jozefowicz et al., 2015)
                    parameter[self.hidden_size : 2 * self.hidden_size].fill_(1.0)

    def init_from_data(self, latent: Float[Tensor, "steps outputs"], following: Float[Tensor, "steps outputs"]) -> None:
        """Move the initial distribution to the statistics of ``following``; if residual, of differences."""
        if self.whitening is not None:
            self.whitening.fit(following - latent if self.residual else following)
        else:
            self.init_from_statistics(following.mean(dim=0), following.std(dim=0))

    @torch.no_grad()
    def init_from_statistics(self, mean: Float[Tensor, "outputs"], std: Float[Tensor, "outputs"]) -> None:
        """Move the initial distribution from N(0, 1) to the mean and standard deviation of the data.

        This scales the means, the precisions, and their dependence on the hidden state. Call it once, on new weights.
        """
        _, weight, _, beside_weight = self.head.weight.split(self._sizes())
        _, loc, log_precision, beside = self.head.bias.split(self._sizes())
        std = std.clamp(min=math.exp(-0.5 * LOG_PRECISION_RANGE[1]))
        if self.full or self.rank:  # divide the rows of U, or of L below the diagonal
            d = self.output_size
            row = torch.tril_indices(d, d, -1)[0] if self.full else torch.arange(d).repeat_interleave(self.rank)
            row_std = std[row.to(std.device)].repeat(self.num_components)
            beside.div_(row_std)
            beside_weight.div_(row_std[:, None])
        weight.mul_(std.repeat(self.num_components)[:, None])
        loc.copy_((loc.view(self.num_components, -1) * std + mean).flatten())
        # L's diagonal is the square root of a precision
        log_precision.copy_((-(1 if self.full else 2) * std.log()).repeat(self.num_components))

    def __repr__(self) -> str:
        """Return the constructor call."""
        return constructor_repr(self, **self.config)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this module."""
        names = ("input_size", "output_size", "hidden_size", "num_components", "rank", "num_layers", "full")
        return {name: getattr(self, name) for name in names} | {
            name: True for name in ("residual", "whiten") if getattr(self, name)
        }

    @property
    def noise_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the standard Gumbel and Normal numbers of one sample: (K,) and (D + R,)."""
        return (self.num_components,), (self.output_size + self.rank,)

    def initial(self, batch: int) -> State:
        """Return the initial state."""
        zeros = self.head.weight.new_zeros(batch, self.num_layers, self.num_features)
        return State(zeros[..., : self.hidden_size].clone(), zeros)

    def features(self, state: State) -> Float[Tensor, "batch features"]:
        """Return the inputs of all heads: the hidden state of the last layer and, if residual, the latest latent."""
        hidden = state.hidden[:, -1]
        return torch.cat((hidden, state.cell[:, -1, self.hidden_size :]), dim=-1) if self.residual else hidden

    def unroll(
        self, x: Float[Tensor, "batch time inputs"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch time features"], State]:
        """Process a sequence; return the `features` after each time and the final state.

        Raises:
            ValueError: ``x`` or ``state`` has the wrong shape.
        """
        if x.ndim != 3 or x.shape[-1] != self.input_size or x.shape[1] == 0:
            raise ValueError(f"x must have shape (batch, time > 0, {self.input_size}), got {tuple(x.shape)}")
        state = self.initial(len(x)) if state is None else state
        if state.hidden.shape != (len(x), self.num_layers, self.hidden_size):
            wanted, came = (len(x), self.num_layers, self.hidden_size), tuple(state.hidden.shape)
            raise ValueError(f"state must have shape {wanted}, got {came}")
        own = State(state.hidden, state.cell[..., : self.hidden_size]) if self.residual else state
        if x.shape[1] == 1:
            h, after = self._step(x[:, 0], own)
        else:  # torch has layers first: (B, layers, H) -> (layers, B, H) and back
            before = tuple(part.transpose(0, 1).contiguous() for part in own)
            with _autocast_if_supported(x):
                h, parts = self.lstm(x, before)
            after = State(*(part.transpose(0, 1) for part in parts))
        if not self.residual:
            return h, after
        # in single precision under autocast: the whitening magnifies the rounding of a latent
        latent = x[..., : self.output_size]
        latest = latent[:, None, -1].expand(-1, self.num_layers, -1)
        cell = torch.cat((after.cell.to(latest.dtype), latest), dim=-1)
        return torch.cat((h.to(latent.dtype), latent), dim=-1), State(after.hidden, cell)

    def _step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Process one time step with torch's cell function; the setup of torch's layers takes most of a single step."""
        hidden, cells = [], []
        for layer in range(self.num_layers):
            names = (f"{name}_l{layer}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            weights = [getattr(self.lstm, name) for name in names]
            x, cell = torch.lstm_cell(x, (state.hidden[:, layer], state.cell[:, layer]), *weights)
            hidden.append(x)
            cells.append(cell)
        return x[:, None], State(_stacked(hidden), _stacked(cells))

    def distribution(self, h: Float[Tensor, "*batch features"]) -> AbstractTemperedDistribution:
        """Return the distribution for `features`."""
        mixture = self.mixture(h)
        return mixture if self.whitening is None else TransformedMixture(mixture, self.whitening, h, False)

    def mixture(self, h: Float[Tensor, "*batch features"]) -> GaussianMixture | FullGaussianMixture:
        """Return the mixture for `features`; if residual or whiten, it is over whitened values."""
        k, d = self.num_components, self.output_size
        logits, loc, log_precision, precision_params = to_float32(self.head(h)).split(self._sizes(), dim=-1)
        loc, log_precision = loc.unflatten(-1, (k, d)), log_precision.unflatten(-1, (k, d))
        if self.full:
            low, high = LOG_PRECISION_RANGE
            tril = precision_params.unflatten(-1, (k, d * (d - 1) // 2))
            return FullGaussianMixture(logits, loc, log_precision.clamp(low / 2, high / 2), tril, validate_args=False)
        factor = precision_params.unflatten(-1, (k, d, self.rank)) if self.rank else None
        return GaussianMixture(logits, loc, log_precision.clamp(*LOG_PRECISION_RANGE), factor, validate_args=False)

    def forward(
        self, x: Float[Tensor, "batch time inputs"], state: State | None = None
    ) -> tuple[AbstractTemperedDistribution, State]:
        """Return distributions with batch shape (B, T) and event shape (D,), and the final state."""
        h, state = self.unroll(x, state)
        return self.distribution(h), state


def _stacked(layers: list[Tensor]) -> Tensor:
    """Stack layers (batch, width) to (batch, layers, width)."""
    return layers[0].unsqueeze(1) if len(layers) == 1 else torch.stack(layers, dim=1)


class FRMDN(nn.Module):
    """A flow-based RMDN: ``log p(y) = log p_mixture(f(y)) + log|det df/dy|``.

    Args:
        input_size, output_size, hidden_size, num_components, rank, num_layers, full: As in `RMDN`.
        num_couplings: Number of couplings of the flow. 0: no flow, as in an `RMDN`.
        conditional: Whether the couplings also depend on the hidden state (not in the paper).
        spline: Whether the couplings are rational-quadratic splines instead of affine functions (not in the paper).
        residual, whiten: Whether the density is over whitened differences or events, as in an `RMDN` (not in the paper).
        alternating: Whether the couplings split the event into odd and even dimensions, not into halves (`Flow`; not in the
            paper). For events whose neighbouring dimensions are alike: samples of speech, pixels of a row.

    Example:
        >>> m = FRMDN(input_size=35, output_size=32, rank=2)
        >>> dist, state = m(torch.zeros(2, 7, 35))
        >>> dist.sample(temperature=0.5).shape
        torch.Size([2, 7, 32])

    References:
        Razavi, Hosseini, Behzad, FRMDN: Flow-based Recurrent Mixture Density Network, 2020,
        https://arxiv.org/abs/2008.02144.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        hidden_size: int = 256,
        num_components: int = 5,
        rank: int = 0,
        num_couplings: int = 2,
        conditional: bool = False,
        num_layers: int = 1,
        full: bool = False,
        spline: bool = False,
        residual: bool = False,
        whiten: bool = False,
        alternating: bool = False,
    ) -> None:
        super().__init__()
        if num_couplings < 0:
            raise ValueError(f"num_couplings must be zero or more, got {num_couplings}")
        self.base = RMDN(input_size, output_size, hidden_size, num_components, rank, num_layers, full, residual, whiten)
        self.conditional, self.spline = conditional, spline
        kind = SplineCoupling if spline else AffineCoupling
        couplings = [kind(output_size, context=hidden_size if conditional else 0) for _ in range(num_couplings)]
        self.flow = Flow(couplings, alternating)
        self.input_size, self.output_size, self.hidden_size = input_size, output_size, hidden_size
        self.residual, self.whiten, self.num_features = residual, whiten, self.base.num_features

    def __repr__(self) -> str:
        """Return the constructor call."""
        return constructor_repr(self, **self.config)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this module."""
        own = {"num_couplings": len(self.flow.couplings), "conditional": self.conditional, "spline": self.spline}
        own |= {"alternating": True} if self.flow.alternating else {}  # absent in older files
        return self.base.config | own

    def init_from_data(self, latent: Float[Tensor, "steps outputs"], following: Float[Tensor, "steps outputs"]) -> None:
        """Move the initial distribution to the statistics of the data; the initial flow is the identity."""
        self.base.init_from_data(latent, following)

    def init_from_statistics(self, mean: Float[Tensor, "outputs"], std: Float[Tensor, "outputs"]) -> None:
        """Move the initial distribution to the mean and standard deviation of the data; the initial flow is the identity."""
        self.base.init_from_statistics(mean, std)

    @property
    def noise_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the standard Gumbel and Normal numbers of one sample."""
        return self.base.noise_shapes

    def initial(self, batch: int) -> State:
        """Return the initial state."""
        return self.base.initial(batch)

    def features(self, state: State) -> Float[Tensor, "batch features"]:
        """Return the inputs of all heads."""
        return self.base.features(state)

    def unroll(
        self, x: Float[Tensor, "batch time inputs"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch time features"], State]:
        """Process a sequence; return the `features` after each time and the final state."""
        return self.base.unroll(x, state)

    def distribution(self, h: Float[Tensor, "*batch features"]) -> TransformedMixture:
        """Return the transformed mixture for `features`."""
        context = h[..., : self.hidden_size] if self.conditional else None
        distribution = TransformedMixture(self.base.mixture(h), self.flow, context, validate_args=False)
        whitening = self.base.whitening
        return distribution if whitening is None else TransformedMixture(distribution, whitening, h, False)

    def forward(
        self, x: Float[Tensor, "batch time inputs"], state: State | None = None
    ) -> tuple[TransformedMixture, State]:
        """Return distributions with batch shape (B, T) and event shape (D,), and the final state."""
        h, state = self.unroll(x, state)
        return self.distribution(h), state
