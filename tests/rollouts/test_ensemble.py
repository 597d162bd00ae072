"""Dreams in an ensemble: one world model observes, and each dream uses one memory of the ensemble."""

import numpy as np
import pytest
import torch

from tests.rollouts.dreams import assert_same_rewards
from tests.tolerance import assert_same_sums
from worldmodel import FRMDN, RMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.start_states import EncodedClip


def memory(seed: int, hidden: int = 6, density=RMDN, **options) -> Memory:
    with seeded(seed):
        model = Memory(density(input_size=6, output_size=4, hidden_size=hidden, num_components=2, **options))
        torch.nn.init.normal_(model.reward_head.weight, std=0.5)
    return model


@pytest.fixture(scope="module")
def world():
    return WorldModel(VAE(latent_dim=4), memory(0))


@pytest.fixture(scope="module")
def controllers(world):
    return np.random.default_rng(0).normal(size=(3, (world.num_features + 1) * 2))


STARTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def dream(world, controllers, num_rollouts=6, **options):
    return rollouts.dream(
        world, controllers, STARTS, horizon=20, num_rollouts=num_rollouts, seed=3, keep=("latents",), **options
    )


def test_an_ensemble_of_the_own_memory_changes_nothing(world, controllers):
    alone, same = dream(world, controllers), dream(world, controllers, ensemble=[world.memory])
    np.testing.assert_array_equal(alone.returns, same.returns)
    np.testing.assert_array_equal(alone.latents, same.latents)


@pytest.mark.parametrize("num_rollouts", [6, 5])
def test_each_dream_uses_its_own_memory(world, controllers, num_rollouts):
    others = [memory(1), memory(2, hidden=9), memory(3)]
    together = dream(world, controllers, num_rollouts, ensemble=others)
    for number, one in enumerate(others):
        own, groups = slice(number, None, 3), len(range(number, num_rollouts, 3))
        alone = dream(world, controllers, ensemble=[one])  # dreams of a group share start states and noise
        assert_same_rewards(together.returns[:, own], alone.returns[:, :groups], one, steps=20)
        np.testing.assert_array_equal(together.lengths[:, own], alone.lengths[:, :groups])
    assert not np.allclose(dream(world, controllers, ensemble=others[:1]).returns, dream(world, controllers).returns)


def test_the_world_model_observes_dreams_of_an_ensemble_as_it_observes_a_game(world):
    """Actions in dreams of another memory equal those of an agent that observes the same latents in the game."""
    parameters = np.random.default_rng(1).normal(size=(1, (world.num_features + 1) * 2))
    dreams = rollouts.dream(
        world,
        parameters,
        STARTS,
        20,
        1,
        seed=3,
        keep=("latents", "actions"),
        ensemble=[memory(1)],
        termination_hazard_ratio=1e-9,
    )
    weight = torch.tensor(parameters[0, :-2], dtype=torch.float32).view(2, -1)
    bias = torch.tensor(parameters[0, -2:], dtype=torch.float32)
    state = world.initial(1)
    for latent, action in zip(dreams.latents[0, 0], dreams.actions[0, 0], strict=False):
        latent_batch = torch.from_numpy(latent)[None]
        expected = torch.tanh(torch.cat((latent_batch, state.hidden[:, -1]), dim=1) @ weight.T + bias)
        assert_same_sums(action[None], expected, count=20 * (world.num_features + 1))  # the memory adds at every step
        state = world.observe(state, latent_batch, torch.from_numpy(action)[None])


def test_each_dream_of_an_ensemble_can_have_its_own_temperature(world, controllers):
    temperatures = np.linspace(0.2, 2, 6)
    each = dream(world, controllers, ensemble=[memory(1), memory(2)], temperature=temperatures)
    for number, temperature in enumerate(temperatures):
        alone = dream(world, controllers, ensemble=[memory(1), memory(2)], temperature=float(temperature))
        assert_same_rewards(each.returns[:, number], alone.returns[:, number], world.memory, steps=20)


def test_the_identity_of_a_fitness_depends_on_its_ensemble(world):
    ensembles = [None, [memory(1), memory(2)], [memory(1), memory(2), memory(3)]]
    identities = [rollouts.DreamFitness(world, STARTS, ensemble=ensemble).identity for ensemble in ensembles]
    assert all(identities.count(identity) == 1 for identity in identities)


@pytest.mark.parametrize("dreams", [6, 7])
def test_equal_memories_have_no_disagreement(world, controllers, dreams):
    same = dream(world, controllers, num_rollouts=dreams, ensemble=[memory(1)] * 3).returns
    assert_same_rewards(rollouts.disagreement(same, 3), 0, world.memory, steps=20)
    others = dream(world, controllers, num_rollouts=dreams, ensemble=[memory(n) for n in range(3)]).returns
    assert (rollouts.disagreement(others, 3) > 1e-2).all()


def test_disagreement_uses_complete_groups():
    returns = np.array([[1.0, 3.0, 5.0, 7.0, 100.0]])
    assert rollouts.disagreement(returns, 2)[0] == pytest.approx(np.std([3, 5], ddof=1))
    with pytest.raises(ValueError, match="ensemble"):
        rollouts.disagreement(returns, 1)


class Episodes:
    """Encoded episodes for the burn-in."""

    def __len__(self):
        return 3

    def episode(self, index):
        rng = np.random.default_rng(index)
        actions = rng.uniform(-1, 1, (40, 2)).astype(np.float32)
        return EncodedClip(rng.normal(size=(41, 4)).astype(np.float32), actions)


def test_ensembles_support_burn_in_and_temperature(world, controllers):
    alone, same = (
        rollouts.dream(world, controllers, Episodes(), 20, 6, seed=3, temperature=0.3, burn_in=9, ensemble=ensemble)
        for ensemble in (None, [world.memory])
    )
    np.testing.assert_array_equal(alone.returns, same.returns)
    without_burn_in = rollouts.dream(world, controllers, Episodes(), 20, 6, seed=3, temperature=0.3, burn_in=0)
    assert not np.allclose(alone.returns, without_burn_in.returns)


@pytest.mark.parametrize(
    "make_ensemble",
    [lambda: [], lambda: [memory(1)] * 7, lambda: [memory(1), memory(2, density=FRMDN, rank=2)]],
    ids=["none", "more than dreams", "of other noise"],
)
def test_unsuitable_ensembles_are_refused(world, controllers, make_ensemble):
    with pytest.raises(ValueError, match="^ensemble "):
        dream(world, controllers, ensemble=make_ensemble())
