"""The same track again, and going on from moments of it."""

import gc

import gymnasium
import numpy as np
import pytest

import envs
from rollouts import play
from tests.toys import RoadFollower


def driving(seed, steps):
    """Gas at first, then what a drunk does."""
    rng, steer = np.random.default_rng(seed), 0.0
    for step in range(steps):
        steer = float(np.clip(steer + rng.normal(0, 0.1), -0.3, 0.3))
        yield np.array([steer, 0.6 if step < 40 else -0.7, -1.0], np.float32)


def lived(env, actions):
    """What is seen, earned and where the car is, action by action."""
    told = []
    for action in actions:
        frame, *rest = env.step(action)
        told.append((frame.tobytes(), *rest, tuple(env.unwrapped.car.hull.position), env.unwrapped.car.hull.angle))
    return told


def racing(**options):
    return envs.make("FastCarRacing", action_repeat=2, **options)


@pytest.mark.parametrize("options", [{}, {"domain_randomize": True}])
def test_the_same_track_again_is_as_in_a_new_game(options):
    fresh, used = racing(**options), racing(**options)
    first = fresh.reset(seed=3)[0]
    expected = lived(fresh, driving(0, 60))
    used.reset(seed=3)
    lived(used, driving(1, 80))
    assert np.array_equal(used.reset(seed=3)[0], first)
    fresh_again = racing(**options)
    fresh_again.reset(seed=3)
    assert np.array_equal(used.unwrapped._render("rgb_array"), fresh_again.unwrapped._render("rgb_array"))
    assert used.np_random.bit_generator.state == fresh.np_random.bit_generator.state
    assert lived(used, driving(0, 60)) == expected
    assert np.array_equal(used.unwrapped._render("rgb_array"), fresh.unwrapped._render("rgb_array"))
    assert not np.array_equal(used.reset(seed=4)[0], first)
    assert len(used.unwrapped.road) == len(used.unwrapped.track) == used.unwrapped.world.bodyCount - 5  # no older track


def test_without_a_seed_there_is_a_new_track_each_time():
    env = racing()
    env.reset(seed=3)
    first = env.unwrapped.track
    env.reset()
    second = env.unwrapped.track
    env.reset()
    assert first != second != env.unwrapped.track != first


@pytest.mark.parametrize("step", [0, 50])
def test_goes_on_from_a_moment_nearly_as_it_did_and_exactly_alike_each_time(step):
    first, second = racing(), racing()
    actions = list(play(first, RoadFollower(), 7, max_steps=200).actions)
    first.reset(seed=7)
    lived(first, actions[:step])
    moment = first.unwrapped.save_state()
    went_on = lived(first, actions[step:])
    tellings = []
    for env, before in ((first, 0), (second, 31)):
        env.reset(seed=7)
        lived(env, actions[:before])
        env.unwrapped.load_state(moment)
        assert tuple(wheel.phase for wheel in env.unwrapped.car.wheels) == tuple(one[3] for one in moment.wheels)
        tellings.append(lived(env, actions[step:]))
    assert tellings[0] == tellings[1]
    places = [np.array([told[-2] for told in telling]) for telling in (went_on, tellings[0])]
    assert np.abs(places[0] - places[1]).max() < 0.05  # of some 100 units of way
    earned = [np.array([told[1] for told in telling]) for telling in (went_on, tellings[0])]
    assert earned[0].sum() == pytest.approx(earned[1].sum(), abs=0.01)
    assert earned[0].sum() > 10
    frames = [np.frombuffer(telling[0][0], np.uint8).astype(int) for telling in (went_on, tellings[0])]
    assert np.abs(frames[0] - frames[1]).mean() < 0.2


def test_tiles_that_were_visited_give_nothing_again():
    env = racing()
    env.reset(seed=2)
    earned = sum(told[1] for told in lived(env, driving(3, 60)))
    moment = env.unwrapped.save_state()
    assert moment.reward == pytest.approx(earned + 1000 / len(env.unwrapped.track), rel=0.3)  # reset visits one or two
    again = racing()
    again.reset(seed=2)
    again.unwrapped.load_state(moment)
    stopped = np.array([0, -1, 1], np.float32)
    assert sum(told[1] for told in lived(again, [stopped] * 10)) < 20
    assert again.unwrapped.tile_visited_count >= sum(moment.visited) > 5


def test_moments_of_another_track_are_refused():
    env = racing()
    with pytest.raises(ValueError, match="reset"):
        env.unwrapped.save_state()
    env.reset(seed=1)
    moment = env.unwrapped.save_state()
    env.reset(seed=2)
    with pytest.raises(ValueError, match="track"):
        env.unwrapped.load_state(moment)
    with pytest.raises(ValueError, match="track"):
        racing().unwrapped.load_state(moment)


@pytest.mark.slow
def test_memory_does_not_grow_over_moments():
    env = racing()
    env.reset(seed=1)
    moment = env.unwrapped.save_state()

    def resident():
        gc.collect()
        return int(open("/proc/self/statm").read().split()[1]) * 4_096 / 1e6

    sizes = []
    for number in range(3_000):
        env.reset(seed=1)
        env.unwrapped.load_state(moment)
        env.step(np.zeros(3, np.float32))
        if number % 1_000 == 999:
            sizes.append(resident())
    assert sizes[2] - sizes[1] < 10
    assert env.unwrapped.world.jointCount == 4


def test_the_official_game_has_no_moments():
    assert not hasattr(gymnasium.make("CarRacing-v3").unwrapped, "save_state")
