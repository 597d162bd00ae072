"""What helps against the lies of a dream? One world model, one search; each row changes one thing.

python -m benchmarks.defences RUN [--write]    --write keeps docs/results/defences.json and the table of docs/evolution.md

RUN is a run of CarRacing with three iterations of two worlds (`--iterate.worlds 2`). Controllers are evolved from zeros in
dreams of its first iteration, which saw nothing but the first rollouts, and then drive tracks of FastCarRacing that nothing
else has met. The promise is the mean return of dreams in the agent's own memory that begin where episodes do, beside what the
game gives in as many steps.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch

import rollouts
from agents import LinearController, evolve, story
from agents.agent import Agent
from agents.evaluation import hardware
from agents.excerpts import Beginnings
from agents.iterations import home
from agents.run import Run
from agents.settings import DreamEvolving
from benchmarks.results import CHECKED, ROOT, put
from worldmodel.checkpoints import read_json, write_json

RESULT = ROOT / "docs" / "results" / "defences.json"
MARK, END = "<!-- defences: written by `python -m benchmarks.defences`, " + CHECKED, "<!-- end of defences -->"
STEPS, TESTS, TEST_SEED = 120, 48, 7_000
PROMISES = 64
"""Dreams behind a promise."""
CHECKS = 12
"""Real episodes of a check."""
DREAM = DreamEvolving(generations=30, population=48, dreams=16, horizon=STEPS, temperature=1.0, sigma=0.07, decay=0.97)


class Variant(NamedTuple):
    """How a controller is evolved in dreams."""

    name: str
    dream: DreamEvolving = DREAM
    others: int = 0
    """Memories that imagine in turn while the agent's own looks on; 0: its own imagines."""
    caution: float = 0.0
    beginnings: float = 0.3
    check_every: int = 0
    """Generations between checks in the real game; the mean with the best one is kept. 0: none."""
    iteration: int = 1
    """In whose world; later ones have seen what controllers of earlier ones did in the game."""


VARIANTS = [
    Variant("none: temperature 1, horizon 120, its own memory imagines, 30 generations"),
    Variant("temperature 0.5", replace(DREAM, temperature=0.5)),
    Variant("temperature 1.3", replace(DREAM, temperature=1.3)),
    Variant("horizon 40", replace(DREAM, horizon=40)),
    Variant("horizon 240", replace(DREAM, horizon=240)),
    Variant("another memory imagines", others=1),
    Variant("two other memories imagine", others=2),
    Variant("two other memories imagine, caution 1", others=2, caution=1.0),
    Variant("10 generations", replace(DREAM, generations=10)),
    Variant("smaller steps (0.03)", replace(DREAM, sigma=0.03)),
    Variant("no dream begins where an episode does", beginnings=0.0),
    Variant("stopped by real checks, every 5 generations", check_every=5),
    Variant("a world that has seen what two controllers did", iteration=3),
]


def searched(run: Run, variant: Variant, seed: int, workers: int = 2) -> dict[str, Any]:
    """Evolve a controller, and let it drive."""
    here, dream = home(run, variant.iteration), variant.dream
    world, count = here.world(), int(read_json(here.folder / "episodes.json")["episodes"])
    latents, options = run.store().latents(world.vae), run.store().metadata["env_options"]
    others = [Run(here.folder / f"world-{which + 1}").world().memory for which in range(variant.others)]
    begin, starts = LinearController.sized(world), Beginnings(latents, count, count, variant.beginnings)
    fitness = rollouts.dreamed(
        world, starts, dream.horizon, dream.dreams, dream.temperature, begin, others or None, variant.caution
    )
    game: dict[str, Any] = {"workers": workers, "lanes": 16, "env_options": options, "controller": begin}
    checks: dict[str, Any] = {}
    if variant.check_every:
        check = rollouts.played("FastCarRacing", world, CHECKS, **game)
        checks = {"check": check, "check_every": variant.check_every}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        best = evolve(begin, fitness, seed=seed, out=out, **story.searching(dream), **checks)
    seconds = time.monotonic() - began
    return {"seconds": seconds, **tested(Agent(world, best), latents, dream.temperature, game)}


def tested(agent: Agent, latents: Any, temperature: float, game: dict[str, Any]) -> dict[str, Any]:
    """Whole real episodes of an agent, and what dreams promise of their first steps beside what these gave."""
    parameters = agent.controller.parameters.double().numpy()[None]
    beginnings = torch.from_numpy(np.stack([latents.episode(index).mean[0] for index in range(len(latents))])).float()
    dreams = rollouts.dream(agent.world, agent.controller, beginnings, STEPS, PROMISES, temperature, seed=TEST_SEED)
    whole, first = (
        rollouts.played("FastCarRacing", agent.world, TESTS, max_steps=steps, **game)(parameters, TEST_SEED)[0]
        for steps in (None, STEPS)
    )
    return {"promise": float(dreams.returns.mean()), "given": float(first.mean()), "returns": whole.tolist()}


def table(result: dict[str, Any]) -> str:
    """The table of docs/evolution.md."""
    lines = [
        f"| Defence | Whole real episodes | Promise in {STEPS} steps | The game gives | Seconds of evolution |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        means = [np.mean(one["returns"]) for one in row["searches"]]
        every = np.concatenate([one["returns"] for one in row["searches"]])
        promise, given, seconds = (
            np.mean([one[name] for one in row["searches"]]) for name in ("promise", "given", "seconds")
        )
        scores = f"{every.mean():.0f} ± {every.std(ddof=1):.0f} ({', '.join(f'{mean:.0f}' for mean in means)})"
        lines.append(f"| {row['name']} | {scores} | {promise:.0f} | {given:.0f} | {seconds:.0f} |")
    about = f"{len(result['rows'][0]['searches'])} searches for each, {TESTS} tracks of FastCarRacing for each search"
    frames = f"rollouts: {result['episodes']} episodes, {result['steps']:,} steps"
    about = f"{about}; in brackets the mean of each search. {frames}"
    return "\n".join([*lines, "", f"*{about}; {result['hardware']}, {result['minutes']:.0f} min.*", ""])


def searches(run: Run, seeds: int, workers: int) -> Iterator[dict[str, Any]]:
    """The rows, one after the other."""
    for variant in VARIANTS:
        found = [searched(run, variant, seed, workers) for seed in range(1, seeds + 1)]
        scores = ", ".join(f"{np.mean(one['returns']):.0f} +- {np.std(one['returns'], ddof=1):.0f}" for one in found)
        print(
            f"{variant.name}: {scores}; promised {found[-1]['promise']:.0f}, given {found[-1]['given']:.0f}", flush=True
        )
        yield {**variant._asdict(), "dream": asdict(variant.dream), "searches": found}


def main() -> None:
    """Evolve, drive, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run of CarRacing with at least three iterations of two worlds")
    parser.add_argument("--seeds", type=int, default=2, help="searches for each row")
    parser.add_argument("--workers", type=int, default=2, help="processes that play the game")
    parser.add_argument(
        "--write", action="store_true", help="keep the result, and write the table of docs/evolution.md"
    )
    words, began = parser.parse_args(), time.monotonic()
    run = Run(words.run)
    count = int(read_json(home(run, 1).folder / "episodes.json")["episodes"])
    rows = list(searches(run, words.seeds, words.workers))
    result = {"episodes": count, "steps": sum(run.store().lengths[:count]), "rows": rows, "hardware": hardware()}
    result["minutes"] = (time.monotonic() - began) / 60
    print(json.dumps(result), table(result), sep="\n")
    if words.write:
        write_json(RESULT, result)
        put(ROOT / "docs" / "evolution.md", MARK, table(result), END)


if __name__ == "__main__":
    main()
