"""World Models on CarRacing, stage by stage: collect, encode, train the memory, dream, evolve. About ten minutes on two cores.

    python examples/car_racing.py                   # output: runs/example-car-racing
    python examples/car_racing.py 0.1 runs/short    # a tenth of the work, in another folder

The same command continues a stopped run.
"""

import sys
from pathlib import Path

from worldmodel import FRMDN, VAE, Memory, WorldModel, fit, rollouts
from worldmodel.agents import Agent, LinearController, evaluate, evolve
from worldmodel.agents.analysis.dream_video import film
from worldmodel.agents.analysis.video import write_gif

GAME = {"action_repeat": 4}  # an action lasts four frames: a quarter of the decisions, and an equally good agent


def main(size: float = 1.0, folder: str = "runs/example-car-racing") -> None:
    """Run all stages.

    Args:
        size: Factor on the amount of work in every stage.
        folder: Path of the output.
    """
    out, scaled = Path(folder), lambda number: max(2, round(size * number))

    # Collect: random driving in FastCarRacing, the same game with faster rendering.
    store = rollouts.collect(
        "FastCarRacing", rollouts.smooth_random, episodes=scaled(160), seed=1, workers=2,
        out=out / "rollouts", max_steps=scaled(125), env_options=GAME,
    )  # fmt: skip
    print(f"collected {store.steps} steps of {len(store)} episodes")

    # Encode: the VAE maps a frame to 32 numbers.
    vae = fit(VAE(latent_dim=32), store.frames(), num_updates=scaled(800), out=out / "vae")

    # Train the memory: it predicts the next latent, the reward and termination from all latents and actions so far.
    memory = Memory.for_store(store, FRMDN, hidden_size=64)
    fit(memory, store.sequences(vae), num_updates=scaled(1000), out=out / "memory")
    world = WorldModel(vae, memory)
    world.save(out / "world")

    # Dream: show the game, its reconstruction, and a prediction from the first frames and the actions alone.
    write_gif(out / "dream.gif", film(world, store.episode(0)))
    print(f"a dream beside the game: {out / 'dream.gif'}")

    # Evolve a linear controller twice: in dreams, without frames of the game, and in the game.
    fitnesses = {
        "dream": rollouts.DreamFitness(world, store.latents(vae), horizon=scaled(100), num_rollouts=16),
        "game": rollouts.EnvFitness("FastCarRacing", world, episodes=2, workers=2, max_idle_steps=20, env_options=GAME),
    }
    for where, fitness in fitnesses.items():
        best = evolve(
            LinearController.for_world_model(world),
            fitness,
            seed=1,
            generations=scaled(25),
            population=16,
            out=out / where,
        )
        # Evaluate: whole episodes (250 actions) of the official game, on tracks that no training used.
        agent, steps = Agent(world, best), scaled(250)
        report = evaluate(agent, "CarRacing", scaled(8), seed=10_000, workers=2, max_steps=steps, env_options=GAME)
        print(f"evolved in the {where}: {report}")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *sys.argv[2:3])
