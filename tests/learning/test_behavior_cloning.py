"""Behaviour cloning copies a known policy."""

from dataclasses import replace

import numpy as np
import torch

import rollouts
from agents import Agent, LinearController, imitate
from tests import toys
from tests.learning.frames import dots, read_out
from worldmodel import FRMDN, VAE, Memory, WorldModel, seeded


def teacher(vae) -> Agent:
    """Steers towards the target: tanh(4 (0.5 - x)), with x as the latents show it."""
    *weights, bias = read_out(vae, *dots(128, 1001))
    with seeded(0):
        world = WorldModel(vae, Memory(FRMDN(vae.latent_dim + 1, vae.latent_dim, hidden_size=4)))
    return Agent(world, LinearController(vae.latent_dim, 1, np.array([*(-4 * w for w in weights), 4 * (0.5 - bias)])))


def student_world(vae) -> WorldModel:
    """A world model with other latents, an affine map of the teacher's, and another memory."""
    mixed = VAE(vae.latent_dim)
    mixed.load_state_dict(vae.state_dict())
    mix = torch.tensor([[1.0, 2.0], [-0.5, 0.3]])
    layer = mixed.posterior
    layer.weight.data[:2] = mix @ layer.weight.data[:2]
    layer.bias.data[:2] = mix @ layer.bias.data[:2] + torch.tensor([0.3, -1.0])
    with seeded(1):
        return WorldModel(mixed, Memory(FRMDN(vae.latent_dim + 1, vae.latent_dim, hidden_size=4)))


def actions(agent: Agent, store) -> np.ndarray:
    """What an agent does on the frames of stored episodes."""
    found = []
    for episode in store.episodes():
        act = agent(toys.dot_to_target().action_space, np.random.default_rng(0))
        found += [float(act(frame)[0]) for frame in episode.frames[:-1]]
    return np.array(found)


def cloned(vae, folder, seed: int):
    """The teacher, a clone of it that was learned from its episodes with exploration, and random episodes."""
    agent, world = teacher(vae), student_world(vae)
    exploring = replace(agent, action_noise=0.5)
    store = rollouts.collect(toys.dot_to_target, exploring, 8, seed=seed, out=folder / "seen")
    clone = Agent(world, imitate(agent, world, store, LinearController.for_world_model(world)))
    return agent, clone, rollouts.collect(toys.dot_to_target, rollouts.uniform, 8, seed=seed + 1, out=folder / "fresh")


def test_a_clone_does_what_the_known_policy_does(vae, tmp_path):
    agent, clone, fresh = cloned(vae, tmp_path, seed=1)
    wanted, done = actions(agent, fresh), actions(clone, fresh)
    assert wanted.std() > 0.3
    # The clone can express the policy exactly: what is left is the decay of its weights and L-BFGS's last steps
    # (up to 3e-5 of the variance), and a policy that never saw a frame has an error of 1.
    assert np.square(done - wanted).mean() < 0.01 * wanted.var()
