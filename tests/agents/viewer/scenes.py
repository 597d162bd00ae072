"""Scenes for tests: untrained world models whose frames follow the actions."""

import torch

from tests import toys
from worldmodel import FRMDN, VAE, Memory, WorldModel, seeded
from worldmodel.agents.viewer.controls import controls
from worldmodel.agents.viewer.session import Scene
from worldmodel.rollouts.policy.controllers import LinearController


def world(latent=3, actions=2, hidden=5, discrete=False):
    with seeded(0):
        world_model = WorldModel(
            VAE(latent), Memory(FRMDN(latent + actions, latent, hidden_size=hidden)), discrete=discrete
        )
        for parameter in world_model.memory.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        world_model.memory.termination_head.weight.data.zero_()
        world_model.memory.termination_head.bias.data.fill_(-20)
        world_model.vae.prepare.weight.data *= 20
    return world_model.eval()


def scene(real=True, **options):
    world_model = world(**options)
    with seeded(1):
        controller = LinearController.for_world_model(world_model).with_parameters(
            torch.randn(LinearController.for_world_model(world_model).size)
        )
    start_states = torch.randn(9, world_model.latent_dim, generator=torch.Generator().manual_seed(0))
    scene_controls = controls("Counter", {}, world_model)
    return Scene(
        "Counter", world_model, start_states, scene_controls, {"evolved": controller}, toys.counter if real else None
    )
