"""Keep the best agents: test them on the official game, ship them with the package, and write the table of records.

python -m benchmarks.records keep RUN NAME --also RUN...   # evolved in RUN's game; --also: runs whose real steps it took, too
python -m benchmarks.records write                         # README's table, from docs/results/records
"""

import argparse
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.agent import Agent
from agents.display import bar, duration
from agents.evaluation import Report, evaluate
from agents.pictures import write_png
from agents.pretrained import HOME, Shipped
from agents.run import Run
from agents.settings import OFFICIAL
from benchmarks.results import BEGIN, ROOT, put
from worldmodel.checkpoints import atomic, read_json, write_json
from worldmodel.starts import Starts

RECORDS = ROOT / "docs" / "results" / "records"
EPISODES, SEED = 100, 20_000
"""Of the test; no other test has these seeds."""
MARK, END = "<!-- records: written by `python -m benchmarks.records write`, " + BEGIN, "<!-- end of records -->"
PUBLISHED = {
    "car-racing": {
        "World Models (2018), its log": ([25e6, 51e6, 1.72e9], [823, 867, 906]),
    }
}
"""Returns after so many frames of the game."""
RIVALS = {
    "car-racing": "906 ± 21 after 1.72 billion frames (World Models), 914 ± 15 (AttentionAgent), about 917 (DreamerV3)"
}


def keep(run: Run, name: str, also: list[Run], workers: int) -> None:
    """Test the controller that a run evolved in its game, and ship it."""
    store, world = run.store(), run.world()
    options = dict(store.metadata["env_options"])
    env, repeat = OFFICIAL.get(store.env, store.env), int(options.get("action_repeat", 1))
    folder = HOME / name
    Agent(world, run.controller("game")).save(folder, compact=True)
    Starts.cut(store.latents(world.vae)).save(folder)
    agent = Agent.load(folder)  # what is tested is what is shipped
    with bar(f"test {name} in {env}", "episodes") as progress:
        report = evaluate(agent, env, EPISODES, SEED, workers=workers, env_options=options, progress=progress)
    runs = [run, *also]
    report = replace(
        report,
        policy="agent",
        real_steps=sum(frames(one) for one in runs),
        dream_steps=sum(one.evolution_steps("dream") for one in runs),
        command=f"worldmodel evaluate {name} --pretrained --episodes {EPISODES} --seed {SEED}",
    )
    report.save(folder / "report.json")
    report.save(RECORDS / f"{name}.json")
    RECORDS.mkdir(parents=True, exist_ok=True)
    shutil.copy(run.folder / "evolve-game" / "metrics.jsonl", RECORDS / f"{name}.metrics.jsonl")
    seconds = sum(sum(one.timings().values()) for one in runs)
    about = {
        "seconds": round(seconds),
        "evolution_seconds": round(run.timings()["evolve in the game"]),
        "frames_before": sum(frames(one) for one in runs) - evolution_frames(run),
        "seconds_before": round(seconds - run.timings()["evolve in the game"]),
        "action_repeat": repeat,
        "generations": len(rows(name)),
        "memory": run.world().memory.settings,
    }
    write_json(RECORDS / f"{name}.about.json", about)
    write_png(RECORDS / f"{name}.png", curve(name))
    with atomic(folder / "README.md") as aside:
        aside.write_text(card(name, report, about), encoding="utf-8")


def frames(run: Run) -> int:
    """Frames of the game that a run played, action repeat included."""
    return run.store().steps * _repeat(run) + evolution_frames(run)


def evolution_frames(run: Run) -> int:
    """Those of its evolution in the game."""
    return run.evolution_steps("game") * _repeat(run)


def _repeat(run: Run) -> int:
    return int(run.store().metadata["env_options"].get("action_repeat", 1))


def rows(name: str) -> list[dict[str, Any]]:
    """The generations of a record's evolution."""
    return [json.loads(line) for line in (RECORDS / f"{name}.metrics.jsonl").read_text().splitlines()]


def checks(name: str) -> tuple[list[float], list[float], list[float]]:
    """Frames, seconds and returns at every test of the search's mean on fresh seeds."""
    about = read_json(RECORDS / f"{name}.about.json")
    played, seconds = float(about["frames_before"]), float(about["seconds_before"])
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    for row in rows(name):
        played += (row["steps"] + row.get("check_steps", 0)) * about["action_repeat"]
        seconds += row["seconds"]
        if "check" in row:
            for values, value in zip(found, (played, seconds, row["check"]), strict=True):
                values.append(value)
    return found


def curve(name: str) -> bytes:
    """Return against frames of the game, beside what was published, and against wall clock, as PNG."""
    from matplotlib.figure import Figure

    played, seconds, returns = checks(name)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot(played, returns, marker=".", label="ours, mean of 16 fresh tracks")
    for label, (x, y) in PUBLISHED.get(name, {}).items():
        left.plot(x, y, marker="s", linestyle=":", label=label)
    left.set(xscale="log", xlabel="frames of the game", ylabel="return")
    left.legend(fontsize=7)
    right.plot(np.array(seconds) / 60, returns, marker=".")
    right.set(xlabel="minutes on this machine, all training included")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def card(name: str, report: Report, about: dict[str, Any]) -> str:
    """The model card."""
    memory, options = about["memory"], ", ".join(f"{key} {value}" for key, value in report.env_options.items())
    score = f"{report.mean:.0f} ± {report.std:.0f} (standard error {report.stderr:.1f}, n = {report.n})"
    seeds = f"{report.seeds[0]} to {report.seeds[-1]}"
    whole, evolving = duration(about["seconds"]), duration(about["evolution_seconds"])
    flow = f"{memory.get('couplings', 0)} couplings{', conditional' if memory.get('conditional') else ''}"
    return f"""# {name}

A world model and a linear controller on latent and hidden state, evolved by CMA-ES in the game.

- **Score**: {score} in {report.env} with {options}, seeds {seeds}, which nothing else has met: `{report.command}`.
- **Data**: {report.real_steps:,} frames of the game in all, those of the world model's rollouts included.
- **Time**: {whole} in all, {evolving} of it evolution ({about["generations"]} generations); {report.hardware}.
- **Memory**: {memory["density"]}, {memory["hidden"]} hidden, {memory["mixtures"]} components, {flow}.
- **Files**: half precision; `report.json` has every return. Nothing in them is executed.
- **Limits**: it drives as it was evolved, with this action repeat; its dreams are good for some dozens of steps.
"""


def table() -> str:
    """README's table of records."""
    head = ("Game", "Ours: mean ± standard deviation (standard error, n)", "Frames of the game", "Wall clock")
    head += ("First test of 16 tracks above 850", "Published")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for path in sorted(RECORDS.glob("*.about.json")):
        name = path.name.removesuffix(".about.json")
        report, about = Report.load(RECORDS / f"{name}.json"), read_json(path)
        score = f"{report.mean:.0f} ± {report.std:.0f} ({report.stderr:.1f}, {report.n})"
        reached = next((s for _, s, value in zip(*checks(name), strict=True) if value >= 850), None)
        first = "not reached" if reached is None else duration(reached)
        clock = f"{duration(about['seconds'])}, {report.hardware}"
        lines.append(
            f"| {report.env}, evolved in the game | {score} | {(report.real_steps or 0) / 1e6:.1f} million | {clock} | {first} "
            f"| {RIVALS.get(name, '')} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Keep a record, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep")
    keeping.add_argument("run", type=Path)
    keeping.add_argument("name")
    keeping.add_argument("--also", type=Path, nargs="*", default=[])
    keeping.add_argument("--workers", type=int, default=2)
    commands.add_parser("write")
    options = parser.parse_args()
    if options.command == "keep":
        keep(Run(options.run), options.name, [Run(path) for path in options.also], options.workers)
        print(Shipped(HOME / options.name, Path()).report())
    put(ROOT / "README.md", MARK, table(), END)


if __name__ == "__main__":
    main()
