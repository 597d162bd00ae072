"""CarRacing: tracks that are reset again, and episodes that continue from a snapshot."""

import gc

import gymnasium
import numpy as np
import pytest

from tests.toys import RoadFollower
from worldmodel import envs
from worldmodel.rollouts import play


def driving(seed, steps):
    """Accelerate first, then brake; the steering is a random walk."""
    rng, steer = np.random.default_rng(seed), 0.0
    for step in range(steps):
        steer = float(np.clip(steer + rng.normal(0, 0.1), -0.3, 0.3))
        yield np.array([steer, 0.6 if step < 40 else -0.7, -1.0], np.float32)


def record_steps(env, actions):
    """Frame, reward, flags, info and pose of the car after each action."""
    rows = []
    for action in actions:
        frame, *rest = env.step(action)
        rows.append((frame.tobytes(), *rest, tuple(env.unwrapped.car.hull.position), env.unwrapped.car.hull.angle))
    return rows


def racing(**options):
    return envs.make("FastCarRacing", action_repeat=2, **options)


@pytest.mark.parametrize("options", [{}, {"domain_randomize": True}])
def test_reset_to_the_same_track_equals_a_new_game(options):
    fresh, used = racing(**options), racing(**options)
    first = fresh.reset(seed=3)[0]
    expected = record_steps(fresh, driving(0, 60))
    used.reset(seed=3)
    record_steps(used, driving(1, 80))
    assert np.array_equal(used.reset(seed=3)[0], first)
    fresh_again = racing(**options)
    fresh_again.reset(seed=3)
    assert np.array_equal(used.unwrapped._render("rgb_array"), fresh_again.unwrapped._render("rgb_array"))
    assert used.np_random.bit_generator.state == fresh.np_random.bit_generator.state
    assert record_steps(used, driving(0, 60)) == expected
    assert np.array_equal(used.unwrapped._render("rgb_array"), fresh.unwrapped._render("rgb_array"))
    assert not np.array_equal(used.reset(seed=4)[0], first)
    # bodies of older tracks are destroyed
    assert len(used.unwrapped.road) == len(used.unwrapped.track) == used.unwrapped.world.bodyCount - 5


def test_without_a_seed_there_is_a_new_track_each_time():
    env = racing()
    env.reset(seed=3)
    first = env.unwrapped.track
    env.reset()
    second = env.unwrapped.track
    env.reset()
    assert first != second != env.unwrapped.track != first


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 50])
def test_restored_episodes_continue_nearly_as_before_and_repeat_exactly(step):
    first, second = racing(), racing()
    actions = list(play(first, RoadFollower(), 7, max_steps=200).actions)
    first.reset(seed=7)
    record_steps(first, actions[:step])
    snapshot = first.unwrapped.save_state()
    original = record_steps(first, actions[step:])
    continuations = []
    for env, before in ((first, 0), (second, 31)):
        env.reset(seed=7)
        record_steps(env, actions[:before])
        env.unwrapped.load_state(snapshot)
        assert tuple(wheel.phase for wheel in env.unwrapped.car.wheels) == tuple(one[3] for one in snapshot.wheels)
        continuations.append(record_steps(env, actions[step:]))
    assert continuations[0] == continuations[1]
    positions = [np.array([row[-2] for row in continuation]) for continuation in (original, continuations[0])]
    assert np.abs(positions[0] - positions[1]).max() < 0.05  # of a distance of about 100 units
    rewards = [np.array([row[1] for row in continuation]) for continuation in (original, continuations[0])]
    assert rewards[0].sum() == pytest.approx(rewards[1].sum(), abs=0.01)
    assert rewards[0].sum() > 10
    frames = [np.frombuffer(continuation[0][0], np.uint8).astype(int) for continuation in (original, continuations[0])]
    assert np.abs(frames[0] - frames[1]).mean() < 0.2


def test_visited_tiles_give_no_reward_again():
    env = racing()
    env.reset(seed=2)
    total = sum(row[1] for row in record_steps(env, driving(3, 60)))
    snapshot = env.unwrapped.save_state()
    assert snapshot.reward == pytest.approx(total + 1000 / len(env.unwrapped.track), rel=0.3)  # reset visits one or two
    again = racing()
    again.reset(seed=2)
    again.unwrapped.load_state(snapshot)
    stopped = np.array([0, -1, 1], np.float32)
    original, restored = (sum(row[1] for row in record_steps(game, [stopped] * 10)) for game in (env, again))
    assert restored == pytest.approx(original, abs=1.5 * 1000 / len(env.unwrapped.track))  # one tile more or less
    assert again.unwrapped.tile_visited_count >= sum(snapshot.visited) > 5


def test_snapshots_of_another_track_are_refused():
    env = racing()
    with pytest.raises(ValueError, match="reset"):
        env.unwrapped.save_state()
    env.reset(seed=1)
    snapshot = env.unwrapped.save_state()
    env.reset(seed=2)
    with pytest.raises(ValueError, match="track"):
        env.unwrapped.load_state(snapshot)
    with pytest.raises(ValueError, match="track"):
        racing().unwrapped.load_state(snapshot)


@pytest.mark.slow
def test_memory_does_not_grow_over_restores():
    env = racing()
    env.reset(seed=1)
    snapshot = env.unwrapped.save_state()

    def resident():
        gc.collect()
        return int(open("/proc/self/statm").read().split()[1]) * 4_096 / 1e6

    sizes = []
    for number in range(3_000):
        env.reset(seed=1)
        env.unwrapped.load_state(snapshot)
        env.step(np.zeros(3, np.float32))
        if number % 1_000 == 999:
            sizes.append(resident())
    assert sizes[2] - sizes[1] < 10
    assert env.unwrapped.world.jointCount == 4


def test_the_official_game_has_no_snapshots():
    assert not hasattr(gymnasium.make("CarRacing-v3").unwrapped, "save_state")
