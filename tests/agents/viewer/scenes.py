"""Stages for tests: worlds without training, whose pictures follow the actions."""

import torch

from agents.controller import LinearController
from agents.viewer.controls import controls
from agents.viewer.session import Scene
from tests import toys
from worldmodel import FRMDN, VAE, Memory, WorldModel, seeded


def world(latent=3, actions=2, hidden=5, discrete=False):
    with seeded(0):
        built = WorldModel(VAE(latent), Memory(FRMDN(latent + actions, latent, hidden_size=hidden)), discrete=discrete)
        for parameter in built.memory.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        built.memory.termination_head.weight.data.zero_()
        built.memory.termination_head.bias.data.fill_(-20)
        built.vae.prepare.weight.data *= 20
    return built.eval()


def scene(real=True, **options):
    built = world(**options)
    with seeded(1):
        driver = LinearController.for_world_model(built).with_parameters(
            torch.randn(LinearController.for_world_model(built).size)
        )
    starts = torch.randn(9, built.latent_dim, generator=torch.Generator().manual_seed(0))
    given = controls("Counter", {}, built)
    return Scene("Counter", built, starts, given, {"evolved": driver}, toys.counter if real else None)
