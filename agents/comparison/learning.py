"""Memories compared: every variant trained on the same episodes with the same budget, and judged on others.

Start reading at `compare`; `agents.comparison.judging` measures. Each training is a task of its own (`learn`) and keeps its
result beside its weights, so a comparison that was stopped goes on where it was.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.comparison.judging import judge, judge_calibration, judge_dreams
from agents.run import Run
from rollouts.views import Sequences, split_episodes
from rollouts.workers import run_tasks
from worldmodel import Memory, TrainingDiverged, WorldModel, fit, seeded
from worldmodel.arguments import at_least_one
from worldmodel.builders import build_memory
from worldmodel.checkpoints import locked, read_json, write_json
from worldmodel.progress import Progress, silent

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
LOOKED_INTO = ("RMDN", "RMDN, full", "FRMDN", "FRMDN, rank 4", "FRMDN, conditional", "FRMDN, no memory")
"""Of these calibration and dreams are measured too."""
MODELS = {"rmdn": "RMDN", "frmdn": "FRMDN", "per-dimension": "PerDimensionRMDN"}
TARGETS = ("mean", "sample")
HELD_OUT = 0.2


class Job(NamedTuple):
    """A task for a worker: train one variant once, and judge it."""

    run: str
    name: str
    settings: dict[str, Any]
    targets: str
    seed: int
    updates: int
    batch: int
    length: int


def compare(
    run: Run,
    out: Path,
    variants: dict[str, dict[str, Any]],
    seeds: int = 3,
    updates: int = 3_000,
    batch: int = 16,
    length: int = 32,
    targets: tuple[str, ...] = TARGETS,
    workers: int = 2,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Train and judge every variant with every seed; returns their results, and keeps them in ``out/results.json``.

    Args:
        run: its rollouts are encoded by its VAE; a fifth of the episodes is never trained on.
        out: where results go; trainings stay in the run folder, in ``compare``.
        variants: names, with arguments of `RMDN` or `FRMDN` (and ``model``, ``memoryless``, ``untrained``).
        seeds: trainings of each variant.
        updates: gradient steps of each training.
        batch: sequences a step.
        length: steps of a sequence.
        targets: next latents that are learned and judged: "mean" of the posterior, or "sample"s of it.
        workers: processes, with one thread each.
        progress: called as ``progress(trainings done, trainings, note)``.

    Raises:
        ValueError: an argument is out of range, or the run has no rollouts or no VAE.
    """
    at_least_one(seeds=seeds, updates=updates, batch=batch, length=length)
    vae = run.vae()
    run.store().latents(vae)
    folder = run.folder / "compare"
    jobs = [
        Job(str(run.folder), name, settings, kind, seed, updates, batch, length)
        for seed in range(seeds)
        for kind in targets
        for name, settings in variants.items()
    ]
    with locked(folder):
        results: dict[int, dict[str, Any]] = {}
        progress(0, len(jobs), "")
        for index, result in run_tasks(learn, jobs, workers):
            results[index] = result
            progress(len(results), len(jobs), f"{jobs[index].name}, {jobs[index].targets}")
        found = [results[index] for index in range(len(jobs))]
        write_json(out / "results.json", found)
    return found


def learn(job: Job) -> dict[str, Any]:
    """Train a variant, or read what an earlier call found out, and judge it on the held-out episodes."""
    run = Run(Path(job.run))
    slug = f"{job.name}-{job.targets}-{job.seed}".replace(", ", "-").replace(" = ", "").replace(" ", "-").lower()
    folder = run.folder / "compare" / slug
    settings = {**job._asdict(), "run": ""}
    if (folder / "result.json").exists():
        result = read_json(folder / "result.json")
        if result["job"] == settings:
            return result
        raise ValueError(f"{folder} holds a comparison with other settings: remove it, or use another run folder")
    vae, store = run.vae(), run.store()
    latents = store.latents(vae)
    everything = np.array([index for index, steps in enumerate(store.lengths) if steps])
    training, test = split_episodes(everything, HELD_OUT, 0)
    memoryless, untrained = (bool(job.settings.get(word)) for word in ("memoryless", "untrained"))
    memory = build(job.settings, vae.latent, store.actions, job.seed)
    sequences = Sequences(latents, 1 if memoryless else job.length, job.targets, training)
    began, status = time.monotonic(), "trained"
    if untrained:
        status = "untrained"
        memory.start_from_batch(sequences.batch(64, np.random.default_rng(job.seed)))
    else:
        batch = job.batch * job.length if memoryless else job.batch
        try:
            fit(memory, sequences, updates=job.updates, batch=batch, seed=job.seed, out=folder, tensorboard=False)
        except TrainingDiverged as error:
            status = str(error)
    result = {
        "job": settings,
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "latent": vae.latent,
        "parameters": sum(parameter.numel() for parameter in memory.parameters()),
        **judge(memory.eval(), latents, test, job.targets, memoryless),
    }
    if job.name in LOOKED_INTO:
        result["calibration"] = judge_calibration(memory, latents, test, job.targets, memoryless)
        if not memoryless:
            result["dreams"] = judge_dreams(WorldModel(vae, memory, store.discrete), latents, test)
    write_json(folder / "result.json", result)
    return result


def build(settings: dict[str, Any], latent: int, actions: int, seed: int) -> Memory:
    """The memory that a variant's settings describe."""
    density = {name: value for name, value in settings.items() if name not in ("model", "memoryless", "untrained")}
    density |= {"density": MODELS[settings.get("model", "frmdn")], "inputs": latent + actions, "outputs": latent}
    with seeded(seed):
        return build_memory(density)
