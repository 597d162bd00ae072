"""The simplest density to be compared with: one Gaussian for each number of an event, without any memory."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.batches import EventBatch
from worldmodel.corpora.dataset import Split

BATCHES, BATCH = 16, 32
"""Number and size of the random batches of the training part that it is fitted to."""
FLOOR = 1e-3
"""Smallest standard deviation."""


class Gaussian:
    """log p(x) of independent numbers, with the training part's mean and standard deviation of each.

    Args:
        training: the training part.
    """

    def __init__(self, training: Split) -> None:
        rng = np.random.default_rng(0)
        drawn = [training.batch(BATCH, rng) for _ in range(BATCHES)]
        events = torch.cat([batch.event[batch.mask > 0] for batch in drawn]).double()
        self.loc = events.mean(dim=0)
        self.scale = events.std(dim=0, correction=0).clamp(min=FLOOR)

    def log_prob(self, batch: EventBatch) -> Float[Tensor, "batch"]:
        """Of whole sequences, with their log-Jacobian, in double precision."""
        normal = torch.distributions.Normal(self.loc, self.scale, validate_args=False)
        each = normal.log_prob(batch.event.cpu().double()).sum(dim=-1)
        return (each * batch.mask.cpu()).sum(dim=-1) + batch.log_jacobian.cpu()
