"""The story of World Models on CarRacing or Super Mario Bros, in Python, with everything kept in a folder.

python examples/game_story.py CarRacing runs/example
"""

import sys
from pathlib import Path

import rollouts
from agents import Agent, LinearController, evaluate, evolve
from agents.display import bar
from worldmodel import FRMDN, VAE, Memory, WorldModel, fit


def main(env: str = "CarRacing", folder: str = "runs/example", scale: float = 1.0) -> None:
    """Tell the story; call it again after a stop, and it goes on. ``scale`` makes everything smaller or larger."""
    out = Path(folder)
    episodes, updates, generations = (max(2, round(scale * n)) for n in (100, 1000, 25))
    with bar(f"collect {env}", "episodes") as progress:
        store = rollouts.collect(
            env,
            rollouts.smooth_random,
            episodes,
            seed=1,
            workers=2,
            out=out / "rollouts",
            max_steps=200,
            progress=progress,
        )
    with bar("train vae", "updates") as progress:
        vae = fit(VAE(latent=32), store.frames(), updates=updates, out=out / "vae", progress=progress)
    memory = Memory(FRMDN(inputs=32 + store.actions, outputs=32))
    with bar("train memory", "updates") as progress:
        fit(memory, store.sequences(vae), updates=updates, out=out / "memory", progress=progress)
    world = WorldModel(vae, memory, discrete=store.discrete)
    world.save(out / "world")
    fitness = rollouts.played(env, world, episodes=1, workers=2, patience=100)
    check = rollouts.played(env, world, episodes=4, workers=2)
    with bar("evolve in the game", "generations") as progress:
        best = evolve(
            LinearController.sized(world),
            fitness,
            check=check,
            seed=1,
            generations=generations,
            population=16,
            out=out / "evolve",
            progress=progress,
        )
    print(evaluate(Agent(world, best), env, episodes=max(2, round(10 * scale)), seed=10_000, workers=2))


if __name__ == "__main__":
    main(*sys.argv[1:3])
