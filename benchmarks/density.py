"""Compare densities of speech and images on real data: every model is trained until its held-out loss stops improving.

Start reading at `compare`.

python -m benchmarks.density run fashion-mnist     # apt-get install dataset-fashion-mnist
python -m benchmarks.density run prompts           # apt-get install asterisk-core-sounds-{en,es,fr,it,ru}-g722
python -m benchmarks.density run new-speaker       # the same recordings, with one speaker as the test part
python -m benchmarks.density run photographs       # python -m benchmarks.photographs runs/density/corpora/photographs
python -m benchmarks.density run mine --data timit:/data/TIMIT --hidden_size 1000
python -m benchmarks.density write fashion-mnist   # only the page

Each model has its learning rate chosen on held-out data. When a training's held-out loss has not improved for --patience
validations, its learning rate is quartered; after --num_decays times, it stops. Trainings are in runs/density/NAME; the same
command continues a stopped comparison, with --models also a part of it. The page, index.html, with learning curves, pictures
and sounds is written to --out (default: runs/density/NAME/page), numbers to docs/results/density-NAME.json.
"""

import argparse
import bisect
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.density_tables import RESULTS, keep, write_page
from worldmodel import TrainingDiverged, fit, seeded
from worldmodel.agents.config.fields import arguments_of
from worldmodel.agents.density import DensityConfig, evaluate_density, fit_density
from worldmodel.agents.density.config import IMAGES
from worldmodel.agents.progress import bar, console
from worldmodel.agents.runs.run_folder import Run
from worldmodel.corpora import open_corpus
from worldmodel.io.files import locked, read_json, read_jsonl, write_json
from worldmodel.registry import build
from worldmodel.rollouts.executors.workers import run_tasks

MODELS: dict[str, dict[str, Any]] = {
    "RNN-Gauss": {"model": "rnn-gauss", "num_components": None},
    "RMDN": {"model": "rmdn"},
    "RMDN, whitened": {"model": "rmdn", "whiten": True},
    "FRMDN": {"model": "frmdn"},
    "FRMDN, whitened": {"model": "frmdn", "whiten": True},
    "FRMDN, alternating": {"model": "frmdn", "alternating": True},
    "FRMDN, alternating, 8 couplings": {"model": "frmdn", "alternating": True, "num_couplings": 8},
    "VRNN-Gauss": {"model": "vrnn", "num_components": None},
    "VRNN-GMM": {"model": "vrnn-gmm"},
    "Autoregressive": {"model": "autoregressive"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "RMDN, rank 2": {"model": "rmdn", "rank": 2},
    "RMDN, rank 8": {"model": "rmdn", "rank": 8},
    "RMDN, full": {"model": "rmdn", "full": True},
    "RMDN, 1 component": {"model": "rmdn", "num_components": 1},
    "RMDN, 20 components": {"model": "rmdn", "num_components": 20},
    "FRMDN, 1 component": {"model": "frmdn", "num_components": 1},
    "FRMDN, 20 components": {"model": "frmdn", "num_components": 20},
    "FRMDN, 1 coupling": {"model": "frmdn", "num_couplings": 1},
    "FRMDN, 4 couplings": {"model": "frmdn", "num_couplings": 4},
    "FRMDN, rank 2": {"model": "frmdn", "rank": 2},
    "FRMDN, conditional": {"model": "frmdn", "conditional": True},
    "FRMDN, spline": {"model": "frmdn", "spline": True},
    "FRMDN, alternating, 4 couplings": {"model": "frmdn", "alternating": True, "num_couplings": 4},
    "FRMDN, alternating, conditional": {"model": "frmdn", "alternating": True, "conditional": True},
    "FRMDN, alternating, spline": {"model": "frmdn", "alternating": True, "spline": True},
}
"""Ablations."""
MATCHED = {f"{name}, as large as FRMDN": MODELS[name] for name in MODELS if not name.startswith("FRMDN")}
"""Rivals with as many parameters as the FRMDN, by their number of recurrent units."""
ALL_MODELS = MODELS | VARIANTS | MATCHED
TUNING_SEED = 1_000
MAX_HIDDEN_SIZE = 16_384
"""Bound of the sizes that `matching_size` tries."""
RUNS = Path("runs") / "density"
PROMPTS = "prompts:/usr/share/asterisk/sounds"
COMPARISONS: dict[str, dict[str, Any]] = {
    "fashion-mnist": {"data": "mnist:/usr/share/datasets/fashion-mnist"},
    "prompts": {"data": PROMPTS},
    "new-speaker": {"data": PROMPTS, "test_speaker": "fr_CA_f_June"},
    "photographs": {"data": f"cifar10:{(RUNS / 'corpora' / 'photographs').as_posix()}"},
}
"""Settings of the comparisons with a name of their own."""


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
        result: dict[str, Any] = read_json(folder / "result.json")
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
        "last_update": validations[-1]["update"],
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


def settings_of(model: str, shared: DensityConfig) -> DensityConfig:
    """Return the settings of a model of `ALL_MODELS`, given those that all models share."""
    settings = replace(shared, **ALL_MODELS[model])
    if model not in MATCHED:
        return settings
    event_dim = open_corpus(shared.data, **shared.corpus_options).event_dim
    wanted = num_parameters(replace(shared, **MODELS["FRMDN"]), event_dim)
    size = matching_size(wanted, lambda size: num_parameters(replace(settings, hidden_size=size), event_dim))
    return replace(settings, hidden_size=size)


def matching_size(wanted: int, count: Callable[[int], int]) -> int:
    """Return the smallest hidden size whose number of parameters, ``count(size)``, is at least ``wanted``."""
    sizes = range(1, MAX_HIDDEN_SIZE)
    return sizes[bisect.bisect_left(sizes, wanted, key=count)]


def num_parameters(settings: DensityConfig, event_dim: int) -> int:
    """Return the number of parameters of a model."""
    with torch.device("meta"):
        model = build(settings.model, event_dim, settings.hidden_size, settings.bptt_length, **settings.model_options)
    return sum(parameter.numel() for parameter in model.parameters())


def tuned(
    name: str, jobs: dict[str, DensityConfig], rates: list[float], num_updates: int, workers: int
) -> dict[str, DensityConfig]:
    """Return the settings of each model with the learning rate of the lowest held-out loss after a short training.

    Args:
        name: Name of the corpus.
        jobs: Settings of each model.
        rates: Learning rates.
        num_updates: Number of gradient steps.
        workers: Number of trainings at the same time.
    """
    if len(rates) == 1:
        return {model: replace(settings, learning_rate=rates[0]) for model, settings in jobs.items()}
    short = {
        "seed": TUNING_SEED,
        "num_updates": num_updates,
        "eval_every": max(num_updates // 8, 1),
        "patience": None,
        "num_decays": 0,
    }
    tasks = [
        TrainingJob(
            str(RUNS / name / "tuning" / f"{slug(model)}-{rate:g}"),
            model,
            replace(settings, **short, learning_rate=rate),
        )
        for model, settings in jobs.items()
        for rate in rates
    ]
    losses = [math.inf] * len(tasks)
    with bar(f"learning rates of {name}", "trainings") as progress:
        for done, (index, loss) in enumerate(run_tasks(tune_job, tasks, workers), 1):
            losses[index] = loss
            progress(done, len(tasks), tasks[index].name)
    path = RUNS / name / "tuning.json"
    before = read_json(path) if path.exists() else {}  # of other models
    now = {f"{task.name}, {task.settings.learning_rate:g}": loss for task, loss in zip(tasks, losses, strict=True)}
    write_json(path, before | now)
    best = {
        model: rates[int(np.argmin(losses[start : start + len(rates)]))]
        for start, model in zip(range(0, len(tasks), len(rates)), jobs, strict=True)
    }
    return {model: replace(settings, learning_rate=best[model]) for model, settings in jobs.items()}


def slug(model: str) -> str:
    """Return the name of a model's folder."""
    return model.lower().replace(", ", "-").replace(" ", "")


def compare(name: str, models: dict[str, DensityConfig], seeds: int, workers: int, command: str, out: Path) -> Path:
    """Train every model with every seed, and write the page.

    Args:
        name: Name of the corpus.
        models: Settings of each model.
        seeds: Number of trainings of each model.
        workers: Number of trainings at the same time.
        command: Command that the page shows.
        out: Path of the folder of the page.

    Returns:
        Path of the page.
    """
    jobs = [
        TrainingJob(str(RUNS / name / f"{slug(model)}-{seed}"), model, replace(settings, seed=seed))
        for seed in range(1, seeds + 1)
        for model, settings in models.items()
    ]
    with locked(RUNS / name), bar(f"densities of {name}", "trainings") as progress:
        progress(0, len(jobs), "")
        for done, (index, _) in enumerate(run_tasks(run_job, jobs, workers), 1):
            progress(done, len(jobs), jobs[index].name)
    finished = [read_json(path) for path in (RUNS / name).glob("*/result.json")]  # also of earlier calls
    finished.sort(key=lambda result: ([*ALL_MODELS].index(result["job"]["name"]), result["job"]["seed"]))
    keep(RESULTS / f"density-{name}.json", finished, command)
    return write_page(name, RUNS / name, out)


def parser_of_commands() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "write"), help="Compare, or write only the page.")
    parser.add_argument("name", help=f"{', '.join(COMPARISONS)}, or any name with --data.")
    parser.add_argument("--data", help="KIND:FOLDER of another corpus (worldmodel density fit --help).")
    parser.add_argument("--out", type=Path, help="Path of the folder of the page (default: runs/density/NAME/page).")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=["all", *ALL_MODELS],
        default=list(MODELS),
        metavar="MODEL",
        help=f"Names of the models to train, all or of: {'; '.join(ALL_MODELS)} (default: {'; '.join(MODELS)}).",
    )
    parser.add_argument(
        "--learning_rates",
        type=float,
        nargs="+",
        default=[3e-4, 1e-3, 3e-3],
        metavar="RATE",
        help="Learning rates; of several, each model's best on held-out data after --tuning_updates (default: 3e-4 1e-3 3e-3).",
    )
    parser.add_argument("--test_speaker", help="Speaker of the test part of prompts.")
    for option, default, text in (
        ("seeds", 3, "Number of trainings of each model (default: 3)."),
        ("num_updates", 60_000, "Largest number of gradient steps (default: 60000)."),
        ("hidden_size", 256, "Number of hidden units (default: 256)."),
        ("num_components", 5, "Number of mixture components (default: 5)."),
        ("batch_size", None, "Number of sequences in a batch (default: 32 images or 16 segments of speech)."),
        ("eval_every", 500, "Number of updates between validations (default: 500)."),
        ("patience", 3, "Number of validations without a lower held-out loss that use up the patience (default: 3)."),
        ("num_decays", 3, "Number of times that a used-up patience quarters the learning rate (default: 3)."),
        ("tuning_updates", 1_500, "Number of gradient steps that choose a learning rate (default: 1500)."),
        ("workers", 2, "Number of trainings at the same time (default: 2)."),
    ):
        parser.add_argument(f"--{option}", type=int, default=default, help=text)
    return parser


def main(words: list[str] | None = None) -> int:
    """Run a comparison or write a page; return the exit code."""
    options = parser_of_commands().parse_args(words)
    out = options.out or RUNS / options.name / "page"
    try:
        if options.what == "write":
            print(write_page(options.name, RUNS / options.name, out))
            return 0
        corpus = dict(COMPARISONS.get(options.name, {}))
        corpus |= {name: getattr(options, name) for name in ("data", "test_speaker") if getattr(options, name)}
        if "data" not in corpus:
            raise ValueError(f"name must be one of {', '.join(COMPARISONS)}, or have --data, got {options.name!r}")
        named = ("hidden_size", "num_components", "num_updates", "eval_every", "patience", "num_decays")
        images = corpus["data"].partition(":")[0] in IMAGES
        batch_size = options.batch_size or (32 if images else 16)
        given = {name: getattr(options, name) for name in named}
        shared = DensityConfig(**corpus, batch_size=batch_size, alternating=False, **given)
        chosen = list(ALL_MODELS) if "all" in options.models else options.models
        models = {model: settings_of(model, shared) for model in chosen}
        models = tuned(options.name, models, options.learning_rates, options.tuning_updates, options.workers)
        command = shlex.join(["python", "-m", "benchmarks.density", *(sys.argv[1:] if words is None else words)])
        print(compare(options.name, models, options.seeds, options.workers, command, out))
    except ValueError as error:
        console.print(f"benchmarks.density: {error}", style="red", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
