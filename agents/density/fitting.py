"""Learn a density of speech or images on one run folder, and judge what was learned."""

import os
from dataclasses import replace

import torch

from agents.config.provenance import save_config
from agents.config.schema import training
from agents.density.config import DensityConfig, validate_density
from agents.density.evaluation import Evaluation, evaluate_model
from agents.density.runs import load_density, open_data, open_moved, own_part
from agents.density.training_summary import TrainingSummary, event_name
from agents.run import Run
from worldmodel import distributed, fit, seeded
from worldmodel.corpora import open_corpus
from worldmodel.io import write_json
from worldmodel.paths import folder_path
from worldmodel.progress import Progress, silent
from worldmodel.registry import build, validate_fits_in_ram
from worldmodel.validation import validate_positive_int

SAMPLES = 16
"""Of a VRNN's latents, for its importance estimate."""
MOST_SAMPLES = 10_000
"""More would take hours without a word."""


def fit_density(
    settings: DensityConfig, out: str | os.PathLike[str], progress: Progress = silent, report: bool = True
) -> Evaluation:
    """Learn a density, judge it on the test part, and write numbers and a report.

    Args:
        settings: model, corpus and training.
        out: the run folder; the same call continues a stopped training; a finished one is only judged again.
        progress: called as ``progress(update, updates, note)``.
        report: whether to write ``report.html``, for which samples are drawn.

    Returns:
        The evaluation of the test part, which is in ``out/results.json`` too.

    Raises:
        ValueError: a setting is out of range, the corpus is missing, or ``out`` belongs to another configuration.
        TrainingDiverged: the loss became NaN or infinite.
    """
    validate_density(settings)
    run = Run(folder_path(out, "out"))
    opened = open_corpus(settings.data, **settings.corpus_options)  # before a folder is made
    sizes = (settings.model, opened.event_dim, settings.hidden_size, settings.bptt_length)
    with torch.device("meta"):
        validate_fits_in_ram(build(*sizes, **settings.model_options))
    with seeded(settings.seed):
        model = build(*sizes, **settings.model_options)
    with run.locked():
        if distributed.is_main_process():
            save_config(settings, run.folder / "config.yaml", may_grow=("num_updates",))
        corpus = open_data(settings, run.folder)
        with run.stage("learn"):
            fit(
                model,
                corpus.splits,
                **training(settings),
                seed=settings.seed,
                eval_every=settings.eval_every,
                out=run.folder,
                progress=progress,
            )
        if distributed.is_main_process():  # not before: `fit` refuses a folder whose weights belong to another corpus
            write_json(run.folder / "corpus.json", corpus.describe())
        with run.stage("judge"):
            evaluation = evaluate_model(model, settings.model, corpus, "test", SAMPLES)
            evaluation = replace(evaluation, learned=_learned(run.folder, settings))
        if distributed.is_main_process():
            evaluation.save(run.folder / "results.json", seconds=run.timings())
            if report:
                from agents.density.report import write_density_report  # films and plots: slow to import

                write_density_report(run, settings, evaluation, corpus)
    return evaluation


def _learned(folder: str | os.PathLike[str], settings: DensityConfig) -> tuple[str, ...]:
    """Sentences on a run's training."""
    learning = TrainingSummary.of(folder)
    return tuple(learning.sentences(event_name(settings.kind, settings.pixelwise))) if learning else ()


def evaluate_density(
    folder: str | os.PathLike[str],
    part: str = "test",
    samples: int = SAMPLES,
    data: str | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Judge a learned density: its mean log-likelihood over whole sequences.

    Another corpus of its kind is allowed, as long as recordings are standardised by the same training part; the evaluation
    says so then, and names both.

    Args:
        folder: of `fit_density`.
        part: "test", "held_out" or "train".
        samples: of a VRNN's latents, for its importance estimate.
        data: KIND:FOLDER, where the corpus lies now, or another one; None: where it was learned from.
        progress: called as ``progress(sequences, all of them, "")``.

    Raises:
        ValueError: there is no learned density, no such part, or the corpus is missing or of another kind.
    """
    if part not in ("test", "held_out", "train"):
        raise ValueError(f"part must be one of test, held_out, train, got {part!r}")
    validate_positive_int(samples=samples)
    if samples > MOST_SAMPLES:
        raise ValueError(f"samples must be at most {MOST_SAMPLES}, got {samples}")
    model, settings = load_density(folder)
    corpus = open_moved(settings, folder, model, data)
    own = own_part(folder, part, getattr(corpus, part).identity)
    judged = evaluate_model(model, settings.model, corpus, part, samples, progress)
    return replace(judged, own=own, learned=_learned(folder, settings))
