"""Ten environments that people bring, each by the command of a newcomer: the quick preset, three training seeds.

python -m benchmarks.generality run FOLDER [--games pong ...] [--seeds 1 2 3]     a finished run is not run again
python -m benchmarks.generality write FOLDER      play each run's agent on fresh seeds; add to docs/results/generality.json
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.results import CHECKED
from worldmodel.agents.agent import Agent
from worldmodel.agents.cli.main import main as worldmodel
from worldmodel.agents.evaluation import Report, evaluate
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import read_json, write_json

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "docs" / "results" / "generality.json"


class Game(NamedTuple):
    """An environment with its options, as the command line takes them."""

    env: str
    options: dict[str, Any]

    @property
    def observation(self) -> str:
        """What the world model learns from."""
        return "numbers" if self.options.get("observation") == "vector" else "frames"


VECTOR = {"observation": "vector"}
GAMES = {
    "cartpole": Game("CartPole-v1", {}),
    "cartpole-vector": Game("CartPole-v1", VECTOR),
    "acrobot-vector": Game("Acrobot-v1", VECTOR),
    "pendulum-vector": Game("Pendulum-v1", VECTOR),
    "lander-vector": Game("LunarLander-v3", VECTOR),
    "walker-vector": Game("BipedalWalker-v3", VECTOR),
    "minigrid": Game("minigrid:MiniGrid-Empty-8x8-v0", {}),
    "pong": Game("ALE/Pong-v5", {}),
    "breakout": Game("ALE/Breakout-v5", {}),
    "take-cover": Game("doom-take-cover", {}),
}
"""The environments, by the name of their folders."""
DEMOS = ("take-cover",)
"""Environments whose runs are those of README's table, unless the folder has others."""
BEGIN = "<!-- ten environments: written by `python -m benchmarks.generality write`, " + CHECKED
END = "<!-- end of ten environments -->"
FRESH_SEED = 20_000
"""First seed of the episodes of a run's agent: scores on the run's own test seeds choose its controller."""


def run_game(folder: Path, name: str, seed: int, workers: int) -> None:
    """Run the quick preset on one environment with one seed; a finished run is not run again."""
    game, out = GAMES[name], folder / f"{name}-{seed}"
    if (out / "report.html").exists():
        return
    words = ["run", game.env, "--preset", "quick", "--seed", str(seed), "--out", str(out), "--workers", str(workers)]
    for option, value in game.options.items():
        words += [f"--env_options.{option}", json.dumps(value) if not isinstance(value, str) else value]
    if code := worldmodel(words):
        sys.exit(code)


def play_agent(folder: Path, name: str, seed: int, workers: int) -> Report:
    """Return the report of a finished run's agent on fresh seeds; episodes that were played are not played again."""
    run, path = Run(folder / f"{name}-{seed}"), folder / f"{name}-{seed}-agent.json"
    if path.exists():
        return Report.load(path)
    test = run.reports()["random"]
    agent, game = Agent.load(run.folder / "agent"), GAMES[name]
    options: dict[str, Any] = {"env_options": game.options, "max_steps": test.max_steps, "workers": workers}
    report = evaluate(agent, game.env, test.n, FRESH_SEED, **options)
    report.save(path)
    return report


def row_of(folder: Path, name: str, seed: int, workers: int = 1) -> dict[str, Any]:
    """Return the scores of a finished run."""
    run, game = Run(folder / f"{name}-{seed}"), GAMES[name]
    reports = run.reports() | {"agent": play_agent(folder, name, seed, workers)}
    return {
        "game": name,
        "env": game.env,
        "observation": game.observation,
        "seed": seed,
        "seconds": round(sum(run.timings().values())),
        "steps": run.real_steps,
        "hardware": reports["random"].hardware,
        "scores": scores_of(reports),
    }


def scores_of(reports: Mapping[str, Report]) -> dict[str, dict[str, float]]:
    """Return the mean, standard deviation and number of episodes of each player."""
    return {kind: {"mean": one.mean, "std": one.std, "n": one.n} for kind, one in reports.items()}


def demo_rows(name: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return the scores of README's runs of the same preset, whose files are in ``docs/results``.

    They evolve in dreams alone, so nothing chooses the agent: it is the dream controller.
    """
    folder, rows = ROOT / "docs" / "results" / f"{GAMES[name].env}-quick", []
    random = Report.load(folder / "random.json")
    for seed in seeds:
        dream = Report.load(folder / ("dream.json" if seed == 1 else f"dream-seed-{seed}.json"))
        rows.append(
            {
                "game": name,
                "env": GAMES[name].env,
                "observation": GAMES[name].observation,
                "seed": seed,
                "steps": dream.real_steps,
                "hardware": dream.hardware,
                "scores": scores_of({"random": random, "dream": dream, "agent": dream}),
            }
        )
    return rows


def at_least_random(row: dict[str, Any], kind: str) -> bool:
    """Return whether a controller is at or above random actions, within a standard error of the difference."""
    random, controller = row["scores"]["random"], row["scores"][kind]
    error = np.hypot(*(one["std"] / one["n"] ** 0.5 for one in (controller, random)))
    return bool(controller["mean"] >= random["mean"] - error)


def table(results: dict[str, Any]) -> str:
    """Return a row of Markdown for each environment: means over the training seeds, and the lowest and highest of them."""
    lines = [
        "| Environment | Learns from | Random | In dreams | In the game | The run's agent |",
        "|---|---|---|---|---|---|",
    ]
    counts = set[int]()
    for name, game in GAMES.items():
        rows = [row for row in results["rows"] if row["game"] == name]
        if not rows:
            continue
        counts.add(len(rows))
        cells = []
        for kind in ("random", "dream", "game", "agent"):
            played = [row for row in rows if kind in row["scores"]]
            means = [row["scores"][kind]["mean"] for row in played]
            cell = f"{np.mean(means):.1f}" if means else ""
            if len({*means}) > 1:
                cell += f" ({min(means):.1f}…{max(means):.1f})"
            if means and kind != "random":
                cell += f", {sum(at_least_random(row, kind) for row in played)}/{len(played)}"
            cells.append(cell)
        lines.append(f"| {game.env} | {game.observation} | {' | '.join(cells)} |")
    minutes = [row["seconds"] / 60 for row in results["rows"] if "seconds" in row]
    n = results["rows"][0]["scores"]["random"]["n"]
    seeds = " or ".join(map(str, sorted(counts)))
    machines = " or ".join(dict.fromkeys(row["hardware"] for row in results["rows"]))
    note = f"Mean return of {seeds} training seeds (lowest…highest), n = {n} episodes each; "
    note += f"{np.median(minutes):.0f} minutes a run (median), one worker, {machines}. "
    note += "Fractions: seeds at least random, within a standard error. The agent is a run's better controller, on fresh seeds."
    return "\n".join([*lines, "", note, ""])


def main(words: list[str] | None = None) -> None:
    """Run environments, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "write"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--games", nargs="+", choices=[*GAMES], default=[*GAMES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    given = parser.parse_args(words)
    if given.what == "run":
        for seed in given.seeds:
            for name in given.games:
                run_game(given.folder, name, seed, given.workers)
        return
    finished = sorted(path.parent.name for path in given.folder.glob("*/report.html"))
    pairs = [(name, int(seed)) for name, _, seed in (folder.rpartition("-") for folder in finished) if name in GAMES]
    rows = [row for name in DEMOS if name not in dict(pairs) for row in demo_rows(name, given.seeds)]
    rows += [row_of(given.folder, name, seed, given.workers) for name, seed in pairs]
    kept = read_json(RESULT)["rows"] if RESULT.exists() else []  # of other folders
    found = {(row["game"], row["seed"]): row for row in kept + rows}
    results = {"command": "python -m benchmarks.generality", "rows": [found[key] for key in sorted(found)]}
    write_json(RESULT, results)
    print(table(results))


if __name__ == "__main__":
    main()
