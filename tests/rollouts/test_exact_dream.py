"""A dream with an exact model of an environment equals the environment."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from tests.tolerance import assert_same_sums
from worldmodel import RMDN, VAE, Memory, VectorEncoder, WorldModel, envs, rollouts
from worldmodel.distributions import GaussianMixture
from worldmodel.mdn_rnn import State
from worldmodel.memory import reward_support

LIMIT, REWARDS = 1.5, (20, 44)
NEARLY_EXACT = 30.0  # log precision of the density


class Slope(gymnasium.Env):
    """A ball rolls on a slope and is pushed. Its side determines the reward, and the episode terminates beyond the limit."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, position: float = 0.0, speed: float = 0.0) -> None:
        self.x, self.v = position, speed

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.v = self.np_random.uniform(-1, 1, 2)
        return np.array([self.x, self.v], np.float32), {}

    def step(self, action):
        self.x, self.v = self.x + 0.1 * self.v, 0.98 * self.v + 0.3 * float(action[0]) + 0.05
        reward = float(reward_support(torch.zeros(1))[REWARDS[int(self.x > 0)]])
        return np.array([self.x, self.v]), reward, abs(self.x) > LIMIT, False, {}


class SlopeDensity(nn.Module):
    """The dynamics of Slope as a density: the next position and speed, nearly without noise."""

    input_size, output_size, hidden_size, num_features, noise_shapes = 3, 2, 3, 3, ((1,), (2,))
    residual = False

    def __init__(self) -> None:
        super().__init__()
        self.law = nn.Linear(3, 2)
        self.law.weight.data = torch.tensor([[1, 0.1, 0], [0, 0.98, 0.3]])
        self.law.bias.data = torch.tensor([0, 0.05])

    def initial(self, batch):
        return State(torch.zeros(batch, 1, 3), torch.zeros(batch, 1, 0))

    def unroll(self, x, state=None):
        return x, State(x[:, -1:], torch.zeros(len(x), 1, 0))

    def distribution(self, hidden):
        loc = self.law(hidden)[..., None, :]
        return GaussianMixture(torch.zeros_like(loc[..., 0]), loc, torch.full_like(loc, NEARLY_EXACT))


class TerminationHead(nn.Module):
    """The logit of |next position| > LIMIT."""

    def __init__(self, law):
        super().__init__()
        self.law = law

    def forward(self, hidden):
        return 1e4 * (self.law(hidden)[..., :1].abs() - LIMIT)


class RewardHead(nn.Module):
    """Logits of the reward at the next position."""

    def __init__(self, law):
        super().__init__()
        self.law = law

    def forward(self, hidden):
        right = self.law(hidden)[..., :1] > 0
        logits = torch.full((*hidden.shape[:-1], 63), -1e4)
        return logits.scatter(-1, torch.where(right, REWARDS[1], REWARDS[0]), 1e4)


def test_a_dream_with_the_exact_model_equals_the_environment():
    density = SlopeDensity()
    memory = Memory(RMDN(3, 2, hidden_size=3))
    memory.density, memory.reward_head, memory.termination_head = (
        density,
        RewardHead(density.law),
        TerminationHead(density.law),
    )
    world = WorldModel(VAE(latent_dim=2), memory).eval()
    rng = np.random.default_rng(0)
    start_states = torch.from_numpy(rng.uniform(-1, 1, (5, 2)).astype(np.float32))
    controllers = rng.normal(size=(7, 6)).astype(np.float32)
    dreams = rollouts.dream(world, controllers, start_states, horizon=60, num_rollouts=5, seed=2, keep=("latents",))
    # six standard deviations per step; float32 roundings are smaller
    noise = 60 * 6 * float(np.exp(-0.5 * NEARLY_EXACT))
    ended = 0
    for p, weights in enumerate(controllers):
        for n in range(5):
            x, v = dreams.latents[p, n, 0]
            env, action, total, steps, terminated = Slope(x, v), 0.0, 0.0, 0, False
            before = np.zeros(3)  # the hidden state is the last input of the memory
            while steps < 60 and not terminated:
                obs = np.concatenate(([env.x, env.v], before))
                action = np.tanh(obs @ weights[:5] + weights[5])
                before = np.array([env.x, env.v, action])
                latent, reward, terminated, _, _ = env.step([action])
                total, steps = total + reward, steps + 1
                np.testing.assert_allclose(dreams.latents[p, n, steps], latent, atol=noise)
            assert (steps, terminated) == (dreams.lengths[p, n], dreams.terminated[p, n])
            assert_same_sums(dreams.returns[p, n], total, count=steps, terms=memory.support[list(REWARDS)])
            ended += terminated
    assert 0 < ended < 35


class Standardized(nn.Module):
    """A head of the exact model behind a change of coordinates: it gets the vectors that the latents encode."""

    def __init__(self, head, encoder):
        super().__init__()
        self.head, self.encoder = head, encoder

    def forward(self, hidden):
        vector = self.encoder.decode(hidden[..., :2].flatten(0, -2)).view(*hidden.shape[:-1], 2)
        return self.head(torch.cat((vector, hidden[..., 2:]), dim=-1))


class StandardizedSlope(SlopeDensity):
    """The dynamics of Slope in the coordinates of an encoder."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.rule = encoder, Standardized(self.law, encoder)

    def distribution(self, hidden):
        loc = ((self.rule(hidden) - self.encoder.mean) / self.encoder.scale)[..., None, :]
        return GaussianMixture(torch.zeros_like(loc[..., 0]), loc, torch.full_like(loc, NEARLY_EXACT))


def test_the_dream_env_of_vectors_with_the_exact_model_equals_the_environment(tmp_path):
    """Collect, standardize, dream: observations, rewards and ends are those of the environment."""
    store = rollouts.collect(Slope, "uniform", 6, 1, out=tmp_path, max_steps=9, env_options={"observation": "vector"})
    encoder = VectorEncoder.for_store(store)
    memory, density = Memory(RMDN(3, 2, hidden_size=3)), StandardizedSlope(encoder)
    memory.density, memory.reward_head, memory.termination_head = (
        density,
        Standardized(RewardHead(density.law), encoder),
        Standardized(TerminationHead(density.law), encoder),
    )
    dream = envs.DreamEnv(WorldModel(encoder, memory, store), store.latents(encoder), horizon=60)
    assert dream.observation_space.shape == (2,)
    ended = 0
    for seed in range(8):
        observation, _ = dream.reset(seed=seed)
        env, over, rng = Slope(*observation.astype(float)), False, np.random.default_rng(seed)
        while not over:
            action = rng.uniform(-1, 1, 1).astype(np.float32) + 0.4
            observation, reward, terminated, truncated, _ = dream.step(action)
            expected, real_reward, real_terminated, *_ = env.step(action.clip(-1, 1))
            np.testing.assert_allclose(observation, expected, atol=1e-3)
            assert (reward, terminated) == (pytest.approx(real_reward), real_terminated)
            over = terminated or truncated
        ended += terminated
    assert ended
