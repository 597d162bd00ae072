"""benchmarks.seen: facts of the car against finite differences, errors against a linear world that is known."""

import numpy as np
import pytest

import envs
from benchmarks import seen

PACE = 1 / 50
"""Seconds of a frame."""


def test_facts_are_the_motion_of_the_car_and_the_way_of_the_road():
    game = envs.make("FastCarRacing")
    game.reset(seed=3)
    track = game.unwrapped
    for step in range(120):
        hull = track.car.hull
        before, angle = np.array(hull.position), hull.angle
        game.step(np.array([0.6 * np.sin(step / 15), 0.0, -1.0], np.float32))
        moved, turned = (np.array(hull.position) - before) / PACE, (hull.angle - angle) / PACE
    away, (speed, slip, turning, near, far) = seen._facts(track)
    ahead = np.array([-np.sin(hull.angle), np.cos(hull.angle)])
    right = np.array([np.cos(hull.angle), np.sin(hull.angle)])
    assert speed == pytest.approx(moved @ ahead, rel=0.05)
    assert slip == pytest.approx(moved @ right, abs=0.5)
    assert turning == pytest.approx(turned, rel=0.1)
    points = np.array([point[2:4] for point in track.track])
    distances = np.hypot(*(points - np.array(hull.position)).T)
    assert away == pytest.approx(distances.min())
    nearest = int(distances.argmin())
    for tiles, side in ((seen.NEAR, near), (seen.FAR, far)):
        x, y = points[(nearest + tiles) % len(points)] - np.array(hull.position)
        assert side == pytest.approx(x * ahead[1] - y * ahead[0], abs=1e-6)
    steps = np.hypot(*np.diff(points, axis=0).T)
    assert [seen.NEAR * np.median(steps), seen.FAR * np.median(steps)] == pytest.approx([14, 35], rel=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_errors_are_what_a_linear_map_leaves_over(noise):
    rng = np.random.default_rng(0)
    true = rng.normal(size=(6, 5))
    drives, features = [], []
    for _ in range(16):
        x = rng.normal(size=(300, 6))
        facts = x @ true + 3.0 + noise * rng.normal(size=(300, 5))
        near = rng.random(300) < 0.9
        facts[~near] = 1e6  # what is far from the road does not count
        drives.append(seen.Drive({}, np.zeros((300, 3), np.float32), facts, near))
        features.append(x)
    found = seen.errors(features, drives)
    np.testing.assert_allclose(found, noise, atol=0.05)
    blind = seen.errors([np.zeros((300, 1)) for _ in features], drives)
    np.testing.assert_allclose(blind, np.sqrt(np.square(true).sum(axis=0) + noise**2), rtol=0.1)
