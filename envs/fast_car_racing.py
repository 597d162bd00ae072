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

from envs import car_racing_state
from envs.car_racing import destroy_bodies

PIXELS_PER_UNIT = 3.0
"""Pixels of the field's picture in a unit of the world: 12 MB, about as fine as twice the frame's own pixels."""
SUPERSAMPLING = 2
"""A frame is drawn this many times as wide and high, and shrunk by areas."""
FAR_SUPERSAMPLING, FAR_ZOOM = 8, 5.0
"""In the first moments the camera looks from far above, and more samples are needed."""
HUD_SHARE, HUD_SUPERSAMPLING = 5 / 40, 4
"""The share of the window that the bar with speed and score covers, and its own samples."""
SMOOTHSCALE_LOSS = 2
"""pygame's smoothscale, which shrinks the official picture, rounds every value down, twice."""
SUBPIXEL_BITS = 4
"""Bits behind the point in coordinates of polygons."""
TILE_SHADE_STEP = 2.55
"""Every third tile of the road has the same shade; they differ by this."""
Color = tuple[int, ...]
Camera = tuple[tuple[float, float, float], tuple[float, float, float]]
"""An affine map from the world to the canvas, in two rows."""


class _Track(NamedTuple):
    """What laying a track gave, besides the tiles themselves."""

    polygons: list[Any]
    rng_state: Any
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
        self._track_cache: _Track | None = None
        self._playfield_image: np.ndarray | None = None
        self._car_shapes: list[tuple[Color, np.ndarray, list[int]]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new track, or the same one again: with the last seed only the car is made anew."""
        if seed is None or seed != self._seed or self.domain_randomize:
            self._track_cache = self._playfield_image = None
        self._seed = seed
        return super().reset(seed=seed, options=options)

    def save_state(self) -> car_racing_state.CarRacingSnapshot:
        """This moment of the episode."""
        return car_racing_state.save(self)

    def load_state(self, snapshot: car_racing_state.CarRacingSnapshot) -> None:
        """Go on from a moment of an episode on the same track.

        Raises:
            ValueError: this track is another one.
        """
        car_racing_state.load(self, snapshot)

    def close(self) -> None:
        """Close, and give all memory back."""
        super().close()
        self._track_cache = self._playfield_image = None
        destroy_bodies(self)

    def _destroy(self) -> None:
        if self._track_cache is None:
            super()._destroy()
        elif self.car is not None:
            self.car.destroy()

    def _create_track(self) -> bool:
        if self._track_cache is None:
            if not super()._create_track():
                return False
            self._track_cache = _Track(self.road_poly, self.np_random.bit_generator.state)
        else:
            self.road_poly, self.np_random.bit_generator.state = self._track_cache
            tiles: Any = self.road
            for tile in tiles:
                tile.road_visited = False
                tile.color[:] = self.road_color + TILE_SHADE_STEP * (tile.idx % 3)
        return True

    def _render(self, mode: str) -> Any:
        if mode != "state_pixels":
            return super()._render(mode)
        return self._render_state() if "t" in self.__dict__ else None

    def _render_state(self) -> np.ndarray:
        """What the camera sees now, (frame_size, frame_size, 3)."""
        if self._playfield_image is None:
            self._playfield_image, self._car_shapes = self._draw_playfield(), self._car_polygons()
        size = self.frame_size
        zoom = 0.1 * SCALE * max(1 - self.t, 0) + ZOOM * SCALE * min(self.t, 1)
        supersampling = SUPERSAMPLING if zoom >= FAR_ZOOM else FAR_SUPERSAMPLING
        rows = size if self.crop else round(size * (1 - HUD_SHARE))
        camera = self._camera(
            zoom, size * supersampling / WINDOW_W, rows * supersampling / (WINDOW_H * (1 - HUD_SHARE))
        )
        # the field through the camera; outside of it there is nothing
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        canvas = cv2.warpAffine(
            self._playfield_image, _inverse_affine(camera), (size * supersampling, rows * supersampling), flags=flags
        )
        self._draw_car(canvas, camera)
        frame: np.ndarray = cv2.resize(canvas, (size, rows), interpolation=cv2.INTER_AREA)
        return frame if self.crop else np.concatenate((frame, self._draw_hud(size - rows)))

    def _camera(self, zoom: float, scale_x: float, scale_y: float) -> Camera:
        """The official camera, scaled to the canvas and turned upside down."""
        assert self.car is not None
        (x, y), angle = self.car.hull.position, -self.car.hull.angle
        c, s = zoom * math.cos(angle), zoom * math.sin(angle)
        return (
            (scale_x * c, -scale_x * s, scale_x * (WINDOW_W / 2 - c * x + s * y)),
            (-scale_y * s, -scale_y * c, scale_y * (WINDOW_H * 3 / 4 + s * x + c * y)),
        )

    def _draw_playfield(self) -> np.ndarray:
        """The whole field from above, in colours."""
        side = round(2 * PLAYFIELD * PIXELS_PER_UNIT)
        playfield = np.empty((side, side, 3), np.uint8)
        playfield[:] = _darken(self.bg_color)
        grass = _darken(self.grass_color)
        for x in range(-20, 20, 2):
            for y in range(-20, 20, 2):
                left, right, low, high = (
                    round((GRASS_DIM * n + PLAYFIELD) * PIXELS_PER_UNIT) for n in (x, x + 1, y, y + 1)
                )
                playfield[low:high, left:right] = grass
        for polygon, color in self.road_poly:
            points = (np.asarray(polygon, np.float64) + PLAYFIELD) * PIXELS_PER_UNIT - 0.5
            _fill_polygon(playfield, (points * (1 << SUBPIXEL_BITS) + 0.5).astype(np.int32), _darken(color))
        return playfield

    def _car_polygons(self) -> list[tuple[Color, np.ndarray, list[int]]]:
        """For each part of the car: its colour, the corners of all its shapes, and where each shape ends."""
        assert self.car is not None
        parts = []
        for part in self.car.drawlist:
            shapes = [fixture.shape.vertices for fixture in part.fixtures]
            ends = np.cumsum([len(shape) for shape in shapes]).tolist()
            color = _darken([int(value * 255) for value in part.color])
            parts.append((color, np.array([corner for shape in shapes for corner in shape]), ends))
        return parts

    def _draw_car(self, canvas: np.ndarray, camera: Camera) -> None:
        """Wheels and hull, in the official order and colours."""
        assert self.car is not None
        white = _darken(WHEEL_WHITE)
        for part, (color, vertices, ends) in zip(self.car.drawlist, self._car_shapes, strict=True):
            rotation, translation = _body_transform(camera, part.position, part.angle)
            points, first = _transform_points(vertices, rotation, translation), 0
            for end in ends:
                _fill_polygon(canvas, points[first:end], color)
                first = end
            if "phase" in part.__dict__ and (stripe := _wheel_stripe(part.phase)) is not None:
                _fill_polygon(canvas, _transform_points(stripe, rotation, translation), white)

    def _draw_hud(self, rows: int) -> np.ndarray:
        """The black bar with the score, speed, wheels, steering and turning, (rows, frame_size, 3)."""
        assert self.car is not None
        size, unit, high = self.frame_size, WINDOW_W / 40, WINDOW_H / 40
        scale_x, scale_y = size * HUD_SUPERSAMPLING / WINDOW_W, rows * HUD_SUPERSAMPLING / (WINDOW_H * HUD_SHARE)
        hud = np.zeros((rows * HUD_SUPERSAMPLING, size * HUD_SUPERSAMPLING, 3), np.uint8)

        def box(left: float, right: float, top: float, bottom: float, color: Color) -> None:
            x1, x2, y1, y2 = (
                round(left * scale_x),
                round(right * scale_x),
                round(top * scale_y),
                round(bottom * scale_y),
            )
            hud[max(min(y1, y2), 0) : max(y1, y2, 0), max(min(x1, x2), 0) : max(x1, x2, 0)] = color

        def vertical_bar(place: int, value: float, color: Color) -> None:
            if abs(value) > 1e-4:
                box(place * unit, (place + 1) * unit, 4 * high - high * value, 4 * high, color)

        def horizontal_bar(place: int, value: float, color: Color) -> None:
            if abs(value) > 1e-4:
                box(place * unit, (place + value) * unit, high, 3 * high, color)

        hull, wheels = self.car.hull, self.car.wheels
        vertical_bar(5, 0.02 * math.hypot(*hull.linearVelocity), _SPEED)
        for place, wheel in enumerate(wheels):
            vertical_bar(7 + place, 0.01 * wheel.omega, _FRONT if place < 2 else _REAR)
        horizontal_bar(20, -10.0 * wheels[0].joint.angle, _STEERING)
        horizontal_bar(30, -0.8 * hull.angularVelocity, _TURNING)
        shrunk: np.ndarray = cv2.resize(hud, (size, rows), interpolation=cv2.INTER_AREA)
        score = _score_image(f"{self.reward:04.0f}", size, rows)
        shrunk[:, : score.shape[1]] = score
        return shrunk


@lru_cache(maxsize=4_096)
def _score_image(text: str, size: int, rows: int) -> np.ndarray:
    """The score's digits, as the official picture shows them: the bar's first eighth; the speed begins behind it."""
    surface = pygame.Surface((WINDOW_W // 8, int(WINDOW_H * HUD_SHARE)))
    pygame.font.init()  # a font does not outlive pygame, which another game quits when it closes: so it is not kept
    font = pygame.font.Font(pygame.font.get_default_font(), 42)
    drawn = font.render(text, True, (255, 255, 255), (0, 0, 0))
    place = drawn.get_rect()
    place.center = (60, int(WINDOW_H * HUD_SHARE - WINDOW_H * 2.5 / 40))
    surface.blit(drawn, place)
    small = pygame.transform.smoothscale(surface, (round(size / 8), rows))
    return pygame.surfarray.array3d(small).transpose(1, 0, 2)


def _darken(color: Any) -> Color:
    """A colour as it comes out of the official shrinking."""
    return tuple(max(int(value) - SMOOTHSCALE_LOSS, 0) for value in color)


_SPEED, _FRONT, _REAR = _darken((255, 255, 255)), _darken((0, 0, 255)), _darken((51, 0, 255))
_STEERING, _TURNING = _darken((0, 255, 0)), _darken((255, 0, 0))


def _fill_polygon(picture: np.ndarray, points: np.ndarray, color: Color) -> None:
    """Fill a convex polygon given by corners (n, 2) in fractions of a pixel."""
    cv2.fillConvexPoly(picture, points, color, shift=SUBPIXEL_BITS)


def _inverse_affine(camera: Camera) -> np.ndarray:
    """From the canvas's pixels to those of the field's picture, (2, 3): the inverse of the camera, centres to centres."""
    (a, b, tx), (c, d, ty) = camera
    scale = PIXELS_PER_UNIT / (a * d - b * c)
    rotation = ((d * scale, -b * scale), (-c * scale, a * scale))
    # a pixel's centre lies half a pixel in, on both sides
    middle = PLAYFIELD * PIXELS_PER_UNIT - 0.5
    return np.array([(u, v, u * (0.5 - tx) + v * (0.5 - ty) + middle) for u, v in rotation])


def _body_transform(camera: Camera, position: Any, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """The map from a body's own coordinates to fractions of a pixel of the canvas.

    A matrix (2, 2), applied from the right, and a shift (2,) that has the half in it which rounds to the nearest.
    """
    (a, b, tx), (c, d, ty) = camera
    x, y = position
    cos, sin = math.cos(angle), math.sin(angle)
    one = 1 << SUBPIXEL_BITS
    rotation = np.array(
        [((a * cos + b * sin) * one, (c * cos + d * sin) * one), ((b * cos - a * sin) * one, (d * cos - c * sin) * one)]
    )
    translation = np.array([(a * x + b * y + tx - 0.5) * one + 0.5, (c * x + d * y + ty - 0.5) * one + 0.5])
    return rotation, translation


def _transform_points(vertices: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Corners (n, 2) of a body on the canvas, in fractions of a pixel."""
    return (vertices @ rotation + translation).astype(np.int32)


def _wheel_stripe(phase: float) -> np.ndarray | None:
    """The white mark of a turning wheel, in the wheel's own coordinates; None where it is below."""
    s1, s2, c1, c2 = math.sin(phase), math.sin(phase + 1.2), math.cos(phase), math.cos(phase + 1.2)
    if s1 > 0 and s2 > 0:
        return None
    c1, c2 = (math.copysign(1, c1) if s1 > 0 else c1), (math.copysign(1, c2) if s2 > 0 else c2)
    x, y1, y2 = WHEEL_W * SIZE, WHEEL_R * c1 * SIZE, WHEEL_R * c2 * SIZE
    return np.array([(-x, y1), (x, y1), (x, y2), (-x, y2)])
