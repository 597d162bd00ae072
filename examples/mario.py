"""Super Mario Bros, a game with discrete actions: a controller that decides when to jump. About ten minutes on two cores.

python examples/mario.py                   # output: runs/example-mario
python examples/mario.py 0.1 runs/short    # a tenth of the work, in another folder

The same command continues a stopped run.
"""

import sys
from pathlib import Path

from worldmodel import FRMDN, VAE, Memory, WorldModel, envs, fit, rollouts
from worldmodel.agents import Agent, LinearController, evaluate, evolve
from worldmodel.agents.analysis.video import write_mp4
from worldmodel.rollouts.pictures import enlarge

STAGE = "SuperMarioBros-1-1"
GAME = {"action_set": "run", "action_repeat": 8}  # Mario always runs; a jump starts or ends every eighth frame


def main(size: float = 1.0, folder: str = "runs/example-mario") -> None:
    """Run all stages.

    Args:
        size: Factor on the amount of work in every stage.
        folder: Path of the output.
    """
    out, scaled = Path(folder), lambda number: max(2, round(size * number))
    store = rollouts.collect(
        STAGE, rollouts.smooth_random, episodes=scaled(120), seed=1, workers=2,
        out=out / "rollouts", max_steps=scaled(100), env_options=GAME,
    )  # fmt: skip
    print(f"collected {store.steps} steps; an action is one of {store.action_dim}")

    # A discrete action enters the memory as a one-hot vector, so it has a size like a Box action.
    vae = fit(VAE(latent_dim=32), store.frames(), num_updates=scaled(700), out=out / "vae")
    memory = Memory.for_store(store, FRMDN, hidden_size=64)
    fit(memory, store.sequences(vae), num_updates=scaled(1000), out=out / "memory")
    world = WorldModel(vae, memory, store)

    # The largest output of the controller is the action. Episodes are truncated after 12 steps without progress.
    fitness = rollouts.EnvFitness(
        STAGE, world, episodes=2, workers=2, max_idle_steps=12, max_steps=scaled(300), env_options=GAME
    )
    best = evolve(
        LinearController.for_world_model(world),
        fitness,
        seed=1,
        generations=scaled(25),
        population=16,
        out=out / "evolve",
    )
    agent = Agent(world, best)
    agent.save(out / "agent")  # Agent.load(...) reads it

    for name, policy in {"random": rollouts.uniform, "evolved": agent}.items():
        report = evaluate(policy, STAGE, scaled(8), seed=10_000, workers=2, max_steps=scaled(500), env_options=GAME)
        print(f"{name}: {report}")

    # Record one episode as a video of the agent's frames.
    episode = rollouts.play(envs.make(STAGE, **GAME), agent, seed=10_000, max_steps=scaled(500))
    write_mp4(out / "evolved.mp4", enlarge(episode.frames, 4), fps=8)
    print(f"video: {out / 'evolved.mp4'}")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *sys.argv[2:3])
