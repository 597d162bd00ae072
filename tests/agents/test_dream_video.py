"""Videos and plots of encodings, dreams and rewards."""

import numpy as np
import pytest
import torch

from tests import toys
from tests.rollouts.dreams import assert_same_rewards
from worldmodel import FRMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.agents.analysis import dream_video
from worldmodel.memory import REWARD_BINS
from worldmodel.rollouts.dream import open_loop_rollout


def world():
    with seeded(0):
        world_model = WorldModel(VAE(latent_dim=3), Memory(FRMDN(5, 3, hidden_size=5))).eval()
        for parameter in world_model.memory.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        world_model.vae.prepare.weight.data *= 20
    return world_model


def episode():
    return rollouts.play(toys.counter(), rollouts.uniform, 3)


def test_temperature_film_shows_the_game_and_each_temperature():
    world_model, played = world(), episode()
    film = dream_video.temperature_film(world_model, played, (0.2, 1.0), seed=4, start_step=5)
    assert film.shape == (len(played) - 4, 16 + 192, 3 * 192 + 16, 3)
    np.testing.assert_array_equal(film[:, 16::3, :192:3], played.frames[5:])
    latents = dream_video.encode_means(world_model, played)
    for column, temperature in ((200, 0.2), (400, 1.0)):
        dreamed = open_loop_rollout(world_model, latents, world_model.action_inputs(played.actions), 5, temperature, 4)
        np.testing.assert_array_equal(film[:, 16::3, column : column + 192 : 3], world_model.decode(dreamed))
    assert (film[:, :16] < 128).any()  # text


def test_a_start_after_the_episode_is_refused():
    with pytest.raises(ValueError, match="start_step must be from 0 to "):
        dream_video.film(world(), played := episode(), start_step=len(played))


def test_traversals_vary_one_latent_at_a_time():
    world_model = world()
    latents = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) * [0.1, 3, 1]
    picture, which = dream_video.traversals(world_model, latents, frame_index=7)
    assert which == [1, 2, 0]
    changed = latents[7:8].copy()
    changed[0, 2] = latents[:, 2].mean() + 2.5 * latents[:, 2].std()
    expected = world_model.decode(torch.from_numpy(changed.astype(np.float32)))[0]
    shown = picture[2 * 66 : 2 * 130 : 2, 2 * 8 * 66 : 2 * (8 * 66 + 64) : 2]  # row 1, the last picture
    assert np.abs(shown.astype(int) - expected).max() <= 1


def test_rewards_are_predicted_from_the_past():
    world_model, played = world(), episode()
    head = world_model.memory.reward_head
    head.weight.data.zero_()
    head.bias.data.copy_(torch.linspace(0, 1, REWARD_BINS))
    predicted, real = dream_video.rewards(world_model, played)
    assert predicted.shape == real.shape == (len(played),)
    expected = world_model.memory.expected_reward(head.bias[None])[0]
    assert_same_rewards(predicted, expected, world_model.memory, steps=1)
    np.testing.assert_array_equal(real, played.rewards)
    shortened = played.first(len(played) - 1)
    assert_same_rewards(dream_video.rewards(world_model, shortened)[0], predicted[:-1], world_model.memory, len(played))
    assert dream_video.reward_plot(world_model, played)[:4] == b"\x89PNG"
