"""A reference density without memory: one independent Gaussian for each dimension of an event."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.batches import EventBatch
from worldmodel.corpora.dataset import Split

NUM_BATCHES, BATCH_SIZE = 16, 32
"""Number and size of the random batches of the training part that it is fitted to."""
MIN_SCALE = 1e-3
"""Smallest standard deviation."""


class Gaussian:
    """Independent Gaussians with the mean and standard deviation of each dimension in the training part.

    Args:
        training: The training part.
    """

    def __init__(self, training: Split) -> None:
        rng = np.random.default_rng(0)
        batches = [training.batch(BATCH_SIZE, rng) for _ in range(NUM_BATCHES)]
        events = torch.cat([batch.event[batch.mask > 0] for batch in batches]).double()
        self.loc = events.mean(dim=0)
        self.scale = events.std(dim=0, correction=0).clamp(min=MIN_SCALE)

    def log_prob(self, batch: EventBatch) -> Float[Tensor, "batch"]:
        """Return the log-density of whole sequences, including the log-Jacobian, in nats and double precision."""
        normal = torch.distributions.Normal(self.loc, self.scale, validate_args=False)
        log_prob = normal.log_prob(batch.event.cpu().double()).sum(dim=-1)
        return (log_prob * batch.mask.cpu()).sum(dim=-1) + batch.log_jacobian.cpu()
