"""How many real frames does a controller evolved in dreams save? Evolution in the game from it, and from zero.

python -m benchmarks.warm_start run runs/car-racing-quick runs/car-racing-quick-seed-2 [--seeds 1 2 3]
python -m benchmarks.warm_start write      the table on standard output, from docs/results/warm-start.json

The runs are those of `make demo` and of the same preset with other seeds: their world model and their controller evolved in
dreams are given. Both searches of a pair have the same seed, population and episodes. A finished search is not run again, and a
stopped one goes on. Start reading at `search`.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel import rollouts
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.config.sections import build
from worldmodel.agents.evaluation import hardware
from worldmodel.agents.evolution.evolve import evolve
from worldmodel.agents.pipeline.init_controller import init_controller
from worldmodel.agents.runs.run_folder import Run, rows_of
from worldmodel.io.files import read_json, write_json

RESULT = Path(__file__).parent.parent / "docs" / "results" / "warm-start.json"
STARTS = ("zeros", "dream")
"""Initial controllers (`game.init_from`)."""
GENERATIONS, POPULATION, EPISODES, EVAL_EVERY, EVAL_EPISODES = 40, 32, 2, 4, 16
MAX_IDLE_STEPS = 20
THRESHOLDS = (500, 700, 850)
"""Mean returns of an evaluation whose first time is reported."""


def search(folder: Path, start: str, seed: int, workers: int) -> dict[str, Any]:
    """Evolve a controller in the game, and return its evaluations by frames of the game.

    Args:
        folder: Path of a run folder.
        start: Initial controller, of `STARTS`.
        seed: Seed of the search.
        workers: Number of worker processes.
    """
    run, settings = Run(folder), build(read_yaml(folder / "config.yaml"))
    world, out = run.world(), folder / "warm-start" / f"{start}-{seed}"
    initial = init_controller(run, world, settings.controller, start)
    common: dict[str, Any] = {"env_options": settings.env_options, "controller": initial, "workers": workers}
    evolve(
        initial,
        rollouts.EnvFitness(settings.rollout_env, world, episodes=EPISODES, max_idle_steps=MAX_IDLE_STEPS, **common),
        eval_fitness=rollouts.EnvFitness(settings.rollout_env, world, episodes=EVAL_EPISODES, **common),
        seed=seed,
        generations=GENERATIONS,
        population=POPULATION,
        sigma=settings.search.sigma,
        eval_every=EVAL_EVERY,
        out=out,
        progress=True,
    )
    repeat = settings.env_options.get("action_repeat", 1)
    frames, evaluations = 0, []
    for row in rows_of(out / "metrics.jsonl"):
        frames += (row["steps"] + row.get("eval_steps", 0)) * repeat
        if "eval" in row:
            evaluations.append({"frames": frames, "return": row["eval"]})
    given = 0 if start == "zeros" else run.real_steps * repeat
    return {
        "env": settings.env,
        "run": folder.name,
        "start": start,
        "seed": seed,
        "frames_before": given,
        "evaluations": evaluations,
        "hardware": hardware(),
    }


def frames_to(row: dict[str, Any], threshold: float) -> float:
    """Return the frames of the search until an evaluation reaches a return; infinite if none does."""
    return next((one["frames"] for one in row["evaluations"] if one["return"] >= threshold), np.inf)


def table(rows: list[dict[str, Any]]) -> str:
    """Return a row of Markdown for each start: medians of the frames to each return, and the best evaluation."""
    heads = " | ".join(f"frames to {threshold}" for threshold in THRESHOLDS)
    lines = [f"| Start | searches | {heads} | best evaluation |", "|---|---|" + "---|" * (len(THRESHOLDS) + 1)]
    for start in STARTS:
        own = [row for row in rows if row["start"] == start]
        medians = [np.median([frames_to(row, threshold) for row in own]) for threshold in THRESHOLDS]
        cells = ["never" if np.isinf(median) else f"{median:,.0f}" for median in medians]
        best = np.mean([max(one["return"] for one in row["evaluations"]) for row in own])
        lines.append(f"| {start} | {len(own)} | {' | '.join(cells)} | {best:.0f} |")
    before = max(row["frames_before"] for row in rows)
    note = f"Frames of the search alone; the dreams had {before:,} frames before. Evaluations: n = {EVAL_EPISODES}."
    return "\n".join([*lines, "", f"{note} {rows[0]['hardware']}.", ""])


def main(words: list[str] | None = None) -> None:
    """Run pairs of searches, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "write"])
    parser.add_argument("runs", type=Path, nargs="*", help="Paths of finished run folders.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="Seeds of the searches.")
    parser.add_argument("--workers", type=int, default=2, help="Number of worker processes.")
    given = parser.parse_args(words)
    rows = read_json(RESULT) if RESULT.exists() else []
    if given.what == "run":
        cells = [(folder, start, seed) for seed in given.seeds for folder in given.runs for start in STARTS]
        new = [search(*cell, given.workers) for cell in cells]
        found = {(row["run"], row["start"], row["seed"]): row for row in rows + new}
        rows = [found[key] for key in sorted(found)]
        write_json(RESULT, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
