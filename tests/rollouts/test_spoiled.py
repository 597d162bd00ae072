"""Invalid data and errors during an episode are reported; the episodes before it are kept."""

import json
import re
from functools import partial

import gymnasium
import numpy as np
import pytest

from tests import toys
from worldmodel import RMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.agents import Agent, LinearController, evaluate
from worldmodel.rollouts.collect import episode_seed
from worldmodel.rollouts.store.store import Store

SEED = 3
SPOILED = episode_seed(SEED, 3)


class Spoiling(toys.Beacon):
    """The reward of step 3 of the episode with one seed is invalid."""

    def __init__(self, seed=SPOILED, reward=float("nan")):
        super().__init__()
        self.spoiled, self.invalid_reward = seed, reward

    def reset(self, *, seed=None, options=None):
        self.seed = seed
        return super().reset(seed=seed)

    def step(self, action):
        frame, reward, *rest = super().step(action)
        return frame, self.invalid_reward if (self.seed, self.now) == (self.spoiled, 3) else reward, *rest


def agent():
    with seeded(0):
        world = WorldModel(VAE(latent_dim=3), Memory(RMDN(4, 3, hidden_size=5, num_components=1)))
    return Agent(world, LinearController.for_world_model(world))


def error_pattern(seed):
    return rf"{seed}\b.*\b3\b.*reward"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("block", [1, 5])
def test_episodes_before_an_invalid_one_are_kept_and_a_rerun_continues(tmp_path, workers, block):
    settings = {"policy": rollouts.uniform, "episodes": 5, "seed": SEED, "out": tmp_path / "s", "workers": workers}
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"episode 3\b.*{error_pattern(SPOILED)}"):
            rollouts.collect(Spoiling, **settings, episodes_per_shard=block)
        store = Store(tmp_path / "s")
        assert store.damaged == {}
        assert [episode.index for episode in store.episodes()][:3] == [0, 1, 2]

    def repaired():
        return Spoiling(seed=None)

    repaired.__name__ = "Spoiling"
    before = {shard.path: shard.path.read_bytes() for shard in store.shards}
    store = rollouts.collect(repaired, **settings, episodes_per_shard=block)
    assert sorted(episode.index for episode in store.episodes()) == list(range(5))
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("invalid_reward", [np.inf, None, np.zeros(2)], ids=str)
def test_values_that_a_file_cannot_store_are_refused(tmp_path, invalid_reward):
    with pytest.raises(ValueError, match="reward"):
        rollouts.collect(
            lambda: Spoiling(reward=invalid_reward),
            rollouts.uniform,
            5,
            seed=SEED,
            out=tmp_path / "s",
            episodes_per_shard=5,
        )
    assert len(Store(tmp_path / "s")) == 3


def test_batched_agents_keep_finished_episodes(tmp_path):
    with pytest.raises(ValueError, match=error_pattern(SPOILED)):
        rollouts.collect(Spoiling, agent(), 5, seed=SEED, out=tmp_path / "s", episodes_per_shard=5)
    assert Store(tmp_path / "s").damaged == {}


@pytest.mark.parametrize("player", [rollouts.uniform, agent()])
def test_evaluate_names_the_episode(player):
    def make():
        return Spoiling(seed=102)

    with pytest.raises(ValueError, match=rf"episode 2\b.*{error_pattern(102)}"):
        evaluate(player, make, 4, seed=100)


def test_fitness_and_play_refuse_invalid_rewards():
    player = agent()

    class Always(Spoiling):
        def reset(self, *, seed=None, options=None):
            self.spoiled = seed
            return super().reset(seed=seed)

    fitness = rollouts.EnvFitness(Always, player.world)
    with pytest.raises(ValueError, match="reward"):
        fitness(np.zeros((2, player.controller.size), np.float32), seed=1)
    with pytest.raises(ValueError, match=error_pattern(7)):
        rollouts.play(Always(), rollouts.uniform, seed=7)


@pytest.mark.parametrize("action", [np.nan, np.zeros(2), "left", None], ids=str)
def test_invalid_actions_are_refused(action):
    with pytest.raises(ValueError, match=r"step 1\b.*action"):
        rollouts.play(toys.beacon(), lambda space, rng: lambda frame: action, seed=1)


@pytest.mark.parametrize("action", [0.5, [0.5], np.array([[0.5]]), np.float64(0.5)])
def test_scalar_actions_are_accepted_in_any_form(action):
    episode = rollouts.play(toys.beacon(), lambda space, rng: lambda frame: action, seed=1)
    assert episode.actions.shape == (5, 1)


@pytest.mark.parametrize("action", [2, -1, 0.5, np.nan, np.zeros(2, int), None])
def test_invalid_discrete_actions_are_refused(action):
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    with pytest.raises(ValueError, match=r"step 1\b.*action"):
        rollouts.play(env, lambda space, rng: lambda frame: action, seed=1)


def test_custom_environments_are_adapted_everywhere():
    class Wide(gymnasium.Env):
        """Reuses one buffer for all frames, takes actions up to 2, and rewards the action."""

        observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        action_space = gymnasium.spaces.Box(-2, 2, (1,), np.float32)

        def __init__(self):
            self.buffer = np.zeros((64, 64, 3), np.uint8)

        def reset(self, *, seed=None, options=None):
            self.buffer[:] = 0
            return self.buffer, {}

        def step(self, action):
            self.buffer += 1
            return self.buffer, float(action[0]), False, bool(self.buffer[0, 0, 0] >= 4), {}

    def full(space, rng):
        return lambda frame: np.ones(1, np.float32)

    for episode in (rollouts.play(Wide(), full, seed=1), rollouts.collect(Wide, full, 1).episode(0)):
        assert episode.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
        assert episode.rewards.tolist() == [2, 2, 2, 2]
        assert (episode.actions == 1).all()
    assert evaluate(full, Wide, 1).returns == [8]
    player = agent()
    upwards = player.controller.with_parameters(np.full(player.controller.size, 9.0))
    assert evaluate(Agent(player.world, upwards), Wide, 1).lengths == [4]


@pytest.mark.parametrize("env", [toys.beacon(), 3, None], ids=str)
def test_env_must_be_an_id_or_a_function(tmp_path, env):
    with pytest.raises(ValueError, match="^env "):
        rollouts.collect(env, rollouts.uniform, 1, out=tmp_path / "s")
    with pytest.raises(ValueError, match="^env "):
        evaluate(rollouts.uniform, env, 1)
    assert not (tmp_path / "s").exists()


class Raising(toys.Beacon):
    """Raises an error in ``part`` of the interface, in the episode with one seed."""

    def __init__(self, error, part="step", seed=SPOILED):
        super().__init__()
        self.error, self.part, self.spoiled, self.seed = error, part, seed, None
        self.observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.render_mode = "rgb_array"

    def fail(self, part, now):
        if (part, now, self.seed) == (self.part, self.now, self.spoiled):
            raise self.error

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = seed
        self.fail("reset", 0)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        _, *rest = super().step(action)
        self.fail("step", 3)
        return np.zeros(1, np.float32), *rest

    def render(self):
        self.fail("render", 3)
        return np.zeros((64, 64, 3), np.uint8)


ERRORS = [
    *((part, KeyError("apple")) for part in ("reset", "step", "render")),
    *(("step", error) for error in (ValueError("apple"), SystemExit("apple"), RuntimeError("apple\npear"))),
    ("reset", FileNotFoundError(2, "apple", "pear")),
]


@pytest.mark.parametrize(("part", "error"), ERRORS, ids=repr)
def test_errors_of_environments_name_their_location(tmp_path, error, part):
    make = partial(Raising, error, part)
    with pytest.raises(ValueError, match=rf"episode 3\b.*{SPOILED}\b.*{type(error).__name__}.*apple") as raised:
        rollouts.collect(make, rollouts.uniform, 5, seed=SEED, out=tmp_path / "s", episodes_per_shard=5)
    assert re.search(rf"{re.escape(__file__)}:\d+", str(raised.value))
    assert "\n" not in str(raised.value)
    assert part == "reset" or re.search(r"step 3\b", str(raised.value))
    assert len(Store(tmp_path / "s")) == 3


@pytest.mark.slow
def test_errors_of_environments_in_workers_are_raised_at_once(tmp_path):
    make = partial(Raising, KeyError("apple"))
    with pytest.raises(ValueError, match=rf"episode 3\b.*{SPOILED}\b.*KeyError.*apple.*test_spoiled.py:\d+"):
        rollouts.collect(make, rollouts.uniform, 5, seed=SEED, out=tmp_path / "s", episodes_per_shard=1, workers=2)
    assert len(Store(tmp_path / "s")) >= 3
    with pytest.raises(ValueError, match=r"KeyError.*test_spoiled.py:\d+"):
        evaluate(agent(), partial(Raising, KeyError("apple"), seed=102), 4, seed=100, workers=2)


def test_memory_errors_are_not_wrapped():
    with pytest.raises(MemoryError):
        rollouts.play(Raising(MemoryError(), seed=1), rollouts.uniform, seed=1)


def test_errors_of_policies_name_their_location(tmp_path):
    def failing(space, rng):
        calls = []

        def act(frame):
            calls.append(1)
            return [0.5][len(calls) // 3]

        return act

    with pytest.raises(ValueError, match=r"episode 0\b.*step 3\b.*policy.*IndexError.*test_spoiled.py:\d+"):
        rollouts.collect(toys.beacon, failing, 2, out=tmp_path / "s")
    with pytest.raises(ValueError, match=r"ZeroDivisionError.*test_spoiled.py:\d+"):
        rollouts.play(toys.beacon(), lambda space, rng: 1 / 0, seed=1)


def test_failing_environments_leave_no_store(tmp_path):
    class Failing(toys.Beacon):
        def step(self, action):
            raise KeyError("a slip of the game")

    with pytest.raises(ValueError, match="a slip of the game"):
        rollouts.collect(Failing, rollouts.uniform, 1, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "space",
    [gymnasium.spaces.Box(-1, 1, (0,)), gymnasium.spaces.Box(-1, 1, (65_537,)), gymnasium.spaces.Discrete(65_537)],
)
def test_unsupported_numbers_of_actions_leave_no_store(tmp_path, space):
    class WithSpace(toys.Beacon):
        def __init__(self):
            super().__init__()
            self.action_space = space

    with pytest.raises(ValueError, match=r"\baction\b.*65536"):
        rollouts.collect(WithSpace, rollouts.uniform, 1, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 2**63}, {"episodes": 0}, {"workers": 0}, {"max_steps": 0}], ids=str
)
def test_estimates_name_the_invalid_argument(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        rollouts.estimate_collection(toys.beacon, rollouts.uniform, **({"episodes": 2} | wrong))


def test_an_environment_that_cannot_be_closed_is_played(tmp_path):
    class Stuck(toys.Beacon):
        def close(self):
            raise RuntimeError("it does not close")

    assert len(rollouts.collect(Stuck, rollouts.uniform, 1, out=tmp_path / "s")) == 1
    rollouts.estimate_collection(Stuck, rollouts.uniform, 1)


def test_reports_contain_only_numbers(tmp_path):
    report = evaluate(rollouts.uniform, toys.beacon, 2)
    report.save(tmp_path / "report.json")
    assert re.fullmatch(r"[-\d.e, \[\]]+", json.dumps(json.loads((tmp_path / "report.json").read_text())["returns"]))


def test_returns_of_finite_rewards_are_finite(tmp_path):
    class Rich(Spoiling):
        def step(self, action):
            frame, _, *rest = super().step(action)
            return frame, 3e38, *rest

    store = rollouts.collect(partial(Rich, seed=None), rollouts.uniform, 1, out=tmp_path / "s")
    assert store.returns == pytest.approx([15e38])
    assert "inf" not in repr(store.episode(0))
