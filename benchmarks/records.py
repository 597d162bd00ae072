"""Save the best agents: evaluate them on the official game, add them to the package, and write the table of records.

Start reading at `keep`.

python -m benchmarks.records keep RUN NAME --title "CarRacing, evolved in the game" --also RUN... --ship
python -m benchmarks.records keep RUN NAME --where dream --title "CarRacing, evolved only in dreams"
python -m benchmarks.records keep RUN NAME --test 'deterministic={"noop_max": 0}'
python -m benchmarks.records seed RUN NAME                 # a run of the record's preset with another seed
python -m benchmarks.records write                         # the tables of README and docs/records.md, from docs/results/records

--ship: after the evaluation, the agent replaces the one with this name in the package.
--also: runs whose real steps and time count, too. --after: a run whose evolution gave RUN's initial controller.
--on: the present record NAME gave the initial controller of RUN's evolution; its steps and time count, too.
A record is docs/results/records/NAME.about.json with a report for each test. The plain test has an empty label and always
runs (--test '={"noop_max": 0}' sets its options).
"""

import argparse
import io
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.costs import evolution_frames, frames, repeat, steps
from benchmarks.results import CHECKED, ROOT, put
from worldmodel.agents.agent import Agent
from worldmodel.agents.analysis.video import write_png
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.config.schema import OFFICIAL
from worldmodel.agents.evaluation import Report, evaluate, reproduce_command
from worldmodel.agents.pretrained import HOME, PretrainedAgent
from worldmodel.agents.progress import bar, duration
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io import migration
from worldmodel.io.files import atomic, read_json, write_json
from worldmodel.start_states import StartStates

RECORDS = ROOT / "docs" / "results" / "records"
PAGES = {"README.md": False, "docs/records.md": True}
"""Pages with the table of records, and whether the table has every test."""
EPISODES, SEED = 100, 20_000
"""Number of episodes of the test, and seed of the first; no other test uses these seeds."""
MARK, END = "<!-- records: written by `python -m benchmarks.records write`, " + CHECKED, "<!-- end of records -->"
ADDED = ("seconds", "evolution_seconds", "frames", "frames_before", "seconds_before")
"""Keys whose values are summed when an evolution continues a record."""
PUBLISHED = {"CarRacing": {"World Models (2018), its log": ([25e6, 51e6, 1.72e9], [823, 867, 906])}}
"""Frames of the game and returns of published learning curves, by game and label."""
RIVALS = {
    "car-racing": "917 (DreamerV3), 914 ± 15 (AttentionAgent), 906 ± 21 (World Models)",
    "car-racing-cropped": "906 ± 21 (World Models)",
    "car-racing-fast": "823 (World Models, 25 million frames)",
    "car-racing-dream": "708 (planning in an MDN-RNN)",
    "car-racing-dream-alone": "708 (planning in an MDN-RNN)",
}


def keep(
    run: Run,
    name: str,
    where: str,
    title: str,
    also: list[Run],
    tests: dict[str, Any],
    send: bool,
    workers: int,
    after: Run | None = None,
    on: bool = False,
) -> None:
    """Evaluate a controller of a run, and write the record.

    Args:
        run: Run with the controller.
        name: Name of the record.
        where: Where the controller was evolved: "game" or "dream".
        title: Name in the table.
        also: Runs whose real steps and time count, too.
        tests: Additional environment options of each test, by label.
        send: Whether to add the agent to the package.
        workers: Number of processes that step environments.
        after: Run whose evolution gave the initial controller. None: there is no such run.
        on: Whether the present record gave the initial controller.

    Raises:
        ValueError: The run has no history of this evolution.
    """
    history = {"game": ("evolve-game", "metrics.jsonl"), "dream": ("iterations", "summary.json")}[where]
    source = run.folder.joinpath(*history)
    if not source.exists():
        raise ValueError(f"{source} must exist for --where {where}: a record includes its history")
    agent, words = Agent(run.world(), run.controller(where)), [str(run.folder), "--where", where]
    if send:
        agent, words = compacted(agent), [name, "--pretrained"]  # test the same weights as the package will have
    evolutions = [run] if after is None else [after, run]
    runs = [*evolutions, *also]
    runs += [earlier for one in runs for earlier in one.earlier]
    before = former(name) if on else Former()
    files = {}
    for label, options in tests.items():
        report = test(run, agent, name, label, options, workers)
        files[label] = f"{name}{'-' * bool(label)}{label.replace(' ', '-')}.json"
        dreamed = before.dreamed + sum(one.evolution_steps("dream") for one in runs)
        command = reproduce_command(words, report, options)
        replace(report, real_steps=before.steps + steps(runs), dream_steps=dreamed, command=command).save(
            RECORDS / files[label]
        )
    if where == "dream":
        shutil.copy(source, RECORDS / f"{name}.iterations.json")
    else:
        paths = [
            [*sorted(one.folder.glob("phases/*/evolve-game/metrics.jsonl")), one.folder.joinpath(*history)]
            for one in evolutions
        ]
        histories = [path.read_text(encoding="utf-8") for group in paths for path in group]
        (RECORDS / f"{name}.metrics.jsonl").write_text(before.history + "".join(histories), encoding="utf-8")
    written = about(evolutions, runs, where, agent) | {"title": title, "tests": files}
    for counted in ADDED:
        written[counted] += before.about.get(counted, 0)
    written["runs"] = [*before.about.get("runs", ()), *written["runs"]]
    write_json(RECORDS / f"{name}.about.json", written)
    write_png(RECORDS / f"{name}.png", curve(name))
    if send:
        first = Report.load(RECORDS / next(iter(files.values())))
        ship(run, agent, HOME / name)
        first.save(HOME / name / "report.json")
        with atomic(HOME / name / "README.md") as temporary:
            temporary.write_text(card(name, first, written), encoding="utf-8")
        print(PretrainedAgent(HOME / name, Path()).report())


def keep_seed(run: Run, name: str) -> None:
    """Keep the report of a run of a record's preset with another seed, which evolved in dreams.

    Raises:
        ValueError: The run was not tested with the seeds of records.
    """
    report, seed = run.reports()["dream"], read_yaml(run.folder / "config.yaml")["seed"]
    if (report.n, report.seeds[0]) != (EPISODES, SEED):
        raise ValueError(f"{run.folder} must be tested with {EPISODES} episodes from seed {SEED} on")
    file = f"{name}-seed-{seed}.json"
    report.save(RECORDS / file)
    path = RECORDS / f"{name}.seeds.json"
    kept = read_json(path) if path.exists() else {}
    kept[str(seed)] = {"report": file, "frames": frames([run]), "seconds": round(sum(run.timings().values()))}
    write_json(path, {key: kept[key] for key in sorted(kept, key=int)})


def seeds_row(name: str) -> list[str]:
    """Return the cells of a row over the training seeds of a record's preset, the record's own first; empty: it has one."""
    path, about = RECORDS / f"{name}.seeds.json", read_json(RECORDS / f"{name}.about.json")
    if not path.exists():
        return []
    kept = read_json(path)
    reports = [Report.load(RECORDS / file) for file in (about["tests"][""], *(one["report"] for one in kept.values()))]
    means, costs = np.array([report.mean for report in reports]), [about, *kept.values()]
    std = means.std(ddof=1)
    return [
        f"the same, training seeds 1, {', '.join(kept)}: {', '.join(f'{mean:.0f}' for mean in means)}",
        f"{means.mean():.0f} ± {std:.0f} ({std / len(means) ** 0.5:.1f}, {len(means)} runs)",
        f"{np.mean([one['frames'] for one in costs]) / 1e6:.1f} million",
        f"{np.mean([report.dream_steps or 0 for report in reports]) / 1e6:.0f} million",
        duration(float(np.median([one["seconds"] for one in costs]))),
    ]


class Former(NamedTuple):
    """The costs and the history of an earlier record; ``steps`` are environment steps, ``dreamed`` dream steps."""

    about: dict[str, Any] = {}
    steps: int = 0
    dreamed: int = 0
    history: str = ""


def former(name: str) -> Former:
    """Read the present record."""
    about = read_json(RECORDS / f"{name}.about.json")
    history = (RECORDS / f"{name}.metrics.jsonl").read_text(encoding="utf-8")
    report = Report.load(RECORDS / about["tests"][""])
    return Former(about, report.real_steps or 0, report.dream_steps or 0, history)


def compacted(agent: Agent) -> Agent:
    """Return the agent in half precision, as the package has it."""
    with tempfile.TemporaryDirectory() as folder:
        agent.save(folder, compact=True)
        return Agent.load(folder)


def ship(run: Run, agent: Agent, folder: Path) -> None:
    """Save an agent and its start states in a folder of the package."""
    agent.save(folder, compact=True)
    StartStates.from_episodes(run.latents(agent.world)).save(folder)


def test(run: Run, agent: Agent, name: str, label: str, options: dict[str, Any], workers: int) -> Report:
    """Evaluate an agent in the official environment of a run, with the run's options and ``options``."""
    store = run.store()
    env, stored = OFFICIAL.get(store.env, store.env), dict(store.metadata["env_options"])
    with bar(f"test {name} in {env}{', ' * bool(label)}{label}", "episodes") as progress:
        return evaluate(
            agent,
            env,
            EPISODES,
            SEED,
            workers=workers,
            env_options=stored | options,
            policy_name="agent",
            progress=progress,
        )


def about(evolutions: list[Run], runs: list[Run], where: str, agent: Agent) -> dict[str, Any]:
    """Describe an agent and the costs of all runs; ``evolutions`` are in temporal order."""
    seconds = sum(sum(one.timings().values()) for one in runs)
    evolution_seconds = sum(
        one.timings().get(f"evolve in {'dreams' if where == 'dream' else 'the game'}", 0) for one in runs
    )
    return {
        "seconds": round(seconds),
        "evolution_seconds": round(evolution_seconds),
        "frames": frames(runs),
        "frames_before": frames(runs) - sum(map(evolution_frames, evolutions)),
        "seconds_before": round(seconds - sum(run.timings().get("evolve in the game", 0) for run in evolutions)),
        "action_repeat": repeat(evolutions[-1]),
        "controller": repr(agent.controller),
        "memory": agent.world.memory.config,
        "runs": [str(one.folder) for one in runs],
    }


def rows(name: str) -> list[dict[str, Any]]:
    """Return the generations of a record's evolution in the game."""
    path = RECORDS / f"{name}.metrics.jsonl"
    return (
        [migration.renamed(json.loads(line), migration.GENERATION) for line in path.read_text().splitlines()]
        if path.exists()
        else []
    )


def evaluations(name: str) -> tuple[list[float], list[float], list[float]]:
    """Return frames, seconds and returns at every evaluation of the distribution mean, or of its average if there is one.

    Iterations: returns are those of the whole real episodes, and seconds are empty.
    """
    about = read_json(RECORDS / f"{name}.about.json")
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    played, seconds = float(about["frames_before"]), float(about["seconds_before"])
    for row in rows(name):
        played += (row["steps"] + row.get("eval_steps", 0)) * about["action_repeat"]
        seconds += row["seconds"]
        if "eval" in row:
            for values, value in zip(found, (played, seconds, row.get("eval_average", row["eval"])), strict=True):
                values.append(value)
    path = RECORDS / f"{name}.iterations.json"
    for one in read_json(path)["rows"] if path.exists() else ():
        found[0].append(one["real_steps"] * about["action_repeat"])
        found[2].append(one["episode_mean"])
    return found


def curve(name: str) -> bytes:
    """Return a PNG of the learning curve: against frames, with published returns, and against time or beside dream returns."""
    from matplotlib.figure import Figure

    played, seconds, returns = evaluations(name)
    about = read_json(RECORDS / f"{name}.about.json")
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=bool(seconds))
    left.plot(played, returns, marker=".", label="ours, fresh episodes")
    for label, (x, y) in PUBLISHED.get(about["title"].partition(",")[0], {}).items():
        left.plot(x, y, marker="s", linestyle=":", label=label)
    left.set(xscale="log", xlabel="frames of the game", ylabel="return")
    left.legend(fontsize=7)
    if seconds:
        right.plot(np.array(seconds) / 60, returns, marker=".")
        right.set(xlabel="minutes, including all training")
    else:
        iterations = read_json(RECORDS / f"{name}.iterations.json")["rows"]
        for key, label in (("dream", "in dreams"), ("real", "in the game, same horizon")):
            right.plot([one["number"] for one in iterations], [one[key] for one in iterations], marker=".", label=label)
        right.set(xlabel="iteration", ylabel="return over the horizon")
        right.legend(fontsize=7)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def score(report: Report) -> str:
    """Return a report as the text of a table cell."""
    flag = "" if report.flag_rate is None else f", flag in {report.flag_rate:.0%}"
    # the game is deterministic: seeds have no effect
    if report.env_options.get("noop_max") == 0 and not report.env_options.get("sticky_action_prob"):
        return f"{report.mean:.0f}, identical episodes{flag}"
    return f"{report.mean:.0f} ± {report.std:.0f} ({report.stderr:.1f}, {report.n}){flag}"


def card(name: str, report: Report, about: dict[str, Any]) -> str:
    """Return the model card as Markdown."""
    memory, options = about["memory"], ", ".join(f"{key} {value}" for key, value in report.env_options.items())
    seeds = f"{report.seeds[0]} to {report.seeds[-1]}"
    total, evolving = duration(about["seconds"]), duration(about["evolution_seconds"])
    flow = f"{memory.get('num_couplings', 0)} couplings{', conditional' if memory.get('conditional') else ''}"
    lines = [
        f"- **Score, {label}**: {score(Report.load(RECORDS / file))}."
        for label, file in about["tests"].items()
        if label
    ]
    note = ""
    if "Mario" in report.env:
        note = " Games differ only in 0 to 30 idle frames at the start: the seeds are new, but training used all such games."
    return f"""# {name}

{about["title"]}: a world model and a controller, `{about["controller"]}`, evolved by CMA-ES.

- **Score**: {score(report)} (standard error, n) in {report.env} with {options}, seeds {seeds}, which no training used:
  `{report.command}`.
{chr(10).join(lines)}{chr(10) * bool(lines)}- **Data**: {about["frames"]:,} frames of the game, including rollouts.
- **Time**: {total} in total, {evolving} for evolution; {report.hardware}.
- **Memory**: {memory["density"]}, {memory["hidden_size"]} hidden units, {memory["num_components"]} components, {flow}.
- **Files**: half precision; `report.json` has every return. The files contain no code.
- **Limits**: the agent needs these environment options; its dreams are accurate for some dozens of steps.{note}
"""


def table(every_test: bool = True) -> str:
    """Return the table of records: a row for each test, or only the plain tests, beside published scores."""
    head = ("Game", "Mean ± standard deviation (standard error, n)", "Frames of the game", "Dream steps", "Wall clock")
    head += () if every_test else ("Published",)
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in sorted(path.name.removesuffix(".about.json") for path in RECORDS.glob("*.about.json")):
        about = read_json(RECORDS / f"{name}.about.json")
        for label, file in about["tests"].items():
            if label and not every_test:
                continue
            report = Report.load(RECORDS / file)
            cells = (
                f"{about['title']}{', ' * bool(label)}{label}",
                score(report),
                f"{about['frames'] / 1e6:.1f} million",
            )
            cells += (f"{report.dream_steps / 1e6:.0f} million" if report.dream_steps else "none",)
            cells += (duration(about["seconds"]), *(() if every_test else (RIVALS.get(name, "none"),)))
            lines.append(f"| {' | '.join(cells)} |")
        if every_test and (seeds := seeds_row(name)):
            lines.append(f"| {' | '.join(seeds)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Save a record and write the tables, or only write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep")
    keeping.add_argument("run", type=Path, help="Path of the run folder.")
    keeping.add_argument("name", help="Name of the record.")
    keeping.add_argument("--title", required=True, help="Name in the table.")
    keeping.add_argument(
        "--where", choices=["game", "dream"], default="game", help="Where the controller was evolved (default: game)."
    )
    keeping.add_argument(
        "--also", type=Path, nargs="*", default=[], help="Paths of runs whose real steps and time count, too."
    )
    keeping.add_argument("--after", type=Path, help="Path of the run whose evolution gave the initial controller.")
    keeping.add_argument("--on", action="store_true", help="The present record gave the initial controller.")
    keeping.add_argument("--test", action="append", default=[], help='Additional test: LABEL={"option": value}.')
    keeping.add_argument("--ship", action="store_true", help="Add the agent to the package.")
    keeping.add_argument(
        "--workers", type=int, default=2, help="Number of processes that step environments (default: 2)."
    )
    seed = commands.add_parser("seed")
    seed.add_argument("run", type=Path, help="Path of the run folder.")
    seed.add_argument("name", help="Name of the record.")
    commands.add_parser("write")
    options = parser.parse_args()
    if options.command == "keep":
        tests = {"": {}} | {text.partition("=")[0]: json.loads(text.partition("=")[2]) for text in options.test}
        also = [Run(path) for path in options.also]
        after = options.after and Run(options.after)
        what = (options.name, options.where, options.title)
        keep(Run(options.run), *what, also, tests, options.ship, options.workers, after, options.on)
    if options.command == "seed":
        keep_seed(Run(options.run), options.name)
    for page, every_test in PAGES.items():
        put(ROOT / page, MARK, table(every_test), END)


if __name__ == "__main__":
    main()
