"""Start states: clips of real episodes that are saved with a world model."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from worldmodel import RMDN, VAE, Memory, WorldModel, seeded
from worldmodel.start_states import StartState, StartStates, burn_in_states
from worldmodel.world_model import WorldState


class EncodedEpisode(NamedTuple):
    mean: np.ndarray
    action: np.ndarray


class Episodes:
    """Episode i has i steps; its latents are the index of the episode and the step."""

    def __len__(self):
        return 6

    def episode(self, index):
        latents = np.stack((np.full(index + 1, index), np.arange(index + 1)), axis=1).astype(np.float16)
        return EncodedEpisode(latents, latents[:index, 1:].astype(np.float32))


def test_clips_are_consecutive_steps_of_real_episodes(tmp_path):
    StartStates.from_episodes(Episodes(), num=40, max_steps=3).save(tmp_path)
    start_states = StartStates.load(tmp_path)
    assert len(start_states) == 40
    lengths = set()
    for index in range(40):
        mean, action = start_states.episode(index)
        assert len(mean) == len(action) + 1
        assert len(action) == min(3, int(mean[0, 0]))
        assert (np.diff(mean[:, 1]) == 1).all()
        np.testing.assert_array_equal(action[:, 0], mean[:-1, 1])
        lengths.add(len(action))
    assert lengths == {1, 2, 3}


def test_clips_depend_on_the_seed():
    one, again, other = (StartStates.from_episodes(Episodes(), num=40, max_steps=3, seed=seed) for seed in (1, 1, 2))
    assert one.mean.equal(again.mean)
    assert not one.mean.equal(other.mean)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": torch.tensor([9])}, "steps"),
        ({"steps": torch.tensor([0])}, "steps"),
        ({"action": torch.zeros(1, 3, 1)}, "action"),
        ({"mean": torch.full((1, 3, 2), torch.nan)}, "finite"),
    ],
)
def test_bad_start_states_are_refused(change, named):
    good = {"mean": torch.zeros(1, 3, 2), "action": torch.zeros(1, 2, 1), "steps": torch.tensor([2])}
    StartStates(**good)
    with pytest.raises(ValueError, match=named):
        StartStates(**(good | change))


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"starts\.safetensors"):
        StartStates.load(tmp_path)
    (tmp_path / "starts.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"starts\.safetensors"):
        StartStates.load(tmp_path)


def test_burn_in_equals_observing_the_steps_before():
    """Burn-in observes up to ``burn_in`` earlier steps one by one; other rows of the batch have no influence."""
    with seeded(3):
        world = WorldModel(VAE(latent_dim=2), Memory(RMDN(3, 2, hidden_size=4, num_components=1))).eval()
    rng = np.random.default_rng(0)
    episode = EncodedEpisode(
        rng.standard_normal((10, 2)).astype(np.float16), rng.standard_normal((9, 1)).astype(np.float32)
    )
    mean, action = torch.from_numpy(episode.mean.astype(np.float32)), torch.from_numpy(episode.action)
    steps = (0, 1, 3, 8)
    states = burn_in_states(world, [StartState(episode, step) for step in steps], burn_in=3)
    for row, step in enumerate(steps):
        state = world.initial(1)
        for past in range(max(step - 3, 0), step):
            state = world.observe(state, mean[past : past + 1], action[past : past + 1])
        expected = WorldState(mean[step : step + 1], state)
        torch.testing.assert_close(states.controller_inputs[row], expected.controller_inputs[0])
