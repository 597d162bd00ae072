"""Metrics of a memory on held-out episodes: likelihood, errors of the heads, calibration, and dreams against real episodes.

Start reading at `evaluate_memory`.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldmodel import Memory, WorldModel
from worldmodel.batches import SequenceBatch, tree_map
from worldmodel.calibration import calibration_error, coverage, energy_distance, energy_score, integral_transform
from worldmodel.imagination import imagine_steps
from worldmodel.rollouts.store.encoded_dataset import EncodedDataset, EncodedEpisode, sample_posterior
from worldmodel.start_states import StartState, burn_in_states

HORIZONS = (1, 5, 20, 50, 100)
TEMPERATURES = (0.5, 1.0, 1.3)
"""Numbers of dreamed steps, and temperatures, at which `evaluate_dreams` measures."""
STARTS, DREAMS, DRAWS, EVENTS, BURN_IN = 48, 16, 128, 512, 32
"""Numbers of start states, dreams of each, samples of a prediction, predictions in all, and steps before a start state."""


def inputs(episode: EncodedEpisode, latent_targets: str, index: int) -> SequenceBatch:
    """Return a complete episode as a batch of one sequence, (1, T, ...).

    Args:
        episode: Encoded episode.
        latent_targets: Kind of latents: "mean" of the posterior, or "sample" from it.
        index: Index of the episode; it seeds the samples, so they are the same for all models.
    """
    z = np.asarray(episode.mean, np.float32)
    if latent_targets == "sample":
        z = sample_posterior(z, np.asarray(episode.logvar, np.float32), np.random.default_rng([2, index]))
    parts = (z[:-1], episode.action, z[1:], episode.reward, episode.terminated, np.ones(len(episode.reward)))
    return SequenceBatch(*(torch.from_numpy(np.array(part, np.float32))[None] for part in parts))


class OneStep(NamedTuple):
    """One-step predictions of an episode of T steps, and what they predict; (T,) float64 each."""

    batch: SequenceBatch
    """The episode, (1, T, ...), or (T, 1, ...) if each step is a sequence of its own."""
    latent: Any
    """Predicted distribution of the next latents."""
    nll: Tensor
    """``-log p(next latent)`` in nats."""
    reward: Tensor
    predicted_reward: Tensor | None
    """Expected reward; None: there is no reward head."""
    terminated: Tensor
    termination_logit: Tensor | None
    """None: there is no termination head."""

    @property
    def termination(self) -> Tensor | None:
        """Termination probability."""
        return None if self.termination_logit is None else self.termination_logit.sigmoid()


@torch.no_grad()
def predict_steps(
    memory: Memory, episode: EncodedEpisode, latent_targets: str, index: int, memoryless: bool = False
) -> OneStep:
    """Predict each step of an episode from the real steps before it.

    Args:
        memory: Memory.
        episode: Encoded episode.
        latent_targets: Kind of latents: "mean" of the posterior, or "sample" from it.
        index: Seed of the samples (`inputs`).
        memoryless: Whether each step is a sequence of its own.
    """
    batch = inputs(episode, latent_targets, index)
    if memoryless:
        batch = tree_map(batch, lambda part: part.transpose(0, 1))
    prediction, _ = memory(batch.latent, batch.action)
    logits, logit = prediction.reward_logits, prediction.termination_logit
    return OneStep(
        batch,
        prediction.latent,
        -prediction.latent.log_prob(batch.next_latent).double().flatten(),
        batch.reward.double().flatten(),
        None if logits is None else memory.expected_reward(logits).double().flatten(),
        batch.terminated.double().flatten(),
        None if logit is None else logit.double().flatten(),
    )


def join(steps: Sequence[OneStep], name: str) -> Any:
    """Return a part of the predictions of several episodes as one tensor; None: it is missing."""
    parts = [getattr(one, name) for one in steps]
    return None if not parts or parts[0] is None else torch.cat(parts)


@torch.no_grad()
def evaluate_memory(
    memory: Memory, latents: EncodedDataset, test: np.ndarray, latent_targets: str, memoryless: bool
) -> dict[str, Any]:
    """Compute the NLL of each held-out episode, its floor (the posterior's entropy), and the errors of both heads.

    NLL and floor are in nats per frame.

    Args:
        memory: Trained memory.
        latents: Encoded store.
        test: Indices of the held-out episodes.
        latent_targets: Kind of latents: "mean" of the posterior, or "sample" from it.
        memoryless: Whether each step is a sequence of its own.
    """
    episodes = [latents.episode(int(index)) for index in test]
    steps = [
        predict_steps(memory, episode, latent_targets, int(index), memoryless)
        for index, episode in zip(test, episodes, strict=True)
    ]
    predicted, reward, probability, terminated = (
        join(steps, name) for name in ("predicted_reward", "reward", "termination", "terminated")
    )
    return {
        "episodes": [int(index) for index in test],
        "nll": [float(one.nll.mean()) for one in steps],
        "floor": [float(episode.entropy[1:].mean()) for episode in episodes],
        "reward_rmse": float((predicted - reward).square().mean().sqrt()),
        "reward_std": float(reward.std()),
        "termination_brier": float((probability - terminated).square().mean()),
        "termination_base_brier": float(terminated.mean() * (1 - terminated.mean())),
        "termination_reliability": reliability(probability, terminated),
    }


def r_squared(predicted: Tensor, real: Tensor) -> float | None:
    """Return ``1 - SSE / SS``; None: the real values are constant."""
    total = float((real - real.mean()).square().sum())
    return 1 - float((predicted - real).square().sum()) / total if total > 1e-6 else None


def reliability(probability: Tensor, outcome: Tensor) -> list[tuple[float, float, int]]:
    """Return the mean, the observed frequency and the count for each bin of predicted probabilities."""
    edges = torch.tensor([0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 1.0 + 1e-9], dtype=probability.dtype)
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = (probability >= low) & (probability < high)
        if inside.any():
            rows.append((float(probability[inside].mean()), float(outcome[inside].mean()), int(inside.sum())))
    return rows


@torch.no_grad()
def evaluate_calibration(
    memory: Memory, latents: EncodedDataset, test: np.ndarray, latent_targets: str, memoryless: bool
) -> dict[str, Any]:
    """Measure the calibration of one-step predictions at random held-out steps.

    The results are the calibration of the marginals and of random directions, and the energy score. The arguments are those
    of `evaluate_memory`.
    """
    rng, generator = np.random.default_rng(3), torch.Generator().manual_seed(3)
    per_episode = max(1, EVENTS // len(test))
    samples_of, truths = [], []
    for index in test:
        steps = predict_steps(memory, latents.episode(int(index)), latent_targets, int(index), memoryless)
        flat = steps.latent.sample((DRAWS,), 1.0, generator).flatten(1, 2)
        picked = rng.choice(flat.shape[1], min(per_episode, flat.shape[1]), replace=False)
        samples_of.append(flat[:, picked])
        truths.append(steps.batch.next_latent.flatten(0, 1)[picked])
    samples, truth = torch.cat(samples_of, dim=1), torch.cat(truths)
    directions = torch.nn.functional.normalize(torch.randn(truth.shape[1], 32, generator=generator), dim=0)
    marginals = integral_transform(samples, truth, generator)
    projected = integral_transform(samples @ directions, truth @ directions, generator)
    return {
        "events": len(truth),
        "marginals": calibration_error(marginals),
        "projections": calibration_error(projected),
        "coverage": [round(float(value), 4) for value in coverage(marginals)],
        "energy_score": energy_score(samples, truth),
    }


@torch.no_grad()
def evaluate_dreams(world: WorldModel, latents: EncodedDataset, test: np.ndarray) -> dict[str, Any]:
    """Measure the distances between real episodes and dreams with the same actions, from held-out start states.

    Args:
        world: World model.
        latents: Encoded store.
        test: Indices of the held-out episodes.

    Returns:
        Distances (`_distances`) by temperature and number of steps, and the number of start states under ``starts``.
    """
    rng, furthest = np.random.default_rng(4), max(HORIZONS)
    long = [int(index) for index in test if latents.lengths[int(index)] > 40]
    if not long:
        return {"starts": 0}
    start_states = [
        (index := rng.choice(long), int(rng.integers(8, latents.lengths[index] - 20))) for _ in range(STARTS)
    ]
    state, real, actions, steps, frames = _start_batch(world, latents, start_states, furthest)
    found: dict[str, Any] = {"starts": STARTS}
    for temperature in TEMPERATURES:
        generator = torch.Generator().manual_seed(4)
        initial = tree_map(state, lambda part: part.repeat_interleave(DREAMS, 0))
        following = actions.transpose(0, 1).repeat_interleave(DREAMS, 1)
        found[str(temperature)] = {}
        for time_, imagined in enumerate(imagine_steps(world, initial, following, furthest, temperature, generator)):
            rows = (steps > time_).nonzero()[:, 0]  # episodes that are long enough
            if time_ + 1 in HORIZONS and len(rows) > 1:
                dreamed = imagined.step.latent.unflatten(0, (STARTS, DREAMS))[rows]
                real_frames = torch.stack([frames[int(row)][time_] for row in rows])
                found[str(temperature)][str(time_ + 1)] = _distances(
                    world, dreamed, real[rows, time_], state.latent[rows], real_frames
                )
    return found


def _start_batch(
    world: WorldModel, latents: EncodedDataset, start_states: list[tuple[int, int]], furthest: int
) -> tuple[Any, ...]:
    """Return start states and the steps after them as one batch.

    Args:
        world: World model.
        latents: Encoded store.
        start_states: Episode and step of each start state.
        furthest: Maximal number of steps after a start state.

    Returns:
        The states after burn-in, then the following real latents (S, furthest, latent), actions (S, furthest, action),
        numbers of steps (S,), and frames (a tensor for each start).
    """
    count = torch.zeros(len(start_states), dtype=torch.int64)
    real = torch.zeros(len(start_states), furthest, world.latent_dim)
    actions, frames = torch.zeros(len(start_states), furthest, world.action_dim), []
    for row, (index, start) in enumerate(start_states):
        episode = latents.episode(int(index))
        mean, action = torch.from_numpy(np.array(episode.mean, np.float32)), torch.from_numpy(np.array(episode.action))
        count[row] = steps = min(furthest, len(action) - start)
        real[row, :steps], actions[row, :steps] = mean[start + 1 : start + 1 + steps], action[start : start + steps]
        shard, number = latents.store.locate(int(index))
        pieces = latents.store.reader.frames(shard, number, start + 1, start + 1 + steps)
        frames.append(torch.from_numpy(np.concatenate(pieces)))
    state = burn_in_states(world, [StartState(latents.episode(int(i)), step) for i, step in start_states], BURN_IN)
    return state, real, actions, count, frames


def _distances(world: WorldModel, dreamed: Tensor, real: Tensor, initial: Tensor, frames: Tensor) -> dict[str, float]:
    """Return the errors of dreams (starts, dreams, latent) after a number of steps, per latent dimension and per pixel."""
    errors = (dreamed - real[:, None]).square().mean(dim=-1).sqrt()
    decoded = torch.from_numpy(world.decode(dreamed[:, 0])).float()
    return {
        "n": len(real),
        "mean": float(errors.mean()),
        "best": float(errors.min(dim=1).values.mean()),
        "of_mean": float((dreamed.mean(dim=1) - real).square().mean(dim=-1).sqrt().mean()),
        "spread": float(dreamed.std(dim=1).mean()),
        "persistence": float((initial - real).square().mean(dim=-1).sqrt().mean()),
        "pixels": float((decoded - frames.float()).abs().mean()),
        "energy_distance": energy_distance(dreamed.flatten(0, 1), real),
    }
