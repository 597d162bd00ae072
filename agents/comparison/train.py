"""Training of memory variants on the same episodes with the same budget, and their evaluation on held-out episodes.

Start reading at `compare`; `agents.analysis.metrics` evaluates. Each training is one task (`learn`) and saves its result
beside its weights, so a stopped comparison resumes.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldmodel import Memory, TrainingDiverged, WorldModel, fit, seeded
from worldmodel.agents.analysis.metrics import evaluate_calibration, evaluate_dreams, evaluate_memory
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io import migration
from worldmodel.io.files import error_context, locked, read_json, write_json
from worldmodel.registry import build_memory
from worldmodel.rollouts.executors.workers import Shared, run_tasks, share
from worldmodel.rollouts.store.datasets import Sequences, split_episodes
from worldmodel.rollouts.store.encoded_dataset import EncodedDataset
from worldmodel.training.progress import Progress, silent
from worldmodel.validation import validate_positive_int

VARIANTS: dict[str, dict[str, Any]] = {
    "RMDN": {"model": "rmdn"},
    "RMDN, rank 4": {"model": "rmdn", "rank": 4},
    "RMDN, full": {"model": "rmdn", "full": True},
    "RMDN per dimension": {"model": "per-dimension"},
    "FRMDN": {},
    "FRMDN, rank 4": {"rank": 4},
    "FRMDN, conditional": {"conditional": True},
    "FRMDN, spline": {"spline": True},
    "FRMDN, spline, conditional": {"spline": True, "conditional": True},
}
"""Models with their arguments. Defaults: K = 5 joint mixture components, LSTM-256, two couplings."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "FRMDN, 1 coupling": {"num_couplings": 1},
    "FRMDN, 3 couplings": {"num_couplings": 3},
    "FRMDN, 4 couplings": {"num_couplings": 4},
    "FRMDN, K = 1": {"num_components": 1},
    "FRMDN, K = 16": {"num_components": 16},
    "FRMDN, K = 32": {"num_components": 32},
    "RMDN, K = 1": {"model": "rmdn", "num_components": 1},
    "RMDN, K = 32": {"model": "rmdn", "num_components": 32},
    "RMDN, rank 1": {"model": "rmdn", "rank": 1},
    "RMDN, rank 8": {"model": "rmdn", "rank": 8},
    "FRMDN, no memory": {"memoryless": True},
    "FRMDN, untrained": {"untrained": True},
}
"""Variations of the models."""
REFERENCE = "RMDN"
"""The variant that all others are compared with."""
DETAILED_VARIANTS = ("RMDN", "RMDN, full", "FRMDN", "FRMDN, rank 4", "FRMDN, conditional", "FRMDN, no memory")
"""Variants whose calibration and dreams are also measured."""
MODELS = {"rmdn": "RMDN", "frmdn": "FRMDN", "per-dimension": "PerDimensionRMDN"}
TARGETS = ("mean", "sample")
HELD_OUT = 0.2
"""Fraction of episodes that are held out."""
MOST_SEEDS = 1_000
"""Maximal number of trainings of a variant."""


class TrainingJob(NamedTuple):
    """A task of a worker: train and evaluate one variant with one seed."""

    run: str
    name: str
    settings: dict[str, Any]
    latent_targets: str
    seed: int
    num_updates: int
    batch_size: int
    seq_len: int
    data: dict[str, Any]
    """Identity of the episodes and their VAE (`rollouts.store.encoded_dataset.EncodedDataset.identity`)."""

    @property
    def folder(self) -> Path:
        """Path of the folder of the training and its result."""
        slug = (
            f"{self.name}-{self.latent_targets}-{self.seed}".replace(", ", "-")
            .replace(" = ", "")
            .replace(" ", "-")
            .lower()
        )
        return Path(self.run) / "compare" / slug

    @property
    def to_json(self) -> dict[str, Any]:
        """The job as the result file holds it, without the path of the run, because a run folder can move."""
        return {**self._asdict(), "run": ""}


def compare(
    run: Run,
    out: Path,
    variants: dict[str, dict[str, Any]],
    seeds: int = 3,
    num_updates: int = 3_000,
    batch_size: int = 16,
    seq_len: int = 32,
    latent_targets: tuple[str, ...] = TARGETS,
    workers: int = 2,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Train and evaluate each variant with each seed, and save the results in ``out/results.json``.

    Args:
        run: Run with the rollouts and the VAE; a fifth of the episodes is held out.
        out: Path of the folder of the results: new, empty, or from an earlier comparison. The run's folder ``compare`` holds
            the trainings.
        variants: Arguments of `RMDN` or `FRMDN` (and ``model``, ``memoryless``, ``untrained``) by name.
        seeds: Number of trainings of each variant.
        num_updates: Number of gradient steps of each training.
        batch_size: Number of sequences in a batch.
        seq_len: Number of steps of a sequence.
        latent_targets: Kinds of targets of training and evaluation: "mean" of the posterior, "sample" from it, or both.
        workers: Number of worker processes, with one thread each.
        progress: Function that is called as ``progress(trainings done, trainings, note)``.

    Returns:
        The results, one for each training.

    Raises:
        ValueError: An argument is out of range, the run has no rollouts or no VAE, ``out`` contains other files, or
            ``compare`` contains results with other settings, episodes or another VAE.
    """
    validate_positive_int(seeds=seeds, num_updates=num_updates, batch_size=batch_size, seq_len=seq_len, workers=workers)
    if seeds > MOST_SEEDS:
        raise ValueError(f"seeds must be at most {MOST_SEEDS}, got {seeds}")
    if not variants or not latent_targets:
        raise ValueError(
            f"variants and latent_targets must not be empty, got {list(variants)} and {list(latent_targets)}"
        )
    folder = run.folder / "compare"
    _validate_out(out, folder)
    vae = run.vae()
    latents = run.store().latents(vae)
    _split(latents)
    jobs = [
        TrainingJob(str(run.folder), name, settings, kind, seed, num_updates, batch_size, seq_len, latents.identity)
        for seed in range(seeds)
        for kind in latent_targets
        for name, settings in variants.items()
    ]
    with locked(folder), tempfile.TemporaryDirectory() as aside:
        results = {index: saved for index, job in enumerate(jobs) if (saved := _saved_result(job)) is not None}
        remaining = [index for index in range(len(jobs)) if index not in results]
        # all jobs share one VAE and one list of episodes, even if the run changes meanwhile
        task = partial(learn, data=share((vae, latents), "data", Path(aside), workers, "loky"))
        progress(len(results), len(jobs), "")
        for number, result in run_tasks(task, [jobs[index] for index in remaining], workers):
            job = jobs[remaining[number]]
            results[remaining[number]] = result
            progress(len(results), len(jobs), f"{job.name}, {job.latent_targets}")
        ordered = [results[index] for index in range(len(jobs))]
        write_json(out / "results.json", ordered)
    return ordered


def _validate_out(out: Path, own: Path) -> None:
    """Raise an error if a folder has other content than a comparison.

    Args:
        out: Path of the folder.
        own: Path of the run's folder ``compare``, which contains a lock before any results.

    Raises:
        ValueError: The folder has other content, or is a file.
    """
    if out.is_file():
        raise ValueError(f"out must be a folder, got the file {out}")
    started = out.resolve() == own.resolve() and (out / ".lock").exists()
    if out.exists() and any(out.iterdir()) and not started and not _is_comparison(out / "results.json"):
        raise ValueError(f"out must be an empty folder or an earlier comparison, got {out}: use another folder")


def _is_comparison(path: Path) -> bool:
    """Return whether a file contains results of `compare`."""
    try:
        with error_context(path):
            rows = read_json(path)
            return bool(rows) and all(
                migration.comparison_result(row)["job"]["latent_targets"] in TARGETS for row in rows
            )
    except ValueError:
        return False


def _saved_result(job: TrainingJob) -> dict[str, Any] | None:
    """Return the result of an earlier call; None: there is none.

    Raises:
        ValueError: The earlier call had other settings or other data.
    """
    path = job.folder / "result.json"
    if not path.exists():
        return None
    with error_context(path):
        result = migration.comparison_result(read_json(path))
        before = result["job"]
        for name, value in job.to_json.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{job.folder} holds a comparison with {name} = {before.get(name)!r}, asked for {value!r}: use the same "
                    f"settings and data, or remove {job.folder.parent} to start again"
                )
    return result


def _split(latents: EncodedDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training episodes and of the held-out ones."""
    return split_episodes(np.array([index for index, steps in enumerate(latents.lengths) if steps]), HELD_OUT, 0)


def learn(job: TrainingJob, data: Shared) -> dict[str, Any]:
    """Train a variant, evaluate it on the held-out episodes, and save the result.

    Args:
        job: Training to run.
        data: VAE and encoded store of ``job.data``.
    """
    vae, latents = data.get()
    training, test = _split(latents)
    memoryless, untrained = (bool(job.settings.get(name)) for name in ("memoryless", "untrained"))
    memory = build(job.settings, vae.latent_dim, latents.store.action_dim, job.seed)
    sequences = Sequences(latents, 1 if memoryless else job.seq_len, job.latent_targets, training)
    start_time, status = time.monotonic(), "trained"
    if untrained:
        status = "untrained"
        memory.init_from_data(sequences.batch(64, np.random.default_rng(job.seed)))
    else:
        batch = job.batch_size * job.seq_len if memoryless else job.batch_size
        try:
            fit(
                memory,
                sequences,
                num_updates=job.num_updates,
                batch_size=batch,
                seed=job.seed,
                out=job.folder,
                tensorboard=False,
            )
        except TrainingDiverged as error:
            status = str(error)
    result = {
        "job": job.to_json,
        "status": status,
        "seconds": round(time.monotonic() - start_time, 1),
        "latent": vae.latent_dim,
        "parameters": sum(parameter.numel() for parameter in memory.parameters()),
        **evaluate_memory(memory.eval(), latents, test, job.latent_targets, memoryless),
    }
    if job.name in DETAILED_VARIANTS:
        result["calibration"] = evaluate_calibration(memory, latents, test, job.latent_targets, memoryless)
        if not memoryless:
            result["dreams"] = evaluate_dreams(WorldModel(vae, memory, latents.store), latents, test)
    write_json(job.folder / "result.json", result)
    return result


def build(settings: dict[str, Any], latent_dim: int, action_dim: int, seed: int) -> Memory:
    """Return the memory of a variant with new weights."""
    density = {name: value for name, value in settings.items() if name not in ("model", "memoryless", "untrained")}
    density |= {
        "density": MODELS[settings.get("model", "frmdn")],
        "input_size": latent_dim + action_dim,
        "output_size": latent_dim,
    }
    with seeded(seed):
        return build_memory(density)
