"""Keep the best agents: test them on the official game, ship them with the package, and write the table of records.

python -m benchmarks.records keep RUN NAME --title "CarRacing, evolved in the game" --also RUN... --ship
python -m benchmarks.records keep RUN NAME --where dream --title "CarRacing, evolved only in dreams"
python -m benchmarks.records keep RUN NAME --test 'deterministic={"noop_max": 0}'
python -m benchmarks.records write                         # the tables of README and docs/records.md, from docs/results/records

--ship: the agent replaces the package's of that name, once it was tested.
--also: runs whose real steps it took, too. --after: a run whose evolution went before, and at whose controller RUN's began.
--on: the record NAME, as it is, is where RUN's evolution began: all that it took counts.
A record is docs/results/records/NAME.about.json with a report for each test; the plain test, whose label is empty, is always
among them (--test '={"noop_max": 0}' gives it options).
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

from agents.agent import Agent
from agents.config.schema import OFFICIAL
from agents.evaluation import Report, evaluate, reproduce_command
from agents.pretrained import HOME, PretrainedAgent
from agents.progress import bar, duration
from agents.run import Run
from agents.video import write_png
from benchmarks.results import CHECKED, ROOT, put
from worldmodel import migration
from worldmodel.io import atomic, read_json, write_json
from worldmodel.start_states import StartStates

RECORDS = ROOT / "docs" / "results" / "records"
PAGES = {"README.md": False, "docs/records.md": True}
"""Where the table of records stands, and whether with every test."""
EPISODES, SEED = 100, 20_000
"""Of the test; no other test has these seeds."""
MARK, END = "<!-- records: written by `python -m benchmarks.records write`, " + CHECKED, "<!-- end of records -->"
ADDED = ("seconds", "evolution_seconds", "frames", "frames_before", "seconds_before")
"""What is the sum over a record and the evolution that went on from it."""
PUBLISHED = {"CarRacing": {"World Models (2018), its log": ([25e6, 51e6, 1.72e9], [823, 867, 906])}}
"""Returns after so many frames of the game."""
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
    """Test a controller of a run, write the record down, and ship it if it shall.

    ``on``: evolution began at the controller of the record as it is.

    Raises:
        ValueError: the run has no history of what is to be kept.
    """
    history = {"game": ("evolve-game", "metrics.jsonl"), "dream": ("iterations", "summary.json")}[where]
    source = run.folder.joinpath(*history)
    if not source.exists():
        raise ValueError(f"{source} must exist for --where {where}: a record shows how it came about")
    agent, place = Agent(run.world(), run.controller(where)), [str(run.folder), "--where", where]
    if send:
        agent, place = compacted(agent), [name, "--pretrained"]  # what is tested is what will be shipped
    evolutions = [run] if after is None else [after, run]
    runs = [*evolutions, *also]
    before = former(name) if on else Former()
    files = {}
    for label, options in tests.items():
        report = test(run, agent, name, label, options, workers)
        files[label] = f"{name}{'-' * bool(label)}{label.replace(' ', '-')}.json"
        dreamed = before.dreamed + sum(one.evolution_steps("dream") for one in runs)
        command = reproduce_command(place, report, options)
        replace(report, real_steps=before.steps + steps(runs), dream_steps=dreamed, command=command).save(
            RECORDS / files[label]
        )
    if where == "dream":
        shutil.copy(source, RECORDS / f"{name}.iterations.json")
    else:
        histories = [one.folder.joinpath(*history).read_text(encoding="utf-8") for one in evolutions]
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
        with atomic(HOME / name / "README.md") as aside:
            aside.write_text(card(name, first, written), encoding="utf-8")
        print(PretrainedAgent(HOME / name, Path()).report())


class Former(NamedTuple):
    """What a record took, at whose controller an evolution began."""

    about: dict[str, Any] = {}
    steps: int = 0
    dreamed: int = 0
    history: str = ""


def former(name: str) -> Former:
    """A record as it is."""
    about = read_json(RECORDS / f"{name}.about.json")
    history = (RECORDS / f"{name}.metrics.jsonl").read_text(encoding="utf-8")
    report = Report.load(RECORDS / about["tests"][""])
    return Former(about, report.real_steps or 0, report.dream_steps or 0, history)


def compacted(agent: Agent) -> Agent:
    """An agent as it is when it was saved for the package, in half precision."""
    with tempfile.TemporaryDirectory() as folder:
        agent.save(folder, compact=True)
        return Agent.load(folder)


def ship(run: Run, agent: Agent, folder: Path) -> None:
    """Put an agent into the package."""
    agent.save(folder, compact=True)
    StartStates.from_episodes(run.latents(agent.world)).save(folder)


def test(run: Run, agent: Agent, name: str, label: str, options: dict[str, Any], workers: int) -> Report:
    """Let an agent play the official game of a run, with the run's options and more."""
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
    """What an agent is, and what it took in all runs; those of its evolution in their order."""
    seconds = sum(sum(one.timings().values()) for one in runs)
    evolving = sum(one.timings().get(f"evolve in {'dreams' if where == 'dream' else 'the game'}", 0) for one in runs)
    return {
        "seconds": round(seconds),
        "evolution_seconds": round(evolving),
        "frames": frames(runs),
        "frames_before": frames(runs) - sum(map(evolution_frames, evolutions)),
        "seconds_before": round(seconds - sum(run.timings().get("evolve in the game", 0) for run in evolutions)),
        "action_repeat": _repeat(evolutions[-1]),
        "controller": repr(agent.controller),
        "memory": agent.world.memory.config,
        "runs": [str(one.folder) for one in runs],
    }


def frames(runs: list[Run]) -> int:
    """Frames of the game that runs played, action repeat included; rollouts that they share count once."""
    stored = sum(run.store().steps * _repeat(run) for run in _stores(runs))
    return stored + sum(evolution_frames(run) for run in runs)


def steps(runs: list[Run]) -> int:
    """Steps of the game that runs played: an action and its repeats are one."""
    return sum(run.store().steps for run in _stores(runs)) + sum(run.evolution_steps("game") for run in runs)


def evolution_frames(run: Run) -> int:
    """Those of a run's evolution in the game."""
    return run.evolution_steps("game") * _repeat(run)


def _stores(runs: list[Run]) -> list[Run]:
    """One run for each store."""
    return list({run.rollouts_folder.resolve(): run for run in runs}.values())


def _repeat(run: Run) -> int:
    return int(run.store().metadata["env_options"].get("action_repeat", 1))


def rows(name: str) -> list[dict[str, Any]]:
    """The generations of a record's evolution in the game."""
    path = RECORDS / f"{name}.metrics.jsonl"
    return (
        [migration.renamed(json.loads(line), migration.GENERATION) for line in path.read_text().splitlines()]
        if path.exists()
        else []
    )


def checks(name: str) -> tuple[list[float], list[float], list[float]]:
    """Frames, seconds and returns at every test on fresh seeds, of the search's mean or of its average where it has one.

    Of iterations: of each one's whole real episodes.
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
    """Return against frames of the game, beside what was published, and against wall clock or the dream's promise, as PNG."""
    from matplotlib.figure import Figure

    played, seconds, returns = checks(name)
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
        right.set(xlabel="minutes on this machine, all training included")
    else:
        said = read_json(RECORDS / f"{name}.iterations.json")["rows"]
        for key, label in (("dream", "in dreams"), ("real", "in the game, as long")):
            right.plot([one["number"] for one in said], [one[key] for one in said], marker=".", label=label)
        right.set(xlabel="iteration", ylabel="return of a stretch")
        right.legend(fontsize=7)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def score(report: Report) -> str:
    """A report in a table's cell."""
    flag = "" if report.flag_rate is None else f", flag in {report.flag_rate:.0%}"
    # seeds change nothing
    if report.env_options.get("noop_max") == 0 and not report.env_options.get("sticky_action_prob"):
        return f"{report.mean:.0f}, always the same game{flag}"
    return f"{report.mean:.0f} ± {report.std:.0f} ({report.stderr:.1f}, {report.n}){flag}"


def card(name: str, report: Report, about: dict[str, Any]) -> str:
    """The model card."""
    memory, options = about["memory"], ", ".join(f"{key} {value}" for key, value in report.env_options.items())
    seeds = f"{report.seeds[0]} to {report.seeds[-1]}"
    whole, evolving = duration(about["seconds"]), duration(about["evolution_seconds"])
    flow = f"{memory.get('couplings', 0)} couplings{', conditional' if memory.get('conditional') else ''}"
    lines = [
        f"- **Score, {label}**: {score(Report.load(RECORDS / file))}."
        for label, file in about["tests"].items()
        if label
    ]
    few = ""
    if "Mario" in report.env:
        few = " Games differ by 0 to 30 idle frames at the start alone: the seeds are new, but training met every such game."
    return f"""# {name}

{about["title"]}: a world model and a controller, `{about["controller"]}`, by CMA-ES.

- **Score**: {score(report)} (standard error, n) in {report.env} with {options}, seeds {seeds}, which no training has met:
  `{report.command}`.
{chr(10).join(lines)}{chr(10) * bool(lines)}- **Data**: {about["frames"]:,} frames of the game, rollouts included.
- **Time**: {whole} in all, {evolving} of it evolution; {report.hardware}.
- **Memory**: {memory["density"]}, {memory["hidden"]} hidden, {memory["mixtures"]} components, {flow}.
- **Files**: half precision; `report.json` has every return. Nothing in them is executed.
- **Limits**: it acts as it was evolved, with these options of the game; its dreams are good for some dozens of steps.{few}
"""


def table(every_test: bool = True) -> str:
    """The table of the page of records, with a row for each test; README's has the plain tests alone."""
    head = ("Game", "Mean ± standard deviation (standard error, n)", "Frames of the game", "Dream steps", "Wall clock")
    head += ("Published",)
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
            cells += (duration(about["seconds"]), RIVALS.get(name, "none"))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Keep a record, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep")
    keeping.add_argument("run", type=Path)
    keeping.add_argument("name")
    keeping.add_argument("--title", required=True)
    keeping.add_argument("--where", choices=["game", "dream"], default="game")
    keeping.add_argument("--also", type=Path, nargs="*", default=[])
    keeping.add_argument("--after", type=Path)
    keeping.add_argument("--on", action="store_true")
    keeping.add_argument("--test", action="append", default=[], help='LABEL={"option": value}')
    keeping.add_argument("--ship", action="store_true")
    keeping.add_argument("--workers", type=int, default=2)
    commands.add_parser("write")
    options = parser.parse_args()
    if options.command == "keep":
        tests = {"": {}} | {text.partition("=")[0]: json.loads(text.partition("=")[2]) for text in options.test}
        also = [Run(path) for path in options.also]
        keep(
            Run(options.run),
            options.name,
            options.where,
            options.title,
            also,
            tests,
            options.ship,
            options.workers,
            options.after and Run(options.after),
            options.on,
        )
    for page, every_test in PAGES.items():
        put(ROOT / page, MARK, table(every_test), END)


if __name__ == "__main__":
    main()
