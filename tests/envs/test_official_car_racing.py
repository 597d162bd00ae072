"""The official CarRacing has the physics, rewards and ends that the records were measured with.

A failure here means that Gymnasium has changed the game: scores before and after cannot be compared. Gymnasium pull request
1670, open in November 2026, ends an episode at the finish line.
"""

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d.car_dynamics import Car

MEASURED_WITH = "1.4.0"
"""Version of Gymnasium whose game the records were measured in."""
CHANGED = f"Gymnasium {gymnasium.__version__} has another CarRacing than {MEASURED_WITH}: scores cannot be compared"
GOLDEN = (319, 23, 221.226, 49.639, -0.326, 60.100)
"""Tiles of the track, visited tiles, position, angle and return after 120 steps from seed 7."""
IDS = ["CarRacing-v3", "worldmodel.envs:worldmodel/FastCarRacing-v3"]


@pytest.fixture(params=IDS)
def game(request):
    env = gymnasium.make(request.param, disable_env_checker=True)
    yield env
    env.close()


def test_physics_and_rewards_are_those_of_the_records(game):
    game.reset(seed=7)
    total = 0.0
    for step in range(120):
        steering = 0.3 * np.sin(step / 7)
        total += game.step(np.array([steering, 0.6, 0.0], np.float32))[1]
    car, env = game.unwrapped.car.hull, game.unwrapped
    found = (len(env.track), env.tile_visited_count, *car.position, car.angle, total)
    assert found == pytest.approx(GOLDEN, abs=0.05), CHANGED


def before_the_finish_line(game, unvisited: int):
    """Put the car before the first tile, with all tiles visited except some in the middle of the track."""
    game.reset(seed=7)
    env = game.unwrapped
    left_out = range(100, 100 + unvisited)
    for tile in env.road:
        tile.road_visited = tile.idx not in left_out
    env.tile_visited_count = len(env.track) - unvisited
    env.car.destroy()
    env.car = Car(env.world, *env.track[-5][1:4])
    env.reward = env.prev_reward = 0.0


def cross(game) -> tuple[bool, bool]:
    """Drive over the first tile; returns whether the car was on it, and whether the episode terminated."""
    env, on_it = game.unwrapped, False
    for _ in range(80):
        _, _, terminated, _, _ = game.step(np.array([0.0, 0.5, 0.0], np.float32))
        on_it = on_it or any(tile.idx == 0 for wheel in env.car.wheels for tile in wheel.tiles)
        if terminated:
            return on_it, True
    return on_it, False


def test_the_finish_line_does_not_end_an_episode(game):
    before_the_finish_line(game, unvisited=3)
    assert cross(game) == (True, False), CHANGED


def test_the_last_tile_ends_an_episode(game):
    before_the_finish_line(game, unvisited=0)
    *_, terminated, truncated, info = game.step(np.zeros(3, np.float32))
    assert (terminated, truncated, info["lap_finished"]) == (True, False, True), CHANGED
