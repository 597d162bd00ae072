"""Encode 64x64 frames to latents with a convolutional variational autoencoder, and decode them.

Start reading at `VAE.loss`. The architecture follows World Models (appendix A.1). It has 4.35 million parameters at 32 latents.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor, nn
from torch.distributions import Normal

from worldmodel.batches import Loss, frames_to_float, frames_to_uint8, to_float32
from worldmodel.validation import constructor_repr, validate_positive_int

LOG_SCALE_RANGE = (-6.0, 3.0)
"""Bounds of the posterior's log standard deviation. Without them it diverges on frames that never change."""

BASE_CHANNELS = 32
MAX_HUD_LOSS_WEIGHT = 1_000
HUD_FRACTION = 8
"""Part of the frame at its bottom (an eighth) where some games show small indicators."""
FRAME_SHAPE = (64, 64, 3)
DECODER_KERNELS = {64: (5, 5, 6, 6), 96: (3, 5, 5, 6, 6), 128: (5, 5, 5, 6, 6)}
"""Kernels of the decoder's layers, by the size of a frame."""
MAX_FRAME_STACK = 16
"""Maximum number of images in a frame."""

MIN_VARIATION = 1_000.0
"""Squared error of the mean frame, summed over a frame, below which errors get a larger weight.

It is about seven times the variation of CarRacing's frames. In a game with small objects on a plain background, the mean frame
has an error of only 5 to 50. This is less than the free bits, so no latent would encode the position of a ball.
"""
MAX_ERROR_WEIGHT = 1_000.0
MAX_GRAD_NORM = 1.0
"""Largest gradient norm. Nearly all gradients exceed it and are scaled to it. Otherwise rare frames with large variation (a
wall in front of a Doom player) determine Adam's step sizes, and the VAE does not learn the other frames."""
MIN_PIXEL_SCALE = 1e-3
"""Smallest scale of pixels. It bounds the amplification of frames that hardly change."""
INITIAL_LOG_SCALE = -1.5
"""Initial log standard deviation of the posterior. With more noise in the latents, the decoder learns to ignore them."""


class VAE(nn.Module):
    """Encode frames ``(batch, 3, 64, 64)`` in [0, 1] as a Normal over ``latent_dim`` numbers, and decode latents to frames.

    Args:
        latent_dim: Number of latent dimensions.
        free_bits: KL divergence per dimension without a penalty, in nats (0.5 as published).
        hud_loss_weight: Weight of the squared error in the lowest eighth of the frame, where some games show small
            indicators (CarRacing with ``show_hud``). At 1, a short training does not learn the speed indicator.
        standardize: Whether to standardize frames with statistics of the data (`init_from_data`). Encoder and decoder then
            use ``(x - pixel_mean) / pixel_scale``, and the decoder's output is linear. False: a sigmoid on raw pixels, as in
            the paper. It saturates on a black or white background and then decodes every latent to the same frame.
        base_channels: Number of channels of the first layer (32 as published). The other layers are multiples of it.
        observation_shape: Shape of a frame, (S, S, 3 n) with S 64, 96 or 128: n RGB images, the newest last. Above 64 there is
            one more layer.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> vae = VAE(latent_dim=32)
        >>> vae.encode(torch.zeros(2, 3, 64, 64)).loc.shape
        torch.Size([2, 32])

    References:
        Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (appendix A.1).
        Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016,
        https://arxiv.org/abs/1606.04934 (free bits, equation 15).
    """

    def __init__(
        self,
        latent_dim: int = 32,
        free_bits: float = 0.5,
        hud_loss_weight: float = 1.0,
        standardize: bool = True,
        *,
        base_channels: int = BASE_CHANNELS,
        observation_shape: Sequence[int] = FRAME_SHAPE,
    ) -> None:
        super().__init__()
        validate_positive_int(latent_dim=latent_dim, base_channels=base_channels)
        if free_bits < 0:
            raise ValueError(f"free_bits must be zero or more nats, got {free_bits}")
        if (
            isinstance(hud_loss_weight, bool)
            or not isinstance(hud_loss_weight, int | float)
            or not 0 < hud_loss_weight <= MAX_HUD_LOSS_WEIGHT
        ):
            raise ValueError(
                f"hud_loss_weight must be a number above zero, {MAX_HUD_LOSS_WEIGHT} at most, got {hud_loss_weight!r}"
            )
        self.latent_dim, self.free_bits, self.hud_loss_weight = latent_dim, free_bits, float(hud_loss_weight)
        self.standardize, self.base_channels = bool(standardize), base_channels
        height, width, channels = self.observation_shape = _validated_shape(observation_shape)
        """Shape of a frame."""
        self.max_grad_norm = MAX_GRAD_NORM if standardize else None
        """Largest gradient norm that `worldmodel.fit` uses. None: no fixed limit."""
        c = base_channels
        self.encoder = _encoder(height, channels, c)
        self.posterior = nn.Linear(32 * c, 2 * latent_dim)
        self.prepare = nn.Linear(latent_dim, 32 * c)
        self.decoder = _decoder(height, channels, c).append(nn.Identity() if standardize else nn.Sigmoid())
        self.pixel_mean: Tensor
        self.pixel_scale: Tensor
        self.error_weight: Tensor
        if standardize:
            self.register_buffer("pixel_mean", torch.full((channels, height, width), 0.5))
            self.register_buffer("pixel_scale", torch.tensor(0.25))
            self.register_buffer("error_weight", torch.tensor(1.0))
            if not self.pixel_mean.is_meta:
                self.reset_parameters()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the layout of frames: faster

    def __repr__(self) -> str:
        """Return the constructor call."""
        return constructor_repr(self, **self.config)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this module."""
        weight = {} if self.hud_loss_weight == 1 else {"hud_loss_weight": self.hud_loss_weight}
        standardize = {"standardize": True} if self.standardize else {}  # older files have neither key
        channels = {} if self.base_channels == BASE_CHANNELS else {"base_channels": self.base_channels}
        shape = {} if self.observation_shape == FRAME_SHAPE else {"observation_shape": list(self.observation_shape)}
        return {
            "latent_dim": self.latent_dim,
            "free_bits": self.free_bits,
            **weight,
            **standardize,
            **channels,
            **shape,
        }

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Apply He initialization: it preserves the scale of activations, except at the edges of transposed convolutions."""
        linear = (self.posterior, self.prepare, self.decoder[-2])  # no ReLU follows
        for layer in self.modules():
            if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                continue
            fan_in = float(layer.weight[0].numel())
            if isinstance(layer, nn.ConvTranspose2d):
                # inputs per output pixel; the first layer has only one input pixel
                inputs_per_output = math.prod(k / s for k, s in zip(layer.kernel_size, layer.stride, strict=True))
                fan_in = layer.in_channels * (1 if layer is self.decoder[0] else inputs_per_output)
            nn.init.normal_(layer.weight, std=math.sqrt((1 if layer in linear else 2) / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        last = self.decoder[-2]
        assert isinstance(last, nn.ConvTranspose2d)
        last.weight.mul_(0.1)  # the initial output is close to the mean frame
        self.posterior.bias[self.latent_dim :] = INITIAL_LOG_SCALE

    @torch.no_grad()
    def init_from_data(self, frames: UInt8[Tensor, "batch height width channels"]) -> None:
        """Set the pixel statistics from frames; `worldmodel.fit` passes the first batch of a new training.

        ``pixel_mean`` is the mean of each pixel. ``pixel_scale`` is the standard deviation around it over all pixels.
        ``error_weight`` raises the squared error of the mean frame to `MIN_VARIATION` where it is below.
        """
        if not self.standardize:
            return
        pixels = frames_to_float(frames)
        self.pixel_mean.copy_(pixels.mean(dim=0))
        variation = float((pixels - self.pixel_mean).square().sum(dim=(1, 2, 3)).mean())
        self.pixel_scale.fill_(max(math.sqrt(variation / self.pixel_mean.numel()), MIN_PIXEL_SCALE))
        self.error_weight.fill_(min(max(MIN_VARIATION / max(variation, 1e-9), 1.0), MAX_ERROR_WEIGHT))

    def to_inputs(
        self, frames: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Convert frames to inputs of `encode`, on the device of this module."""
        return frames_to_float(frames.to(self.posterior.weight.device))

    def to_observations(
        self, decoded: Float[Tensor, "batch channels height width"]
    ) -> UInt8[Tensor, "batch height width channels"]:
        """Convert outputs of `decode` to frames."""
        return frames_to_uint8(decoded)

    def draw(self, latent: Float[Tensor, "batch latent"]) -> UInt8[Tensor, "batch height width 3"]:
        """Draw latents as frames, of several images the newest."""
        return frames_to_uint8(self.decode(latent)[:, -3:])

    def encode(self, frames: Float[Tensor, "batch channels height width"]) -> Normal:
        """Return the posterior q(z|x): a Normal with ``loc`` and ``scale`` of shape (batch, latent)."""
        height, width, channels = self.observation_shape
        if frames.ndim != 4 or frames.shape[1:] != (channels, height, width):
            raise ValueError(
                f"frames must have shape (batch, {channels}, {height}, {width}), got {tuple(frames.shape)}"
            )
        inputs = (frames - self.pixel_mean) / self.pixel_scale if self.standardize else frames
        loc, log_scale = to_float32(self.posterior(self.encoder(inputs))).chunk(2, dim=-1)
        return Normal(loc, log_scale.clamp(*LOG_SCALE_RANGE).exp(), validate_args=False)

    def decode(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels height width"]:
        """Decode latents to frames in [0, 1]."""
        if latent.ndim != 2 or latent.shape[-1] != self.latent_dim:
            raise ValueError(f"latent must have shape (batch, {self.latent_dim}), got {tuple(latent.shape)}")
        return self._decode(latent).clamp(0, 1)

    def _decode(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels height width"]:
        """Decode without clamping, so that pixels outside [0, 1] still have a gradient."""
        drawn = to_float32(self.decoder(self.prepare(latent)[..., None, None]))
        return self.pixel_mean + self.pixel_scale * drawn if self.standardize else drawn

    def loss(
        self,
        frames: UInt8[Tensor, "batch height width channels"] | Float[Tensor, "batch channels height width"],
        generator: Generator | None = None,
    ) -> Loss:
        """Return the squared error summed over the frame plus ``sum_d max(KL_d, free_bits)``, in nats.

        KL_d is the KL divergence of dimension d from N(0, 1), averaged over the batch.

        The squared error is the negative log-likelihood of a Gaussian without its constant. The Gaussian's variance is
        ``1 / (2 error_weight)``, and ``hud_loss_weight`` times smaller in the lowest eighth of the frame. The constant depends
        on both weights, so losses with different weights are not comparable. The logged part ``reconstruction`` is the
        squared error without ``error_weight``.
        """
        pixels = frames_to_float(frames) if frames.dtype == torch.uint8 else frames
        posterior = self.encode(pixels)
        noise = torch.empty_like(posterior.loc).normal_(generator=generator)
        reconstruction = self._decode(posterior.loc + posterior.scale * noise)
        squares = (reconstruction - pixels).square().sum(dim=(1, 3))  # (batch, 64), one number per row
        rows = self.observation_shape[0] // HUD_FRACTION
        error = (squares[:, :-rows].sum(dim=1) + self.hud_loss_weight * squares[:, -rows:].sum(dim=1)).mean()
        divergence = 0.5 * (posterior.loc**2 + posterior.scale**2 - 1) - posterior.scale.log()  # KL(q || N(0, 1))
        per_dimension = divergence.mean(dim=0)
        weighted = error * self.error_weight if self.standardize else error
        value = weighted + per_dimension.clamp(min=self.free_bits).sum()
        return Loss(value, {"reconstruction": error.detach(), "kl": per_dimension.detach().sum()})


def _encoder(size: int, channels: int, c: int) -> nn.Sequential:
    """Convolutions from (channels, size, size) to 32 c features; at 64: (c, 31, 31), (2c, 14, 14), (4c, 6, 6), (8c, 2, 2).

    Larger frames have one more layer with 8 c channels.
    """
    sizes = [channels, c, 2 * c, 4 * c, 8 * c, 8 * c][: 5 if size == 64 else 6]
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(sizes)):
        padding = 1 if size == 96 and number == 4 else 0  # (8c, 4, 4) to (8c, 2, 2)
        layers += [nn.Conv2d(before, after, 4, 2, padding), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten())


def _decoder(size: int, channels: int, c: int) -> nn.Sequential:
    """Transposed convolutions from (32 c, 1, 1) to (channels, size, size).

    At 64: (4c, 5, 5), (2c, 13, 13), (c, 30, 30). At 96: (4c, 3, 3), (4c, 9, 9), (2c, 21, 21), (c, 46, 46). At 128: (4c, 5, 5),
    (4c, 13, 13), (2c, 29, 29), (c, 62, 62).
    """
    sizes = [32 * c, 4 * c, *([] if size == 64 else [4 * c]), 2 * c, c, channels]
    layers: list[nn.Module] = []
    for before, after, kernel in zip(sizes, sizes[1:], DECODER_KERNELS[size], strict=False):
        layers += [nn.ConvTranspose2d(before, after, kernel, 2), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _validated_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape of frames.

    Raises:
        ValueError: It is another one.
    """
    if tuple(shape) not in [(s, s, 3 * count) for s in DECODER_KERNELS for count in range(1, MAX_FRAME_STACK + 1)]:
        sizes = " or ".join(map(str, DECODER_KERNELS))
        expected = f"(S, S, 3 n) with S {sizes} and n up to {MAX_FRAME_STACK}"
        raise ValueError(f"observation_shape must be {expected}, got {tuple(shape)}")
    height, width, channels = map(int, shape)
    return height, width, channels


MERGED_KEY = "decoder.start"


def merge_decoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merge the two linear layers between the latent and the decoder's first ReLU into one, to write smaller files.

    ``sum_c (A z + a)_c W_c + b = (W A) z + (W a + b)``. At 32 latents this is 0.1 million numbers instead of 3.3 million.
    `split_decoder` returns other weights of the same function. A VAE with as many latents as channels stays as it is.
    """
    state = dict(state)
    channels, latent_dim = state["prepare.weight"].shape
    if latent_dim >= channels:
        return state
    matrix, vector = state.pop("prepare.weight"), state.pop("prepare.bias")  # (32c, latent), (32c,)
    kernels, bias = state.pop("decoder.0.weight"), state.pop("decoder.0.bias")  # (32c, 4c, 5, 5), (4c,)
    columns = torch.cat((matrix, vector[:, None]), dim=1).double()
    merged = torch.einsum("cl,coij->loij", columns, kernels.double())
    merged[-1] += bias.double()[:, None, None]
    return state | {MERGED_KEY: merged.to(matrix.dtype)}  # (latent + 1, 4c, 5, 5), the last row for the constant


def split_decoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a VAE from merged weights (`merge_decoder`)."""
    state = dict(state)
    merged = state.pop(MERGED_KEY)
    size, channels = len(merged), 8 * merged.shape[1]
    matrix, vector = merged.new_zeros(channels, size - 1), merged.new_zeros(channels)
    matrix[: size - 1] = torch.eye(size - 1)
    vector[size - 1] = 1.0
    kernels = merged.new_zeros(channels, *merged.shape[1:])
    kernels[:size] = merged
    first = {"prepare.weight": matrix, "prepare.bias": vector}
    return state | first | {"decoder.0.weight": kernels, "decoder.0.bias": merged.new_zeros(merged.shape[1])}
