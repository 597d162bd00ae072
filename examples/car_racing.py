"""World Models on CarRacing, chapter by chapter: collect, encode, remember, dream, evolve. About ten minutes on two cores.

    python examples/car_racing.py                   # everything lies in runs/example-car-racing
    python examples/car_racing.py 0.1 runs/short    # a tenth of the work, in a folder of its own

A story that was stopped goes on with the same command.
"""

import sys
from pathlib import Path

import rollouts
from agents import Agent, LinearController, evaluate, evolve
from agents.dream_video import film
from agents.video import write_gif
from worldmodel import FRMDN, VAE, Memory, WorldModel, fit

GAME = {"action_repeat": 4}  # an action lasts four frames: a quarter of the decisions, and as good a driver


def main(size: float = 1.0, folder: str = "runs/example-car-racing") -> None:
    """Tell the story; ``size`` makes every chapter longer or shorter."""
    out, some = Path(folder), lambda number: max(2, round(size * number))

    # Collect: random driving in FastCarRacing, the same game drawn many times as fast.
    store = rollouts.collect(
        "FastCarRacing", rollouts.smooth_random, episodes=some(160), seed=1, workers=2,
        out=out / "rollouts", max_steps=some(125), env_options=GAME,
    )  # fmt: skip
    print(f"collected {store.steps} steps of {len(store)} episodes")

    # Encode: a frame becomes 32 numbers.
    vae = fit(VAE(latent_dim=32), store.frames(), num_updates=some(800), out=out / "vae")

    # Remember: the density of the next 32 numbers, the reward and the end, given all that was seen and done.
    memory = Memory.for_store(store, FRMDN, hidden_size=64)
    fit(memory, store.sequences(vae), num_updates=some(1000), out=out / "memory")
    world = WorldModel(vae, memory)
    world.save(out / "world")

    # Dream: what was, its reconstruction, and what the memory makes of the first frames and the actions alone.
    write_gif(out / "dream.gif", film(world, store.episode(0)))
    print(f"a dream beside reality: {out / 'dream.gif'}")

    # Evolve a linear controller twice: in dreams, without a single frame of the game, and in the game itself.
    places = {
        "dream": rollouts.DreamFitness(world, store.latents(vae), horizon=some(100), num_rollouts=16),
        "game": rollouts.EnvFitness("FastCarRacing", world, episodes=2, workers=2, max_idle_steps=20, env_options=GAME),
    }
    for place, fitness in places.items():
        best = evolve(
            LinearController.for_world_model(world),
            fitness,
            seed=1,
            generations=some(25),
            population=16,
            out=out / place,
        )
        # The test: whole episodes (250 actions) of the official game, on tracks that nobody has seen.
        agent, steps = Agent(world, best), some(250)
        report = evaluate(agent, "CarRacing", some(8), seed=10_000, workers=2, max_steps=steps, env_options=GAME)
        print(f"evolved in the {place}: {report}")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *sys.argv[2:3])
