"""The cache of environments: registrations of a script are available in workers."""

import threading

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import WrapperSpec

from tests import toys
from worldmodel import RMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.agents import LinearController, evaluate
from worldmodel.rollouts.env_cache import env_key, make_portable, open_env, worker_env


@pytest.fixture
def lights():
    """An environment that no module registers; its class is pickled by value."""

    class Lights(gymnasium.Env):
        observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        action_space = spaces.Box(-1, 1, (1,), np.float32)

        def __init__(self, gain=1.0):
            self.gain = gain

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros((64, 64, 3), np.uint8), {}

        def step(self, action):
            return np.zeros((64, 64, 3), np.uint8), self.gain, False, False, {}

    before = dict(gymnasium.registry)
    double = WrapperSpec("Double", "gymnasium.wrappers:NormalizeReward", {"gamma": 0.0, "epsilon": 1e9})
    gymnasium.register("Lights-v0", Lights, kwargs={"gain": 3.0}, max_episode_steps=6)
    gymnasium.register("Dark-v0", Lights, max_episode_steps=6, additional_wrappers=(double,))
    yield Lights
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def test_registrations_are_sent_to_workers(lights, tmp_path):
    settings = {"episodes": 4, "workers": 2, "episodes_per_shard": 1}
    store = rollouts.collect("Lights-v0", rollouts.uniform, **settings, out=tmp_path / "s")
    assert (store.env, store.lengths, store.returns) == ("Lights-v0", [6] * 4, [18] * 4)
    report = evaluate(rollouts.uniform, "Lights-v0", 3, workers=2)
    assert (report.env, report.returns) == ("Lights-v0", [18] * 3)
    with seeded(0):
        world = WorldModel(VAE(latent_dim=3), Memory(RMDN(4, 3, hidden_size=5, num_components=1)))
    fitness = rollouts.EnvFitness("Lights-v0", world, workers=2, episodes=2)
    population = np.zeros((2, LinearController.for_world_model(world).size), np.float32)
    assert (fitness(population, 1).returns == 18).all()
    assert fitness.identity["env"] == "Lights-v0"
    wrapped = rollouts.collect("Dark-v0", rollouts.uniform, **settings, out=tmp_path / "t")
    assert all(total < 0.1 for total in wrapped.returns)


def test_a_changed_registration_is_another_environment(lights, tmp_path):
    assert rollouts.collect("Lights-v0", rollouts.uniform, 1, workers=2, out=tmp_path / "s").returns == [18]
    first = worker_env(make_portable("Lights-v0"), {})
    del gymnasium.registry["Lights-v0"]
    gymnasium.register("Lights-v0", lights, kwargs={"gain": 5.0}, max_episode_steps=6)
    assert worker_env(make_portable("Lights-v0"), {}) is not first
    assert rollouts.collect("Lights-v0", rollouts.uniform, 1, workers=2, out=tmp_path / "t").returns == [30]


def test_other_options_make_another_environment(lights):
    lamp = make_portable("Lights-v0")
    first, brighter = worker_env(lamp, {}), worker_env(lamp, {"gain": 7.0})
    assert (first.unwrapped.gain, brighter.unwrapped.gain) == (3.0, 7.0)
    assert worker_env(lamp, {}) is first


def test_unpicklable_factories_work_without_workers():
    gate = threading.Lock()  # cannot be pickled

    def make():
        assert gate is not None
        return toys.beacon()

    assert env_key(make, {}) == env_key(make, {})
    assert len(rollouts.collect(make, rollouts.uniform, 1)) == 1
    with pytest.raises(ValueError, match="workers"):
        rollouts.collect(make, rollouts.uniform, 4, workers=2, episodes_per_shard=1)
    with pytest.raises(ValueError, match="workers"):
        rollouts.collect(toys.beacon, lambda space, rng: gate, 4, workers=2, episodes_per_shard=1)


@pytest.mark.parametrize("make", [lambda: None, lambda: 1 / 0, toys.Rewarding], ids=["none", "fails", "arguments"])
def test_failing_factories_are_named(make):
    with pytest.raises(ValueError, match=make.__name__):
        open_env(make, {})


@pytest.mark.parametrize("options", [{"frame_sise": 96}, {"observation": "vektor"}, {"action_repeat": 4}])
def test_options_that_a_function_cannot_take_are_refused(options):
    with pytest.raises(ValueError, match="|".join(options)):
        open_env(toys.counter, options)
