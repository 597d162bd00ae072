"""The whole story on an environment of your own: any gymnasium.Env with pixels will do.

python examples/own_environment.py
"""

import gymnasium

import rollouts
from agents import Agent, LinearController, evaluate, evolve
from envs.pixels import as_pixels
from worldmodel import FRMDN, VAE, Memory, WorldModel, fit


def make():
    """Your environment; a function at the top of a module, so that worker processes find it."""
    return as_pixels(gymnasium.make("MountainCarContinuous-v0", render_mode="rgb_array"))


def main(episodes: int = 40, updates: int = 300, generations: int = 10) -> None:
    """Collect, encode, remember, evolve, test."""
    store = rollouts.collect(make, rollouts.smooth_random, episodes=episodes, seed=1, workers=2, max_steps=200)
    vae = fit(VAE(latent=8), store.frames(), updates=updates)
    memory = fit(Memory(FRMDN(inputs=8 + store.actions, outputs=8, hidden=64)), store.sequences(vae), updates=updates)
    world = WorldModel(vae, memory, discrete=store.discrete)
    fitness = rollouts.played(make, world, episodes=2, workers=2, max_steps=200)
    best = evolve(LinearController.sized(world), fitness, seed=1, generations=generations, population=16)
    print(evaluate(Agent(world, best), make, episodes=10, seed=10_000, workers=2))
    print(evaluate(rollouts.uniform, make, episodes=10, seed=10_000, workers=2))


if __name__ == "__main__":
    main()
