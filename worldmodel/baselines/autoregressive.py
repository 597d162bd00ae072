"""An LSTM with an autoregressive head: the dimensions of an event are predicted one after the other.

Start reading at `AutoregressiveRNN`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from worldmodel.baselines.per_dimension import PerDimensionMixture, PerDimensionRMDN
from worldmodel.distributions import (
    AbstractTemperedDistribution,
    Batch,
    Event,
    GaussianMixture,
    Temperature,
    Value,
    standard_gumbel,
)
from worldmodel.validation import validate_positive_int, validate_temperature


class AutoregressiveMixture(AbstractTemperedDistribution):
    """``p(y) = prod_d p(y_d | y_1..d-1)``, each factor a mixture of K scalar Gaussians.

    Args:
        features: Inputs of the head, (*batch, features).
        head: Function of features and a value (*batch, D); it returns the D mixtures, batch shape (*batch, D) and event shape
            (1,). The mixture of dimension d depends on the dimensions before d only.
        shape: (D, K).
        validate_args: Whether to validate values. None: torch's default, True.
    """

    has_rsample = False

    def __init__(
        self,
        features: Tensor,
        head: Callable[[Tensor, Tensor], GaussianMixture],
        shape: tuple[int, int],
        validate_args: bool | None = None,
    ) -> None:
        self.features, self._head, self._shape = features, head, shape
        super().__init__(features.shape[:-1], torch.Size(shape[:1]), validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the distribution with its features expanded to a batch shape."""
        features = self.features.expand(*batch_shape, self.features.shape[-1])
        return type(self)(features, self._head, self._shape, self._validate_args)

    def log_prob(self, value: Value) -> Batch:
        """Return log p(value) in nats."""
        self._validate_value(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        value = value.expand(*shape, self.event_shape[0])
        features = self.features.expand(*shape, self.features.shape[-1])
        return PerDimensionMixture(self._head(features, value), validate_args=False).log_prob(value)

    def rsample_from_noise(
        self,
        gumbel: Tensor,
        normal: Tensor,
        temperature: Temperature = 1.0,
    ) -> Tensor:
        """Compute the samples for standard Gumbel numbers (*shape_batch, D, K) and Normal numbers (*shape_batch, D)."""
        features = self.features.expand(*normal.shape[:-1], self.features.shape[-1])
        value = features.new_zeros(normal.shape)
        for dimension in range(self.event_shape[0]):
            scalar = self._head(features, value)
            following = GaussianMixture(
                scalar.logits[..., dimension, :],
                scalar.loc[..., dimension, :, :],
                scalar.log_precision[..., dimension, :, :],
                validate_args=False,
            )
            noise = gumbel[..., dimension, :], normal[..., dimension, None]
            drawn = following.rsample_from_noise(*noise, temperature)
            value = torch.cat((value[..., :dimension], drawn, value[..., dimension + 1 :]), dim=-1)
        return value

    @property
    def mode(self) -> Event:
        """Mean of the component with the largest weight, in each dimension after the others; the limit of cold samples."""
        zeros = self.features.new_zeros(*self.batch_shape, *self._shape)
        return self.rsample_from_noise(zeros, zeros[..., 0])

    def _draw(self, sample_shape: tuple[int, ...], temperature: Temperature, generator: Generator | None) -> Tensor:
        validate_temperature(temperature)
        gumbel = standard_gumbel(self.features, (*sample_shape, *self.batch_shape, *self._shape), generator)
        normal = torch.empty_like(gumbel[..., 0]).normal_(generator=generator)
        return self.rsample_from_noise(gumbel, normal, temperature)


class AutoregressiveRNN(PerDimensionRMDN):
    """An LSTM over events, and inside an event a masked layer over its dimensions, in their order.

    It is the rival of a flow and of a joint mixture: it models every dependence between the dimensions of an event, and takes
    D passes of its head to sample one.

    Args:
        input_size: Size of the input at each time.
        output_size: D, size of the event.
        hidden_size: Number of hidden units of the LSTM.
        num_components: K, number of components of each scalar mixture.
        width: Number of units of the masked layer.

    Example:
        >>> m = AutoregressiveRNN(input_size=4, output_size=4, hidden_size=8)
        >>> dist, state = m(torch.zeros(2, 7, 4))
        >>> dist.sample().shape, dist.log_prob(torch.zeros(2, 7, 4)).shape
        (torch.Size([2, 7, 4]), torch.Size([2, 7]))

    References:
        Lai et al., Re-examination of the Role of Latent Variables in Sequence Modeling, 2019, https://arxiv.org/abs/1902.01388.
        Germain et al., MADE: Masked Autoencoder for Distribution Estimation, 2015, https://arxiv.org/abs/1502.03509.
    """

    def __init__(
        self, input_size: int, output_size: int, hidden_size: int = 256, num_components: int = 5, width: int = 256
    ) -> None:
        super().__init__(input_size, output_size, hidden_size, num_components)
        validate_positive_int(width=width)
        self.width = width
        self.context, self.before = nn.Linear(hidden_size, width), nn.Linear(output_size, width, bias=False)
        self.after = nn.Linear(width, self.head.out_features, bias=False)
        nn.init.zeros_(self.after.weight)
        dimension = torch.arange(output_size)
        last = torch.arange(width) * max(output_size - 1, 1) // width  # the last dimension that a unit reads
        outputs = dimension.repeat_interleave(num_components).repeat(3)
        self.before_mask: Tensor
        self.after_mask: Tensor
        self.register_buffer("before_mask", (dimension[None] <= last[:, None]).float(), persistent=False)
        self.register_buffer("after_mask", (last[None] < outputs[:, None]).float(), persistent=False)
        self.center: Tensor
        self.scale: Tensor
        self.register_buffer("center", torch.zeros(output_size))
        self.register_buffer("scale", torch.ones(output_size))

    @property
    def config(self) -> dict[str, int]:
        """Arguments that rebuild this module."""
        return super().config | {"width": self.width}

    @torch.no_grad()
    def init_from_statistics(self, mean: Float[Tensor, "outputs"], std: Float[Tensor, "outputs"]) -> None:
        """Move the initial distribution to the mean and standard deviation of the data; call it once, on new weights."""
        super().init_from_statistics(mean, std)
        self.center.copy_(mean)
        self.scale.copy_(std.clamp(min=1e-3))

    def distribution(self, h: Float[Tensor, "*batch hidden"]) -> AutoregressiveMixture:  # type: ignore[override]
        """Return the distribution for hidden states."""
        return AutoregressiveMixture(h, self._mixtures_after, (self.output_size, self.num_components), False)

    def _mixtures_after(self, h: Tensor, value: Tensor) -> GaussianMixture:
        """Return the D mixtures for hidden states (*batch, hidden) and an event (*batch, D)."""
        before = functional.linear((value - self.center) / self.scale, self.before.weight * self.before_mask)
        units = functional.relu(self.context(h) + before)
        logits, loc, log_precision = functional.linear(units, self.after.weight * self.after_mask).chunk(3, dim=-1)
        loc = loc * self.scale.repeat_interleave(self.num_components)  # an update changes means in units of the data
        return self.mixtures(self.head(h) + torch.cat((logits, loc, log_precision), dim=-1))
