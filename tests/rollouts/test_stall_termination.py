"""Idle truncation as termination at the last reward, and a memory that predicts it."""

import json

import numpy as np
import pytest
import torch

from tests import toys
from worldmodel import RMDN, VAE, Memory, fit, rollouts, seeded
from worldmodel.rollouts.store.stall_termination import StallTerminated, is_stalled

LAST_REWARD_PROBABILITY = 0.06
"""Probability that a step has the last reward of its episode."""
EPISODES = 100


class Mortal(toys.Counter):
    """The reward is 1 until a random step and 0 after it."""

    def reset(self, *, seed=None, options=None):
        self.is_stalled_now = False
        return super().reset(seed=seed)

    def step(self, action):
        frame, _, _, _, info = super().step(action)
        self.now = 0
        reward = 0.0 if self.is_stalled_now else 1.0
        self.is_stalled_now = self.is_stalled_now or bool(self.np_random.random() < LAST_REWARD_PROBABILITY)
        return frame, reward, False, False, info


@pytest.fixture(scope="module")
def vae():
    with seeded(0):
        return VAE(latent_dim=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("endings") / "store"
    return rollouts.collect(Mortal, rollouts.uniform, EPISODES, seed=5, out=out, max_idle_steps=10)


@pytest.mark.parametrize(
    ("rewards", "terminated", "max_idle_steps", "expected"),
    [
        ([1, 0, 0, 0], False, 3, True),
        ([1, 0, 0, -0.1], False, 3, True),
        ([1, 0, 0, 0], False, 4, False),
        ([0, 0, 0], False, 3, True),
        ([0, 0], False, 3, False),
        ([1, 0, 0, 0], True, 3, False),
        ([1, 0, 0, 0], False, None, False),
    ],
)
def test_stalled(rewards, terminated, max_idle_steps, expected):
    assert is_stalled(np.array(rewards), terminated, max_idle_steps) is expected


@pytest.mark.parametrize("delay", [0, 3, 10])
def test_truncated_episodes_end_some_steps_after_their_last_reward(store, vae, delay):
    ended, whole = store.latents(vae, stall_delay=delay), store.latents(vae)
    assert isinstance(ended, StallTerminated)
    assert len(ended) == len(whole) == EPISODES
    for index in range(EPISODES):
        rewards = store.episode_metadata(index).rewards
        episode, before = ended.episode(index), whole.episode(index)
        assert len(episode.action) == len(episode.mean) - 1 == ended.lengths[index] == int(rewards.sum()) + delay
        assert episode.reward.sum() == rewards.sum()
        assert episode.terminated.tolist() == [0.0] * (len(episode.action) - 1) + [1.0]
        assert len(before.action) == len(episode.action) + 10 - delay
        assert not before.terminated.any()
        assert np.array_equal(before.mean[: len(episode.mean)], episode.mean)
        assert np.array_equal(before.action[: len(episode.action)], episode.action)
    assert ended.identity != whole.identity
    identities = [store.sequences(vae, stall_delay=one).identity for one in (None, delay, 5)]
    assert len({json.dumps(identity) for identity in identities}) == 3


def test_terminated_episodes_are_unchanged(tmp_path, vae):
    store = rollouts.collect(toys.counter, toys.marking, 2, out=tmp_path / "store", max_idle_steps=10)
    ended, whole = store.latents(vae, stall_delay=0), store.latents(vae)
    for index in range(2):
        assert all(
            np.array_equal(one, other) for one, other in zip(ended.episode(index), whole.episode(index), strict=True)
        )


def test_episodes_without_rewards_are_refused(tmp_path, vae):
    store = rollouts.collect(Poor, rollouts.uniform, 2, out=tmp_path / "store", max_idle_steps=10)
    with pytest.raises(ValueError, match="stall_delay"):
        store.latents(vae, stall_delay=0)


class Poor(Mortal):
    """All rewards are 0."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.is_stalled_now = True
        return result


@pytest.mark.parametrize("delay", [-1, 11])
def test_delays_beyond_the_truncation_are_refused(store, vae, delay):
    with pytest.raises(ValueError, match="stall_delay"):
        store.latents(vae, stall_delay=delay)


def test_stores_without_max_idle_steps_are_refused(tmp_path, vae):
    store = rollouts.collect(toys.counter, toys.marking, 2, out=tmp_path / "store")
    with pytest.raises(ValueError, match="stall_delay"):
        store.sequences(vae, stall_delay=0)


@pytest.mark.slow
def test_memory_predicts_terminations_as_often_as_they_occur(store, vae):
    """Episodes (17 steps on average) are longer than windows (4 steps): few windows without padding would contain an end."""
    with seeded(1):
        memory = Memory(RMDN(2 + 2, 2, hidden_size=4, num_components=1))
    sequences = store.sequences(vae, seq_len=4, stall_delay=0, pad_episode_ends=True)
    fit(memory, sequences, num_updates=150, batch_size=32, learning_rate=2e-2)
    predicted = observed = 0.0
    with torch.no_grad():
        for batch in sequences.batches(256):
            prediction, _ = memory(batch.latent, batch.action)
            predicted += float((prediction.termination_logit.sigmoid() * batch.mask).sum())
            observed += float(batch.terminated.sum())
    assert observed == EPISODES
    assert 0.8 * observed < predicted < 1.25 * observed
