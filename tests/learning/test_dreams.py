"""What a controller learns in dreams alone holds in the environment."""

import rollouts
from agents import Agent, LinearController, evaluate, evolve
from tests import toys
from worldmodel import FRMDN, Memory, WorldModel, fit, seeded


def dreamed_controller(vae, folder, seed: int):
    """A controller that was evolved in the dreams of a memory of random episodes, and the world model."""
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


def test_dreams_teach_a_controller_that_is_better_in_the_environment(vae, tmp_path):
    world, after = dreamed_controller(vae, tmp_path, seed=1)
    before = LinearController.for_world_model(world)
    returns = {
        name: evaluate(policy, toys.dot_to_target, episodes=20).mean
        for name, policy in {
            "before": Agent(world, before), "after": Agent(world, after), "random": rollouts.uniform
        }.items()
    }  # fmt: skip
    # A place that nobody chose earns 0.4 a step on average, 4.7 in an episode; a straight way to the target earns 11. Trained
    # with four seeds, controllers earn 9.1 to 10.3.
    assert returns["after"] > 7.5
    assert returns["after"] > max(returns["before"], returns["random"]) + 2
