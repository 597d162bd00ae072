"""Behaviour cloning reproduces a known policy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import toys
from tests.learning.frames import dot_frames, fit_linear_readout
from worldmodel import FRMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.agents import Agent, LinearController, imitate

PUBLISHED_VAE = True


def teacher(vae) -> Agent:
    """Agent that steers towards the target: tanh(4 (0.5 - x)), with x predicted from the latents."""
    *weights, bias = fit_linear_readout(vae, *dot_frames(128, 1001))
    with seeded(0):
        world = WorldModel(vae, Memory(FRMDN(vae.latent_dim + 1, vae.latent_dim, hidden_size=4)))
    return Agent(world, LinearController(vae.latent_dim, 1, np.array([*(-4 * w for w in weights), 4 * (0.5 - bias)])))


def student_world_model(vae) -> WorldModel:
    """A world model whose latents are an affine map of the teacher's, with another memory."""
    student_vae = VAE(vae.latent_dim)
    student_vae.load_state_dict(vae.state_dict())
    mixing = torch.tensor([[1.0, 2.0], [-0.5, 0.3]])
    layer = student_vae.posterior
    layer.weight.data[:2] = mixing @ layer.weight.data[:2]
    layer.bias.data[:2] = mixing @ layer.bias.data[:2] + torch.tensor([0.3, -1.0])
    with seeded(1):
        return WorldModel(student_vae, Memory(FRMDN(vae.latent_dim + 1, vae.latent_dim, hidden_size=4)))


def actions(agent: Agent, store) -> np.ndarray:
    """Actions of an agent on the frames of stored episodes."""
    values = []
    for episode in store.episodes():
        act = agent(toys.dot_to_target().action_space, np.random.default_rng(0))
        values += [float(act(frame)[0]) for frame in episode.frames[:-1]]
    return np.array(values)


def clone_policy(vae, folder, seed: int):
    """The teacher, a clone trained on its episodes with action noise, and random episodes."""
    agent, world = teacher(vae), student_world_model(vae)
    noisy_agent = replace(agent, action_noise=0.5)
    store = rollouts.collect(toys.dot_to_target, noisy_agent, 8, seed=seed, out=folder / "seen")
    clone = Agent(world, imitate(agent, world, store, LinearController.for_world_model(world)))
    return agent, clone, rollouts.collect(toys.dot_to_target, rollouts.uniform, 8, seed=seed + 1, out=folder / "fresh")


@pytest.mark.slow
def test_behavior_cloning_matches_the_actions_of_the_teacher(vae, tmp_path):
    agent, clone, fresh = clone_policy(vae, tmp_path, seed=1)
    expected, predicted = actions(agent, fresh), actions(clone, fresh)
    assert expected.std() > 0.3
    # The clone can represent the policy exactly. The remaining error comes from its weight decay and the last steps of
    # L-BFGS (up to 3e-5 of the variance). A policy that ignores the frames has an error of 1.
    assert np.square(predicted - expected).mean() < 0.01 * expected.var()
