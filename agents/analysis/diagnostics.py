"""Diagnostics of the parts of a run, measured on held-out data.

Start reading at `measure_vae`, `measure_memory` and `measure_dream`. `agents.analysis.verdicts` turns the numbers into
sentences for the terminal, ``worldmodel inspect`` and the report. ``diagnostics.json`` caches the numbers by the fingerprint
of the weights.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from worldmodel import VAE, Memory, rollouts
from worldmodel.agents.agent import Agent
from worldmodel.agents.analysis.dream_comparison import Promise, controller_promises
from worldmodel.agents.analysis.metrics import inputs, join, predict_steps, r_squared
from worldmodel.agents.analysis.report_card import ReportCard, report_card
from worldmodel.agents.runs.horizon_returns import common_horizon, own_returns
from worldmodel.agents.runs.iteration import read_num_episodes
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import error_context, fingerprint, from_json, read_json, write_json
from worldmodel.io.migration import training_settings
from worldmodel.rollouts.env_cache import EnvSpec
from worldmodel.rollouts.executors.workers import one_thread
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
    promises: list[Promise] = field(default_factory=list)
    """Returns of single start states (`agents.analysis.report_card`)."""


Kind = TypeVar("Kind", VAEDiagnostics, MemoryDiagnostics, ReportCard, DreamDiagnostics)
KINDS: dict[str, type] = {
    "vae": VAEDiagnostics,
    "memory": MemoryDiagnostics,
    "card": ReportCard,
    "dream": DreamDiagnostics,
}


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


def measure_card(run: Run, part: Run | None = None) -> ReportCard:
    """Measure the report card of a run's world model, or of an iteration's, on episodes that it was not trained on.

    Args:
        run: Run with the rollouts and its first training of the memory.
        part: Folder of an iteration; None: the run.
    """
    where = part or run
    world = where.world()

    def measure() -> ReportCard:
        store, latents = run.store(), run.latents(world)
        path = run.folder / "memory" / "settings.json"
        settings = training_settings(read_json(path)) if path.exists() else {}
        data = settings.get("data")
        latent_targets = data.get("latent_targets", "sample") if isinstance(data, dict) else "sample"
        members = [Run(folder).world().memory for folder in sorted(where.folder.glob("world-*"))]
        count, controller, name = len(store), None, None
        if part is not None:
            count, controller = read_num_episodes(part.folder), part.controller("dream")
            store.validate_episodes(count, "restore the file")
            name = Agent(world, controller).name
        sequences = Sequences(latents, episodes=[index for index in range(count) if latents.lengths[index]])
        training, held_out = sequences.split(HELD_OUT, int(settings.get("seed", 0)))
        own = set(_newest_episodes(store, name)) - set(training.episodes.tolist())
        own_episodes = [latents.episode(index) for index in sorted(own) if latents.lengths[index]]
        with one_thread():  # its tensors are small
            return report_card(
                world,
                _episodes(held_out),
                own_episodes,
                controller,
                members or None,
                latent_targets,
                max_idle_steps=store.max_idle_steps,
            )

    return _cached(where, ReportCard, fingerprint(world.memory), measure)


def _newest_episodes(store: rollouts.Store, name: str | None) -> range:
    """Return the newest episodes that an agent collected; ``name`` is that of its policy, None: any agent."""
    policies = [{"first": 0, "policy": store.metadata.get("policy")}, *(store.metadata.get("policy_changes") or [])]
    stops = [*(one["first"] for one in policies[1:]), len(store)]
    found = range(0)
    for one, stop in zip(policies, stops, strict=True):
        if one["policy"] == name or (name is None and str(one["policy"]).startswith("agent-")):
            found = range(one["first"], stop)
    return found


def cards(run: Run) -> dict[str, ReportCard]:
    """Return the report card of each finished iteration, or that of the run, by name; measure those that are missing."""
    finished = sorted(path.parent for path in (run.folder / "iterations").glob("[0-9]*/iteration.json"))
    if not finished:
        card, dream = measure_card(run), diagnostics(run).get("dream")
        return {"world model": replace(card, promises=[*card.promises, *(dream.promises if dream else ())])}
    return {f"iteration {int(folder.name)}": measure_card(run, Run(folder)) for folder in finished}


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
        horizon: number of steps; less if an episode is truncated before (`agents.runs.horizon_returns.common_horizon`).
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
            played = [latents.episode(index) for index in range(len(store))]
            promises = controller_promises(world, played, controller, max_idle_steps=store.max_idle_steps)
        return replace(dream_diagnostics(dreamed, real, common), promises=promises)

    return _cached(run, DreamDiagnostics, agent.name, measure)


def dream_diagnostics(dreamed: np.ndarray, real: np.ndarray, horizon: int) -> DreamDiagnostics:
    """Means and standard errors of returns over ``horizon`` steps.

    Args:
        dreamed: return of each dream, (dreams,).
        real: contribution of each real episode (`agents.runs.horizon_returns.contributions`), (episodes,).
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
    keys = _fingerprints(run)
    for folder in (run, *map(Run, sorted((run.folder / "iterations").glob("[0-9]*")))):
        content = _content(folder)
        for name, key in keys.items():
            if key in content.get(name, {}):
                found[name] = from_json(KINDS[name], content[name][key], _path(folder))
    return {name: found[name] for name in KINDS if name in found}


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
    step_variance = (following - latent).square().mean(dim=0).clamp(min=MIN_VARIANCE)
    marginal_variance = following.var(dim=0, unbiased=False).clamp(min=MIN_VARIANCE)
    steps = [
        predict_steps(memory.eval(), episode, latent_targets, len(training) + number)
        for number, episode in enumerate(held_out)
    ]
    z, after = (
        torch.cat([getattr(one.batch, name)[0] for one in steps]).double() for name in ("latent", "next_latent")
    )
    entropy = float(np.concatenate([episode.entropy[1:] for episode in held_out]).mean())
    nll, predicted, reward, logit, terminated = (
        join(steps, name) for name in ("nll", "predicted_reward", "reward", "termination_logit", "terminated")
    )
    terminations = termination_nll = constant_nll = None
    if logit is not None:
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        terminations, termination_nll = float(logit.sigmoid().sum()), float(loss(logit, terminated))
        constant_nll = float(loss(torch.full_like(terminated, math.log(rate / (1 - rate))), terminated))
    return MemoryDiagnostics(
        float(nll.mean()),
        _gaussian_nll(after, z, step_variance),
        _gaussian_nll(after, following.mean(dim=0), marginal_variance),
        entropy if latent_targets == "sample" else None,
        None if predicted is None else r_squared(predicted, reward),
        terminations,
        int(terminated.sum()),
        termination_nll,
        constant_nll,
        len(after),
        len(held_out),
    )


def _episodes(sequences: Sequences) -> list[EncodedEpisode]:
    """Evenly spaced episodes of a part of the data, with about `MAX_STEPS` steps in total, at least one episode."""
    lengths = np.array([sequences.latents.lengths[index] for index in sequences.episodes])
    share = min(1.0, MAX_STEPS / max(int(lengths.sum()), 1))
    count = max(1, math.floor(share * len(lengths)))
    indices = np.unique(np.linspace(0, len(lengths) - 1, count).astype(int))
    return [sequences.latents.episode(int(sequences.episodes[index])) for index in indices]


def _gaussian_nll(value: Tensor, loc: Tensor, variance: Tensor) -> float:
    """Negative log-likelihood of a diagonal Normal, in nats per frame."""
    nll = 0.5 * ((value - loc).square() / variance + variance.log() + math.log(2 * math.pi))
    return float(nll.sum(dim=1).mean())


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
        memory = fingerprint(world.memory)
        found = {"vae": fingerprint(world.vae), "memory": memory, "card": memory}
        if (run.folder / "evolve-dream" / "controller.safetensors").exists():
            found["dream"] = Agent(world, run.controller("dream")).name
    elif (run.folder / "vae" / "weights.safetensors").exists():
        found = {"vae": fingerprint(run.vae())}
    return found
