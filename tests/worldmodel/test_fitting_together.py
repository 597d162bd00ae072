"""Components with incompatible sizes are refused at construction, and the repr of a component rebuilds it."""

from types import SimpleNamespace

import pytest
import torch

from worldmodel import FRMDN, RMDN, VAE, Memory, SequenceDensity, WorldModel, rollouts
from worldmodel.agents import Agent, HiddenController, LinearController
from worldmodel.baselines import VRNN, PerDimensionRMDN
from worldmodel.envs import DreamEnv

BOX_STORE, DISCRETE_STORE = SimpleNamespace(action_dim=3, discrete=False), SimpleNamespace(action_dim=4, discrete=True)


def small_model(action_dim: int = 3, latent_dim: int = 4, **more) -> WorldModel:
    return WorldModel(VAE(latent_dim), Memory(RMDN(latent_dim + action_dim, latent_dim, hidden_size=6)), **more)


def test_memory_for_store_takes_its_sizes_from_the_store():
    memory = Memory.for_store(DISCRETE_STORE, RMDN, latent_dim=5, hidden_size=7, reward=False)
    assert (memory.latent_dim, memory.action_dim, memory.hidden_size) == (5, 4, 7)
    assert (type(memory.density), memory.reward_head) == (RMDN, None)
    default = Memory.for_store(BOX_STORE)
    assert (default.latent_dim, default.action_dim, type(default.density)) == (32, 3, FRMDN)
    for sizes, named in (
        ({"latent_dim": 0}, "latent_dim"),
        ({"input_size": 9}, "input_size"),
        ({"output_size": 9}, "output_size"),
    ):
        with pytest.raises(ValueError, match=named):
            Memory.for_store(BOX_STORE, FRMDN, **sizes)


def test_world_model_takes_the_kind_of_actions_from_the_store():
    for store in (BOX_STORE, DISCRETE_STORE):
        assert WorldModel(VAE(), Memory.for_store(store), store).discrete is store.discrete
    assert not WorldModel(VAE(), Memory.for_store(BOX_STORE)).discrete
    assert WorldModel(VAE(), Memory.for_store(BOX_STORE), discrete=True).discrete


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (lambda: WorldModel(VAE(8), Memory.for_store(BOX_STORE)), ("8", "32")),
        (lambda: WorldModel(VAE(), Memory.for_store(BOX_STORE), DISCRETE_STORE), ("4", "3")),
        (
            lambda: WorldModel(VAE(), Memory.for_store(DISCRETE_STORE), DISCRETE_STORE, discrete=False),
            ("True", "False"),
        ),
        (lambda: Agent(small_model(), LinearController(num_inputs=4, action_dim=2)), ("3", "2")),
        (lambda: Agent(small_model(), LinearController(num_inputs=5, action_dim=3)), ("10", "5")),
        (lambda: rollouts.DreamFitness(small_model(), torch.zeros(2, 5)), ("4", "5")),
        (
            lambda: rollouts.DreamFitness(small_model(), torch.zeros(2, 4), controller=LinearController(11, 3)),
            ("10", "11"),
        ),
        (
            lambda: rollouts.DreamFitness(small_model(), torch.zeros(2, 4), ensemble=[small_model(2).memory] * 2),
            ("3", "2"),
        ),
        (lambda: rollouts.dream(small_model(), HiddenController(10, 2), torch.zeros(2, 4)), ("3", "2")),
        (lambda: DreamEnv(small_model(), torch.zeros(2, 5)), ("4", "5")),
        (lambda: small_model().memory(torch.zeros(1, 2, 4), torch.zeros(1, 2, 2)), ("3", "2")),
        (lambda: small_model().memory(torch.zeros(1, 2, 5), torch.zeros(1, 2, 3)), ("4", "5")),
    ],
)
def test_incompatible_sizes_are_refused_and_both_are_named(build, sizes):
    with pytest.raises(ValueError) as error:
        build()
    message = str(error.value)
    assert "\n" not in message
    assert all(size in message for size in sizes), message


def test_start_states_of_a_wrong_type_are_refused():
    with pytest.raises(ValueError, match="start_states"):
        rollouts.DreamFitness(small_model(), [[0.0] * 4])


@pytest.mark.parametrize(
    "build",
    [
        lambda: VAE(),
        lambda: VAE(latent_dim=8, free_bits=0.1),
        lambda: RMDN(7, 4, hidden_size=6, rank=2),
        lambda: FRMDN(7, 4, conditional=True),
        lambda: PerDimensionRMDN(7, 4),
        lambda: Memory(FRMDN(7, 4), reward=False),
        lambda: small_model(discrete=True),
        lambda: SequenceDensity(RMDN(4, 4), bptt_length=9),
        lambda: VRNN(4, hidden_size=8),
    ],
)
def test_repr_is_the_call_that_rebuilds_the_object(build):
    original = build()
    text = repr(original)
    assert "\n" not in text
    assert len(text) < 200
    rebuilt = eval(text)
    assert repr(rebuilt) == text
    assert getattr(rebuilt, "config", None) == getattr(original, "config", None)
