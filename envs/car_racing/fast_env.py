"""CarRacing-v3 with a faster renderer: the same tracks, physics and rewards, in a fraction of the time.

Almost all of a CarRacing step is spent on drawing: hundreds of polygons on a 1000x800 image, which is then shrunk to 96x96.
Here the track is drawn once per episode, as an image of the whole playfield from above. A frame is an affine warp of it, with
the car, the bar and the score drawn on top. Start reading at `FastCarRacing._render_state`.

Only the state frames are drawn this way; ``render()`` shows the official image.
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

from worldmodel.envs.car_racing import state as car_racing_state
from worldmodel.envs.car_racing.env import destroy_bodies

PIXELS_PER_UNIT = 3.0
"""Pixels of the playfield image per world unit: 12 MB, about twice the resolution of a frame."""
SUPERSAMPLING = 2
"""A frame is drawn at this multiple of its width and height, and area-resized."""
FAR_SUPERSAMPLING, FAR_ZOOM = 8, 5.0
"""At the start of an episode the camera is far above (zoom below ``FAR_ZOOM``), which needs more samples."""
HUD_SHARE, HUD_SUPERSAMPLING = 5 / 40, 4
"""Fraction of the window's height that the bar with speed and score covers, and its supersampling."""
SMOOTHSCALE_LOSS = 2
"""pygame's smoothscale, which shrinks the official image, rounds every value down, twice."""
SUBPIXEL_BITS = 4
"""Number of fractional bits in the coordinates of polygons."""
TILE_SHADE_STEP = 2.55
"""Shade difference between neighbouring road tiles; the shades repeat every three tiles."""
Color = tuple[int, ...]
Camera = tuple[tuple[float, float, float], tuple[float, float, float]]
"""An affine map from the world to the canvas, as two rows."""


class _Track(NamedTuple):
    """Result of generating a track, besides the tiles themselves."""

    polygons: list[Any]
    rng_state: Any
    """State of ``np_random`` after the generation."""


class FastCarRacing(CarRacing):
    """Gymnasium's CarRacing-v3 with faster drawing of state frames.

    Takes the arguments of CarRacing, and:

    Args:
        frame_size: Height and width of the frames in pixels.
        crop: Whether to leave out the bar with speed and score, as in World Models.
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
        """Start an episode on a new track; with the previous seed the track is kept and only the car is new."""
        if seed is None or seed != self._seed or self.domain_randomize:
            self._track_cache = self._playfield_image = None
        self._seed = seed
        return super().reset(seed=seed, options=options)

    def save_state(self) -> car_racing_state.CarRacingSnapshot:
        """Return the current state of the episode."""
        return car_racing_state.save(self)

    def load_state(self, snapshot: car_racing_state.CarRacingSnapshot) -> None:
        """Restore a state of an episode on the same track.

        Raises:
            ValueError: The current track is another one.
        """
        car_racing_state.load(self, snapshot)

    def close(self) -> None:
        """Close the game and free its memory."""
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
        """Draw the current frame, (frame_size, frame_size, 3)."""
        if self._playfield_image is None:
            self._playfield_image, self._car_shapes = self._draw_playfield(), self._car_polygons()
        size = self.frame_size
        zoom = 0.1 * SCALE * max(1 - self.t, 0) + ZOOM * SCALE * min(self.t, 1)
        supersampling = SUPERSAMPLING if zoom >= FAR_ZOOM else FAR_SUPERSAMPLING
        rows = size if self.crop else round(size * (1 - HUD_SHARE))
        camera = self._camera(
            zoom, size * supersampling / WINDOW_W, rows * supersampling / (WINDOW_H * (1 - HUD_SHARE))
        )
        # the playfield through the camera; outside of it all pixels are black
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        canvas = cv2.warpAffine(
            self._playfield_image, _inverse_affine(camera), (size * supersampling, rows * supersampling), flags=flags
        )
        self._draw_car(canvas, camera)
        frame: np.ndarray = cv2.resize(canvas, (size, rows), interpolation=cv2.INTER_AREA)
        return frame if self.crop else np.concatenate((frame, self._draw_hud(size - rows)))

    def _camera(self, zoom: float, scale_x: float, scale_y: float) -> Camera:
        """Return the official camera, scaled to the canvas and flipped vertically."""
        assert self.car is not None
        (x, y), angle = self.car.hull.position, -self.car.hull.angle
        c, s = zoom * math.cos(angle), zoom * math.sin(angle)
        return (
            (scale_x * c, -scale_x * s, scale_x * (WINDOW_W / 2 - c * x + s * y)),
            (-scale_y * s, -scale_y * c, scale_y * (WINDOW_H * 3 / 4 + s * x + c * y)),
        )

    def _draw_playfield(self) -> np.ndarray:
        """Draw the whole playfield from above, in RGB."""
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
        """Return for each part of the car its colour, the vertices of all its shapes, and the end index of each shape."""
        assert self.car is not None
        parts = []
        for part in self.car.drawlist:
            shapes = [fixture.shape.vertices for fixture in part.fixtures]
            ends = np.cumsum([len(shape) for shape in shapes]).tolist()
            color = _darken([int(value * 255) for value in part.color])
            parts.append((color, np.array([vertex for shape in shapes for vertex in shape]), ends))
        return parts

    def _draw_car(self, canvas: np.ndarray, camera: Camera) -> None:
        """Draw wheels and hull, in the official order and colours."""
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
        """Draw the black bar with score, speed, wheels, steering and rotation, (rows, frame_size, 3)."""
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

        def vertical_bar(column: int, value: float, color: Color) -> None:
            if abs(value) > 1e-4:
                box(column * unit, (column + 1) * unit, 4 * high - high * value, 4 * high, color)

        def horizontal_bar(column: int, value: float, color: Color) -> None:
            if abs(value) > 1e-4:
                box(column * unit, (column + value) * unit, high, 3 * high, color)

        hull, wheels = self.car.hull, self.car.wheels
        vertical_bar(5, 0.02 * math.hypot(*hull.linearVelocity), _SPEED)
        for column, wheel in enumerate(wheels):
            vertical_bar(7 + column, 0.01 * wheel.omega, _FRONT if column < 2 else _REAR)
        horizontal_bar(20, -10.0 * wheels[0].joint.angle, _STEERING)
        horizontal_bar(30, -0.8 * hull.angularVelocity, _TURNING)
        resized: np.ndarray = cv2.resize(hud, (size, rows), interpolation=cv2.INTER_AREA)
        score = _score_image(f"{self.reward:04.0f}", size, rows)
        resized[:, : score.shape[1]] = score
        return resized


@lru_cache(maxsize=4_096)
def _score_image(text: str, size: int, rows: int) -> np.ndarray:
    """Draw the score's digits as in the official image: the first eighth of the bar, to the left of the speed."""
    surface = pygame.Surface((WINDOW_W // 8, int(WINDOW_H * HUD_SHARE)))
    pygame.font.init()  # the font is not cached: another game that closes may quit pygame, which invalidates it
    font = pygame.font.Font(pygame.font.get_default_font(), 42)
    digits = font.render(text, True, (255, 255, 255), (0, 0, 0))
    position = digits.get_rect()
    position.center = (60, int(WINDOW_H * HUD_SHARE - WINDOW_H * 2.5 / 40))
    surface.blit(digits, position)
    small = pygame.transform.smoothscale(surface, (round(size / 8), rows))
    return pygame.surfarray.array3d(small).transpose(1, 0, 2)


def _darken(color: Any) -> Color:
    """Return a colour after the rounding of the official image."""
    return tuple(max(int(value) - SMOOTHSCALE_LOSS, 0) for value in color)


_SPEED, _FRONT, _REAR = _darken((255, 255, 255)), _darken((0, 0, 255)), _darken((51, 0, 255))
_STEERING, _TURNING = _darken((0, 255, 0)), _darken((255, 0, 0))


def _fill_polygon(image: np.ndarray, points: np.ndarray, color: Color) -> None:
    """Fill a convex polygon with vertices (n, 2) in units of 1 / 2**SUBPIXEL_BITS pixels."""
    cv2.fillConvexPoly(image, points, color, shift=SUBPIXEL_BITS)


def _inverse_affine(camera: Camera) -> np.ndarray:
    """Return the inverse of the camera, (2, 3): from canvas pixels to playfield pixels, pixel centres to pixel centres."""
    (a, b, tx), (c, d, ty) = camera
    scale = PIXELS_PER_UNIT / (a * d - b * c)
    rotation = ((d * scale, -b * scale), (-c * scale, a * scale))
    # a pixel's centre is half a pixel from its edge, in both images
    middle = PLAYFIELD * PIXELS_PER_UNIT - 0.5
    return np.array([(u, v, u * (0.5 - tx) + v * (0.5 - ty) + middle) for u, v in rotation])


def _body_transform(camera: Camera, position: Any, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the map from a body's coordinates to canvas coordinates in units of 1 / 2**SUBPIXEL_BITS pixels.

    Returns:
        A matrix (2, 2), applied from the right, and a translation (2,) that includes one half, so that truncation rounds.
    """
    (a, b, tx), (c, d, ty) = camera
    x, y = position
    cos, sin = math.cos(angle), math.sin(angle)
    unit = 1 << SUBPIXEL_BITS
    rotation = np.array(
        [
            ((a * cos + b * sin) * unit, (c * cos + d * sin) * unit),
            ((b * cos - a * sin) * unit, (d * cos - c * sin) * unit),
        ]
    )
    translation = np.array([(a * x + b * y + tx - 0.5) * unit + 0.5, (c * x + d * y + ty - 0.5) * unit + 0.5])
    return rotation, translation


def _transform_points(vertices: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Return the vertices (n, 2) of a body on the canvas, in units of 1 / 2**SUBPIXEL_BITS pixels."""
    return (vertices @ rotation + translation).astype(np.int32)


def _wheel_stripe(phase: float) -> np.ndarray | None:
    """Return the white stripe of a rotating wheel, in the wheel's coordinates; None if it is on the lower side."""
    s1, s2, c1, c2 = math.sin(phase), math.sin(phase + 1.2), math.cos(phase), math.cos(phase + 1.2)
    if s1 > 0 and s2 > 0:
        return None
    c1, c2 = (math.copysign(1, c1) if s1 > 0 else c1), (math.copysign(1, c2) if s2 > 0 else c2)
    x, y1, y2 = WHEEL_W * SIZE, WHEEL_R * c1 * SIZE, WHEEL_R * c2 * SIZE
    return np.array([(-x, y1), (x, y1), (x, y2), (-x, y2)])
