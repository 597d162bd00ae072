"""CarRacing-v3, drawn another way: the same tracks, physics and rewards, many times as fast.

Nearly all the time of a CarRacing step goes into drawing: hundreds of polygons on a picture of 1000x800 that is then shrunk
to 96x96. Here the track is drawn once an episode, as a picture of the whole field from above; a frame is one affine look at
it, with the car, the bar and the score on top. Start reading at `FastCarRacing._picture`.

Only the state picture is drawn this way; ``render()`` shows the official one.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import pygame
from gymnasium import spaces
from gymnasium.envs.box2d.car_dynamics import SIZE, WHEEL_R, WHEEL_W, WHEEL_WHITE
from gymnasium.envs.box2d.car_racing import GRASS_DIM, PLAYFIELD, SCALE, WINDOW_H, WINDOW_W, ZOOM, CarRacing

from envs import car_state
from envs.car_racing import release

TEXTURE = 3.0
"""Pixels of the field's picture in a unit of the world: 12 MB, about as fine as twice the frame's own pixels."""
SAMPLES = 2
"""A frame is drawn this many times as wide and high, and shrunk by areas."""
FAR_SAMPLES, FAR_ZOOM = 8, 5.0
"""In the first moments the camera looks from far above, and more samples are needed."""
BAR, BAR_SAMPLES = 5 / 40, 4
"""The share of the window that the bar with speed and score covers, and its own samples."""
DARKER = 2
"""pygame's smoothscale, which shrinks the official picture, rounds every value down, twice."""
SHIFT = 4
"""Bits behind the point in coordinates of polygons."""
SHADE = 2.55
"""Every third tile of the road has the same shade; they differ by this."""
Color = tuple[int, ...]
Camera = tuple[tuple[float, float, float], tuple[float, float, float]]
"""An affine map from the world to the canvas, in two rows."""


class _Road(NamedTuple):
    """What laying a track gave, besides the tiles themselves."""

    polygons: list[Any]
    random: Any
    """The state of ``np_random`` behind it."""


class FastCarRacing(CarRacing):
    """Gymnasium's CarRacing-v3 with state pictures that are drawn quickly.

    Takes the arguments of CarRacing, and:

    Args:
        frame_size: height and width of the frames.
        crop: leave out the bar with speed and score, as World Models does.
    """

    def __init__(self, *args: Any, frame_size: int = 96, crop: bool = False, **kwargs: Any) -> None:
        if frame_size < 8:
            raise ValueError(f"frame_size must be at least 8, got {frame_size}")
        super().__init__(*args, **kwargs)
        self.frame_size, self.crop = frame_size, crop
        self.observation_space = spaces.Box(0, 255, (frame_size, frame_size, 3), np.uint8)
        self._seed: int | None = None
        self._road: _Road | None = None
        self._field: np.ndarray | None = None
        self._shapes: list[tuple[Color, np.ndarray, list[int]]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new track, or the same one again: with the last seed only the car is made anew."""
        if seed is None or seed != self._seed or self.domain_randomize:
            self._road = self._field = None
        self._seed = seed
        return super().reset(seed=seed, options=options)

    def save_state(self) -> car_state.Snapshot:
        """This moment of the episode."""
        return car_state.save(self)

    def load_state(self, snapshot: car_state.Snapshot) -> None:
        """Go on from a moment of an episode on the same track.

        Raises:
            ValueError: this track is another one.
        """
        car_state.load(self, snapshot)

    def close(self) -> None:
        """Close, and give all memory back."""
        super().close()
        self._road = self._field = None
        release(self)

    def _destroy(self) -> None:
        if self._road is None:
            super()._destroy()
        elif self.car is not None:
            self.car.destroy()

    def _create_track(self) -> bool:
        if self._road is None:
            if not super()._create_track():
                return False
            self._road = _Road(self.road_poly, self.np_random.bit_generator.state)
        else:
            self.road_poly, self.np_random.bit_generator.state = self._road
            tiles: Any = self.road
            for tile in tiles:
                tile.road_visited = False
                tile.color[:] = self.road_color + SHADE * (tile.idx % 3)
        return True

    def _render(self, mode: str) -> Any:
        if mode != "state_pixels":
            return super()._render(mode)
        return self._picture() if "t" in self.__dict__ else None

    def _picture(self) -> np.ndarray:
        """What the camera sees now, (frame_size, frame_size, 3)."""
        if self._field is None:
            self._field, self._shapes = self._draw_field(), self._look_at_car()
        size = self.frame_size
        zoom = 0.1 * SCALE * max(1 - self.t, 0) + ZOOM * SCALE * min(self.t, 1)
        samples = SAMPLES if zoom >= FAR_ZOOM else FAR_SAMPLES
        rows = size if self.crop else round(size * (1 - BAR))
        camera = self._camera(zoom, size * samples / WINDOW_W, rows * samples / (WINDOW_H * (1 - BAR)))
        # the field through the camera; outside of it there is nothing
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        canvas = cv2.warpAffine(self._field, _back(camera), (size * samples, rows * samples), flags=flags)
        self._draw_car(canvas, camera)
        frame: np.ndarray = cv2.resize(canvas, (size, rows), interpolation=cv2.INTER_AREA)
        return frame if self.crop else np.concatenate((frame, self._draw_bar(size - rows)))

    def _camera(self, zoom: float, across: float, down: float) -> Camera:
        """The official camera, scaled to the canvas and turned upside down."""
        assert self.car is not None
        (x, y), angle = self.car.hull.position, -self.car.hull.angle
        c, s = zoom * math.cos(angle), zoom * math.sin(angle)
        return (
            (across * c, -across * s, across * (WINDOW_W / 2 - c * x + s * y)),
            (-down * s, -down * c, down * (WINDOW_H * 3 / 4 + s * x + c * y)),
        )

    def _draw_field(self) -> np.ndarray:
        """The whole field from above, in colours."""
        side = round(2 * PLAYFIELD * TEXTURE)
        field = np.empty((side, side, 3), np.uint8)
        field[:] = _darker(self.bg_color)
        grass = _darker(self.grass_color)
        for x in range(-20, 20, 2):
            for y in range(-20, 20, 2):
                left, right, low, high = (round((GRASS_DIM * n + PLAYFIELD) * TEXTURE) for n in (x, x + 1, y, y + 1))
                field[low:high, left:right] = grass
        for polygon, color in self.road_poly:
            points = (np.asarray(polygon, np.float64) + PLAYFIELD) * TEXTURE - 0.5
            _fill(field, (points * (1 << SHIFT) + 0.5).astype(np.int32), _darker(color))
        return field

    def _look_at_car(self) -> list[tuple[Color, np.ndarray, list[int]]]:
        """For each part of the car: its colour, the corners of all its shapes, and where each shape ends."""
        assert self.car is not None
        parts = []
        for part in self.car.drawlist:
            shapes = [fixture.shape.vertices for fixture in part.fixtures]
            ends = np.cumsum([len(shape) for shape in shapes]).tolist()
            color = _darker([int(value * 255) for value in part.color])
            parts.append((color, np.array([corner for shape in shapes for corner in shape]), ends))
        return parts

    def _draw_car(self, canvas: np.ndarray, camera: Camera) -> None:
        """Wheels and hull, in the official order and colours."""
        assert self.car is not None
        white = _darker(WHEEL_WHITE)
        for part, (color, corners, ends) in zip(self.car.drawlist, self._shapes, strict=True):
            turn, shift = _placed(camera, part.position, part.angle)
            points, first = _through(corners, turn, shift), 0
            for end in ends:
                _fill(canvas, points[first:end], color)
                first = end
            if "phase" in part.__dict__ and (mark := _mark(part.phase)) is not None:
                _fill(canvas, _through(mark, turn, shift), white)

    def _draw_bar(self, rows: int) -> np.ndarray:
        """The black bar with the score, speed, wheels, steering and turning, (rows, frame_size, 3)."""
        assert self.car is not None
        size, unit, high = self.frame_size, WINDOW_W / 40, WINDOW_H / 40
        across, down = size * BAR_SAMPLES / WINDOW_W, rows * BAR_SAMPLES / (WINDOW_H * BAR)
        bar = np.zeros((rows * BAR_SAMPLES, size * BAR_SAMPLES, 3), np.uint8)

        def box(left: float, right: float, top: float, bottom: float, color: Color) -> None:
            x1, x2, y1, y2 = round(left * across), round(right * across), round(top * down), round(bottom * down)
            bar[max(min(y1, y2), 0) : max(y1, y2, 0), max(min(x1, x2), 0) : max(x1, x2, 0)] = color

        def column(place: int, value: float, color: Color) -> None:
            if abs(value) > 1e-4:
                box(place * unit, (place + 1) * unit, 4 * high - high * value, 4 * high, color)

        def row(place: int, value: float, color: Color) -> None:
            if abs(value) > 1e-4:
                box(place * unit, (place + value) * unit, high, 3 * high, color)

        hull, wheels = self.car.hull, self.car.wheels
        column(5, 0.02 * math.hypot(*hull.linearVelocity), _SPEED)
        for place, wheel in enumerate(wheels):
            column(7 + place, 0.01 * wheel.omega, _FRONT if place < 2 else _REAR)
        row(20, -10.0 * wheels[0].joint.angle, _STEERING)
        row(30, -0.8 * hull.angularVelocity, _TURNING)
        shrunk: np.ndarray = cv2.resize(bar, (size, rows), interpolation=cv2.INTER_AREA)
        score = _score(f"{self.reward:04.0f}", size, rows)
        shrunk[:, : score.shape[1]] = score
        return shrunk


@lru_cache(maxsize=4_096)
def _score(text: str, size: int, rows: int) -> np.ndarray:
    """The score's digits, as the official picture shows them: the bar's first eighth; the speed begins behind it."""
    surface = pygame.Surface((WINDOW_W // 8, int(WINDOW_H * BAR)))
    pygame.font.init()  # a font does not outlive pygame, which another game quits when it closes: so it is not kept
    font = pygame.font.Font(pygame.font.get_default_font(), 42)
    drawn = font.render(text, True, (255, 255, 255), (0, 0, 0))
    place = drawn.get_rect()
    place.center = (60, int(WINDOW_H * BAR - WINDOW_H * 2.5 / 40))
    surface.blit(drawn, place)
    small = pygame.transform.smoothscale(surface, (round(size / 8), rows))
    return pygame.surfarray.array3d(small).transpose(1, 0, 2)


def _darker(color: Any) -> Color:
    """A colour as it comes out of the official shrinking."""
    return tuple(max(int(value) - DARKER, 0) for value in color)


_SPEED, _FRONT, _REAR = _darker((255, 255, 255)), _darker((0, 0, 255)), _darker((51, 0, 255))
_STEERING, _TURNING = _darker((0, 255, 0)), _darker((255, 0, 0))


def _fill(picture: np.ndarray, points: np.ndarray, color: Color) -> None:
    """Fill a convex polygon given by corners (n, 2) in fractions of a pixel."""
    cv2.fillConvexPoly(picture, points, color, shift=SHIFT)


def _back(camera: Camera) -> np.ndarray:
    """From the canvas's pixels to those of the field's picture, (2, 3): the inverse of the camera, centres to centres."""
    (a, b, tx), (c, d, ty) = camera
    scale = TEXTURE / (a * d - b * c)
    turn = ((d * scale, -b * scale), (-c * scale, a * scale))
    # a pixel's centre lies half a pixel in, on both sides
    middle = PLAYFIELD * TEXTURE - 0.5
    return np.array([(u, v, u * (0.5 - tx) + v * (0.5 - ty) + middle) for u, v in turn])


def _placed(camera: Camera, position: Any, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """The map from a body's own coordinates to fractions of a pixel of the canvas.

    A matrix (2, 2), applied from the right, and a shift (2,) that has the half in it which rounds to the nearest.
    """
    (a, b, tx), (c, d, ty) = camera
    x, y = position
    cos, sin = math.cos(angle), math.sin(angle)
    one = 1 << SHIFT
    turn = np.array(
        [((a * cos + b * sin) * one, (c * cos + d * sin) * one), ((b * cos - a * sin) * one, (d * cos - c * sin) * one)]
    )
    shift = np.array([(a * x + b * y + tx - 0.5) * one + 0.5, (c * x + d * y + ty - 0.5) * one + 0.5])
    return turn, shift


def _through(corners: np.ndarray, turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Corners (n, 2) of a body on the canvas, in fractions of a pixel."""
    return (corners @ turn + shift).astype(np.int32)


def _mark(phase: float) -> np.ndarray | None:
    """The white mark of a turning wheel, in the wheel's own coordinates; None where it is below."""
    s1, s2, c1, c2 = math.sin(phase), math.sin(phase + 1.2), math.cos(phase), math.cos(phase + 1.2)
    if s1 > 0 and s2 > 0:
        return None
    c1, c2 = (math.copysign(1, c1) if s1 > 0 else c1), (math.copysign(1, c2) if s2 > 0 else c2)
    x, y1, y2 = WHEEL_W * SIZE, WHEEL_R * c1 * SIZE, WHEEL_R * c2 * SIZE
    return np.array([(-x, y1), (x, y1), (x, y2), (-x, y2)])
