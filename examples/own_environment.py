"""The whole story on an environment of your own: any gymnasium.Env with pixels will do. About five minutes on two cores.

python examples/own_environment.py
"""

import sys

import gymnasium

import rollouts
from agents import Agent, LinearController, evaluate, evolve
from envs.pixels import to_pixels
from worldmodel import FRMDN, VAE, Memory, WorldModel, fit


def make():
    """Your environment; a function at the top of a module, so that worker processes find it."""
    return to_pixels(gymnasium.make("MountainCarContinuous-v0", render_mode="rgb_array"))


def main(size: float = 1.0) -> None:
    """Collect, encode, remember, evolve, test; ``size`` makes every chapter longer or shorter."""

    def some(number: int) -> int:
        return max(2, round(size * number))

    store = rollouts.collect(make, rollouts.smooth_random, some(40), seed=1, workers=2, max_steps=some(200))
    vae = fit(VAE(latent_dim=8), store.frames(), num_updates=some(300))
    memory = Memory.for_store(store, FRMDN, latent_dim=8, hidden_size=64)
    fit(memory, store.sequences(vae), num_updates=some(300))
    world = WorldModel(vae, memory, store)
    fitness = rollouts.EnvFitness(make, world, episodes=2, workers=2, max_steps=some(200))
    best = evolve(LinearController.for_world_model(world), fitness, seed=1, generations=some(10), population=16)
    for policy in (Agent(world, best), rollouts.uniform):
        print(evaluate(policy, make, some(10), seed=10_000, workers=2, max_steps=some(999)))  # 999 steps: all of it


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
