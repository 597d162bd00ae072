"""A small world, moments to begin at, controllers, and how exact a return is."""

import torch

from tests.tolerance import assert_same_sums
from worldmodel import FRMDN, VAE, Memory, WorldModel, seeded


def world(discrete=False, actions=2, **heads):
    with seeded(0):
        built = WorldModel(VAE(latent_dim=3), Memory(FRMDN(3 + actions, 3, hidden_size=5), **heads), discrete=discrete)
        for parameter in built.memory.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return built.eval()


def beacon_world():
    return world(actions=1)


STARTS = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))


def controllers(count=3, size=18, seed=0):
    return 0.5 * torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).numpy()


def assert_same_rewards(found, wanted, memory, steps):
    """Rewards of dreams of this many steps, or the sums of them.

    A reward is itself a sum, of every bin's reward times its probability. The outer bins stand for thousands, with either
    sign, and a reward is what they leave of each other. The size of a term is its mean under a uniform prediction; a learned
    one is narrower. Through the memory the roundings of each step reach the later ones.
    """
    bins = len(memory.support)
    assert_same_sums(found, wanted, steps * bins, memory.support.abs().mean() / bins)


def assert_same_lives(found, wanted, steps):
    """Returns in a Beacon: every step earns an action, at most one, which is a sum over the features of all steps before."""
    assert_same_sums(found, wanted, steps * (beacon_world().num_features + 1), terms=1.0)
