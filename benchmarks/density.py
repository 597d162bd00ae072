"""Compare densities of speech and images: every model with the same budget, on corpora that this command can make.

Start reading at `compare`.

python -m benchmarks.density make espeak-16k              # or font-digits; see benchmarks.density_corpora
python -m benchmarks.density run espeak-16k --seeds 3 --num_updates 250
python -m benchmarks.density run font-digits --seeds 3 --num_updates 600
python -m benchmarks.density run mine --data timit:/data/TIMIT --seeds 3 --num_updates 20000 --hidden_size 1000
python -m benchmarks.density write espeak-16k             # only the page, from results.json

Corpora and trainings are in runs/density/NAME; the same command continues a stopped comparison. Page, picture and sounds
are written to --out (default: runs/density/NAME/page), numbers to docs/results/density-NAME. Debian packages: espeak-ng;
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

from benchmarks.density_corpora import make_digits, make_speech
from benchmarks.density_tables import RESULTS, write_page
from worldmodel import TrainingDiverged
from worldmodel.agents.density import DensityConfig, evaluate_density, fit_density
from worldmodel.agents.progress import bar, console
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import locked, read_json, write_json
from worldmodel.io.migration import density_result
from worldmodel.rollouts.executors.workers import run_tasks

MODELS: dict[str, dict[str, Any]] = {
    "RNN-Gauss": {"model": "rnn-gauss", "num_components": None},
    "RMDN": {"model": "rmdn"},
    "RMDN, rank 2": {"model": "rmdn", "rank": 2},
    "FRMDN": {"model": "frmdn"},
    "VRNN-Gauss": {"model": "vrnn", "num_components": None},
    "VRNN-GMM": {"model": "vrnn-gmm"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "espeak-16k": {"data": "audio:{corpus}", "num_updates": 250, "batch_size": 16},
    "font-digits": {"data": "mnist:{corpus}", "num_updates": 600, "batch_size": 32},
}
"""Kind, number of updates and batch size of each corpus."""
RUNS = Path("runs") / "density"


class TrainingJob(NamedTuple):
    """A task for a worker: train and evaluate one model with one seed."""

    folder: str
    name: str
    settings: DensityConfig


def run_job(job: TrainingJob) -> dict[str, Any]:
    """Train and evaluate a model, or read the result of an earlier call.

    Raises:
        ValueError: The folder has a training with other settings.
    """
    folder = Path(job.folder)
    job_json = {"name": job.name, **asdict(job.settings)}
    if (folder / "result.json").exists():
        result = density_result(read_json(folder / "result.json"))
        if result["job"] == job_json:
            return result
        raise ValueError(f"{folder} has a training with other settings: remove it, or use another name")
    status = "trained"
    try:
        evaluation = fit_density(job.settings, folder, report=False)
    except TrainingDiverged as error:
        status = str(error)
        evaluation = evaluate_density(folder)
    validations = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    result = {
        "job": job_json,
        "status": status,
        "seconds": Run(folder).timings()["fit"],
        "best_update": min(validations, key=lambda row: row["held_out"]["loss"])["update"],
        **asdict(evaluation),
    }
    write_json(folder / "result.json", result)
    return result


def compare(
    name: str, settings: DensityConfig, models: list[str], seeds: int, workers: int, command: str, out: Path
) -> Path:
    """Train every model with every seed, and write the page.

    Args:
        name: Name of the corpus.
        settings: Settings that all models share.
        models: Names of models (`MODELS`).
        seeds: Number of trainings of each model.
        workers: Number of trainings at the same time.
        command: Command that the page shows.
        out: Path of the folder of the page.

    Returns:
        Path of the page.
    """
    jobs = [
        TrainingJob(str(RUNS / name / f"{model.lower().replace(', ', '-').replace(' ', '')}-{seed}"), model,
            replace(settings, seed=seed, **MODELS[model]))
        for seed in range(1, seeds + 1)
        for model in models
    ]  # fmt: skip
    start_time, found = time.monotonic(), dict[int, dict[str, Any]]()
    with locked(RUNS / name), bar(f"densities of {name}", "trainings") as progress:
        progress(0, len(jobs), "")
        for index, result in run_tasks(run_job, jobs, workers):
            found[index] = result
            progress(len(found), len(jobs), jobs[index].name)
    corpus = Path(settings.data.partition(":")[2]) / "about.json"
    return write_page(
        RESULTS / f"density-{name}",
        out,
        name,
        [found[index] for index in range(len(jobs))],
        {job.name: Path(job.folder) for job in reversed(jobs)},  # the first training of each model
        {
            "command": command,
            "wall_clock_s": time.monotonic() - start_time,
            "made_of": read_json(corpus) if corpus.exists() else {},
        },
    )


def make(name: str, folder: Path) -> None:
    """Make a corpus if it does not exist.

    Raises:
        ValueError: No corpus with this name can be made.
    """
    if (folder / "about.json").exists():
        return
    console.print(f"make {name} in {folder} ...", markup=False)
    if name == "espeak-16k":
        make_speech(folder)
    elif name == "font-digits":
        make_digits(folder)
    else:
        raise ValueError(
            f"name must be one of {', '.join(SETTINGS)}, got {name!r}: for another corpus, add --data KIND:FOLDER"
        )


def main(words: list[str] | None = None) -> int:
    """Make a corpus, run a comparison or write a page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=("make", "run", "write"), help="Make the corpus, compare, or write only the page."
    )
    parser.add_argument("name", help="Name of the corpus: espeak-16k, font-digits, or any name with --data.")
    parser.add_argument("--data", help="KIND:FOLDER of another corpus (worldmodel density fit --help).")
    parser.add_argument(
        "--out",
        type=Path,
        help="Path of the folder of the page, its picture and sounds (default: runs/density/NAME/page).",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=list(MODELS),
        default=list(MODELS),
        help="Names of the models to train (default: all).",
    )
    for option, default, text in (
        ("seeds", 3, "Number of trainings of each model (default: 3)."),
        ("num_updates", None, "Number of gradient steps (default: that of the corpus, else 300)."),
        ("hidden_size", 256, "Number of hidden units (default: 256)."),
        ("num_components", 20, "Number of mixture components (default: 20)."),
        ("batch_size", None, "Number of sequences in a batch (default: that of the corpus, else 16)."),
        ("workers", 2, "Number of trainings at the same time (default: 2)."),
    ):
        parser.add_argument(f"--{option}", type=int, default=default, help=text)
    options = parser.parse_args(words)
    corpus, out = RUNS / options.name / "corpus", options.out or RUNS / options.name / "page"
    try:
        if options.what == "write":
            print(write_page(RESULTS / f"density-{options.name}", out, options.name))
            return 0
        if options.data is None:
            make(options.name, corpus)
        if options.what == "run":
            defaults = SETTINGS.get(options.name, {"data": options.data, "num_updates": 300, "batch_size": 16})
            num_updates = options.num_updates or defaults["num_updates"]
            batch_size = options.batch_size or defaults["batch_size"]
            settings = DensityConfig(
                options.data or defaults["data"].format(corpus=corpus),
                hidden_size=options.hidden_size,
                num_components=options.num_components,
                num_updates=num_updates,
                batch_size=batch_size,
                eval_every=max(num_updates // 12, 1),
                patience=None,
            )
            command = (
                f"python -m benchmarks.density run {options.name} --seeds {options.seeds} --num_updates {num_updates}"
            )
            command += f" --hidden_size {options.hidden_size} --num_components {options.num_components}"
            command += f" --batch_size {batch_size}"
            command += "" if options.data is None else f" --data {shlex.quote(options.data)}"
            command += "" if options.models == list(MODELS) else f" --models {shlex.join(options.models)}"
            print(compare(options.name, settings, options.models, options.seeds, options.workers, command, out))
    except ValueError as error:
        console.print(f"benchmarks.density: {error}", style="red", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
