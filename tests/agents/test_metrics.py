"""Metrics of dreams against recorded episodes: the errors of an exact memory are zero."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from tests import toys
from tests.tolerance import sum_tolerance
from worldmodel import RMDN, VAE, Memory, WorldModel, rollouts
from worldmodel.agents.analysis.metrics import HORIZONS, STARTS, TEMPERATURES, evaluate_dreams
from worldmodel.distributions import GaussianMixture
from worldmodel.mdn_rnn import State

SPEED = 0.2
RADIUS = SPEED / (2 * np.tan(0.5))


class Orbit(gymnasium.Env):
    """A point in the unit square moves by the mean of the last two actions; red and green of a frame are its coordinates.

    Actions that turn by one radian a step move it around a circle. Each step is a chord of length
    ``SPEED cos(1/2) = 2 RADIUS sin(1/2)``.
    """

    metadata = {"render_modes": []}
    observation_space, action_space = toys.FRAMES, spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.before, self.steps_left = (
            np.full(2, 0.5),
            np.zeros(2),
            int(self.np_random.integers(60, 160)),
        )
        return self._frame(), {}

    def step(self, action):
        self.position = self.position + SPEED * (action + self.before) / 2
        self.before, self.steps_left = np.array(action), self.steps_left - 1
        return self._frame(), 0.0, False, self.steps_left == 0, {}

    def _frame(self):
        return np.full((64, 64, 3), np.rint(255 * np.append(self.position, 0)), np.uint8)


def turning(space, rng):
    """A policy whose action turns by one radian a step, from a random angle."""
    angle = rng.uniform(0, 2 * np.pi)

    def act(frame):
        nonlocal angle
        angle += 1
        return np.array([np.cos(angle), np.sin(angle)], np.float32)

    return act


class PositionDecoder(nn.Module):
    """A decoder that draws the frame of a position."""

    def forward(self, position):
        return torch.cat((position, torch.zeros_like(position[:, :1])), dim=1).expand(-1, -1, 64, 64)


class OrbitDensity(nn.Module):
    """The dynamics of the orbit as a density without noise; its hidden state contains the last action."""

    input_size, output_size, hidden_size, num_features, noise_shapes = 4, 2, 6, 6, ((1,), (2,))
    residual = False

    def __init__(self) -> None:
        super().__init__()
        self.law = nn.Linear(6, 2, bias=False)  # of the position, the action and the action before
        self.law.weight.data = torch.cat((torch.eye(2), SPEED / 2 * torch.eye(2), SPEED / 2 * torch.eye(2)), dim=1)

    def initial(self, batch):
        return State(torch.zeros(batch, 1, 6), torch.zeros(batch, 1, 0))

    def unroll(self, x, state=None):
        first = (self.initial(len(x)) if state is None else state).hidden[..., 2:4]
        hidden = torch.cat((x, torch.cat((first, x[:, :-1, 2:]), dim=1)), dim=-1)
        return hidden, State(hidden[:, -1:], torch.zeros(len(x), 1, 0))

    def distribution(self, hidden):
        loc = self.law(hidden)[..., None, :]
        return GaussianMixture(torch.zeros_like(loc[..., 0]), loc, torch.full_like(loc, 60.0))


def exact_world():
    """A VAE that encodes and draws positions, and a memory with the dynamics of the orbit."""
    vae, memory = (
        VAE(latent_dim=2, standardize=False),
        Memory(RMDN(4, 2, hidden_size=6), reward=False, termination=False),
    )
    vae.encoder, vae.posterior = nn.Sequential(nn.AvgPool2d(64), nn.Flatten()), nn.Linear(3, 4)
    vae.posterior.weight.data = torch.eye(4, 3) * torch.tensor([1, 1, 0])
    vae.posterior.bias.data = torch.zeros(4)
    vae.prepare, vae.decoder = nn.Identity(), PositionDecoder()
    memory.density = OrbitDensity()
    return WorldModel(vae, memory).eval()


@pytest.mark.slow
def test_dreams_of_an_exact_memory_equal_the_recorded_episodes(tmp_path):
    """The bytes of a frame round a position by up to 1/510; one step of the orbit is 0.18 long."""
    world = exact_world()
    store = rollouts.collect(Orbit, turning, 6, seed=1, out=tmp_path / "store")
    metrics = evaluate_dreams(world, store.latents(world.vae), np.arange(6))
    assert metrics["starts"] == STARTS
    for temperature in TEMPERATURES:
        rows = metrics[str(temperature)]
        assert list(rows) == [str(horizon) for horizon in HORIZONS]
        for horizon in HORIZONS:
            row = rows[str(horizon)]
            assert [row[name] for name in ("mean", "best", "of_mean")] == pytest.approx([0, 0, 0], abs=0.003)
            assert row["spread"] <= sum_tolerance(1.0, count=6 * horizon)  # all dreams are equal
            assert row["pixels"] < 1
            chord = 2 * RADIUS * abs(np.sin(horizon / 2))
            assert row["persistence"] == pytest.approx(chord / np.sqrt(2), abs=0.003)  # of two dimensions
        counts = [row["n"] for row in rows.values()]
        assert counts[:3] == [STARTS] * 3  # every start has twenty steps before its episode ends
        assert STARTS > counts[3] > counts[4] > 1
