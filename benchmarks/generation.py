"""One generation of World Models' size: 64 controllers, 16 lives each, in dreams and in the game, with untrained models.

python -m benchmarks.generation [--episodes 16] [--write]

Prints the seconds of each, beside what the paper's authors tell of theirs (the ratio for as many lives as theirs alone);
``--write`` keeps them in docs/results.
"""

import argparse
import time

import numpy as np
import torch

import rollouts
from agents import LinearController
from agents.display import bar
from agents.evaluation import hardware
from benchmarks.results import RESULTS
from worldmodel import FRMDN, VAE, Memory, WorldModel, seeded
from worldmodel.checkpoints import write_json

POPULATION, EPISODES, HORIZON = 64, 16, 1_000
PUBLISHED = {"dreams": 108.0, "game": 37 * 60.0}
"""Seconds of a generation on 64 workers (World Models; VizDoom's dream, and CarRacing)."""


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with seeded(0):
        world = WorldModel(VAE(), Memory(FRMDN(inputs=35, outputs=32), termination=False)).eval()
        starts = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    members = 0.1 * np.random.default_rng(0).standard_normal((POPULATION, LinearController.sized(world).size))
    seconds, steps = {}, {}
    with bar("generation in the game", "episodes") as progress:
        game = rollouts.played("FastCarRacing", world, options.episodes, workers=2, lanes=16, progress=progress)
        for name, fitness in (
            ("dreams", rollouts.dreamed(world, starts, HORIZON, options.episodes)),
            ("game", game),
        ):
            began = time.monotonic()
            fitness(members, 1)
            seconds[name], steps[name] = time.monotonic() - began, fitness.steps
    print(
        "| Generation of 64 x",
        options.episodes,
        "| seconds | steps | steps/s | published, 64 workers | ratio |\n|---|---|---|---|---|---|",
    )
    for name, took in seconds.items():
        ratio = f"{PUBLISHED[name] / took:.1f}" if options.episodes == EPISODES else ""  # theirs are of as many lives
        print(
            f"| {name} | {took:.1f} | {steps[name]:,} | {steps[name] / took:,.0f} | {PUBLISHED[name]:.0f} s | {ratio} |"
        )
    if options.write:
        about = {"population": POPULATION, "episodes": options.episodes, "seconds": seconds, "steps": steps}
        write_json(RESULTS / "generation.json", about | {"published seconds": PUBLISHED, "hardware": hardware()})


if __name__ == "__main__":
    main()
