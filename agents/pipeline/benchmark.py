"""The same settings with several seeds: runs, their scores in one table, and a page. Start reading at `run_benchmark`."""

import html
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.agents.analysis import plots
from worldmodel.agents.analysis.aggregate import Aggregate, aggregate
from worldmodel.agents.analysis.html import figure, image, settings_section, table, write_page
from worldmodel.agents.analysis.report import ORIGINS
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.evaluation import Report, hardware
from worldmodel.agents.pipeline import pipeline
from worldmodel.agents.progress import console, duration
from worldmodel.agents.runs.run_folder import Run, rows_of
from worldmodel.io.files import write_json
from worldmodel.messages import format_number

NAMES = {"random": "random actions"} | ORIGINS
"""Names of controllers in tables."""


@dataclass(frozen=True)
class BenchmarkRun:
    """A finished run of a benchmark."""

    seed: int
    seconds: float
    real_steps: int
    reports: dict[str, Report]
    """Evaluations by controller: "random", "dream", "game"."""
    curves: dict[str, tuple[list[float], list[float]]]
    """Environment steps, and returns of complete real episodes after them, by controller."""


def run_benchmark(settings: RunConfig, folder: Path, seeds: range) -> dict[str, Aggregate]:
    """Run settings with several seeds, each in ``folder/seed-N``, and write ``benchmark.json`` and ``benchmark.html``.

    The same call continues a stopped one. More seeds may follow later.

    Args:
        settings: Settings of all runs; their seed is replaced.
        folder: Path of the benchmark.
        seeds: Seeds of the runs.

    Returns:
        The scores by controller.

    Raises:
        ValueError: A folder has a run with other settings.
    """
    done = list[BenchmarkRun]()
    for number, seed in enumerate(seeds, 1):
        console.print(f"run {number} of {len(seeds)}: seed {seed}", markup=False)
        one = folder / f"seed-{seed}"
        pipeline.run_pipeline(replace(settings, seed=seed), one)
        done.append(read_run(seed, Run(one)))
    scores = scores_of(done)
    rows = [
        {
            "seed": one.seed,
            "seconds": round(one.seconds),
            "real_steps": one.real_steps,
            "scores": {name: {"mean": report.mean, "std": report.std} for name, report in one.reports.items()},
        }
        for one in done
    ]
    found = {name: score._asdict() for name, score in scores.items()}
    config = folder / f"seed-{seeds[0]}" / "config.yaml"
    words = (
        "worldmodel",
        "benchmark",
        settings.env,
        "--config",
        config,
        "--seed",
        seeds[0],
        "--seeds",
        len(seeds),
        "--out",
        folder,
    )
    about = {
        "env": settings.env,
        "command": shlex.join(map(str, words)),
        "hardware": hardware(),
    }
    write_json(folder / "benchmark.json", {**about, "scores": found, "runs": rows})
    write_page(folder / "benchmark.html", f"{settings.env}, {len(done)} seeds", _page(done, scores, settings, about))
    return scores


def read_run(seed: int, run: Run) -> BenchmarkRun:
    """Read what a finished run measured."""
    iterations = rows_of(run.folder / "iterations" / "metrics.jsonl")
    curves = {"dream": ([row["real_steps"] for row in iterations], [row["episode_mean"] for row in iterations])}
    generations = rows_of(run.search("game") / "metrics.jsonl")
    steps = run.store().steps + np.cumsum([row["steps"] + row.get("eval_steps", 0) for row in generations])
    evaluated = [(float(step), row["eval"]) for step, row in zip(steps, generations, strict=True) if "eval" in row]
    curves["game"] = ([step for step, _ in evaluated], [value for _, value in evaluated])
    used = {name: curve for name, curve in curves.items() if curve[0]}
    return BenchmarkRun(seed, sum(run.timings().values()), run.real_steps, run.reports(), used)


def scores_of(done: Sequence[BenchmarkRun]) -> dict[str, Aggregate]:
    """Return the scores of all runs by controller."""
    names = [name for name in NAMES if all(name in one.reports for one in done)]
    returns = {name: [one.reports[name].returns for one in done] for name in names}
    random = returns["random"][0] if "random" in returns else None  # each run plays the same episodes
    return {name: aggregate(each, None if name == "random" else random) for name, each in returns.items()}


def score_rows(scores: dict[str, Aggregate]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows of a table of scores."""
    heads = [
        "controller",
        "interquartile mean",
        "95 % interval",
        "mean",
        "worst run",
        "better than random",
        "runs",
        "n",
    ]
    rows = []
    for name, one in scores.items():
        numbers = [format_number(value) for value in (one.iqm, one.mean, one.worst)]
        spread = " to ".join(map(format_number, one.interval or ()))
        better = "" if one.improvement is None else f"{one.improvement:.0%}"
        rows.append([NAMES[name], numbers[0], spread, *numbers[1:], better, str(one.runs), str(one.episodes)])
    return heads, rows


def _page(
    done: Sequence[BenchmarkRun], scores: dict[str, Aggregate], settings: RunConfig, about: dict[str, Any]
) -> str:
    """Return the HTML of the page."""
    heads = ["seed", *(NAMES[name] for name in scores), "environment steps", "time"]
    rows = [
        [
            str(one.seed),
            *(f"{format_number(one.reports[name].mean)} ± {format_number(one.reports[name].std)}" for name in scores),
            f"{one.real_steps:,}",
            duration(one.seconds),
        ]
        for one in done
    ]
    note = (
        "A run's score is the mean return of its episodes. The interval of the interquartile mean is a percentile bootstrap "
        f"over runs. Evaluation episodes have the same seeds in all runs. {about['hardware']}; "
        f"<code>{html.escape(about['command'])}</code>."
    )
    parts = [table(*score_rows(scores)), f'<p class="note">{note}</p>', table(heads, rows)]
    series = {f"{NAMES[name]}, seed {one.seed}": curve for one in done for name, curve in one.curves.items()}
    if series:
        plot = plots.curves(series, "environment steps", "return", title="Complete episodes during the runs")
        parts.append(figure(image(plot, "returns over environment steps"), "One line a run."))
    each = {NAMES[name]: np.concatenate([one.reports[name].returns for one in done]).tolist() for name in scores}
    parts.append(figure(image(plots.profiles(each), "performance profiles"), "Fraction of episodes above a return."))
    return "".join(parts) + settings_section(replace(settings, seed=done[0].seed))
