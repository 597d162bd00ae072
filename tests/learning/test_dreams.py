"""A controller that is trained in dreams alone also works in the environment."""

import pytest

from tests import toys
from worldmodel import FRMDN, Memory, WorldModel, fit, rollouts, seeded
from worldmodel.agents import Agent, LinearController, evaluate, evolve

PUBLISHED_VAE = True


def evolve_in_dreams(vae, folder, seed: int):
    """A world model trained on random episodes, and a controller evolved in its dreams."""
    store = rollouts.collect(toys.dot_to_target, rollouts.uniform, 30, seed=seed, out=folder)
    with seeded(seed):
        memory = Memory.for_store(
            store, FRMDN, latent_dim=vae.latent_dim, hidden_size=16, num_components=2, num_couplings=1
        )
    fit(
        memory,
        store.sequences(vae, seq_len=12),
        num_updates=250,
        batch_size=16,
        learning_rate=1e-2,
        eval_every=50,
        seed=seed,
    )
    world = WorldModel(vae, memory, store)
    fitness = rollouts.DreamFitness(world, store.latents(vae), horizon=10, num_rollouts=8)
    controller = evolve(
        LinearController.for_world_model(world),
        fitness,
        seed=seed,
        generations=25,
        population=16,
        sigma=0.5,
        mean_window=5,
    )
    return world, controller


@pytest.mark.slow
def test_controller_evolved_in_dreams_is_better_in_the_environment(vae, tmp_path):
    world, after = evolve_in_dreams(vae, tmp_path, seed=1)
    before = LinearController.for_world_model(world)
    returns = {
        name: evaluate(policy, toys.dot_to_target, episodes=20).mean
        for name, policy in {
            "before": Agent(world, before), "after": Agent(world, after), "random": rollouts.uniform
        }.items()
    }  # fmt: skip
    # A random position earns 0.4 per step on average and 4.7 per episode; moving straight to the target earns 11. Controllers
    # trained with four seeds earn 9.1 to 10.3.
    assert returns["after"] > 7.5
    assert returns["after"] > max(returns["before"], returns["random"]) + 2
