"""Compare densities of speech and images: every model with the same budget, on corpora that this command can make.

Start reading at `compare`.

python -m benchmarks.density make espeak-16k              # or font-digits; see benchmarks.density_corpora
python -m benchmarks.density run espeak-16k --seeds 3 --num_updates 250
python -m benchmarks.density run font-digits --seeds 3 --num_updates 600
python -m benchmarks.density run mine --data timit:/data/TIMIT --seeds 3 --num_updates 20000 --hidden_size 1000
python -m benchmarks.density run fashion --data mnist:/usr/share/datasets/fashion-mnist --models all --num_updates 60000 \
    --batch_size 32 --num_components 5 --eval_every 500 --patience 5 --num_decays 2 --learning_rates 3e-4 1e-3 3e-3
python -m benchmarks.density write espeak-16k             # only the page, from results.json

Corpora and trainings are in runs/density/NAME; the same command continues a stopped comparison. Page, picture and sounds
are written to --out (default: runs/density/NAME/page), numbers to docs/results/density-NAME. Debian packages: espeak-ng;
fonts-dejavu fonts-liberation fonts-freefont-ttf fonts-urw-base35 fonts-lato fonts-open-sans fonts-roboto.
"""

import argparse
import math
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.density_corpora import make_digits, make_speech
from benchmarks.density_tables import RESULTS, write_page
from worldmodel import TrainingDiverged, fit, seeded
from worldmodel.agents.config.fields import arguments_of
from worldmodel.agents.density import DensityConfig, evaluate_density, fit_density
from worldmodel.agents.progress import bar, console
from worldmodel.agents.runs.run_folder import Run
from worldmodel.corpora import open_corpus
from worldmodel.io.files import locked, read_json, read_jsonl, write_json
from worldmodel.io.migration import density_result
from worldmodel.registry import build
from worldmodel.rollouts.executors.workers import run_tasks

MODELS: dict[str, dict[str, Any]] = {
    "RNN-Gauss": {"model": "rnn-gauss", "num_components": None},
    "RMDN": {"model": "rmdn"},
    "RMDN, rank 2": {"model": "rmdn", "rank": 2},
    "FRMDN": {"model": "frmdn"},
    "VRNN-Gauss": {"model": "vrnn", "num_components": None},
    "VRNN-GMM": {"model": "vrnn-gmm"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "RMDN, whitened": {"model": "rmdn", "whiten": True},
    "RMDN, rank 8": {"model": "rmdn", "rank": 8},
    "RMDN, full": {"model": "rmdn", "full": True},
    "RMDN, 1 component": {"model": "rmdn", "num_components": 1},
    "RMDN, 5 components": {"model": "rmdn", "num_components": 5},
    "FRMDN, whitened": {"model": "frmdn", "whiten": True},
    "FRMDN, 1 coupling": {"model": "frmdn", "num_couplings": 1},
    "FRMDN, 4 couplings": {"model": "frmdn", "num_couplings": 4},
    "FRMDN, rank 2": {"model": "frmdn", "rank": 2},
    "FRMDN, conditional": {"model": "frmdn", "conditional": True},
    "FRMDN, spline": {"model": "frmdn", "spline": True},
    "Autoregressive": {"model": "autoregressive"},
}
"""Ablations and further rivals."""
TUNING_SEED = 1_000
SETTINGS: dict[str, dict[str, Any]] = {
    "espeak-16k": {"data": "audio:{corpus}", "num_updates": 250, "batch_size": 16},
    "font-digits": {"data": "mnist:{corpus}", "num_updates": 600, "batch_size": 32},
}
"""Kind, number of updates and batch size of each corpus."""
ALL_MODELS = MODELS | VARIANTS
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
    validations = read_jsonl(folder / "metrics.jsonl")
    result = {
        "job": job_json,
        "status": status,
        "seconds": Run(folder).timings()["fit"],
        "best_update": min(validations, key=lambda row: row["held_out"]["loss"])["update"],
        **asdict(evaluation),
    }
    write_json(folder / "result.json", result)
    return result


def tune_job(job: TrainingJob) -> float:
    """Train a model; return the lowest held-out loss, infinite if it diverges."""
    settings, folder = job.settings, Path(job.folder)
    corpus = open_corpus(settings.data, **settings.corpus_options)
    with seeded(settings.seed):
        model = build(
            settings.model, corpus.event_dim, settings.hidden_size, settings.bptt_length, **settings.model_options
        )
    try:
        fit(model, corpus.splits, **arguments_of(fit, settings) | {"split_seed": None}, out=folder)
    except TrainingDiverged:
        return math.inf
    return min(row["held_out"]["loss"] for row in read_jsonl(folder / "metrics.jsonl"))


def tuned(
    name: str, settings: DensityConfig, models: list[str], rates: list[float], num_updates: int, workers: int
) -> dict[str, float]:
    """Return the learning rate with which each model has the lowest held-out loss after a short training.

    Args:
        name: Name of the corpus.
        settings: Settings that all models share.
        models: Names of models.
        rates: Learning rates.
        num_updates: Number of gradient steps.
        workers: Number of trainings at the same time.
    """
    if len(rates) == 1:
        return dict.fromkeys(models, rates[0])
    short = replace(settings, seed=TUNING_SEED, num_updates=num_updates, eval_every=max(num_updates // 8, 1))
    short = replace(short, patience=None, num_decays=0)
    jobs = [
        TrainingJob(
            str(RUNS / name / "tuning" / f"{slug(model)}-{rate:g}"),
            model,
            replace(short, learning_rate=rate, **ALL_MODELS[model]),
        )
        for model in models
        for rate in rates
    ]
    losses = [math.inf] * len(jobs)
    with bar(f"learning rates of {name}", "trainings") as progress:
        for done, (index, loss) in enumerate(run_tasks(tune_job, jobs, workers), 1):
            losses[index] = loss
            progress(done, len(jobs), jobs[index].name)
    write_json(
        RUNS / name / "tuning.json",
        {f"{job.name}, {job.settings.learning_rate:g}": loss for job, loss in zip(jobs, losses, strict=True)},
    )
    found = dict[str, float]()
    for start, model in zip(range(0, len(jobs), len(rates)), models, strict=True):
        found[model] = rates[int(np.argmin(losses[start : start + len(rates)]))]
    return found


def slug(model: str) -> str:
    """Return the name of a model's folder."""
    return model.lower().replace(", ", "-").replace(" ", "")


def compare(
    name: str,
    settings: DensityConfig,
    rates: dict[str, float],
    seeds: int,
    workers: int,
    command: str,
    out: Path,
) -> Path:
    """Train every model with every seed, and write the page.

    Args:
        name: Name of the corpus.
        settings: Settings that all models share.
        rates: Learning rate of each model (`ALL_MODELS`).
        seeds: Number of trainings of each model.
        workers: Number of trainings at the same time.
        command: Command that the page shows.
        out: Path of the folder of the page.

    Returns:
        Path of the page.
    """
    jobs = [
        TrainingJob(
            str(RUNS / name / f"{slug(model)}-{seed}"),
            model,
            replace(settings, seed=seed, learning_rate=rate, **ALL_MODELS[model]),
        )
        for seed in range(1, seeds + 1)
        for model, rate in rates.items()
    ]
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
        choices=["all", *ALL_MODELS],
        default=list(MODELS),
        help=f"Names of the models to train (default: {', '.join(MODELS)}).",
    )
    parser.add_argument(
        "--learning_rates",
        type=float,
        nargs="+",
        default=[1e-3],
        help="Learning rates; of several, each model's best one on held-out data after --tuning_updates (default: 0.001).",
    )
    parser.add_argument("--test_speaker", help="Speaker of the test part of prompts.")
    for option, default, text in (
        ("seeds", 3, "Number of trainings of each model (default: 3)."),
        ("num_updates", None, "Number of gradient steps (default: that of the corpus, else 300)."),
        ("hidden_size", 256, "Number of hidden units (default: 256)."),
        ("num_components", 20, "Number of mixture components (default: 20)."),
        ("batch_size", None, "Number of sequences in a batch (default: that of the corpus, else 16)."),
        ("eval_every", None, "Number of updates between validations (default: a twelfth of the updates)."),
        ("patience", None, "Number of validations without a lower held-out loss after which a training stops."),
        (
            "num_decays",
            0,
            "Number of times that a used-up patience quarters the learning rate before it stops (default: 0).",
        ),
        (
            "tuning_updates",
            1_000,
            "Number of gradient steps of a training that chooses a learning rate (default: 1000).",
        ),
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
                eval_every=options.eval_every or max(num_updates // 12, 1),
                patience=options.patience,
                num_decays=options.num_decays,
                test_speaker=options.test_speaker,
            )
            models = list(ALL_MODELS) if "all" in options.models else options.models
            given = settings, models, options.learning_rates
            rates = tuned(options.name, *given, options.tuning_updates, options.workers)
            command = shlex.join(["python", "-m", "benchmarks.density", *(sys.argv[1:] if words is None else words)])
            print(compare(options.name, settings, rates, options.seeds, options.workers, command, out))
    except ValueError as error:
        console.print(f"benchmarks.density: {error}", style="red", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
