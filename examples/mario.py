"""Super Mario Bros, whose actions are choices: a controller that decides when to jump. About ten minutes on two cores.

python examples/mario.py                   # everything lies in runs/example-mario
python examples/mario.py 0.1 runs/short    # a tenth of the work, in a folder of its own

The same command goes on where it was stopped.
"""

import sys
from pathlib import Path

import envs
import rollouts
from agents import Agent, LinearController, evaluate, evolve
from agents.video import enlarge, write_mp4
from worldmodel import FRMDN, VAE, Memory, WorldModel, fit

STAGE = "SuperMarioBros-1-1"
GAME = {"action_set": "run", "action_repeat": 8}  # Mario always runs; every eighth frame he may begin or end a jump


def main(size: float = 1.0, folder: str = "runs/example-mario") -> None:
    """Tell the story; ``size`` makes every chapter longer or shorter."""
    out, some = Path(folder), lambda number: max(2, round(size * number))
    store = rollouts.collect(
        STAGE, rollouts.smooth_random, episodes=some(120), seed=1, workers=2,
        out=out / "rollouts", max_steps=some(100), env_options=GAME,
    )  # fmt: skip
    print(f"collected {store.steps} steps; an action is one of {store.action_dim} choices")

    # A choice enters the memory as a one-hot vector, so the sizes are the same as for steering a car.
    vae = fit(VAE(latent_dim=32), store.frames(), num_updates=some(700), out=out / "vae")
    memory = Memory.for_store(store, FRMDN, hidden_size=64)
    fit(memory, store.sequences(vae), num_updates=some(1000), out=out / "memory")
    world = WorldModel(vae, memory, store)

    # The controller's largest output is what Mario does. Hopeless lives are given up after 12 steps without progress.
    fitness = rollouts.EnvFitness(
        STAGE, world, episodes=2, workers=2, max_idle_steps=12, max_steps=some(300), env_options=GAME
    )
    best = evolve(
        LinearController.for_world_model(world),
        fitness,
        seed=1,
        generations=some(25),
        population=16,
        out=out / "evolve",
    )
    agent = Agent(world, best)
    agent.save(out / "agent")  # Agent.load(...) brings it back

    for name, policy in {"random": rollouts.uniform, "evolved": agent}.items():
        report = evaluate(policy, STAGE, some(8), seed=10_000, workers=2, max_steps=some(500), env_options=GAME)
        print(f"{name}: {report}")

    # Watch it: one episode, filmed as the agent saw it.
    episode = rollouts.play(envs.make(STAGE, **GAME), agent, seed=10_000, max_steps=some(500))
    write_mp4(out / "evolved.mp4", enlarge(episode.frames, 4), fps=8)
    print(f"a film of it: {out / 'evolved.mp4'}")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *sys.argv[2:3])
