"""Diagnostics of the parts of a run, measured on held-out data.

Start reading at `measure_vae`, `measure_memory` and `measure_dream`. `agents.analysis.verdicts` turns the numbers into
sentences for the terminal, ``worldmodel inspect`` and the report. ``diagnostics.json`` caches the numbers by the fingerprint
of the weights.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from worldmodel import VAE, Memory, rollouts
from worldmodel.agents.agent import Agent
from worldmodel.agents.analysis.metrics import inputs, predictions
from worldmodel.agents.pipeline.horizon_returns import common_horizon, own_returns
from worldmodel.agents.pipeline.run_folder import Run
from worldmodel.io.files import error_context, fingerprint, from_json, read_json, write_json
from worldmodel.rollouts.env_cache import EnvSpec
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.store.datasets import Frames, Sequences
from worldmodel.rollouts.store.encoded_dataset import EncodedEpisode
from worldmodel.training.metrics import reconstruction_metrics
from worldmodel.training.progress import Progress, silent

HELD_OUT = 0.1
"""Fraction of episodes that `worldmodel.fit` holds out by default."""
MAX_FRAMES, MAX_STEPS = 1_000, 10_000
"""Maximal numbers of frames and steps that are measured; this takes seconds on a CPU."""
DREAM_EPISODES = 8
"""Number of real episodes in the comparison with dreams."""
MIN_VARIANCE = 1e-6
"""Minimal variance of the Gaussians of the baselines: constant latents have none."""


@dataclass(frozen=True)
class VAEDiagnostics:
    """Quality of the reconstructions of held-out frames (`worldmodel.training.metrics`); None: the frames do not vary."""

    explained_variance: float | None
    moving_explained_variance: float | None
    reconstruction_std: float
    frame_std: float
    num_frames: int


@dataclass(frozen=True)
class MemoryDiagnostics:
    """Quality of one-step predictions on held-out episodes. Likelihoods are in nats per frame."""

    nll: float
    """Mean ``-log p(next latent)``."""
    persistence_nll: float
    """The same of a Normal around the current latent, with the variances of steps in the training episodes."""
    marginal_nll: float
    """The same of a Normal with the mean and variances of the latents in the training episodes."""
    posterior_entropy: float | None
    """Mean entropy of q(z|x), a lower bound of the NLL of sampled latents. None: the targets are means."""
    reward_r2: float | None
    """R2 of predicted rewards, ``1 - SSE / SS``; None: no reward head, or constant rewards."""
    predicted_terminations: float | None
    """Expected number of terminations: the sum of the probabilities. None: no termination head."""
    terminations: int
    """Number of terminations that occurred."""
    termination_nll: float | None
    """Binary cross entropy of the termination head, in nats per step."""
    constant_termination_nll: float | None
    """The same of a constant prediction, the rate in the training episodes."""
    num_steps: int
    num_episodes: int


@dataclass(frozen=True)
class DreamDiagnostics:
    """Dream and real returns over ``horizon`` steps from states of real episodes of the controller evolved in dreams."""

    dream_return: float
    real_return: float
    real_stderr: float | None
    """Standard error of the real return over episodes; None: there is only one."""
    dream_stderr: float | None
    """Standard error of the dream return over dreams; None: there is only one."""
    horizon: int
    num_episodes: int


Kind = TypeVar("Kind", VAEDiagnostics, MemoryDiagnostics, DreamDiagnostics)
KINDS: dict[str, type] = {"vae": VAEDiagnostics, "memory": MemoryDiagnostics, "dream": DreamDiagnostics}


def measure_vae(run: Run, vae: VAE, seed: int) -> VAEDiagnostics:
    """Measure reconstructions of the frames of held-out episodes; ``seed`` is that of the training."""

    def measure() -> VAEDiagnostics:
        _, held_out = Frames(run.store()).split(HELD_OUT, seed)
        found = reconstruction_metrics(vae, next(held_out.batches(MAX_FRAMES)))
        variances = (_finite(found.explained_variance), _finite(found.moving_explained_variance))
        return VAEDiagnostics(*variances, found.reconstruction_std, found.frame_std, found.num_frames)

    return _cached(run, VAEDiagnostics, fingerprint(vae), measure)


def measure_memory(run: Run, memory: Memory, sequences: Sequences, seed: int) -> MemoryDiagnostics:
    """Measure the NLL, two baselines and both heads on held-out episodes; ``seed`` is that of the training."""

    def measure() -> MemoryDiagnostics:
        training, held_out = sequences.split(HELD_OUT, seed)
        return memory_diagnostics(memory, _episodes(training), _episodes(held_out), sequences.latent_targets)

    return _cached(run, MemoryDiagnostics, fingerprint(memory), measure)


def measure_dream(
    run: Run,
    controller: Controller,
    env: EnvSpec,
    env_options: dict[str, Any],
    horizon: int,
    temperature: float,
    *,
    seed: int = 0,
    workers: int = 1,
    backend: str = "loky",
    progress: Progress = silent,
) -> DreamDiagnostics:
    """Play `DREAM_EPISODES` real episodes, dream from their states, and compare returns over the same horizon.

    Args:
        run: the run.
        controller: the controller.
        env: id for `envs.make`, or a picklable function that makes an environment.
        env_options: keyword arguments of `envs.make`.
        horizon: number of steps; less if an episode is truncated before (`agents.pipeline.horizon_returns.common_horizon`).
        temperature: temperature of the dreams.
        seed: seed of the episodes and the dreams.
        workers: number of worker processes.
        backend: executor of the workers (`rollouts.executors.workers.run_tasks`).
        progress: called as ``progress(episodes done, episodes, note)``.
    """
    world = run.world()
    agent = Agent(world, controller)

    def measure() -> DreamDiagnostics:
        with tempfile.TemporaryDirectory(prefix="worldmodel-") as folder:
            store = rollouts.collect(
                env,
                agent,
                DREAM_EPISODES,
                seed=seed,
                workers=workers,
                out=folder,
                max_steps=2 * horizon,
                max_idle_steps=run.store().max_idle_steps,
                env_options=env_options,
                backend=backend,
                progress=progress,
            )
            try:
                latents = run.latents(world, store)
            except ValueError:  # all episodes stalled at once: use them without idle truncation
                latents = store.latents(world.vae)
            common = common_horizon(latents, range(len(store)), horizon, store.max_idle_steps)
            dreamed, real = own_returns(
                world, controller, latents, range(len(store)), common, temperature, seed, store.max_idle_steps
            )
        return dream_diagnostics(dreamed, real, common)

    return _cached(run, DreamDiagnostics, agent.name, measure)


def dream_diagnostics(dreamed: np.ndarray, real: np.ndarray, horizon: int) -> DreamDiagnostics:
    """Means and standard errors of returns over ``horizon`` steps.

    Args:
        dreamed: return of each dream, (dreams,).
        real: mean return of each real episode, (episodes,).
        horizon: number of steps.
    """
    return DreamDiagnostics(
        float(np.mean(dreamed)), float(np.mean(real)), _stderr(real), _stderr(dreamed), horizon, len(real)
    )


def _stderr(values: np.ndarray) -> float | None:
    """Standard error of the mean; None for a single value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def diagnostics(run: Run) -> dict[str, Any]:
    """Cached diagnostics of the run's present VAE, memory and controller evolved in dreams, by name; each can be missing."""
    found: dict[str, Any] = {}
    content = _content(run)
    for name, key in _fingerprints(run).items():
        if key in content.get(name, {}):
            found[name] = from_json(KINDS[name], content[name][key], _path(run))
    return found


@torch.no_grad()
def memory_diagnostics(
    memory: Memory, training: list[EncodedEpisode], held_out: list[EncodedEpisode], latent_targets: str
) -> MemoryDiagnostics:
    """Diagnostics of a memory on complete held-out episodes.

    Args:
        memory: the memory.
        training: training episodes; the baselines use their statistics.
        held_out: held-out episodes.
        latent_targets: "mean" of the posterior, or "sample" from it.
    """
    batches = [inputs(episode, latent_targets, number) for number, episode in enumerate(training)]
    latent, following = (
        torch.cat([getattr(one, name)[0] for one in batches]).double() for name in ("latent", "next_latent")
    )
    rate = (float(sum(one.terminated.sum() for one in batches)) + 0.5) / (len(latent) + 1)
    marginal = (following.mean(dim=0), _variance(following))
    step_variance = (following - latent).square().mean(dim=0).clamp(min=MIN_VARIANCE)
    memory.eval()
    sums: dict[str, Tensor] = {}
    rewards: list[tuple[Tensor, Tensor]] = []
    ends: list[tuple[Tensor, Tensor]] = []
    for number, episode in enumerate(held_out):
        prediction, batch = predictions(
            memory, inputs(episode, latent_targets, len(training) + number), memoryless=False
        )
        z, after = batch.latent[0].double(), batch.next_latent[0].double()
        parts = {
            "nll": -prediction.latent.log_prob(batch.next_latent).double().sum(),
            "persistence": _gaussian_nll(after, z, step_variance),
            "marginal": _gaussian_nll(after, *marginal),
            "entropy": torch.tensor(episode.entropy[1:].sum()),
        }
        sums = {name: sums.get(name, 0) + part for name, part in parts.items()}
        if prediction.reward_logits is not None:
            rewards.append((memory.expected_reward(prediction.reward_logits)[0].double(), batch.reward[0].double()))
        logit = prediction.termination_logit
        ends.append((logit[0].double() if logit is not None else torch.zeros(0), batch.terminated[0].double()))
    terminated = torch.cat([end for _, end in ends])
    steps = len(terminated)
    mean = {name: float(total) / steps for name, total in sums.items()}
    logits = torch.cat([logit for logit, _ in ends])
    predicted = nll = constant = None
    if len(logits):
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        predicted, nll = float(logits.sigmoid().sum()), float(loss(logits, terminated))
        constant = float(loss(torch.full_like(terminated, math.log(rate / (1 - rate))), terminated))
    return MemoryDiagnostics(
        mean["nll"],
        mean["persistence"],
        mean["marginal"],
        mean["entropy"] if latent_targets == "sample" else None,
        _r2(*(torch.cat(part) for part in zip(*rewards, strict=True))) if rewards else None,
        predicted,
        int(terminated.sum()),
        nll,
        constant,
        steps,
        len(held_out),
    )


def _episodes(sequences: Sequences) -> list[EncodedEpisode]:
    """Evenly spaced episodes of a part of the data, with about `MAX_STEPS` steps in total, at least one episode."""
    lengths = np.array([sequences.latents.lengths[index] for index in sequences.episodes])
    share = min(1.0, MAX_STEPS / max(int(lengths.sum()), 1))
    count = max(1, math.floor(share * len(lengths)))
    indices = np.unique(np.linspace(0, len(lengths) - 1, count).astype(int))
    return [sequences.latents.episode(int(sequences.episodes[index])) for index in indices]


def _gaussian_nll(value: Tensor, loc: Tensor, variance: Tensor) -> Tensor:
    """Negative log-likelihood of a diagonal Normal in nats, summed over frames."""
    return 0.5 * ((value - loc).square() / variance + variance.log() + math.log(2 * math.pi)).sum()


def _variance(values: Tensor) -> Tensor:
    return values.var(dim=0, unbiased=False).clamp(min=MIN_VARIANCE)


def _r2(predicted: Tensor, real: Tensor) -> float | None:
    total = float((real - real.mean()).square().sum())
    return 1 - float((predicted - real).square().sum()) / total if total > MIN_VARIANCE else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _path(run: Run) -> Path:
    return run.folder / "diagnostics.json"


def _content(run: Run) -> dict[str, dict[str, Any]]:
    """Content of the file: diagnostics by name and fingerprint."""
    path = _path(run)
    with error_context(path, wrap_value_errors=True):
        content = read_json(path) if path.exists() else {}
        if not all(isinstance(part, dict) for part in (content, *content.values())):
            raise TypeError("must map names to measurements")
        return content


def _cached(run: Run, kind: type[Kind], key: str, measure: Callable[[], Kind]) -> Kind:
    """Cached diagnostics of the weights with this fingerprint, or else new ones."""
    name = next(name for name, one in KINDS.items() if one is kind)
    content = _content(run)
    if key in content.get(name, {}):
        return from_json(kind, content[name][key], _path(run))
    found = measure()
    content.setdefault(name, {})[key] = asdict(found)
    write_json(_path(run), content)
    return found


def _fingerprints(run: Run) -> dict[str, str]:
    """Fingerprints of those present models of the run that exist, by name."""
    found = {}
    if (run.world_folder / "config.json").exists():
        world = run.world()
        found = {"vae": fingerprint(world.vae), "memory": fingerprint(world.memory)}
        if (run.folder / "evolve-dream" / "controller.safetensors").exists():
            found["dream"] = Agent(world, run.controller("dream")).name
    elif (run.folder / "vae" / "weights.safetensors").exists():
        found = {"vae": fingerprint(run.vae())}
    return found
