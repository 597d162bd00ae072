"""What makes dreams teach: CarRacing's quick preset, and the same with one change, from the same episodes and VAEs.

python -m benchmarks.learning run FOLDER [--seeds 1 2 3] [--recipes preset ...]     a finished cell is not run again
python -m benchmarks.learning write FOLDER       docs/results/learning.json, and a table on standard output
"""

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.config.sections import build
from worldmodel.agents.evaluation import hardware
from worldmodel.agents.pipeline import stages
from worldmodel.agents.pipeline.phases import merged
from worldmodel.agents.pipeline.pipeline import run_pipeline
from worldmodel.agents.runs.run_folder import Run, rows_of
from worldmodel.io.files import read_json, write_json
from worldmodel.rollouts.executors.workers import shutdown_workers

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "docs" / "results" / "learning.json"
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "preset": ("none: the quick preset", {}),
    "one-search": ("one search in an iteration", {"iterate": {"candidates": 1}}),
    "one-memory": ("no ensemble", {"iterate": {"ensemble_size": 1}}),
    "stalls-go-on": ("idle episodes do not terminate", {"memory": {"stall_delay": None}}),
    "stalls-end": ("idle episodes terminate at the last reward", {"memory": {"stall_delay": 0}}),
    "hot": ("temperature 1.15", {"dream": {"temperature": 1.15}}),
    "long": ("dreams of 200 steps", {"dream": {"horizon": 200}}),
    "residual": ("density of the whitened change", {"memory": {"residual": True}}),
    "rmdn": ("no flow (RMDN)", {"memory": {"flow": "none"}}),
    "plain-reward": ("reward loss without weight", {"memory": {"reward_weight": 1.0}}),
    "no-noise": ("no exploration noise", {"iterate": {"action_noise": 0.0, "param_noise": 0.0}}),
}
"""Name of each recipe, its description, and its changes of the preset."""


def settings_of(recipe: str, seed: int) -> RunConfig:
    """Return the settings of a recipe."""
    preset = yaml.safe_load((ROOT / "agents" / "presets" / "car-racing.quick.yaml").read_text(encoding="utf-8"))
    return build(merged({**preset, "env": "CarRacing", "seed": seed}, RECIPES[recipe][1]))


def run_cell(folder: Path, recipe: str, seed: int) -> None:
    """Run a recipe from the episodes and the VAE of its seed, which all recipes share."""
    settings = settings_of(recipe, seed)
    shared, cell = Run(folder / f"seed-{seed}"), folder / f"{recipe}-{seed}"
    if (cell / "cell.json").exists():
        return
    shared.folder.mkdir(parents=True, exist_ok=True)
    stages.collect(shared, settings)
    stages.train_vae(shared, settings)
    if not cell.exists():  # a killed copy is not taken for a whole one
        aside = cell.with_name(f".{cell.name}")
        shutil.rmtree(aside, ignore_errors=True)
        for part in ("rollouts", "vae"):
            shutil.copytree(shared.folder / part, aside / part)
        aside.rename(cell)
    began, cpu = time.monotonic(), _cpu_seconds()
    report = run_pipeline(settings, cell)["dream"]
    row = {
        "recipe": recipe,
        "seed": seed,
        "mean": report.mean,
        "std": report.std,
        "n": report.n,
        "iterations": [one["episode_mean"] for one in rows_of(cell / "iterations" / "metrics.jsonl")],
        "real_steps": Run(cell).real_steps,
        "seconds": round(time.monotonic() - began),
        "cpu_seconds": round(_cpu_seconds() - cpu),
        "hardware": hardware(),
    }
    write_json(cell / "cell.json", row)


def _cpu_seconds() -> float:
    """Return the seconds of processor time of this process and of its workers that have ended."""
    shutdown_workers()
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def table(rows: list[dict[str, Any]]) -> str:
    """Return a row of Markdown for each recipe: the mean over seeds of the dream controller's return, and all its seeds."""
    lines = ["| Change | Mean of seeds | Each seed | CPU seconds |", "|---|---|---|---|"]
    for recipe, (text, _) in RECIPES.items():
        cells = [row for row in rows if row["recipe"] == recipe]
        if not cells:
            continue
        means = [row["mean"] for row in cells]
        spent = np.mean([row["cpu_seconds"] for row in cells])
        each = ", ".join(f"{mean:.0f}" for mean in means)
        lines.append(f"| {text} | {np.mean(means):.0f} | {each} | {spent:.0f} |")
    first = rows[0]
    return "\n".join(
        [
            *lines,
            "",
            f"Return of the controller evolved in dreams in the official game, n = {first['n']} each; {first['hardware']}.",
            "",
        ]
    )


def main() -> None:
    """Run cells, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "write"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES], default=[*RECIPES])
    given = parser.parse_args()
    if given.what == "run":
        for recipe in given.recipes:
            for seed in given.seeds:
                run_cell(given.folder, recipe, seed)
        return
    order = [*RECIPES]
    rows = [read_json(path) for path in given.folder.glob("*/cell.json")]
    rows.sort(key=lambda row: (order.index(row["recipe"]), row["seed"]))
    write_json(RESULT, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
