"""How good a memory is on episodes that it never saw: likelihood, the errors of its heads, calibration, dreams beside reality.

Start reading at `evaluate_memory`.
"""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rollouts.encoded_dataset import EncodedDataset, EncodedEpisode, sample_posterior
from worldmodel import Memory, WorldModel
from worldmodel.batches import SequenceBatch, tree_map
from worldmodel.calibration import calibration_error, coverage, energy_distance, energy_score, integral_transform
from worldmodel.world_model import WorldState

HORIZONS = (1, 5, 20, 50, 100)
TEMPERATURES = (0.5, 1.0, 1.3)
STARTS, DREAMS, DRAWS, EVENTS, BURN_IN = 48, 16, 128, 512, 32


def inputs(episode: EncodedEpisode, targets: str, index: int) -> SequenceBatch:
    """A whole episode as one sequence; the draws of "sample" targets are the same for every model."""
    z = np.asarray(episode.mean, np.float32)
    if targets == "sample":
        z = sample_posterior(z, np.asarray(episode.logvar, np.float32), np.random.default_rng([2, index]))
    parts = (z[:-1], episode.action, z[1:], episode.reward, episode.terminated, np.ones(len(episode.reward)))
    return SequenceBatch(*(torch.from_numpy(np.array(part, np.float32))[None] for part in parts))


def predictions(memory: Memory, batch: SequenceBatch, memoryless: bool) -> tuple[Any, SequenceBatch]:
    """What a memory expects at each step of an episode: (1, T), or (T, 1) if every step stands alone."""
    if memoryless:
        batch = tree_map(batch, lambda part: part.transpose(0, 1))
    return memory(batch.latent, batch.action)[0], batch


@torch.no_grad()
def evaluate_memory(
    memory: Memory, latents: EncodedDataset, test: np.ndarray, targets: str, memoryless: bool
) -> dict[str, Any]:
    """Negative log-likelihood of each held-out episode (nats a frame), its floor, and the errors of both heads."""
    nll, floors, errors, rewards, chances, ends = [], [], [], [], [], []
    for index in test:
        episode = latents.episode(int(index))
        prediction, batch = predictions(memory, inputs(episode, targets, int(index)), memoryless)
        nll.append(float(-prediction.latent.log_prob(batch.next_latent).double().mean()))
        floors.append(float(episode.entropy[1:].mean()))
        errors.append((memory.expected_reward(prediction.reward_logits) - batch.reward).flatten())
        rewards.append(batch.reward.flatten())
        chances.append(prediction.termination_logit.sigmoid().flatten())
        ends.append(batch.terminated.flatten())
    error, reward, chance, end = (torch.cat(parts).double() for parts in (errors, rewards, chances, ends))
    return {
        "episodes": [int(index) for index in test],
        "nll": nll,
        "floor": floors,
        "reward_rmse": float(error.square().mean().sqrt()),
        "reward_std": float(reward.std()),
        "termination_brier": float((chance - end).square().mean()),
        "termination_base_brier": float(end.mean() * (1 - end.mean())),
        "termination_reliability": reliability(chance, end),
    }


def reliability(chance: Tensor, happened: Tensor) -> list[tuple[float, float, int]]:
    """Predicted probabilities in bins: their mean, how often it came true, how many."""
    edges = torch.tensor([0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 1.0 + 1e-9], dtype=chance.dtype)
    rows = []
    for low, high in itertools.pairwise(edges):
        among = (chance >= low) & (chance < high)
        if among.any():
            rows.append((float(chance[among].mean()), float(happened[among].mean()), int(among.sum())))
    return rows


@torch.no_grad()
def evaluate_calibration(
    memory: Memory, latents: EncodedDataset, test: np.ndarray, targets: str, memoryless: bool
) -> dict[str, Any]:
    """One-step predictions at random held-out steps: margins, random directions, and the energy score."""
    rng, generator = np.random.default_rng(3), torch.Generator().manual_seed(3)
    each = max(1, EVENTS // len(test))
    drawn, truths = [], []
    for index in test:
        prediction, batch = predictions(memory, inputs(latents.episode(int(index)), targets, int(index)), memoryless)
        flat = prediction.latent.sample((DRAWS,), 1.0, generator).flatten(1, 2)
        picked = rng.choice(flat.shape[1], min(each, flat.shape[1]), replace=False)
        drawn.append(flat[:, picked])
        truths.append(batch.next_latent.flatten(0, 1)[picked])
    samples, truth = torch.cat(drawn, dim=1), torch.cat(truths)
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
    """Dreams from held-out moments under the real actions, beside what really followed; all moments as one batch."""
    rng, furthest = np.random.default_rng(4), max(HORIZONS)
    long = [int(index) for index in test if latents.lengths[int(index)] > 40]
    if not long:
        return {"starts": 0}
    moments = [(index := rng.choice(long), int(rng.integers(8, latents.lengths[index] - 20))) for _ in range(STARTS)]
    state, begun, real, actions, steps, frames = _moments(world, latents, moments, furthest)
    found: dict[str, Any] = {"starts": STARTS}
    for temperature in TEMPERATURES:
        generator = torch.Generator().manual_seed(4)
        dreaming = WorldState(
            begun.repeat_interleave(DREAMS, 0), tree_map(state, lambda part: part.repeat_interleave(DREAMS, 0))
        )
        found[str(temperature)] = {}
        for time_ in range(furthest):
            action = actions[:, time_].repeat_interleave(DREAMS, 0)
            step, dreaming = world.imagine(dreaming, action, temperature, generator)
            there = (steps > time_).nonzero()[:, 0]
            if time_ + 1 in HORIZONS and len(there) > 1:
                dreamed = step.latent.unflatten(0, (STARTS, DREAMS))[there]
                shown = torch.stack([frames[int(row)][time_] for row in there])
                found[str(temperature)][str(time_ + 1)] = _distances(
                    world, dreamed, real[there, time_], begun[there], shown
                )
    return found


def _moments(
    world: WorldModel, latents: EncodedDataset, moments: list[tuple[int, int]], furthest: int
) -> tuple[Any, ...]:
    """Of each moment: the memory of what was before, its latent; then latents, actions, how many steps, and frames."""
    begun, count = torch.zeros(len(moments), world.latent_dim), torch.zeros(len(moments), dtype=torch.int64)
    past, done = (
        torch.zeros(len(moments), BURN_IN, world.latent_dim),
        torch.zeros(len(moments), BURN_IN, world.action_dim),
    )
    known = torch.zeros(len(moments), BURN_IN, dtype=torch.bool)
    real = torch.zeros(len(moments), furthest, world.latent_dim)
    actions, frames = torch.zeros(len(moments), furthest, world.action_dim), []
    for row, (index, start) in enumerate(moments):
        episode = latents.episode(int(index))
        mean, action = torch.from_numpy(np.array(episode.mean, np.float32)), torch.from_numpy(np.array(episode.action))
        first = max(0, start - BURN_IN)
        at = BURN_IN - (start - first)
        past[row, at:], done[row, at:], known[row, at:] = mean[first:start], action[first:start], True
        steps = min(furthest, len(action) - start)
        begun[row], count[row] = mean[start], steps
        real[row, :steps], actions[row, :steps] = mean[start + 1 : start + 1 + steps], action[start : start + steps]
        shard, number = latents.store.locate(int(index))
        pieces = latents.store.reader.frames(shard, number, start + 1, start + 1 + steps)
        frames.append(torch.from_numpy(np.concatenate(pieces)))
    return world.replay(past, done, known).memory, begun, real, actions, count, frames


def _distances(world: WorldModel, dreamed: Tensor, real: Tensor, begun: Tensor, frames: Tensor) -> dict[str, float]:
    """Errors of dreams (starts, dreams, latent) at one horizon, per latent dimension and per pixel."""
    errors = (dreamed - real[:, None]).square().mean(dim=-1).sqrt()
    shown = torch.from_numpy(world.decode(dreamed[:, 0])).float()
    return {
        "n": len(real),
        "mean": float(errors.mean()),
        "best": float(errors.min(dim=1).values.mean()),
        "of_mean": float((dreamed.mean(dim=1) - real).square().mean(dim=-1).sqrt().mean()),
        "spread": float(dreamed.std(dim=1).mean()),
        "persistence": float((begun - real).square().mean(dim=-1).sqrt().mean()),
        "pixels": float((shown - frames.float()).abs().mean()),
        "energy_distance": energy_distance(dreamed.flatten(0, 1), real),
    }
