"""The whole pipeline on your own environment, any gymnasium.Env with pixels. About five minutes on two cores.

python examples/own_environment.py
"""

import sys

import gymnasium

from worldmodel import FRMDN, VAE, Memory, WorldModel, fit, rollouts
from worldmodel.agents import Agent, LinearController, evaluate, evolve
from worldmodel.envs.adapters import to_pixels


def make():
    """Make the environment; worker processes import this function from the top of the module."""
    return to_pixels(gymnasium.make("MountainCarContinuous-v0", render_mode="rgb_array"))


def main(size: float = 1.0) -> None:
    """Collect, encode, train the memory, evolve and evaluate.

    Args:
        size: Factor on the amount of work in every stage.
    """

    def scaled(number: int) -> int:
        """Return a number of things times the size, at least 2."""
        return max(2, round(size * number))

    store = rollouts.collect(make, rollouts.smooth_random, scaled(40), seed=1, workers=2, max_steps=scaled(200))
    vae = fit(VAE(latent_dim=8), store.frames(), num_updates=scaled(300))
    memory = Memory.for_store(store, FRMDN, latent_dim=8, hidden_size=64)
    fit(memory, store.sequences(vae), num_updates=scaled(300))
    world = WorldModel(vae, memory, store)
    fitness = rollouts.EnvFitness(make, world, episodes=2, workers=2, max_steps=scaled(200))
    best = evolve(LinearController.for_world_model(world), fitness, seed=1, generations=scaled(10), population=16)
    for policy in (Agent(world, best), rollouts.uniform):
        print(
            evaluate(policy, make, scaled(10), seed=10_000, workers=2, max_steps=scaled(999))
        )  # 999 steps: whole episodes


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
