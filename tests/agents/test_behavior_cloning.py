"""Imitation: what an agent does, through other eyes."""

import numpy as np
import pytest
import torch

import rollouts
from agents import Agent, HiddenController, LinearController, imitate
from agents.whitening import controller_inputs
from tests import toys
from tests.rollouts.dreams import beacon_world, world


def two_pairs_of_eyes(store, **kind):
    """A world whose latents of a store's frames have mean 0 and deviation 1, and one that sees an affine map of these."""
    one, other = world(**kind), world(**kind)
    frames = torch.from_numpy(np.concatenate([store.episode(index).frames for index in range(len(store))]))
    spread, mean = torch.std_mean(one.encode(frames), dim=0)
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, -2.0, 0.3], [0.2, 0.0, 0.7]])
    for built, by in ((one, torch.eye(3)), (other, mix)):
        layer = built.vae.posterior
        layer.weight.data[:3] = by @ (layer.weight[:3] / spread[:, None])
        layer.bias.data[:3] = by @ ((layer.bias[:3] - mean) / spread)
    return one, other


def outputs(agent, store):
    return agent.controller(controller_inputs(agent.world, store.latents(agent.world.vae), len(store)))


def decided(built, actions):
    """An agent that sees the latent."""
    weight = np.random.default_rng(2).normal(size=3 * actions)
    return Agent(built, LinearController(3, actions, [*2 * weight, *np.zeros(actions)]))


@pytest.mark.parametrize("hidden", [0, 6], ids=["linear", "hidden"])
def test_does_through_other_eyes_what_the_agent_does(tmp_path, hidden):
    store = rollouts.collect("Pendulum-v1", rollouts.uniform, 4, seed=1, out=tmp_path, max_steps=30)
    one, other = two_pairs_of_eyes(store, actions=1)
    agent = decided(one, 1)
    kind = HiddenController(3, 1, hidden_units=hidden) if hidden else LinearController(3, 1)
    copy = Agent(other, imitate(agent, other, store, kind))
    assert repr(copy.controller) == repr(kind)
    done, wanted = outputs(copy, store).tanh(), outputs(agent, store).tanh()
    assert wanted.std() > 0.3
    assert (done - wanted).square().mean() < 0.01 * wanted.var()
    assert torch.equal(imitate(agent, other, store, kind).parameters, copy.controller.parameters)


def test_chooses_what_the_agent_chooses(tmp_path):
    store = rollouts.collect("CartPole-v1", rollouts.uniform, 8, seed=1, out=tmp_path)
    one, other = two_pairs_of_eyes(store, discrete=True)
    agent = decided(one, 2)
    copy = Agent(other, imitate(agent, other, store, LinearController(3, 2)))
    chosen, wanted = (outputs(one, store).argmax(dim=-1).double() for one in (copy, agent))
    assert 0.2 < wanted.mean() < 0.8
    assert (chosen == wanted).double().mean() > 0.95


def test_other_actions_are_refused(tmp_path):
    store = rollouts.collect(toys.beacon, rollouts.uniform, 1, seed=1, out=tmp_path)
    agent, other = Agent(beacon_world(), LinearController(3, 1)), world(actions=2)
    with pytest.raises(ValueError, match="agent"):
        imitate(agent, other, store, LinearController.for_world_model(other))
