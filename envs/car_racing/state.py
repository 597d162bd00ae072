"""Save the state of a CarRacing game, and restore it.

Start reading at `save`. Box2D does not expose the last forces in the car's joints. After a restore the game therefore
continues almost as it did after the save, and identically after each restore.
"""

from typing import Any, NamedTuple

from gymnasium.envs.box2d.car_dynamics import Car

WHEEL_STATE = ("gas", "brake", "steer", "phase", "omega")
"""Attributes of a wheel besides its motion."""


class CarRacingSnapshot(NamedTuple):
    """State of an episode of CarRacing."""

    track: tuple[tuple[float, ...], ...]
    """Points of the road; the state is valid on this track only."""
    bodies: tuple[tuple[Any, ...], ...]
    """Position, angle, velocity and angular velocity of the wheels and the hull."""
    wheels: tuple[tuple[float, ...], ...]
    """`WHEEL_STATE` of each wheel."""
    visited: tuple[bool, ...]
    """Whether each tile of the road was visited."""
    reward: float
    prev_reward: float
    """Part of ``reward`` that earlier steps have returned."""
    t: float


def save(game: Any) -> CarRacingSnapshot:
    """Return the current state of a ``CarRacing``.

    Raises:
        ValueError: The game was not reset yet.
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
    """Restore a state of an episode on the same track.

    Raises:
        ValueError: The game is on another track.
    """
    if game.car is None or snapshot.track != tuple(game.track):
        raise ValueError("snapshot must be of the current track: reset the environment with the snapshot's seed first")
    game.car.destroy()
    game.car = Car(game.world, *game.track[0][1:4])  # a new car, because joints keep their last forces
    for body, (position, angle, velocity, angular_velocity) in zip(game.car.drawlist, snapshot.bodies, strict=True):
        body.transform = (position, angle)
        body.linearVelocity, body.angularVelocity = velocity, angular_velocity
    for wheel, values in zip(game.car.wheels, snapshot.wheels, strict=True):
        for name, value in zip(WHEEL_STATE, values, strict=True):
            setattr(wheel, name, value)
    for tile, visited in zip(game.road, snapshot.visited, strict=True):
        tile.road_visited = visited
    game.tile_visited_count = sum(snapshot.visited)
    game.reward, game.prev_reward = snapshot.reward, snapshot.prev_reward
    game.t, game.new_lap = snapshot.t, False  # new_lap is True only in the step that ends the episode
    game.world.Step(0.0, 1, 1)  # a step of zero seconds registers the tiles below the wheels
