"""A small world model, start states, controllers, and tolerances of rewards and returns."""

import torch

from tests.tolerance import assert_same_sums
from worldmodel import FRMDN, VAE, Memory, WorldModel, seeded


def world(discrete=False, actions=2, **heads):
    with seeded(0):
        model = WorldModel(VAE(latent_dim=3), Memory(FRMDN(3 + actions, 3, hidden_size=5), **heads), discrete=discrete)
        for parameter in model.memory.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def beacon_world():
    return world(actions=1)


STARTS = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))


def controllers(count=3, size=18, seed=0):
    return 0.5 * torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).numpy()


def assert_same_rewards(actual, expected, memory, steps):
    """Assert that rewards of dreams of `steps` steps, or their sums, are equal up to rounding.

    A reward is itself a sum over the bins: reward times probability. The outer bins stand for thousands, of either sign, and
    cancel in the sum. The size of a term is its mean under a uniform prediction; a trained prediction is narrower. The memory
    carries the roundings of each step to later ones.
    """
    bins = len(memory.support)
    assert_same_sums(actual, expected, steps * bins, memory.support.abs().mean() / bins)


def assert_same_returns(actual, expected, steps):
    """Assert that returns of a Beacon are equal up to rounding: rewards are actions, at most 1, and sum over all features."""
    assert_same_sums(actual, expected, steps * (beacon_world().num_features + 1), terms=1.0)
