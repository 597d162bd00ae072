"""Training and evaluation of a density of speech or images on one run folder.

Start reading at `fit_density`.
"""

import os
from dataclasses import replace

import torch

from worldmodel import fit, seeded
from worldmodel.agents.config.fields import arguments_of
from worldmodel.agents.config.provenance import save_config
from worldmodel.agents.density.config import DensityConfig, validate_density
from worldmodel.agents.density.evaluation import Evaluation, evaluate_model
from worldmodel.agents.density.runs import load_density, open_matching_corpus, open_run_corpus, original_identity
from worldmodel.agents.density.training_summary import TrainingSummary
from worldmodel.agents.runs.run_folder import Run
from worldmodel.corpora import open_corpus
from worldmodel.io.files import write_json
from worldmodel.io.paths import folder_path
from worldmodel.registry import build, validate_fits_in_ram
from worldmodel.training import distributed
from worldmodel.training.progress import Progress, silent
from worldmodel.validation import validate_positive_int

SAMPLES = 16
"""Default number of latent samples for the importance estimate of a VRNN."""
MAX_SAMPLES = 10_000
"""Largest number of latent samples: more take hours without any progress report."""


def fit_density(
    settings: DensityConfig, out: str | os.PathLike[str], progress: Progress = silent, report: bool = True
) -> Evaluation:
    """Train a density, evaluate it on the test part, and write the results and a report.

    The same call continues a stopped training. For a finished training it only repeats the evaluation.

    Args:
        settings: Model, corpus and training.
        out: Path of the run folder.
        progress: Callback ``progress(update, num_updates, note)``.
        report: Whether to write ``report.html``, for which samples are drawn.

    Returns:
        The evaluation on the test part, which is also in ``out/results.json``.

    Raises:
        ValueError: a setting is out of range, the corpus is missing, or ``out`` belongs to another configuration.
        TrainingDiverged: the loss became NaN or infinite.
    """
    validate_density(settings)
    run = Run(folder_path(out, "out"))
    opened = open_corpus(settings.data, **settings.corpus_options)  # an error leaves no run folder
    sizes = (settings.model, opened.event_dim, settings.hidden_size, settings.bptt_length)
    with torch.device("meta"):
        validate_fits_in_ram(build(*sizes, **settings.model_options))
    with seeded(settings.seed):
        model = build(*sizes, **settings.model_options)
    with run.locked():
        if distributed.is_main_process():
            save_config(settings, run.folder / "config.yaml", may_grow=("num_updates",))
        corpus = open_run_corpus(settings, run.folder)
        with run.stage("fit"):
            fit(
                model,
                corpus.splits,
                **arguments_of(fit, settings) | {"split_seed": None},  # the corpus is split already
                out=run.folder,
                progress=progress,
            )
        if distributed.is_main_process():  # after `fit`, which refuses a folder with weights of another corpus
            write_json(run.folder / "corpus.json", corpus.describe())
        with run.stage("evaluate"):
            evaluation = evaluate_model(model, settings.model, corpus, "test", SAMPLES)
            evaluation = replace(evaluation, training_summary=_training_sentences(run.folder, settings))
        if distributed.is_main_process():
            evaluation.save(run.folder / "results.json", seconds=run.timings())
            if report:
                from worldmodel.agents.density.report import write_density_report  # video and plots are slow to import

                write_density_report(run, settings, evaluation, corpus)
    return evaluation


def _training_sentences(folder: str | os.PathLike[str], settings: DensityConfig) -> tuple[str, ...]:
    """Return the sentences about a run's training."""
    summary = TrainingSummary.from_run(folder)
    return tuple(summary.sentences(settings.event_name)) if summary else ()


def evaluate_density(
    folder: str | os.PathLike[str],
    part: str = "test",
    samples: int = SAMPLES,
    data: str | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate a trained density: the mean log-likelihood of whole sequences.

    The density can be evaluated on another corpus of the same kind, if recordings are standardised by the same training
    part. The evaluation then names both corpora.

    Args:
        folder: Path of the run folder of `fit_density`.
        part: Part of the corpus: "test", "held_out" or "train".
        samples: Number of latent samples for the importance estimate of a VRNN.
        data: KIND:FOLDER of the corpus, if it has moved or is another one. None: that of the run.
        progress: Callback ``progress(sequences, total, "")``.

    Returns:
        The evaluation.

    Raises:
        ValueError: the folder has no trained density, ``part`` or ``samples`` is invalid, or the corpus is missing or of
            another kind.
    """
    if part not in ("test", "held_out", "train"):
        raise ValueError(f"part must be one of test, held_out, train, got {part!r}")
    validate_positive_int(samples=samples)
    if samples > MAX_SAMPLES:
        raise ValueError(f"samples must be at most {MAX_SAMPLES}, got {samples}")
    model, settings = load_density(folder)
    corpus = open_matching_corpus(settings, folder, model, data)
    training_identity = original_identity(folder, part, getattr(corpus, part).identity)
    evaluation = evaluate_model(model, settings.model, corpus, part, samples, progress)
    return replace(
        evaluation, training_identity=training_identity, training_summary=_training_sentences(folder, settings)
    )
