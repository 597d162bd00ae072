"""Behavior cloning of an agent into a controller of another world model."""

import numpy as np
import pytest
import torch

from tests import toys
from tests.rollouts.dreams import beacon_world, world
from worldmodel import rollouts
from worldmodel.agents import Agent, HiddenController, LinearController, imitate
from worldmodel.agents.evolution.whitening import controller_inputs


def two_encoders(store, **kind):
    """Two world models: one encodes a store with mean 0 and deviation 1, the other with an affine map of these latents."""
    one, other = world(**kind), world(**kind)
    frames = torch.from_numpy(np.concatenate([store.episode(index).frames for index in range(len(store))]))
    std, mean = torch.std_mean(one.encode(frames), dim=0)
    affine = torch.tensor([[1.0, 0.5, 0.0], [0.0, -2.0, 0.3], [0.2, 0.0, 0.7]])
    for world_model, matrix in ((one, torch.eye(3)), (other, affine)):
        layer = world_model.vae.posterior
        layer.weight.data[:3] = matrix @ (layer.weight[:3] / std[:, None])
        layer.bias.data[:3] = matrix @ ((layer.bias[:3] - mean) / std)
    return one, other


def outputs(agent, store):
    return agent.controller(controller_inputs(agent.world, store.latents(agent.world.vae), len(store)))


def latent_agent(world_model, actions):
    """An agent whose controller takes the latent only."""
    weight = np.random.default_rng(2).normal(size=3 * actions)
    return Agent(world_model, LinearController(3, actions, [*2 * weight, *np.zeros(actions)]))


def test_a_linear_clone_of_a_linear_agent_is_nearly_exact(tmp_path):
    store = rollouts.collect(toys.counter, rollouts.uniform, 2, seed=1, out=tmp_path)
    one, other = two_encoders(store)
    agent = latent_agent(one, 2)
    clone = Agent(other, imitate(agent, other, store, LinearController(3, 2)))
    cloned, expected = outputs(clone, store).tanh(), outputs(agent, store).tanh()
    assert expected.std() > 0.3
    assert (cloned - expected).square().mean() < 0.001 * expected.var()


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [0, 6], ids=["linear", "hidden"])
def test_clones_act_like_the_agent_with_another_encoder(tmp_path, hidden):
    store = rollouts.collect("Pendulum-v1", rollouts.uniform, 4, seed=1, out=tmp_path, max_steps=30)
    one, other = two_encoders(store, actions=1)
    agent = latent_agent(one, 1)
    kind = HiddenController(3, 1, hidden_units=hidden) if hidden else LinearController(3, 1)
    clone = Agent(other, imitate(agent, other, store, kind))
    assert repr(clone.controller) == repr(kind)
    cloned, expected = outputs(clone, store).tanh(), outputs(agent, store).tanh()
    assert expected.std() > 0.3
    assert (cloned - expected).square().mean() < 0.01 * expected.var()
    assert torch.equal(imitate(agent, other, store, kind).parameters, clone.controller.parameters)


@pytest.mark.slow
def test_clones_choose_the_discrete_actions_of_the_agent(tmp_path):
    store = rollouts.collect("CartPole-v1", rollouts.uniform, 8, seed=1, out=tmp_path)
    one, other = two_encoders(store, discrete=True)
    agent = latent_agent(one, 2)
    clone = Agent(other, imitate(agent, other, store, LinearController(3, 2)))
    chosen, expected = (outputs(one, store).argmax(dim=-1).double() for one in (clone, agent))
    assert 0.2 < expected.mean() < 0.8
    assert (chosen == expected).double().mean() > 0.95


def test_other_action_sizes_are_refused(tmp_path):
    store = rollouts.collect(toys.beacon, rollouts.uniform, 1, seed=1, out=tmp_path)
    agent, other = Agent(beacon_world(), LinearController(3, 1)), world(actions=2)
    with pytest.raises(ValueError, match="agent"):
        imitate(agent, other, store, LinearController.for_world_model(other))
