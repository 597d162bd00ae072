"""Environments: conformance, repeatability, frames, errors."""

import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from tests import toys
from worldmodel import envs
from worldmodel.envs.adapters import to_pixels
from worldmodel.envs.wrappers import RescaleBoxAction, ZeroBasedDiscrete, resize_frame

IDS = {
    "FastCarRacing": {"action_repeat": 2},
    "CarRacing": {"action_repeat": 3},
    "SuperMarioBros-1-1": {},
    "SuperMarioBros-8-4": {"action_set": "complex", "sticky_action_prob": 0.25},
    "DoomTakeCover": {"action_repeat": 4},
    "CartPole-v1": {},
    "Pendulum-v1": {"action_repeat": 2},
    "CliffWalking-v1": {},
}


def walk(env, seed, steps):
    frame, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    rows = [(frame, 0.0, False, False, info)]
    for _ in range(steps):
        rows.append(env.step(env.action_space.sample()))
        if rows[-1][2] or rows[-1][3]:
            break
    return rows


@pytest.mark.parametrize("id", IDS)
def test_conforms_to_gymnasium(id):
    env = envs.make(id, **IDS[id])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # SWIG, in Box2D
        check_env(env, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("id", IDS)
def test_same_seed_same_episode(id):
    one, other = envs.make(id, **IDS[id]), envs.make(id, **IDS[id])
    for a, b in zip(walk(one, 7, 50), walk(other, 7, 50), strict=True):
        assert np.array_equal(a[0], b[0])
        assert a[1:] == b[1:]
    one.close()
    other.close()


@pytest.mark.parametrize("id", IDS)
def test_frames_are_64_by_64_bytes_and_not_black(id):
    env = envs.make(id, **IDS[id])
    for frame, reward, *_ in walk(env, 1, 10):
        assert frame.shape == (64, 64, 3)
        assert frame.dtype == np.uint8
        assert frame.std() > 3
        assert isinstance(reward, float)
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize(("options", "rows"), [({}, 84), ({"show_hud": True}, 96)])
def test_car_racing_is_the_official_game_cropped_and_resized(options, rows):
    ours, official = envs.make("CarRacing", **options), gymnasium.make("CarRacing-v3", render_mode="rgb_array")
    frame, _ = ours.reset(seed=5)
    theirs, _ = official.reset(seed=5)
    for t in range(25):
        assert np.abs(frame.astype(int) - resize_frame(theirs[:rows])).max() == 0
        steer, gas, brake = np.sin(t / 9), 0.2, -0.5 if t < 18 else 0.7
        frame, reward, *_ = ours.step(np.array([steer, gas, brake], np.float32))
        theirs, expected, *_ = official.step(
            np.array([np.float32(steer), (np.float32(gas) + 1) / 2, max(np.float32(brake), 0)], np.float64)
        )
        assert reward == pytest.approx(expected, abs=1e-9)
    ours.close()


@pytest.mark.slow
def test_repeated_car_racing_sums_rewards_and_shows_the_last_frame():
    slow, fast = envs.make("CarRacing"), envs.make("CarRacing", action_repeat=4)
    slow.reset(seed=2)
    fast.reset(seed=2)
    for t in range(12):
        action = np.array([np.sin(t), 1, -1], np.float32)
        total = 0.0
        for _ in range(4):
            frame, reward, *_ = slow.step(action)
            total += reward
        shown, summed, *_ = fast.step(action)
        assert np.array_equal(shown, frame)
        assert summed == pytest.approx(total)
    slow.close()
    fast.close()


def test_a_step_that_ends_early_shows_its_last_frame(monkeypatch):
    once, repeated = envs.make("FastCarRacing"), envs.make("FastCarRacing", action_repeat=4)
    results = []
    for env in (once, repeated):
        env.reset(seed=2)
        step = env.env.step
        monkeypatch.setattr(env.env, "step", lambda action, step=step: (*step(action)[:2], True, False, {}))
        results.append(env.step(np.array([0, 1, -1], np.float32)))
        env.close()
    assert np.array_equal(results[0][0], results[1][0])
    assert results[0][1:4] == results[1][1:4]


def test_car_racing_is_freed_when_closed():
    import gc
    import weakref

    env = envs.make("CarRacing")
    env.reset(seed=0)
    reference = weakref.ref(env.unwrapped)
    env.close()
    del env
    gc.collect()
    assert reference() is None


@pytest.mark.slow
def test_importing_envs_and_playing_mario_never_imports_old_gym():
    code = """
import sys, warnings
warnings.simplefilter("error")
from worldmodel import envs
env = envs.make("SuperMarioBros-1-1")
env.reset(seed=0)
for _ in range(5):
    env.step(1)
import gymnasium
gymnasium.make("worldmodel.envs:worldmodel/SuperMarioBros-v0", world=1, stage=2).reset()
print([name for name in ("gym", "nes_py", "torch") if name in sys.modules])
"""
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("id", "nearest"),
    [
        ("CarRcing", "'CarRacing'"),
        ("SuperMarioBros-9-1", "'SuperMarioBros-"),
        ("cartpole", "'CartPole-v"),
        ("nosuchmodule:Thing-v0", "nosuchmodule"),
    ],
)
def test_errors_of_unknown_ids_suggest_the_nearest(id, nearest):
    with pytest.raises(ValueError, match=nearest):
        envs.make(id)


@pytest.mark.parametrize(
    ("id", "options", "named"),
    [
        ("SuperMarioBros-1-1", {"action_set": "all"}, "action_set"),
        ("SuperMarioBros-1-1", {"wings": 2}, "wings"),
        ("SuperMarioBros-1-1", {"sticky_action_prob": 1.0}, "sticky_action_prob"),
        ("CarRacing", {"wheels": 5}, "wheels"),
        ("CartPole-v1", {"poles": 2}, "poles"),
        ("CarRacing", {"show_hud": "yes"}, "show_hud"),
        ("FastCarRacing", {"crop": True, "show_hud": True}, "crop"),
        ("CarRacing", {"fast": True}, "FastCarRacing"),
        ("CarRacing", {"action_repeat": 0}, "action_repeat"),
        ("CartPole-v1", {"action_repeat": 10**21}, "action_repeat"),
        ("CartPole-v1", {"action_repeat": True}, "action_repeat"),
    ],
)
def test_bad_options_are_named(id, options, named):
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        envs.make(id, **options)


class Odd(toys.Counter):
    def __init__(self, actions=None, observations=None):
        super().__init__()
        self.action_space = actions or self.action_space
        self.observation_space = observations or self.observation_space


@pytest.mark.parametrize(
    ("env", "named"),
    [
        (Odd(actions=spaces.Tuple([spaces.Discrete(2)])), "Tuple"),
        (Odd(actions=spaces.Box(-np.inf, np.inf, (2,))), "inf"),
        (Odd(observations=spaces.Box(-1, 1, (4,))), "rgb_array"),
    ],
)
def test_unsupported_environments_are_refused(env, named):
    with pytest.raises(ValueError, match=named):
        to_pixels(env)


def test_actions_are_rescaled_to_the_bounds_of_the_environment():
    box = RescaleBoxAction(Odd(actions=spaces.Box(np.array([0, -2], np.float32), np.array([10, 2], np.float32))))
    assert box.action(np.array([-1, 1])).tolist() == [0, 2]
    assert box.action(np.array([0, 0])).tolist() == [5, 0]
    assert box.action(np.array([9, -9])).tolist() == [10, -2]
    assert ZeroBasedDiscrete(Odd(actions=spaces.Discrete(3, start=5))).action(2) == 7


def test_resizing_averages_areas():
    image = np.zeros((128, 128, 3), np.uint8)
    image[::2, ::2] = 200
    assert (resize_frame(image) == 50).all()
    assert resize_frame(np.zeros((40, 90), np.uint8)).shape == (64, 64, 3)
    assert resize_frame(np.zeros((100, 90, 4), np.uint8)).shape == (64, 64, 3)


def test_an_action_repeat_sums_the_rewards_of_any_environment():
    env = envs.make("CartPole-v1", action_repeat=3)
    env.reset(seed=1)
    assert env.step(0)[1] == 3.0
    env.close()


def test_an_action_repeat_ends_with_the_episode():
    env = to_pixels(toys.Counter(length=5), action_repeat=3)
    env.reset(seed=1)
    assert [(frame[0, 0, 0], *rest) for frame, *rest, _ in (env.step(np.zeros(2, np.float32)) for _ in range(2))] == [
        (3, 1 + 2 + 3, False, False),
        (5, 4 + 5, True, False),
    ]
