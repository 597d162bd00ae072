"""Pictures of what a world model sees and dreams."""

import numpy as np
import torch

import rollouts
from agents import dream_video as show
from rollouts.dream import open_loop_rollout
from tests import toys
from tests.rollouts.dreams import assert_same_rewards
from worldmodel import FRMDN, VAE, Memory, WorldModel, seeded
from worldmodel.memory import REWARD_BINS


def world():
    with seeded(0):
        built = WorldModel(VAE(latent_dim=3), Memory(FRMDN(5, 3, hidden_size=5))).eval()
        for parameter in built.memory.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        built.vae.prepare.weight.data *= 20
    return built


def episode():
    return rollouts.play(toys.counter(), rollouts.uniform, 3)


def test_the_film_shows_the_game_and_each_temperature():
    built, lived = world(), episode()
    film = show.temperature_film(built, lived, (0.2, 1.0), seed=4, start=5)
    assert film.shape == (len(lived) - 4, 16 + 192, 3 * 192 + 16, 3)
    np.testing.assert_array_equal(film[:, 16::3, :192:3], lived.frames[5:])
    latents = show.seen(built, lived)
    for place, temperature in ((200, 0.2), (400, 1.0)):
        dreamed, _ = open_loop_rollout(built, latents, built.action_inputs(lived.actions), 5, 1, temperature, 4)
        np.testing.assert_array_equal(film[:, 16::3, place : place + 192 : 3], built.decode(dreamed[0]))
    assert (film[:, :16] < 128).any()  # words


def test_traversals_turn_one_latent_at_a_time():
    built = world()
    latents = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) * [0.1, 3, 1]
    picture, which = show.traversals(built, latents, turned=7)
    assert which == [1, 2, 0]
    turned = latents[7:8].copy()
    turned[0, 2] = latents[:, 2].mean() + 2.5 * latents[:, 2].std()
    wanted = built.decode(torch.from_numpy(turned.astype(np.float32)))[0]
    shown = picture[2 * 66 : 2 * 130 : 2, 2 * 8 * 66 : 2 * (8 * 66 + 64) : 2]  # row 1, the last picture
    assert np.abs(shown.astype(int) - wanted).max() <= 1


def test_rewards_are_foretold_from_what_was_before():
    built, lived = world(), episode()
    head = built.memory.reward_head
    head.weight.data.zero_()
    head.bias.data.copy_(torch.linspace(0, 1, REWARD_BINS))
    foretold, real = show.rewards(built, lived)
    assert foretold.shape == real.shape == (len(lived),)
    wanted = built.memory.expected_reward(head.bias[None])[0]
    assert_same_rewards(foretold, wanted, built.memory, steps=1)
    np.testing.assert_array_equal(real, lived.rewards)
    changed = lived.first(len(lived) - 1)
    assert_same_rewards(show.rewards(built, changed)[0], foretold[:-1], built.memory, len(lived))
    assert show.reward_plot(built, lived)[:4] == b"\x89PNG"
