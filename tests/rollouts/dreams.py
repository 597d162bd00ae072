"""A small world, moments to begin at, and controllers."""

import torch

from worldmodel import FRMDN, VAE, Memory, WorldModel, seeded


def world(discrete=False, actions=2, **heads):
    with seeded(0):
        built = WorldModel(VAE(latent=3), Memory(FRMDN(3 + actions, 3, hidden=5), **heads), discrete=discrete)
        for parameter in built.memory.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return built.eval()


def beacon_world():
    return world(actions=1)


STARTS = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))


def controllers(count=3, size=18, seed=0):
    return 0.5 * torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).numpy()
