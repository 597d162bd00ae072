"""benchmarks.ends: moments and returns by hand, dreams beside `rollouts.dream`, ends of a memory that is known."""

import numpy as np
import pytest
import torch

import rollouts
from agents.controller import LinearController
from benchmarks import ends
from rollouts.latents import EncodedEpisode
from worldmodel import RMDN, VAE, Memory, WorldModel, seeded


def episode(rewards, seed=0):
    rng, steps = np.random.default_rng(seed), len(rewards)
    ended = np.zeros(steps, np.float32)
    ended[-1] = 1.0
    latents = rng.standard_normal((steps + 1, 3)).astype(np.float16)
    actions = rng.standard_normal((steps, 2)).astype(np.float32)
    return EncodedEpisode(latents, latents, actions, np.array(rewards, np.float32), ended)


def world(chance):
    with seeded(2):
        made = WorldModel(VAE(latent=3), Memory(RMDN(5, 3, hidden=4, mixtures=2)))
    with torch.no_grad():
        made.memory.termination_head.weight.zero_()
        made.memory.termination_head.bias.fill_(float(torch.logit(torch.tensor(chance))))
    return made.eval()


def test_moments_are_behind_so_many_steps_that_earned_nothing():
    one = episode([1, 0, -0.1, 2, 0, 0, 0, 0])
    steps = {quiet: [place.step for place in ends.moments([one], quiet)] for quiet in (0, 1, 2, 3, 4)}
    assert steps == {0: [1, 4], 1: [2, 5], 2: [3, 6], 3: [7], 4: []}
    places = ends.moments([one], 1)
    assert ends.given(places, 2) == pytest.approx(np.mean([-0.1 + 2, 0]))
    assert ends.given(places, 99) == pytest.approx(np.mean([-0.1 + 2, 0]))


def test_dreams_are_those_of_rollouts():
    """Other random numbers, the same mean, within four standard errors; from a start without a past."""
    made, start, count = world(0.1), episode([1, 1, 1]), 400
    with torch.no_grad():
        made.memory.reward_head.weight.normal_(generator=torch.Generator().manual_seed(1))
    controller = LinearController.sized(made)
    controller.parameters.copy_(torch.sin(torch.arange(controller.size)))
    mine = ends.dreamed(made, [made.memory], controller, [ends.Moment(start, 0)] * count, 6)
    first = torch.from_numpy(start.mean[:1].astype(np.float32))
    theirs = rollouts.dream(made, controller, first, 6, 4 * count, seed=5, worlds=[made.memory]).returns
    assert abs(mine - theirs.mean()) < 4 * theirs.std() * np.sqrt(1 / count + 1 / theirs.size)


@pytest.mark.parametrize("chance", [0.01, 0.5])
def test_ends_foretold_are_chances_added_up(chance):
    lives = [episode([1] * 4), episode([1] * 6, 1)]
    found = ends.foretold([world(chance).memory, world(chance).memory], lives)
    assert found["foretold"] == pytest.approx(10 * chance, rel=1e-5)
    assert found["likelihood"] == pytest.approx(2 * np.log(chance) + 8 * np.log(1 - chance), rel=1e-5)
    assert found["constant"] == pytest.approx(2 * np.log(0.2) + 8 * np.log(0.8))
    assert (found["happened"], found["steps"]) == (2, 10)
