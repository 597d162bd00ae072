"""Action spaces of all kinds: choices become one-hot blocks, whole numbers are mapped, infinite bounds are refused."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from worldmodel import FRMDN, VAE, Memory, WorldModel, envs, rollouts
from worldmodel.agents import Agent, LinearController, evaluate
from worldmodel.agents.evolution.behavior_cloning import imitate
from worldmodel.agents.viewer.controls import controls
from worldmodel.agents.viewer.export import export
from worldmodel.agents.viewer.session import Scene, Session
from worldmodel.envs.adapters import to_pixels
from worldmodel.envs.choices import ChoiceSpace
from worldmodel.envs.env_checker import iter_wrappers
from worldmodel.envs.wrappers import RescaleBoxAction, ZeroBasedDiscrete

MIXED = spaces.MultiDiscrete([3, 2, 1, 4], start=[-1, 0, 5, 2])
CHOICES = [
    MIXED,
    spaces.MultiDiscrete([[2, 3], [4, 2]], dtype=np.int32),
    spaces.MultiBinary(5),
    spaces.MultiBinary((2, 2)),
    spaces.MultiDiscrete([3]),
]


class Acts(gymnasium.Env):
    """Lasts eight steps, refuses actions outside its space, and shows the sum of the last action."""

    metadata = {"render_modes": []}
    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def __init__(self, space=MIXED):
        self.action_space, self.taken, self.now = space, [], 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.taken.append(action)
        self.now += 1
        shade = 10 * int(np.sum(action)) % 256
        return np.full((64, 64, 3), shade, np.uint8), float(np.sum(action)), False, self.now >= 8, {}


@pytest.mark.parametrize("space", CHOICES, ids=str)
def test_numbers_and_choices_are_inverse(space):
    env = to_pixels(Acts(space))
    space.seed(3)
    given = np.stack([space.sample() for _ in range(50)])
    numbers = env.get_wrapper_attr("standard_actions")(given)
    env.reset(seed=1)
    for one in numbers:
        assert env.action_space.contains(one)
        env.step(one)
        if env.unwrapped.now >= 8:
            env.reset()
    np.testing.assert_array_equal(env.unwrapped.taken, given)
    np.testing.assert_array_equal(env.action_space.round(numbers), numbers)
    np.testing.assert_array_equal(env.action_space.round(numbers * 0.1), numbers)


@pytest.mark.parametrize("policy", ["uniform", "smooth"])
def test_random_choices_are_uniform(policy):
    """99.9 % of chi-square with 2 and 1 degrees of freedom; the walk's choices are taken far apart."""
    space, counts = ChoiceSpace([3, 2]), (np.zeros(3), np.zeros(2))
    for seed in range(600):
        act = rollouts.policy.policies.resolve_policy(policy)(space, np.random.default_rng(seed))
        for count, choice in zip(counts, space.choose(act(None)), strict=True):
            count[choice] += 1
    for count, limit in zip(counts, (13.8, 10.8), strict=True):
        assert ((count - 600 / len(count)) ** 2 / (600 / len(count))).sum() < limit


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("choices") / "store"
    store = rollouts.collect(Acts, "uniform", episodes=2, seed=1, out=out)
    torch.manual_seed(0)
    memory = Memory.for_store(store, FRMDN, latent_dim=4, hidden_size=8)
    return WorldModel(VAE(latent_dim=4), memory, store), store


def test_stored_actions_are_the_numbers_of_choices(world):
    _, store = world
    assert (store.nvec, store.action_dim, store.discrete) == ((3, 2, 1, 4), 9, False)
    for episode in rollouts.Store(store.path).episodes():
        np.testing.assert_array_equal(ChoiceSpace(store.nvec).round(episode.actions), episode.actions)
        shades = 10 * (ChoiceSpace(store.nvec).choose(episode.actions) + MIXED.start).sum(axis=1)
        np.testing.assert_array_equal(episode.frames[1:, 0, 0, 0], shades)
        np.testing.assert_array_equal(episode.rewards, shades / 10)


def test_squash_and_action_inputs_make_the_choices_of_the_environment(world):
    model, store = world
    outputs = torch.randn(100, 9, generator=torch.Generator().manual_seed(1))
    expected = ChoiceSpace(store.nvec).round(outputs.numpy())
    np.testing.assert_array_equal(model.squash(outputs), expected)
    np.testing.assert_array_equal(model.action_inputs(outputs.numpy()), expected)


def test_choices_go_through_agents_dreams_and_files(world, tmp_path):
    model, store = world
    model.save(tmp_path / "world")
    assert WorldModel.load(tmp_path / "world").nvec == store.nvec
    controller = LinearController.for_world_model(model)
    controller = controller.with_parameters(np.random.default_rng(1).normal(size=controller.size))
    agent = Agent(model, controller, action_noise=0.5)
    assert evaluate(Agent(model, controller), Acts, episodes=2, seed=1).n == 2
    noisy = np.stack([agent.act(np.zeros((64, 64, 3), np.uint8)) for _ in range(50)])
    np.testing.assert_array_equal(ChoiceSpace(store.nvec).round(noisy), noisy)
    assert (noisy != noisy[0]).any(axis=0).sum() >= 8
    dream = envs.DreamEnv(model, torch.zeros(2, 4), horizon=3)
    check_env(dream, skip_render_check=True)
    returns = rollouts.dream(model, controller, torch.zeros(2, 4), horizon=3, num_rollouts=2, keep=("actions",))
    np.testing.assert_array_equal(ChoiceSpace(store.nvec).round(returns.actions), returns.actions)
    copied = imitate(agent, model, store, controller)
    latents = store.latents(model.vae).episode(0).mean
    inputs = torch.cat([torch.from_numpy(latents[:1].copy()), torch.zeros(1, 8)], dim=1)
    np.testing.assert_array_equal(model.squash(copied(inputs)), model.squash(controller(inputs)))


def test_the_page_plays_choices_and_the_export_refuses_them(world, tmp_path):
    model, store = world
    controllers = {"evolved": LinearController.for_world_model(model)}
    scene = Scene("Acts", model, torch.zeros(2, 4), controls("Acts", {}, model), controllers, lambda: to_pixels(Acts()))
    session = Session(scene, seed=1)
    for message in ({"type": "reality", "value": True}, {"type": "action", "value": [0.5] * 9}, {"type": "step"}):
        session.receive(message)
        frame = session.advance()
    session.close()
    assert frame.reality.shape == (64, 64, 3)
    action = np.array(session.facts["action"], np.float32)
    np.testing.assert_array_equal(ChoiceSpace(store.nvec).round(action), action)
    with pytest.raises(ValueError, match="cannot be exported"):
        export(scene, tmp_path / "web")


def test_a_world_model_of_other_choices_is_refused(world):
    model, _ = world
    agent = Agent(model, LinearController.for_world_model(model))
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        evaluate(agent, lambda: Acts(spaces.MultiDiscrete([2, 3])), episodes=1, seed=1)
    with pytest.raises(ValueError, match="nvec"):
        WorldModel(model.vae, model.memory, nvec=(3, 3))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int8])
def test_whole_numbers_of_a_box_have_equal_shares(dtype):
    env = to_pixels(Acts(spaces.Box(np.array([2, 0]), np.array([5, 9]), (2,), dtype)))
    env.reset(seed=1)
    fractions = (np.arange(40) + 0.5) / 20 - 1
    for one in fractions:
        env.step(np.full(2, one, np.float32))
    taken = np.stack(env.unwrapped.taken)
    assert np.bincount(taken[:, 0]).tolist() == [0, 0, 10, 10, 10, 10]
    assert np.bincount(taken[:, 1]).tolist() == [4] * 10
    numbers = env.get_wrapper_attr("standard_actions")(taken)
    for number, one in zip(numbers, taken, strict=True):
        env.step(number)
        np.testing.assert_array_equal(env.unwrapped.taken[-1], one)


@pytest.mark.parametrize("start", [0, 7, -3])
def test_a_discrete_space_may_start_anywhere(start):
    env = to_pixels(Acts(spaces.Discrete(4, start=start)))
    env.reset(seed=1)
    for number in range(4):
        env.step(number)
    assert env.unwrapped.taken == list(range(start, start + 4))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Box(0, np.inf, (2,), np.float32),
        spaces.Box(-np.inf, np.inf, (2,), np.int64),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.MultiDiscrete([3, 10**9]),
    ],
    ids=str,
)
def test_other_action_spaces_are_refused_with_a_cure(space):
    with pytest.raises(ValueError, match="TransformAction") as error:
        to_pixels(Acts(space))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 1000, (1,), np.int64),
        spaces.Box(0, 65_535, (1,), np.uint16),
        spaces.Box(-3, 3, (1,), np.int8),
        spaces.Box(0, 1, (1,), np.bool_),
    ],
    ids=str,
)
def test_whole_numbers_of_a_box_come_back(space):
    env = to_pixels(Acts(space))
    layer = next(one for one in iter_wrappers(env) if isinstance(one, RescaleBoxAction))
    values = np.unique(np.linspace(int(space.low[0]), int(space.high[0]), 500).round())[:, None].astype(space.dtype)
    standard = layer.standard_actions(values)
    assert np.abs(standard).max() <= 1
    np.testing.assert_array_equal([layer.action(one) for one in standard], values)
    with pytest.raises(ValueError, match="actions"):
        layer.standard_actions(values[-1:].astype(np.int64) + 1)


def test_both_values_of_a_boolean_action_are_equally_likely():
    env = to_pixels(Acts(spaces.Box(0, 1, (3,), np.bool_)))
    layer = next(one for one in iter_wrappers(env) if isinstance(one, RescaleBoxAction))
    taken = [layer.action(one) for one in np.random.default_rng(1).uniform(-1, 1, (400, 3)).astype(np.float32)]
    assert 0.4 < np.mean(taken) < 0.6


def test_bytes_of_a_discrete_space_that_starts_below_zero_are_mapped():
    env = to_pixels(Acts(spaces.Discrete(3, start=-1)))
    layer = next(one for one in iter_wrappers(env) if isinstance(one, ZeroBasedDiscrete))
    np.testing.assert_array_equal(layer.standard_actions(np.array([0, 1], np.uint8)), [1, 2])


def test_spaces_of_other_choices_differ():
    one = ChoiceSpace([3, 2])
    assert one == ChoiceSpace([3, 2]) and one != ChoiceSpace([2, 3]) and one != ChoiceSpace([2, 2, 2, 2])
    numbers = one.sample()
    np.testing.assert_array_equal(one.round(numbers), numbers)
