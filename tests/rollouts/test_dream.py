"""Dreams: equality with single steps, repeatability, start states, terminations."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import toys
from tests.rollouts.dreams import STARTS, assert_same_rewards, controllers, world
from tests.tolerance import assert_same_sums
from worldmodel import rollouts
from worldmodel.imagination import NOISE_BLOCK
from worldmodel.rollouts.dream import common_random_numbers, open_loop_rollout
from worldmodel.start_states import sample_start_states
from worldmodel.world_model import WorldState

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("dreams") / "store"
    return rollouts.collect(toys.counter, toys.marking, episodes=4, seed=3, out=out)


def test_batched_dreams_equal_single_steps():
    model, parameters = world(), controllers(1)
    dreams = rollouts.dream(
        model, parameters, STARTS, horizon=12, num_rollouts=4, seed=5, keep=("latents", "actions", "rewards")
    )
    noise = common_random_numbers(model, 5, 4, 1)
    state = sample_start_states(model, STARTS, 4, np.random.default_rng([5, 1]))
    weight, bias = torch.from_numpy(parameters[0, :16]).view(2, 8), torch.from_numpy(parameters[0, 16:])
    total, alive = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.bool)
    sums = 12 * 8  # terms of the controller and of the memory, at every step
    for t in range(dreams.latents.shape[2] - 1):
        action = (torch.cat((state.latent, state.hidden), 1) @ weight.T + bias).tanh()
        assert_same_sums(dreams.actions[0, :, t][alive], action[alive], sums)
        step, state = model.imagine_from(state, action.detach(), next(noise), 1.0)
        assert_same_sums(dreams.latents[0, :, t + 1][alive], step.latent[alive], sums)
        total += torch.where(alive, step.reward.detach(), 0)
        alive &= ~step.terminated
    assert_same_rewards(dreams.returns[0], total, model.memory, steps=12)
    assert_same_rewards(dreams.rewards[0].sum(1), total, model.memory, steps=12)


def test_dreams_do_not_depend_on_their_batch():
    model, parameters, keep = world(), controllers(3), ("latents", "rewards")
    horizon = NOISE_BLOCK + 5
    together = rollouts.dream(model, parameters, STARTS, horizon, 6, seed=5, keep=keep, termination_hazard_ratio=1e-9)
    for p in range(3):
        for n in (1, 4):
            alone = rollouts.dream(
                model, parameters[p], STARTS, horizon - 3, n, seed=5, keep=keep, termination_hazard_ratio=1e-9
            )
            latents = together.latents[p, :n, : horizon - 2]
            assert_same_sums(alone.latents[0], latents, count=8 * horizon)
            assert_same_rewards(alone.rewards[0], together.rewards[p, :n, : horizon - 3], model.memory, horizon)


def test_common_random_numbers_are_standard_and_independent():
    noise = [next_ for next_, _ in zip(common_random_numbers(world(), 3, 40, 2), range(100), strict=False)]
    gumbel, normal, uniform = (torch.stack(part).double() for part in zip(*noise, strict=True))
    assert gumbel[:, :40].equal(gumbel[:, 40:])  # all controllers share the noise
    for values, cdf in (
        (normal, torch.special.ndtr),
        (gumbel, lambda x: torch.exp(-torch.exp(-x))),
        (uniform, lambda x: x),
    ):
        ordered = cdf(values[:, :40].flatten().sort().values)
        distance = (ordered - (torch.arange(len(ordered)) + 0.5) / len(ordered)).abs().max() + 0.5 / len(ordered)
        assert distance * len(ordered) ** 0.5 < 1.95  # Kolmogorov and Smirnov, 0.1 %
    first, second = normal[:, :39].flatten(), normal[:, 1:40].flatten()
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / len(first) ** 0.5
    steps = normal[:-1, :40].flatten(), normal[1:, :40].flatten()
    assert abs(np.corrcoef(*steps)[0, 1]) < 5 / len(steps[0]) ** 0.5


def test_each_dream_can_have_its_own_temperature():
    model, parameters, options = (
        world(),
        controllers(2),
        {"seed": 5, "keep": ("latents",), "termination_hazard_ratio": 1e-9},
    )
    mixed = rollouts.dream(model, parameters, STARTS, 8, 3, temperature=np.array([0.3, 1.0, 2.0]), **options)
    for n, temperature in enumerate((0.3, 1.0, 2.0)):
        plain = rollouts.dream(model, parameters, STARTS, 8, 3, temperature=temperature, **options)
        assert_same_sums(mixed.latents[:, n], plain.latents[:, n], count=8 * 8)


COMPILED = """
import numpy as np
from worldmodel import rollouts
from tests.rollouts.dreams import STARTS, assert_same_rewards, controllers, world
from tests.tolerance import assert_same_sums

options = {"horizon": 9, "num_rollouts": 3, "seed": 5, "keep": ("latents", "rewards")}
plain, fast = (rollouts.dream(world(), controllers(2), STARTS, compile=c, **options) for c in (False, True))
assert_same_sums(fast.latents, plain.latents, count=8 * 9)
assert_same_rewards(fast.returns, plain.returns, world().memory, steps=9)
"""


@pytest.mark.slow
def test_compiled_dreams_equal_eager_dreams():
    subprocess.run([sys.executable, "-c", COMPILED], cwd=ROOT, check=True)  # jaxtyping's checks cannot be compiled


@pytest.mark.parametrize("discrete", [False, True])
def test_dreams_are_written_as_rollouts(discrete, tmp_path):
    model, keep = world(discrete), ("latents", "actions", "rewards", "frames")
    dreams = rollouts.dream(model, controllers(3), STARTS, 9, 4, seed=5, keep=keep)
    store = rollouts.write_dreams(dreams, model, tmp_path / "store")
    assert (len(store), store.discrete, store.action_dim) == (12, discrete, 2)
    assert len(store.shards) == 2
    for number, index in enumerate(np.ndindex(3, 4)):
        episode, steps = store.episode(number), dreams.lengths[index]
        assert (len(episode), episode.terminated) == (steps, dreams.terminated[index])
        assert episode.truncated != episode.terminated
        # .5 may be rounded either way
        np.testing.assert_allclose(episode.frames, dreams.frames[index][: steps + 1], atol=1)
        assert_same_sums(episode.rewards.sum(), dreams.returns[index], len(episode), terms=episode.rewards)
        actions = dreams.actions[index][:steps]
        np.testing.assert_array_equal(episode.actions, actions.argmax(-1) if discrete else actions)
    assert store.sequences(model.vae, seq_len=4).batch(3, np.random.default_rng(0)).latent.shape == (3, 4, 3)
    with pytest.raises(ValueError, match="store"):
        rollouts.write_dreams(dreams, model, tmp_path / "store")
    with pytest.raises(ValueError, match="keep"):
        rollouts.write_dreams(dreams._replace(actions=None), model, tmp_path / "other")


def test_same_seed_same_dreams_and_controllers_share_start_states():
    model = world()
    one, other = (rollouts.dream(model, controllers(), STARTS, 8, 4, seed=2, keep=("latents",)) for _ in range(2))
    assert np.array_equal(one.latents, other.latents)
    assert np.array_equal(one.latents[0, :, 0], one.latents[2, :, 0])
    third = rollouts.dream(model, controllers(), STARTS, 8, 4, seed=3)
    assert not np.array_equal(one.returns, third.returns)


def test_terminated_dreams_get_no_more_rewards():
    model = world()
    with torch.no_grad():
        model.memory.termination_head.bias.fill_(100.0)
    dreams = rollouts.dream(model, controllers(), STARTS, horizon=50, num_rollouts=4, keep=("rewards",))
    assert (dreams.lengths == 1).all()
    assert dreams.terminated.all()
    assert dreams.rewards.shape == (3, 4, 1)
    without = rollouts.dream(world(termination=False), controllers(), STARTS, horizon=50, num_rollouts=4)
    assert (without.lengths == 50).all()
    assert not without.terminated.any()


@pytest.mark.parametrize("use_expected_continuation", [False, True])
def test_nans_after_termination_change_no_return_and_are_kept_as_zeros(monkeypatch, use_expected_continuation):
    """The first of two dreams terminates at its third step, the other one does not."""
    model, ends = world(), 3
    imagine, steps = model.imagine_from, []

    def drifting(*arguments):
        step, state = imagine(*arguments)
        steps.append(step)
        first = torch.tensor([True, False])
        if len(steps) > ends:
            reward, latent = (
                torch.where(mask, torch.nan, part)
                for mask, part in ((first, step.reward), (first[:, None], step.latent))
            )
            step, state = step._replace(reward=reward, latent=latent), state._replace(latent=latent)
        ended = first & (len(steps) == ends)
        return step._replace(terminated=ended, termination=ended.float()), state

    monkeypatch.setattr(model, "imagine_from", drifting)
    keep = ("latents", "actions", "rewards")
    dreams = rollouts.dream(
        model,
        controllers(1),
        STARTS,
        horizon=8,
        num_rollouts=2,
        seed=5,
        keep=keep,
        use_expected_continuation=use_expected_continuation,
    )
    assert dreams.lengths.tolist() == [[ends, 8]]
    expected = sum(step.reward[0].double() for step in steps[:ends])
    assert_same_sums(dreams.returns[0, 0], expected, ends, terms=torch.stack([step.reward[0] for step in steps[:ends]]))
    assert all(np.isfinite(getattr(dreams, name)).all() for name in keep)
    for kept in (dreams.latents[0, 0, ends + 1 :], dreams.actions[0, 0, ends:], dreams.rewards[0, 0, ends:]):
        np.testing.assert_array_equal(kept, 0)


def test_dreams_terminate_independently():
    model = world()
    with torch.no_grad():
        model.memory.termination_head.bias.fill_(-1.5)
    dreams = rollouts.dream(model, controllers(), STARTS, horizon=20, num_rollouts=8, keep=("rewards",))
    assert len(np.unique(dreams.lengths)) > 3
    assert_same_sums(dreams.returns, dreams.rewards.sum(axis=2), dreams.rewards.shape[2], terms=dreams.rewards)
    for length, rewards in zip(dreams.lengths.flat, dreams.rewards.reshape(24, -1), strict=True):
        assert (rewards[:length] != 0).all()
        assert (rewards[length:] == 0).all()


@pytest.mark.parametrize("burn_in", [0, 6, 100])
def test_burn_in_replays_the_real_episode(store, burn_in):
    model = world()
    latents = store.latents(model.vae)
    rng = np.random.default_rng([0, 1])
    state = sample_start_states(model, latents, 1, np.random.default_rng([0, 1]), burn_in)
    episode = latents.episode(int(rng.integers(4)))
    start = int(rng.integers(len(episode.action)))
    mean = torch.from_numpy(episode.mean.astype(np.float32))
    action = torch.from_numpy(np.array(episode.action))
    assert state.latent[0].equal(mean[start])
    first = max(start - burn_in, 0)
    expected = model.initial(1)
    for t in range(first, start):
        expected = model.observe(expected, mean[t : t + 1], action[t : t + 1])
    assert_same_sums(state.memory.hidden, expected.hidden, count=20 * 8, terms=1.0)


def test_an_open_loop_rollout_imagines_the_episodes_own_actions(store):
    model = world(termination=False)
    episode = store.latents(model.vae).episode(1)
    mean, action = torch.from_numpy(episode.mean.astype(np.float32)), torch.from_numpy(np.array(episode.action))
    memory = model.initial(1)
    for t in range(9):
        memory = model.observe(memory, mean[t : t + 1], action[t : t + 1])
    state, generator = WorldState(mean[9:10], memory), torch.Generator().manual_seed(3)
    latents = open_loop_rollout(model, mean, action, 9, temperature=0.5, seed=3)
    assert latents.shape == (len(action) - 9 + 1, 3)
    assert latents[0].equal(mean[9])
    for t in range(9, 12):
        step, state = model.imagine(state, action[t : t + 1], 0.5, generator)
        assert_same_sums(latents[t - 8], step.latent[0], count=(t + 1) * 8)


@pytest.mark.parametrize("hazard", [1.0, 4.0])
def test_hazard_ratio_is_an_exponent_of_the_survival_probability(hazard):
    """The mean length is that of a geometric distribution with survival 0.9 ** hazard, within four standard errors."""
    model, count = world(), 400
    with torch.no_grad():
        model.memory.termination_head.weight.zero_()
        model.memory.termination_head.bias.fill_(float(torch.logit(torch.tensor(0.1))))
    dreams = rollouts.dream(model, controllers(1), STARTS, 200, count, seed=3, termination_hazard_ratio=hazard)
    ends = 1 - 0.9**hazard
    assert dreams.terminated.mean() > 0.99
    assert abs(dreams.lengths.mean() - 1 / ends) < 4 * np.sqrt(1 - ends) / ends / np.sqrt(count)
    if hazard == 1:
        assert np.array_equal(dreams.returns, rollouts.dream(model, controllers(1), STARTS, 200, count, seed=3).returns)


@pytest.mark.parametrize("hazard", [1.0, 2.5])
def test_expected_continuation_weights_rewards_with_the_survival_probability(hazard):
    """The weight of a reward is the probability that its step is reached; a dream ends when the weight is negligible."""
    model, probability = world(), 0.3
    with torch.no_grad():
        for head in (model.memory.termination_head, model.memory.reward_head):
            head.weight.zero_()
        model.memory.termination_head.bias.fill_(float(torch.logit(torch.tensor(probability))))
        model.memory.reward_head.bias.copy_(torch.randn(63, generator=torch.Generator().manual_seed(1)))
        reward = float(model.memory.expected_reward(model.memory.reward_head.bias))
    dreams = rollouts.dream(
        model,
        controllers(1),
        STARTS,
        100,
        3,
        seed=1,
        termination_hazard_ratio=hazard,
        use_expected_continuation=True,
        keep=("rewards",),
    )
    survival = (1 - probability) ** hazard
    steps = int(np.ceil(np.log(1e-6) / np.log(survival)))
    assert (dreams.lengths == steps).all()
    assert_same_rewards(dreams.rewards[0, 0], reward * survival ** np.arange(steps), model.memory, steps)
    assert_same_sums(dreams.returns, dreams.rewards.sum(-1), dreams.rewards.shape[-1], terms=dreams.rewards)


@pytest.mark.parametrize("hazard", [1.0, 3.0])
def test_expected_continuation_has_the_same_mean_and_less_noise(hazard):
    """The means agree within four standard errors; the time of termination adds no noise."""
    model, count = world(), 2_000
    with torch.no_grad():
        model.memory.termination_head.weight.normal_(generator=torch.Generator().manual_seed(1))
        model.memory.termination_head.bias.fill_(-2.0)
        model.memory.reward_head.weight.normal_(generator=torch.Generator().manual_seed(2))
    drawn, weighted = (
        rollouts.dream(
            model,
            controllers(1),
            STARTS,
            12,
            count,
            seed=seed,
            termination_hazard_ratio=hazard,
            use_expected_continuation=how,
        ).returns[0]
        for seed, how in ((1, False), (2, True))
    )
    assert abs(drawn.mean() - weighted.mean()) < 4 * np.hypot(drawn.std(), weighted.std()) / np.sqrt(count)
    assert weighted.std() < 0.9 * drawn.std()


def test_low_temperatures_reduce_the_spread_of_dreams():
    model = world(termination=False)
    spread = [
        rollouts.dream(model, controllers(1), STARTS[:1], 5, 200, tau, keep=("latents",))
        .latents[0, :, -1]
        .std(0)
        .mean()
        for tau in (1e-6, 0.5, 2.0)
    ]
    assert spread[0] < spread[1] < spread[2]


def test_frames_are_decoded_on_request():
    dreams = rollouts.dream(world(termination=False), controllers(2), STARTS, 3, 2, keep=("frames",))
    assert dreams.frames.shape == (2, 2, 4, 64, 64, 3)
    assert dreams.latents is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"horizon": 0}, "horizon"),
        ({"num_rollouts": 0}, "num_rollouts"),
        ({"temperature": 0.0}, "temperature"),
        ({"controllers": np.zeros((2, 17))}, "controllers"),
        ({"controllers": np.full((2, 18), np.nan)}, "controllers"),
        ({"start_states": torch.zeros(2, 4)}, "start_states"),
        ({"keep": ("thoughts",)}, "keep"),
        ({"burn_in": -1}, "burn_in"),
        ({"termination_hazard_ratio": 0.0}, "termination_hazard_ratio"),
        ({"termination_hazard_ratio": float("inf")}, "termination_hazard_ratio"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_refused(change, named, as_users_do):
    settings = {"world": world(), "controllers": controllers(), "start_states": STARTS, "horizon": 3, "num_rollouts": 2}
    with pytest.raises(ValueError, match=rf"^{named} "):
        rollouts.dream(**settings | change)
