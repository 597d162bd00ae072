"""The eye: a convolutional variational autoencoder from 64x64 frames to a few latents.

Start reading at `VAE.loss`. The architecture is that of World Models (appendix A.1): 4.35 million parameters at 32 latents.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor, nn
from torch.distributions import Normal

from worldmodel.batches import Loss, frames_to_float, to_float32
from worldmodel.validation import constructor_repr, validate_positive_int

LOG_SCALE_RANGE = (-6.0, 3.0)
"""Bounds of the posterior's log standard deviation: a frame that never changes cannot drive it to infinity."""

MAX_HUD_LOSS_WEIGHT = 1_000
HUD_ROWS = 8
"""The lowest eighth of the picture, where some games show small instruments."""

MIN_VARIATION = 1_000.0
"""Squared error of the mean picture, summed over a frame, below which errors count for more.

About seven times what CarRacing's frames vary by. In a game of small things on an even background the mean picture alone has
an error of 5 to 50, less than the free bits: nothing would pay for a latent that says where a ball is.
"""
MAX_ERROR_WEIGHT = 1_000.0
MAX_GRAD_NORM = 1.0
"""So small that nearly all gradients are scaled to it. Where rare frames vary by far the most (a wall in front of a Doom
player), their gradients alone would set Adam's step sizes, and nothing would be learned of the others."""
MIN_PIXEL_SCALE = 1e-3
"""Of pixels: frames that hardly change are not blown up to more than this."""
INITIAL_LOG_SCALE = -1.5
"""Of the posterior, before training: latents that are nearly noise teach the decoder to ignore them."""


class VAE(nn.Module):
    """Compress frames ``(batch, 3, 64, 64)`` in [0, 1] into a Normal over ``latent_dim`` numbers, and draw them again.

    Args:
        latent_dim: number of latent dimensions.
        free_bits: nats of KL divergence per dimension that cost nothing (0.5 as published).
        hud_loss_weight: how much more a squared error costs in the lowest eighth of the picture, where some games show small
            instruments (CarRacing with ``show_hud``): at 1 an eye that learns shortly overlooks the speed.
        standardize: whether frames are standardized with statistics of the data (`init_from_data`): encoder and decoder
            work on ``(x - pixel_mean) / pixel_scale``, and the decoder is linear. False: a sigmoid on raw pixels, as in the
            paper; it saturates on a black or a white background, and then draws the same picture for every frame.

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
        self, latent_dim: int = 32, free_bits: float = 0.5, hud_loss_weight: float = 1.0, standardize: bool = True
    ) -> None:
        super().__init__()
        validate_positive_int(latent_dim=latent_dim)
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
        self.standardize = bool(standardize)
        self.max_grad_norm = MAX_GRAD_NORM if standardize else None
        """Largest norm of the gradient with which `worldmodel.fit` trains it."""
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, 32, 4, 2), nn.ReLU()),  # (32, 31, 31)
            *(nn.Conv2d(32, 64, 4, 2), nn.ReLU()),  # (64, 14, 14)
            *(nn.Conv2d(64, 128, 4, 2), nn.ReLU()),  # (128, 6, 6)
            *(nn.Conv2d(128, 256, 4, 2), nn.ReLU()),  # (256, 2, 2)
            nn.Flatten(),
        )
        self.posterior = nn.Linear(1024, 2 * latent_dim)
        self.prepare = nn.Linear(latent_dim, 1024)
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(1024, 128, 5, 2), nn.ReLU()),  # (128, 5, 5)
            *(nn.ConvTranspose2d(128, 64, 5, 2), nn.ReLU()),  # (64, 13, 13)
            *(nn.ConvTranspose2d(64, 32, 6, 2), nn.ReLU()),  # (32, 30, 30)
            nn.ConvTranspose2d(32, 3, 6, 2),  # (3, 64, 64)
            nn.Identity() if standardize else nn.Sigmoid(),
        )
        self.pixel_mean: Tensor
        self.pixel_scale: Tensor
        self.error_weight: Tensor
        if standardize:
            self.register_buffer("pixel_mean", torch.full((3, 64, 64), 0.5))
            self.register_buffer("pixel_scale", torch.tensor(0.25))
            self.register_buffer("error_weight", torch.tensor(1.0))
            if not self.pixel_mean.is_meta:
                self.reset_parameters()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as frames come: faster

    def __repr__(self) -> str:
        """The call that builds it."""
        return constructor_repr(self, **self.config)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this module again."""
        weight = {} if self.hud_loss_weight == 1 else {"hud_loss_weight": self.hud_loss_weight}
        standardize = {"standardize": True} if self.standardize else {}  # older files name neither
        return {"latent_dim": self.latent_dim, "free_bits": self.free_bits, **weight, **standardize}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """He's initialization: activations keep their size, but at the edges of transposed convolutions."""
        linear = (self.posterior, self.prepare, self.decoder[-2])  # no ReLU follows
        for layer in self.modules():
            if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                continue
            fan_in = float(layer.weight[0].numel())
            if isinstance(layer, nn.ConvTranspose2d):
                # what an output pixel sees of the input; of an input that is a single pixel, that one
                seen = math.prod(k / s for k, s in zip(layer.kernel_size, layer.stride, strict=True))
                fan_in = layer.in_channels * (1 if layer is self.decoder[0] else seen)
            nn.init.normal_(layer.weight, std=math.sqrt((1 if layer in linear else 2) / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        last = self.decoder[-2]
        assert isinstance(last, nn.ConvTranspose2d)
        last.weight.mul_(0.1)  # begin at the mean picture
        self.posterior.bias[self.latent_dim :] = INITIAL_LOG_SCALE

    @torch.no_grad()
    def init_from_data(self, frames: UInt8[Tensor, "batch 64 64 3"]) -> None:
        """Take the statistics of the data from some frames: `worldmodel.fit` calls it with the first batch of a new training.

        ``pixel_mean`` is each pixel's mean, ``pixel_scale`` the standard deviation around it over all pixels, and
        ``error_weight`` lifts the squared error of the mean picture to `MIN_VARIATION` where it is below.
        """
        if not self.standardize:
            return
        pixels = frames_to_float(frames)
        self.pixel_mean.copy_(pixels.mean(dim=0))
        variation = float((pixels - self.pixel_mean).square().sum(dim=(1, 2, 3)).mean())
        self.pixel_scale.fill_(max(math.sqrt(variation / self.pixel_mean.numel()), MIN_PIXEL_SCALE))
        self.error_weight.fill_(min(max(MIN_VARIATION / max(variation, 1e-9), 1.0), MAX_ERROR_WEIGHT))

    def encode(self, frames: Float[Tensor, "batch 3 64 64"]) -> Normal:
        """The posterior q(z|x): a Normal with ``loc`` and ``scale`` of shape (batch, latent)."""
        if frames.ndim != 4 or frames.shape[1:] != (3, 64, 64):
            raise ValueError(f"frames must have shape (batch, 3, 64, 64), got {tuple(frames.shape)}")
        inputs = (frames - self.pixel_mean) / self.pixel_scale if self.standardize else frames
        loc, log_scale = to_float32(self.posterior(self.encoder(inputs))).chunk(2, dim=-1)
        return Normal(loc, log_scale.clamp(*LOG_SCALE_RANGE).exp(), validate_args=False)

    def decode(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 64 64"]:
        """The picture that ``latent`` stands for, in [0, 1]."""
        if latent.ndim != 2 or latent.shape[-1] != self.latent_dim:
            raise ValueError(f"latent must have shape (batch, {self.latent_dim}), got {tuple(latent.shape)}")
        return self._decode(latent).clamp(0, 1)

    def _decode(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 64 64"]:
        """The picture without its bounds: a pixel beyond them still has a gradient."""
        drawn = to_float32(self.decoder(self.prepare(latent)[..., None, None]))
        return self.pixel_mean + self.pixel_scale * drawn if self.standardize else drawn

    def loss(
        self,
        frames: UInt8[Tensor, "batch 64 64 3"] | Float[Tensor, "batch 3 64 64"],
        generator: Generator | None = None,
    ) -> Loss:
        """Squared error summed over the picture, plus the KL divergence to N(0, 1) beyond the free bits, in nats.

        The squared error is the negative log-likelihood of a Gaussian with variance ``1 / (2 error_weight)``, without its
        constant; ``hud_loss_weight`` times less in the lowest eighth of the picture. The constant depends on both:
        losses do not compare where they differ. The part ``reconstruction`` of the log has no ``error_weight``.
        """
        pixels = frames_to_float(frames) if frames.dtype == torch.uint8 else frames
        posterior = self.encode(pixels)
        noise = torch.empty_like(posterior.loc).normal_(generator=generator)
        reconstruction = self._decode(posterior.loc + posterior.scale * noise)
        squares = (reconstruction - pixels).square().sum(dim=(1, 3))  # (batch, 64): of each row
        error = (squares[:, :-HUD_ROWS].sum(dim=1) + self.hud_loss_weight * squares[:, -HUD_ROWS:].sum(dim=1)).mean()
        divergence = 0.5 * (posterior.loc**2 + posterior.scale**2 - 1) - posterior.scale.log()  # KL(q || N(0, 1))
        per_dimension = divergence.mean(dim=0)
        weighted = error * self.error_weight if self.standardize else error
        value = weighted + per_dimension.clamp(min=self.free_bits).sum()
        return Loss(value, {"reconstruction": error.detach(), "kl": per_dimension.detach().sum()})


MERGED_KEY = "decoder.start"


def merge_decoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A VAE's weights with the two layers between latent and first ReLU as one: both are linear.

    ``sum_c (A z + a)_c W_c + b = (W A) z + (W a + b)``: at 32 latents 0.1 million numbers in place of 3.3 million, for files
    that travel. `split_decoder` goes back, to other weights of the same function.
    """
    state = dict(state)
    matrix, vector = state.pop("prepare.weight"), state.pop("prepare.bias")  # (1024, latent), (1024,)
    kernels, bias = state.pop("decoder.0.weight"), state.pop("decoder.0.bias")  # (1024, 128, 5, 5), (128,)
    columns = torch.cat((matrix, vector[:, None]), dim=1).double()
    merged = torch.einsum("cl,coij->loij", columns, kernels.double())
    merged[-1] += bias.double()[:, None, None]
    return state | {MERGED_KEY: merged.to(matrix.dtype)}  # (latent + 1, 128, 5, 5), the last one for the constant


def split_decoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a VAE, from what `merge_decoder` made."""
    state = dict(state)
    merged = state.pop(MERGED_KEY)
    size, channels = len(merged), 1024
    matrix, vector = merged.new_zeros(channels, size - 1), merged.new_zeros(channels)
    matrix[: size - 1] = torch.eye(size - 1)
    vector[size - 1] = 1.0
    kernels = merged.new_zeros(channels, *merged.shape[1:])
    kernels[:size] = merged
    first = {"prepare.weight": matrix, "prepare.bias": vector}
    return state | first | {"decoder.0.weight": kernels, "decoder.0.bias": merged.new_zeros(merged.shape[1])}
