"""Moments of CarRacing: save one, and let the game go on from it.

Box2D keeps the last forces in the car's joints to itself. So a game goes on from a moment nearly as it did when the
moment was saved, and exactly alike each time that it goes on from it.
"""

from typing import Any, NamedTuple

from gymnasium.envs.box2d.car_dynamics import Car

WHEEL_STATE = ("gas", "brake", "steer", "phase", "omega")
"""What a wheel knows beside its motion."""


class CarRacingSnapshot(NamedTuple):
    """A moment of an episode of CarRacing."""

    track: tuple[tuple[float, ...], ...]
    """Where the road lies: the moment belongs to it."""
    bodies: tuple[tuple[Any, ...], ...]
    """Position, angle, velocity and angular velocity of the wheels and of the hull."""
    wheels: tuple[tuple[float, ...], ...]
    """`WHEEL_STATE` of each wheel."""
    visited: tuple[bool, ...]
    """Which tiles of the road were."""
    reward: float
    prev_reward: float
    """What of the reward was given out."""
    t: float


def save(game: Any) -> CarRacingSnapshot:
    """What a ``CarRacing`` is like now.

    Raises:
        ValueError: it was not reset yet.
    """
    if game.car is None:
        raise ValueError("CarRacing has no state to save before its first reset")
    return CarRacingSnapshot(
        tuple(game.track),
        tuple((tuple(b.position), b.angle, tuple(b.linearVelocity), b.angularVelocity) for b in game.car.drawlist),
        tuple(tuple(float(getattr(wheel, name)) for name in WHEEL_STATE) for wheel in game.car.wheels),
        tuple(tile.road_visited for tile in game.road),
        game.reward,
        game.prev_reward,
        game.t,
    )


def load(game: Any, snapshot: CarRacingSnapshot) -> None:
    """Go on from a moment of an episode on the same track.

    Raises:
        ValueError: the game is on another track.
    """
    if game.car is None or snapshot.track != tuple(game.track):
        raise ValueError("CarRacing goes on from moments of the track it is on: reset it with their seed before")
    game.car.destroy()
    game.car = Car(game.world, *game.track[0][1:4])  # a new one: joints remember what pulled at them
    for body, (position, angle, velocity, turning) in zip(game.car.drawlist, snapshot.bodies, strict=True):
        body.transform = (position, angle)
        body.linearVelocity, body.angularVelocity = velocity, turning
    for wheel, values in zip(game.car.wheels, snapshot.wheels, strict=True):
        for name, value in zip(WHEEL_STATE, values, strict=True):
            setattr(wheel, name, value)
    for tile, visited in zip(game.road, snapshot.visited, strict=True):
        tile.road_visited = visited
    game.tile_visited_count = sum(snapshot.visited)
    game.reward, game.prev_reward = snapshot.reward, snapshot.prev_reward
    game.t, game.new_lap = snapshot.t, False  # a new lap ends the episode in its own step
    game.world.Step(0.0, 1, 1)  # no time passes, but wheels learn which tiles they are on
