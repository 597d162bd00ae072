"""FastCarRacing equals CarRacing: the same tracks, physics and rewards, and nearly the same images."""

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import gymnasium
import numpy as np
import pygame
import pytest
from gymnasium.utils.env_checker import check_env

from tests.toys import RoadFollower
from worldmodel import envs
from worldmodel.agents import evaluate
from worldmodel.envs.car_racing import fast_env as fast_car_racing

ROOT = Path(__file__).parent.parent.parent


def pair(**options):
    """The official game and ours."""
    return (
        gymnasium.make("CarRacing-v3", disable_env_checker=True, **options),
        gymnasium.make("worldmodel.envs:worldmodel/FastCarRacing-v3", disable_env_checker=True, **options),
    )


def driving(seed, steps):
    """Mixed driving: on the road, on grass, skidding, braking."""
    rng, action = np.random.default_rng(seed), np.zeros(3)
    for _ in range(steps):
        action = np.clip(action + rng.normal(0, 0.15, 3), [-1, 0, 0], [1, 1, 0.3])
        yield action.astype(np.float32)


def difference(one, other):
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def compare(seed, steps):
    """Step both games, assert that the physics is bit-equal, and return the differences of the frames."""
    official, fast = pair()
    differences = [difference(official.reset(seed=seed)[0], fast.reset(seed=seed)[0])]
    for action in driving(seed, steps):
        theirs, ours = official.step(action), fast.step(action)
        assert theirs[1:] == ours[1:]
        cars = [env.unwrapped.car.hull for env in (official, fast)]
        assert tuple(cars[0].position) == tuple(cars[1].position)
        assert cars[0].angle == cars[1].angle
        differences.append(difference(theirs[0], ours[0]))
        if theirs[2] or theirs[3]:
            break
    return differences


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_physics_is_bit_equal_and_images_nearly_equal(seed):
    differences = compare(seed, 120)
    assert np.mean(differences) < 1.0
    assert max(differences) < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 120, 5))
def test_fidelity_over_twenty_seeds(first):
    differences = [value for seed in range(first, first + 5) for value in compare(seed, 500)]
    assert np.mean(differences) <= 1.5
    assert max(differences) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"continuous": False}, {"domain_randomize": True}, {"lap_complete_percent": 0.5}])
def test_takes_the_official_arguments(options):
    official, fast = pair(**options)
    assert official.action_space == fast.action_space
    assert official.observation_space == fast.observation_space
    assert difference(official.reset(seed=3)[0], fast.reset(seed=3)[0]) < 1.5
    official.action_space.seed(0)
    for _ in range(40):
        action = official.action_space.sample()
        theirs, ours = official.step(action), fast.step(action)
        assert theirs[1:] == ours[1:]
    assert difference(theirs[0], ours[0]) < 1.5


def test_leaving_the_field_ends_both_games():
    games = pair()
    for env in games:
        env.reset(seed=0)
        car = env.unwrapped.car
        x, y = car.hull.position
        for body in (car.hull, *car.wheels):  # move to the edge, with an outward velocity
            body.position = (body.position[0] - x + 330, body.position[1] - y)
            body.linearVelocity = (40, 0)
    for _ in range(100):
        theirs, ours = (env.step(np.zeros(3, np.float32)) for env in games)
        assert theirs[1:] == ours[1:]
        assert difference(theirs[0], ours[0]) < 1.5  # black outside the field
        if theirs[2]:
            break
    assert theirs[2]
    assert theirs[1] == -100
    assert (theirs[0][:20] == 0).mean() + (theirs[0][:, 60:] == 0).mean() > 0.1


def test_rgb_array_is_the_official_image():
    official, fast = pair(render_mode="rgb_array")
    official.reset(seed=1)
    fast.reset(seed=1)
    assert np.array_equal(official.render(), fast.render())


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"show_hud": True}])
def test_small_frames_are_close_to_those_of_the_official_game(options):
    official, fast = envs.make("CarRacing", **options), envs.make("FastCarRacing", **options)
    differences = [difference(official.reset(seed=4)[0], fast.reset(seed=4)[0])]
    for action in driving(4, 80):
        theirs, ours = official.step(action), fast.step(action)
        assert theirs[1:] == ours[1:]
        differences.append(difference(theirs[0], ours[0]))
    assert np.mean(differences) < 1.0
    assert max(differences) < 1.5


def test_hud_is_drawn_after_another_game_quit_pygame():
    game = envs.make("FastCarRacing", show_hud=True)
    first, _ = game.reset(seed=4)
    shown = gymnasium.make("CarRacing-v3", render_mode="rgb_array")
    shown.reset(seed=1)
    shown.render()
    shown.close()
    pygame.quit()
    fast_car_racing._score_image.cache_clear()
    again, _ = game.reset(seed=4)
    assert np.array_equal(first, again)


@pytest.mark.slow
def test_hud_shows_the_speed_of_the_car():
    """The speed bars of both games correlate with the speed of the car."""
    official, fast = (envs.make(id, show_hud=True) for id in ("CarRacing", "FastCarRacing"))
    official.reset(seed=4)
    fast.reset(seed=4)
    speeds, bars = [], []
    for _ in range(120):
        action = np.array([0, 0.2, -1], np.float32)
        frames = [env.step(action)[0].astype(float) for env in (official, fast)]
        speeds.append(np.hypot(*fast.unwrapped.car.hull.linearVelocity))
        bars.append([frame[56:, 8:10].sum() for frame in frames])
    theirs, ours = np.array(bars).T
    assert np.corrcoef(speeds, theirs)[0, 1] > 0.95
    assert np.corrcoef(theirs, ours)[0, 1] > 0.95


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*symmetric.*")
def test_conforms_to_gymnasium():
    check_env(
        gymnasium.make("worldmodel.envs:worldmodel/FastCarRacing-v3", disable_env_checker=True).unwrapped,
        skip_render_check=True,
    )


def test_is_freed_when_closed():
    env = envs.make("FastCarRacing")
    env.reset(seed=0)
    reference = weakref.ref(env.unwrapped)
    env.close()
    del env
    gc.collect()
    assert reference() is None


@pytest.mark.slow
def test_memory_does_not_grow_over_resets():
    import resource

    env = envs.make("FastCarRacing")
    for seed in range(100):
        env.reset(seed=seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(100, 700):
        env.reset(seed=seed)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 6_000  # kilobytes, ten per track


GROWTH = """
import gc, resource, sys
import numpy as np
from worldmodel import envs

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6

def stepped_env(seed):
    env = envs.make("FastCarRacing")
    env.reset(seed=seed)
    env.step(np.zeros(3, np.float32))
    return env

stepped_env(0).close()
for seed in range(40):
    stepped_env(seed).close()
before = resident()
for seed in range(460):
    stepped_env(seed).close()
closed = resident() - before
kept = [stepped_env(seed) for seed in range(16)]
print(closed, (resident() - before - closed) / 16)
"""


@pytest.mark.slow
def test_memory_of_one_environment_and_of_500_closed_ones():
    output = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    growth, one = map(float, output.split())
    assert growth < 20  # megabytes
    assert one < 20


@pytest.mark.slow
def test_a_policy_scores_the_same_in_both():
    """The same policy drives the same tracks; the mean difference is within its sampling error."""
    official, fast = (
        np.array(evaluate(RoadFollower(), id, 12, seed=500, workers=2, max_steps=500).returns)
        for id in ("CarRacing", "FastCarRacing")
    )
    difference = official - fast
    error = difference.std(ddof=1) / len(difference) ** 0.5
    assert official.mean() > 100  # the policy drives
    assert abs(difference.mean()) < max(2.5 * error, 10)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="frame_size"):
        envs.make("FastCarRacing", frame_size=4)
