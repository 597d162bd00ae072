"""Trainings to a stated loss on dreams of the pretrained CarRacing world, for `benchmarks.gpu`: data that a checkout has."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel import VAE, Memory, WorldModel, fit
from worldmodel.batches import SequenceBatch
from worldmodel.imagination import imagine_steps
from worldmodel.start_states import StartStates, sample_start_states
from worldmodel.training.trainer import Trainer, TrainingCallback

SOURCE = Path(__file__).parent.parent / "agents" / "pretrained" / "car-racing-dream"
LONGEST = 75.0
"""Seconds after which a training that has not reached its loss is stopped."""
PIXEL_R2, DENSITY_GAIN = 0.9, 0.9
"""Where trainings stop: the explained share of the variance of held-out pixels, and of the difference in log-likelihood between
one Gaussian and the model that dreamed the data."""


class Dreamed:
    """Dreams of a world model as training data of a memory, on the device; the dreams are its episodes.

    Args:
        latent: Latents (episodes, steps + 1, latent).
        action: Actions (episodes, steps, actions).
        reward: Expected rewards (episodes, steps).
        seq_len: Number of steps of a sequence.
    """

    def __init__(self, latent: Tensor, action: Tensor, reward: Tensor, seq_len: int) -> None:
        self.latent, self.action, self.reward, self.seq_len = latent, action, reward, min(seq_len, action.shape[1])

    @property
    def identity(self) -> dict[str, Any]:
        """The sizes; the data are never written."""
        return {"dreams": list(self.latent.shape), "seq_len": self.seq_len}

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Split by dreams; the last ones are held out."""
        last = len(self.latent) - max(1, round(fraction * len(self.latent)))
        training, held_out = (
            type(self)(self.latent[part], self.action[part], self.reward[part], self.seq_len)
            for part in (slice(last), slice(last, None))
        )
        return training, held_out

    def batch(self, size: int, rng: np.random.Generator) -> SequenceBatch:
        """Draw random sequences."""
        rows = rng.integers(len(self.latent), size=size)
        return self._sequences(rows, rng.integers(self.action.shape[1] - self.seq_len + 1, size=size))

    def batches(self, size: int) -> Iterator[SequenceBatch]:
        """Yield the first sequence of each dream."""
        for first in range(0, len(self.latent), size):
            rows = np.arange(first, min(first + size, len(self.latent)))
            yield self._sequences(rows, np.zeros_like(rows))

    def _sequences(self, rows: np.ndarray, starts: np.ndarray) -> SequenceBatch:
        row = torch.from_numpy(rows).to(self.latent.device)[:, None]
        time = torch.from_numpy(starts[:, None] + np.arange(self.seq_len)).to(self.latent.device)
        reward = self.reward[row, time]
        return SequenceBatch(
            self.latent[row, time],
            self.action[row, time],
            self.latent[row, time + 1],
            reward,
            torch.zeros_like(reward),
            torch.ones_like(reward),
        )


class Frames:
    """Frames (count, 64, 64, 3) on the device as training data of a VAE."""

    def __init__(self, frames: Tensor) -> None:
        self.frames = frames

    @property
    def identity(self) -> dict[str, Any]:
        """The number of frames; the data are never written."""
        return {"frames": len(self.frames)}

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Split the frames; the last ones are held out."""
        last = len(self.frames) - max(1, round(fraction * len(self.frames)))
        return type(self)(self.frames[:last]), type(self)(self.frames[last:])

    def batch(self, size: int, rng: np.random.Generator) -> Tensor:
        """Draw random frames."""
        return self.frames[torch.from_numpy(rng.integers(len(self.frames), size=size)).to(self.frames.device)]

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield all frames once."""
        return iter(self.frames.split(size))


@torch.no_grad()
def dream_data(world: WorldModel, num_dreams: int, num_steps: int) -> Dreamed:
    """Dream episodes of the pretrained world from its start states, with smooth random actions, on the world's device."""
    device, rng = world.device, np.random.default_rng(0)
    start = sample_start_states(world, StartStates.load(SOURCE), num_dreams, rng)
    noise = torch.from_numpy(rng.standard_normal((num_steps, num_dreams, world.action_dim), np.float32)).to(device)
    smooth = [noise[0]]
    for numbers in noise[1:]:
        smooth.append(0.9 * smooth[-1] + (1 - 0.9**2) ** 0.5 * numbers)
    actions = torch.stack(smooth).tanh()
    dreamed = list(imagine_steps(world, start, actions, num_steps, 1.0, torch.Generator(device).manual_seed(0)))
    latent = torch.stack([start.latent, *(one.step.latent for one in dreamed)], dim=1)
    reward = torch.stack([one.step.reward for one in dreamed], dim=1)
    return Dreamed(latent, actions.movedim(0, 1).contiguous(), reward, seq_len=32)


@torch.no_grad()
def frames_of(world: WorldModel, data: Dreamed) -> Frames:
    """Decode every fourth dreamed latent."""
    latents = data.latent[:, ::4].flatten(0, 1)
    return Frames(torch.cat([world.vae.to_observations(world.vae.decode(part)) for part in latents.split(512)]))


class Reached(NamedTuple):
    """What a training to a goal came to."""

    seconds: float
    updates: int
    score: float
    """The highest score."""


class UntilGoal(TrainingCallback):
    """Stops a training when the score of a validation reaches a goal, or after `LONGEST` seconds.

    Args:
        score: Function of the training and of the row of a validation.
        goal: Score at which it stops.
    """

    def __init__(self, score: Callable[[Trainer, dict[str, Any]], float], goal: float) -> None:
        self.score, self.goal, self.start_time = score, goal, 0.0
        self.reached = Reached(0.0, 0, -np.inf)

    def on_start(self, trainer: Trainer) -> None:
        """Start the clock: the data are split and the model is initialised."""
        self.start_time = time.perf_counter()

    def on_validation(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Compare the score with the goal; its number waits for the device."""
        best = max(self.reached.score, self.score(trainer, row))
        self.reached = Reached(time.perf_counter() - self.start_time, row["update"], best)
        if best >= self.goal or self.reached.seconds > LONGEST:
            trainer.stop()


def _train(
    model: nn.Module,
    data: Any,
    score: Callable[[Trainer, dict[str, Any]], float],
    goal: float,
    num_updates: int,
    batch_size: int,
) -> Reached:
    """Train with `worldmodel.fit` until the score reaches the goal."""
    until = UntilGoal(score, goal)
    device = next(model.parameters()).device
    every = min(50, num_updates)
    fit(model, data, num_updates=num_updates, batch_size=batch_size, eval_every=every, device=device, callbacks=[until])
    return until.reached


def train_vae(vae: VAE, data: Frames, num_updates: int) -> Reached:
    """Train a VAE until it explains `PIXEL_R2` of the variance of held-out pixels around their mean picture."""
    pixels = vae.to_inputs(data.split(0.1, 0)[1].frames[:1_000])
    variance = (pixels - pixels.mean(dim=0)).square().mean()

    @torch.no_grad()
    def explained(trainer: Trainer, row: dict[str, Any]) -> float:
        errors = (vae.decode(vae.encode(pixels).loc) - pixels).square().mean()
        return float(1 - errors / variance)

    return _train(vae, data, explained, PIXEL_R2, num_updates, batch_size=128)


def train_memory(memory: Memory, source: Memory, data: Dreamed, num_updates: int) -> Reached:
    """Train a memory until it has `DENSITY_GAIN` of the gain of ``source``, which dreamed the data, over one Gaussian."""
    training, held_out = data.split(0.1, 0)
    marginal, best = marginal_nll(training.latent, held_out.latent), negative_log_likelihood(source, held_out)

    def gain(trainer: Trainer, row: dict[str, Any]) -> float:
        return float((marginal - row["held_out"]["nll"]) / (marginal - best))

    return _train(memory, data, gain, DENSITY_GAIN, num_updates, batch_size=256)


@torch.no_grad()
def negative_log_likelihood(memory: Memory, data: Dreamed) -> float:
    """Return the mean negative log-likelihood of the next latents in nats per frame."""
    sizes, losses = zip(*((len(batch.mask), memory.loss(batch)) for batch in data.batches(256)), strict=True)
    return float(np.average([float(loss.parts["nll"]) for loss in losses], weights=sizes))


def marginal_nll(training: Tensor, held_out: Tensor) -> float:
    """Return that of latents under one Gaussian with the training part's moments, in nats per frame."""
    training, held_out = (part.flatten(0, -2).double().cpu() for part in (training, held_out))
    ridge = 1e-6 * torch.eye(training.shape[-1], dtype=training.dtype)
    gaussian = torch.distributions.MultivariateNormal(training.mean(dim=0), torch.cov(training.T) + ridge)
    return float(-gaussian.log_prob(held_out).mean())
