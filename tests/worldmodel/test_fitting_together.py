"""Parts that do not fit together are refused where they are put together; each says in a line what it is."""

from types import SimpleNamespace

import pytest
import torch

import rollouts
from agents import Agent, HiddenController, LinearController
from envs import DreamEnv
from worldmodel import FRMDN, RMDN, VAE, Memory, SequenceDensity, WorldModel
from worldmodel.baselines import VRNN, PerDimensionRMDN

BOX, CHOICES = SimpleNamespace(action_dim=3, discrete=False), SimpleNamespace(action_dim=4, discrete=True)


def small(actions: int = 3, latent: int = 4, **more) -> WorldModel:
    return WorldModel(VAE(latent), Memory(RMDN(latent + actions, latent, hidden_size=6)), **more)


def test_a_memory_is_made_for_a_store():
    memory = Memory.for_store(CHOICES, RMDN, latent_dim=5, hidden_size=7, reward=False)
    assert (memory.latent_dim, memory.action_dim, memory.hidden_size) == (5, 4, 7)
    assert (type(memory.density), memory.reward_head) == (RMDN, None)
    default = Memory.for_store(BOX)
    assert (default.latent_dim, default.action_dim, type(default.density)) == (32, 3, FRMDN)
    for wrong, named in (
        ({"latent_dim": 0}, "latent_dim"),
        ({"input_size": 9}, "input_size"),
        ({"output_size": 9}, "output_size"),
    ):
        with pytest.raises(ValueError, match=named):
            Memory.for_store(BOX, FRMDN, **wrong)


def test_a_world_model_takes_the_kind_of_actions_from_the_store():
    for store in (BOX, CHOICES):
        assert WorldModel(VAE(), Memory.for_store(store), store).discrete is store.discrete
    assert not WorldModel(VAE(), Memory.for_store(BOX)).discrete
    assert WorldModel(VAE(), Memory.for_store(BOX), discrete=True).discrete


@pytest.mark.parametrize(
    ("put_together", "numbers"),
    [
        (lambda: WorldModel(VAE(8), Memory.for_store(BOX)), ("8", "32")),
        (lambda: WorldModel(VAE(), Memory.for_store(BOX), CHOICES), ("4", "3")),
        (lambda: WorldModel(VAE(), Memory.for_store(CHOICES), CHOICES, discrete=False), ("True", "False")),
        (lambda: Agent(small(), LinearController(num_inputs=4, action_dim=2)), ("3", "2")),
        (lambda: Agent(small(), LinearController(num_inputs=5, action_dim=3)), ("10", "5")),
        (lambda: rollouts.DreamFitness(small(), torch.zeros(2, 5)), ("4", "5")),
        (lambda: rollouts.DreamFitness(small(), torch.zeros(2, 4), controller=LinearController(11, 3)), ("10", "11")),
        (lambda: rollouts.DreamFitness(small(), torch.zeros(2, 4), ensemble=[small(2).memory] * 2), ("3", "2")),
        (lambda: rollouts.dream(small(), HiddenController(10, 2), torch.zeros(2, 4)), ("3", "2")),
        (lambda: DreamEnv(small(), torch.zeros(2, 5)), ("4", "5")),
        (lambda: small().memory(torch.zeros(1, 2, 4), torch.zeros(1, 2, 2)), ("3", "2")),
        (lambda: small().memory(torch.zeros(1, 2, 5), torch.zeros(1, 2, 3)), ("4", "5")),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(put_together, numbers):
    with pytest.raises(ValueError) as refused:
        put_together()
    said = str(refused.value)
    assert "\n" not in said
    assert all(number in said for number in numbers), said


def test_starts_must_be_starts():
    with pytest.raises(ValueError, match="start_states"):
        rollouts.DreamFitness(small(), [[0.0] * 4])


@pytest.mark.parametrize(
    "built",
    [
        lambda: VAE(),
        lambda: VAE(latent_dim=8, free_bits=0.1),
        lambda: RMDN(7, 4, hidden_size=6, rank=2),
        lambda: FRMDN(7, 4, conditional=True),
        lambda: PerDimensionRMDN(7, 4),
        lambda: Memory(FRMDN(7, 4), reward=False),
        lambda: small(discrete=True),
        lambda: SequenceDensity(RMDN(4, 4), bptt_length=9),
        lambda: VRNN(4, hidden_size=8),
    ],
)
def test_a_repr_is_the_call_that_builds_it(built):
    one = built()
    said = repr(one)
    assert "\n" not in said
    assert len(said) < 200
    again = eval(said)
    assert repr(again) == said
    assert getattr(again, "config", None) == getattr(one, "config", None)
