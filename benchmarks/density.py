"""Densities of speech and images compared: every model with the same budget, on corpora that anybody can make.

python -m benchmarks.density make espeak-16k              # or font-digits; see benchmarks.density_corpora
python -m benchmarks.density run espeak-16k --seeds 3 --updates 250
python -m benchmarks.density run font-digits --seeds 3 --updates 600
python -m benchmarks.density run mine --data timit:/data/TIMIT --seeds 3 --updates 20000 --hidden 1000
python -m benchmarks.density write espeak-16k             # the page alone, from its results.json

Corpora and trainings lie in runs/density/NAME; the same command continues what was stopped. Page, picture and sounds go
to --out (runs/density/NAME/page), numbers to docs/results/density-NAME. Debian packages of the two corpora: espeak-ng;
fonts-dejavu fonts-liberation fonts-freefont-ttf fonts-urw-base35 fonts-lato fonts-open-sans fonts-roboto.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from agents.density import DensityConfig, evaluate_density, fit_density
from agents.progress import bar, console
from agents.run import Run
from benchmarks.density_corpora import make_digits, make_speech
from benchmarks.density_tables import RESULTS, write_page
from rollouts.workers import run_tasks
from worldmodel import TrainingDiverged
from worldmodel.io import locked, read_json, write_json

MODELS: dict[str, dict[str, Any]] = {
    "RNN-Gauss": {"model": "rnn-gauss", "mixtures": None},
    "RMDN": {"model": "rmdn"},
    "RMDN, rank 2": {"model": "rmdn", "rank": 2},
    "FRMDN": {"model": "frmdn"},
    "VRNN-Gauss": {"model": "vrnn", "mixtures": None},
    "VRNN-GMM": {"model": "vrnn-gmm"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "espeak-16k": {"data": "audio:{corpus}", "updates": 250, "batch": 16},
    "font-digits": {"data": "mnist:{corpus}", "updates": 600, "batch": 32},
}
"""What each corpus is read as, and its budget."""
RUNS = Path("runs") / "density"


class Job(NamedTuple):
    """A task for a worker: learn one density once, and judge it."""

    folder: str
    name: str
    settings: DensityConfig


def learn(job: Job) -> dict[str, Any]:
    """Learn and judge, or read what an earlier call found out."""
    folder = Path(job.folder)
    wanted = {"name": job.name, **asdict(job.settings)}
    if (folder / "result.json").exists():
        result = read_json(folder / "result.json")
        if result["job"] == wanted:
            return result
        raise ValueError(f"{folder} holds a training with other settings: remove it, or name another corpus")
    status = "trained"
    try:
        evaluation = fit_density(job.settings, folder, report=False)
    except TrainingDiverged as error:
        status = str(error)
        evaluation = evaluate_density(folder)
    checks = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    result = {
        "job": wanted,
        "status": status,
        "seconds": Run(folder).timings()["learn"],
        "best_update": min(checks, key=lambda row: row["held_out"]["loss"])["update"],
        **asdict(evaluation),
    }
    write_json(folder / "result.json", result)
    return result


def compare(
    name: str, settings: DensityConfig, models: list[str], seeds: int, workers: int, command: str, out: Path
) -> Path:
    """Train every model with every seed, and write the page into ``out``; returns its path."""
    jobs = [
        Job(str(RUNS / name / f"{model.lower().replace(', ', '-').replace(' ', '')}-{seed}"), model,
            replace(settings, seed=seed, **MODELS[model]))
        for seed in range(1, seeds + 1)
        for model in models
    ]  # fmt: skip
    began, found = time.monotonic(), dict[int, dict[str, Any]]()
    with locked(RUNS / name), bar(f"densities of {name}", "trainings") as progress:
        progress(0, len(jobs), "")
        for index, result in run_tasks(learn, jobs, workers):
            found[index] = result
            progress(len(found), len(jobs), jobs[index].name)
    corpus = Path(settings.data.partition(":")[2]) / "about.json"
    return write_page(
        RESULTS / f"density-{name}",
        out,
        name,
        [found[index] for index in range(len(jobs))],
        {job.name: Path(job.folder) for job in reversed(jobs)},  # of each model its first training
        {
            "command": command,
            "wall_clock_s": time.monotonic() - began,
            "made_of": read_json(corpus) if corpus.exists() else {},
        },
    )


def make(name: str, folder: Path) -> None:
    """Make a corpus, unless it is there."""
    if (folder / "about.json").exists():
        return
    console.print(f"make {name} in {folder} ...", markup=False)
    if name == "espeak-16k":
        make_speech(folder)
    elif name == "font-digits":
        make_digits(folder)
    else:
        raise ValueError(
            f"a corpus that can be made is one of {', '.join(SETTINGS)}, got {name!r}: give --data KIND:FOLDER"
        )


def main(words: list[str] | None = None) -> int:
    """Make, run or write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "run", "write"))
    parser.add_argument("name", help="espeak-16k, font-digits, or any name together with --data")
    parser.add_argument("--data", help="KIND:FOLDER of another corpus (worldmodel density fit --help)")
    parser.add_argument("--out", type=Path, help="folder of the page, its picture and its sounds")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    for option, default in {
        "seeds": 3,
        "updates": None,
        "hidden": 256,
        "mixtures": 20,
        "batch": None,
        "workers": 2,
    }.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    options = parser.parse_args(words)
    corpus, out = RUNS / options.name / "corpus", options.out or RUNS / options.name / "page"
    try:
        if options.what == "write":
            print(write_page(RESULTS / f"density-{options.name}", out, options.name))
            return 0
        if options.data is None:
            make(options.name, corpus)
        if options.what == "run":
            known = SETTINGS.get(options.name, {"data": options.data, "updates": 300, "batch": 16})
            updates, batch = options.updates or known["updates"], options.batch or known["batch"]
            settings = DensityConfig(
                options.data or known["data"].format(corpus=corpus),
                hidden_size=options.hidden,
                num_components=options.mixtures,
                num_updates=updates,
                batch_size=batch,
                eval_every=max(updates // 12, 1),
                patience=None,
            )
            command = f"python -m benchmarks.density run {options.name} --seeds {options.seeds} --updates {updates}"
            command += f" --hidden {options.hidden} --mixtures {options.mixtures} --batch {batch}"
            command += "" if options.data is None else f" --data {shlex.quote(options.data)}"
            command += "" if options.models == list(MODELS) else f" --models {shlex.join(options.models)}"
            print(compare(options.name, settings, options.models, options.seeds, options.workers, command, out))
    except ValueError as error:
        console.print(f"benchmarks.density: {error}", style="red", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
