"""Memories compared: every variant trained on the same episodes with the same budget, and judged on others.

Start reading at `compare`; `agents.comparison.metrics` measures. Each training is a task of its own (`learn`) and keeps its
result beside its weights, so a comparison that was stopped goes on where it was.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.comparison.metrics import evaluate_calibration, evaluate_dreams, evaluate_memory
from agents.run import Run
from rollouts.datasets import Sequences, split_episodes
from rollouts.encoded_dataset import EncodedDataset
from rollouts.workers import Shared, run_tasks, share
from worldmodel import Memory, TrainingDiverged, WorldModel, fit, migration, seeded
from worldmodel.io import error_context, locked, read_json, write_json
from worldmodel.progress import Progress, silent
from worldmodel.registry import build_memory
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
"""The models; K = 5 joint mixtures, LSTM-256, two couplings where nothing else is said."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "FRMDN, 1 coupling": {"couplings": 1},
    "FRMDN, 3 couplings": {"couplings": 3},
    "FRMDN, 4 couplings": {"couplings": 4},
    "FRMDN, K = 1": {"mixtures": 1},
    "FRMDN, K = 16": {"mixtures": 16},
    "FRMDN, K = 32": {"mixtures": 32},
    "RMDN, K = 1": {"model": "rmdn", "mixtures": 1},
    "RMDN, K = 32": {"model": "rmdn", "mixtures": 32},
    "RMDN, rank 1": {"model": "rmdn", "rank": 1},
    "RMDN, rank 8": {"model": "rmdn", "rank": 8},
    "RMDN, rank 4, shared": {"model": "rmdn", "rank": 4, "shared": True},
    "FRMDN, GRU": {"cell": "gru"},
    "FRMDN, no memory": {"memoryless": True},
    "FRMDN, untrained": {"untrained": True},
}
REFERENCE = "RMDN"
DETAILED_VARIANTS = ("RMDN", "RMDN, full", "FRMDN", "FRMDN, rank 4", "FRMDN, conditional", "FRMDN, no memory")
"""Of these calibration and dreams are measured too."""
MODELS = {"rmdn": "RMDN", "frmdn": "FRMDN", "per-dimension": "PerDimensionRMDN"}
TARGETS = ("mean", "sample")
HELD_OUT = 0.2
MOST_SEEDS = 1_000
"""Trainings of each variant: more would take months."""


class TrainingJob(NamedTuple):
    """A task for a worker: train one variant once, and judge it."""

    run: str
    name: str
    settings: dict[str, Any]
    latent_targets: str
    seed: int
    num_updates: int
    batch_size: int
    seq_len: int
    data: str
    """Which episodes, encoded by which VAE (`rollouts.encoded_dataset.EncodedDataset.identity`)."""

    @property
    def folder(self) -> Path:
        """Where its training and its result are kept."""
        slug = (
            f"{self.name}-{self.latent_targets}-{self.seed}".replace(", ", "-")
            .replace(" = ", "")
            .replace(" ", "-")
            .lower()
        )
        return Path(self.run) / "compare" / slug

    @property
    def to_json(self) -> dict[str, Any]:
        """What its result says of it; a run folder may be moved."""
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
    """Train and judge every variant with every seed; returns their results, and keeps them in ``out/results.json``.

    Args:
        run: its rollouts, as many as there are now, are encoded by its VAE; a fifth of the episodes is never trained on.
        out: where results go, a new or empty folder or one of an earlier comparison; trainings stay in the run folder, in
            ``compare``.
        variants: names, with arguments of `RMDN` or `FRMDN` (and ``model``, ``memoryless``, ``untrained``).
        seeds: trainings of each variant.
        num_updates: gradient steps of each training.
        batch_size: sequences a step.
        seq_len: steps of a sequence.
        latent_targets: next latents that are learned and judged: "mean" of the posterior, or "sample"s of it.
        workers: processes, with one thread each.
        progress: called as ``progress(trainings done, trainings, note)``.

    Raises:
        ValueError: an argument is out of range, the run has no rollouts or no VAE, ``out`` holds something else, or
            ``compare`` results of other settings, episodes or of another VAE.
    """
    validate_positive_int(seeds=seeds, num_updates=num_updates, batch_size=batch_size, seq_len=seq_len, workers=workers)
    if seeds > MOST_SEEDS:
        raise ValueError(f"seeds must be at most {MOST_SEEDS}, got {seeds}")
    if not variants or not latent_targets:
        raise ValueError(
            f"variants and targets must name at least one each, got {list(variants)} and {list(latent_targets)}"
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
        results = {index: before for index, job in enumerate(jobs) if (before := _found(job)) is not None}
        left = [index for index in range(len(jobs)) if index not in results]
        # one VAE and one list of episodes for all, whatever is trained or collected beside
        learned = partial(learn, seen=share((vae, latents), "seen", Path(aside), workers, "loky"))
        progress(len(results), len(jobs), "")
        for place, result in run_tasks(learned, [jobs[index] for index in left], workers):
            job = jobs[left[place]]
            results[left[place]] = result
            progress(len(results), len(jobs), f"{job.name}, {job.latent_targets}")
        found = [results[index] for index in range(len(jobs))]
        write_json(out / "results.json", found)
    return found


def _validate_out(out: Path, own: Path) -> None:
    """Refuse a folder that holds something else than a comparison; ``own`` is the one of the run itself.

    Raises:
        ValueError: it does.
    """
    if out.is_file():
        raise ValueError(f"out must be a folder, got the file {out}")
    begun = out.resolve() == own.resolve() and (out / ".lock").exists()
    if out.exists() and any(out.iterdir()) and not begun and not _is_comparison(out / "results.json"):
        raise ValueError(f"{out} is not empty and no earlier comparison: use another folder")


def _is_comparison(path: Path) -> bool:
    """Whether a file holds results of `compare`."""
    try:
        with error_context(path):
            rows = read_json(path)
            return bool(rows) and all(
                migration.comparison_result(row)["job"]["latent_targets"] in TARGETS for row in rows
            )
    except ValueError:
        return False


def _found(job: TrainingJob) -> dict[str, Any] | None:
    """What an earlier call found out; None: nothing yet.

    Raises:
        ValueError: it had other settings, or other data.
    """
    path = job.folder / "result.json"
    if not path.exists():
        return None
    with error_context(path):
        result: dict[str, Any] = read_json(path)
        before = migration.comparison_result(result)["job"]
        for name, value in job.to_json.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{job.folder} holds a comparison with {name} = {before.get(name)!r}, asked for {value!r}: use the same "
                    f"settings and data, or remove {job.folder.parent} to begin again"
                )
    return result


def _split(latents: EncodedDataset) -> tuple[np.ndarray, np.ndarray]:
    """Episodes to train on, and to judge on."""
    return split_episodes(np.array([index for index, steps in enumerate(latents.lengths) if steps]), HELD_OUT, 0)


def learn(job: TrainingJob, seen: Shared) -> dict[str, Any]:
    """Train a variant, judge it on the held-out episodes, and keep what was found.

    Args:
        job: what to train.
        seen: the VAE, and the episodes as it sees them: those of ``job.data``.
    """
    vae, latents = seen.get()
    training, test = _split(latents)
    memoryless, untrained = (bool(job.settings.get(word)) for word in ("memoryless", "untrained"))
    memory = build(job.settings, vae.latent_dim, latents.store.action_dim, job.seed)
    sequences = Sequences(latents, 1 if memoryless else job.seq_len, job.latent_targets, training)
    began, status = time.monotonic(), "trained"
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
        "seconds": round(time.monotonic() - began, 1),
        "latent": vae.latent_dim,
        "parameters": sum(parameter.numel() for parameter in memory.parameters()),
        **evaluate_memory(memory.eval(), latents, test, job.latent_targets, memoryless),
    }
    if job.name in DETAILED_VARIANTS:
        result["calibration"] = evaluate_calibration(memory, latents, test, job.latent_targets, memoryless)
        if not memoryless:
            result["dreams"] = evaluate_dreams(WorldModel(vae, memory, discrete=latents.store.discrete), latents, test)
    write_json(job.folder / "result.json", result)
    return result


def build(settings: dict[str, Any], latent: int, actions: int, seed: int) -> Memory:
    """The memory that a variant's settings describe."""
    density = {name: value for name, value in settings.items() if name not in ("model", "memoryless", "untrained")}
    density |= {
        "density": MODELS[settings.get("model", "frmdn")],
        "input_size": latent + actions,
        "output_size": latent,
    }
    with seeded(seed):
        return build_memory(density)
