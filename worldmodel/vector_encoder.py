"""Encode observations that are vectors of numbers, such as joint angles: no VAE, no training, no loss of information.

Start reading at `VectorEncoder`.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.distributions import Normal

from worldmodel.batches import frames_to_uint8
from worldmodel.vae import VAE
from worldmodel.validation import constructor_repr, validate_positive_int

LATENT_RANGE = 1e4
"""Largest absolute latent. Numbers that the data did not have stay in the range of half precision."""
MIN_RELATIVE_STD = 10 * float(np.finfo(np.float32).eps)
"""Standard deviation, as a fraction of the mean, below which a number is constant in the data (float32 rounding)."""
POSTERIOR_SCALE = 2.0**-24
"""Standard deviation of the posterior: the rounding of single precision. A Normal needs one above zero."""
PICTURE_SIZE = 64
POSITIVE, NEGATIVE = (0.31, 0.78, 0.47), (0.9, 0.47, 0.24)
"""Colors of the bars in pictures of latents."""


@runtime_checkable
class VectorData(Protocol):
    """Episodes of vectors, such as `rollouts.Store`."""

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of an observation, (n,)."""
        ...

    def episodes(self) -> Iterator[Any]:
        """Iterate over episodes whose ``frames`` are (T + 1, n)."""
        ...


class VectorEncoder(nn.Module):
    """Standardize vectors: the latent is ``(x - mean) / scale``, and the posterior has no variance.

    It takes the place of the `VAE` in the world model of an environment that observes numbers. `for_store` sets ``mean`` and
    ``scale`` to the mean and the standard deviation of the data; a number that is constant in the data has the scale 1.

    Args:
        latent_dim: Number of numbers of an observation.

    Raises:
        ValueError: ``latent_dim`` is out of range.

    Example:
        >>> encoder = VectorEncoder(latent_dim=4)
        >>> encoder.encode(torch.ones(2, 4)).loc.shape
        torch.Size([2, 4])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        validate_positive_int(latent_dim=latent_dim)
        self.latent_dim = latent_dim
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))

    def __repr__(self) -> str:
        """Return the constructor call."""
        return constructor_repr(self, latent_dim=self.latent_dim)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this module with `worldmodel.registry.build_vae`."""
        return {"encoder": "vector", "latent_dim": self.latent_dim}

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of an observation, (latent,)."""
        return (self.latent_dim,)

    @classmethod
    def for_store(cls, store: VectorData) -> "VectorEncoder":
        """Return the encoder with the statistics of all observations of a store.

        Raises:
            ValueError: The store has frames, or no episode.
        """
        shape = store.observation_shape
        if len(shape) != 1:
            raise ValueError(f"store must hold vectors, got frames {shape}: use a VAE")
        encoder = cls(shape[0])
        encoder.mean.copy_(torch.from_numpy(mean := _mean(store, lambda frames: frames)))
        std = np.sqrt(_mean(store, lambda frames: (frames - mean) ** 2))
        constant = (std <= MIN_RELATIVE_STD * np.abs(mean)) | (std < np.finfo(np.float32).tiny)
        std[~constant & (std == 1)] = np.nextafter(np.float32(1), np.float32(2))  # the scale 1 stands for a constant
        encoder.scale.copy_(torch.from_numpy(np.where(constant, 1.0, std)))
        return encoder

    def to_inputs(self, observations: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """Convert observations to inputs of `encode`, on the device of this module."""
        return observations.to(self.mean)

    def to_observations(self, decoded: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """Convert outputs of `decode` to observations."""
        return decoded.detach().float()

    def encode(self, observations: Float[Tensor, "batch latent"]) -> Normal:
        """Return a Normal around the standardized observations, (batch, latent)."""
        if observations.ndim != 2 or observations.shape[-1] != self.latent_dim:
            raise ValueError(
                f"observations must have shape (batch, {self.latent_dim}), got {tuple(observations.shape)}"
            )
        loc = ((observations - self.mean) / self.scale).clamp(-LATENT_RANGE, LATENT_RANGE)
        return Normal(loc, torch.full_like(loc, POSTERIOR_SCALE), validate_args=False)

    def decode(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """Invert `encode`."""
        if latent.ndim != 2 or latent.shape[-1] != self.latent_dim:
            raise ValueError(f"latent must have shape (batch, {self.latent_dim}), got {tuple(latent.shape)}")
        return self.mean + self.scale * latent

    def draw(self, latent: Float[Tensor, "batch latent"]) -> UInt8[Tensor, "batch 64 64 3"]:
        """Draw each latent as a bar chart: one bar per number (the first 64), from the middle up or down to ``tanh(z / 2)``."""
        position = torch.arange(PICTURE_SIZE, device=latent.device)
        bars = min(self.latent_dim, PICTURE_SIZE)
        height = (latent[:, position * bars // PICTURE_SIZE] / 2).tanh()[:, None]  # (batch, 1, columns)
        y = torch.linspace(1, -1, PICTURE_SIZE, device=latent.device)[:, None]  # (rows, 1)
        gap = (position % (PICTURE_SIZE // bars) == 0) & (bars <= PICTURE_SIZE // 4)
        lit = (y * height > 0) & (y.abs() <= height.abs()) & ~gap  # (batch, rows, columns)
        colors = latent.new_tensor((POSITIVE, NEGATIVE))
        upper = (y > 0).to(latent)[:, None]  # (rows, 1, 1)
        picture = lit[..., None] * (upper * colors[0] + (1 - upper) * colors[1])
        return frames_to_uint8(picture.movedim(-1, -3))


Encoder = VAE | VectorEncoder
"""The encoder of a world model."""


def _mean(store: VectorData, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the mean of a function of all observations, in double precision."""
    total, count = np.zeros(store.observation_shape), 0
    for episode in store.episodes():
        total, count = total + function(episode.frames.astype(np.float64)).sum(axis=0), count + len(episode.frames)
    if not count:
        raise ValueError("store must hold at least one episode, got none")
    return total / count
