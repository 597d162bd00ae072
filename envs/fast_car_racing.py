"""CarRacing-v3, drawn another way: the same tracks, physics and rewards, many times as fast.

Nearly all the time of a CarRacing step goes into drawing: hundreds of polygons on a picture of 1000x800 that is then shrunk
to 96x96. Here the track is drawn once an episode, as a picture of the whole field in a few colours; a frame is one affine
look at it, with the car, the bar and the score on top. Start reading at `FastCarRacing._picture`.

Only the state picture is drawn this way; ``render()`` shows the official one.
"""

import math
from typing import Any

import cv2
import numpy as np
import pygame
from gymnasium import spaces
from gymnasium.envs.box2d.car_dynamics import SIZE, WHEEL_R, WHEEL_W, WHEEL_WHITE
from gymnasium.envs.box2d.car_racing import GRASS_DIM, PLAYFIELD, SCALE, WINDOW_H, WINDOW_W, ZOOM, CarRacing

TEXTURE = 5.0
"""Pixels of the field's picture in a unit of the world: 11 MB, and finer than twice the frame's own pixels."""
SAMPLES = 2
"""A frame is drawn this many times as wide and high, and shrunk by areas."""
FAR_SAMPLES, FAR_ZOOM = 8, 5.0
"""In the first moments the camera looks from far above, and more samples are needed."""
BAR = 5 / 40
"""The share of the window that the bar with speed and score covers."""
DARKER = 2
"""pygame's smoothscale, which shrinks the official picture, rounds every value down, twice."""
SHIFT = 4
"""Bits behind the point in coordinates of polygons."""
OUTSIDE, FIELD, GRASS, WHITE, RED, FREE = range(6)
"""Palette: black, the field, its patches, the borders; then the shades of the road and the colours of the car."""


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
        self._texture: np.ndarray | None = None
        self._shapes: list[tuple[int, list[np.ndarray]]] | None = None
        self._palette = np.zeros((256, 1, 3), np.uint8)
        self._indices: dict[tuple[Any, ...], int] = {}
        self._scores: dict[str, np.ndarray] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new track."""
        self._texture = self._shapes = None
        return super().reset(seed=seed, options=options)

    def close(self) -> None:
        """Close, and break the cycle through the contact listener that would keep the whole game in memory."""
        super().close()
        game: Any = self
        game.world.contactListener = game.world.contactListener_bug_workaround = game.contactListener_keepref = None
        self._texture = None

    def _render(self, mode: str) -> Any:
        if mode != "state_pixels":
            return super()._render(mode)
        if "t" not in self.__dict__:
            return None
        return self._picture()

    def _picture(self) -> np.ndarray:
        """What the camera sees now, (frame_size, frame_size, 3)."""
        if self._texture is None:
            self._texture = self._draw_field()
        size, seen = self.frame_size, 1 - BAR if self.crop else 1.0
        zoom = 0.1 * SCALE * max(1 - self.t, 0) + ZOOM * SCALE * min(self.t, 1)
        samples = SAMPLES if zoom >= FAR_ZOOM else FAR_SAMPLES
        wide = size * samples
        high = wide if self.crop else round(size * (1 - BAR)) * samples
        camera = self._camera(zoom, wide / WINDOW_W, wide / (WINDOW_H * seen))
        canvas = self._look(camera, wide, high)
        self._draw_car(canvas, camera)
        # a palette's picture as colours, then the mean over each pixel's area
        colours = cv2.LUT(cv2.merge((canvas, canvas, canvas)), self._palette)
        frame: np.ndarray = cv2.resize(colours, (size, high // samples), interpolation=cv2.INTER_AREA)
        return frame if self.crop else np.concatenate((frame, self._draw_bar(size - len(frame))))

    def _camera(self, zoom: float, across: float, down: float) -> np.ndarray:
        """The affine map from the world to the canvas, (2, 3): the official one, scaled and turned upside down."""
        assert self.car is not None
        (x, y), angle = self.car.hull.position, -self.car.hull.angle
        c, s = zoom * math.cos(angle), zoom * math.sin(angle)
        turned = np.array([[c, -s, WINDOW_W / 2 - c * x + s * y], [s, c, WINDOW_H / 4 - s * x - c * y]])
        turned[0] *= across
        turned[1] *= -down
        turned[1, 2] += down * WINDOW_H
        return turned

    def _look(self, camera: np.ndarray, wide: int, high: int) -> np.ndarray:
        """The field through the camera, as indices into the palette, (high, wide)."""
        assert self._texture is not None
        to_texture = np.array([[TEXTURE, 0, PLAYFIELD * TEXTURE], [0, TEXTURE, PLAYFIELD * TEXTURE], [0, 0, 1]])
        back = to_texture @ np.linalg.inv(np.vstack((camera, (0, 0, 1))))
        # centres of pixels lie half a pixel in, on both sides
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        back = (np.linalg.inv(half) @ back @ half)[:2]
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(self._texture, back, (wide, high), flags=flags, borderValue=OUTSIDE)

    def _draw_field(self) -> np.ndarray:
        """The whole field from above, as indices into the palette."""
        self._indices = {}
        self._palette[:] = 0
        for index, colour in {
            FIELD: self.bg_color,
            GRASS: self.grass_color,
            WHITE: (255,) * 3,
            RED: (255, 0, 0),
        }.items():
            self._palette[index, 0] = _darker(colour)
        side = round(2 * PLAYFIELD * TEXTURE)
        field = np.full((side, side), FIELD, np.uint8)
        for x in range(-20, 20, 2):
            for y in range(-20, 20, 2):
                low = [round((GRASS_DIM * n + PLAYFIELD) * TEXTURE) for n in (x, y)]
                high = [round((GRASS_DIM * (n + 1) + PLAYFIELD) * TEXTURE) for n in (x, y)]
                field[low[1] : high[1], low[0] : high[0]] = GRASS
        for polygon, color in self.road_poly:
            points = (np.asarray(polygon, np.float64) + PLAYFIELD) * TEXTURE - 0.5
            _fill(field, points, self._road_index(tuple(int(c) for c in color)))
        return field

    def _road_index(self, color: tuple[int, ...]) -> int:
        if color == (255, 255, 255):
            return WHITE
        if color == (255, 0, 0):
            return RED
        return self._color(color)

    def _color(self, color: tuple[int, ...]) -> int:
        """The palette's index of a colour of the road or the car."""
        index = self._indices.get(color)
        if index is None:
            index = self._indices[color] = FREE + len(self._indices)
            self._palette[index, 0] = _darker(color)
        return index

    def _draw_car(self, canvas: np.ndarray, camera: np.ndarray) -> None:
        """Hull and wheels, in the official order and colours."""
        assert self.car is not None
        if self._shapes is None:
            self._shapes = [
                (
                    self._color(tuple(int(value * 255) for value in part.color)),
                    [np.array(fixture.shape.vertices) for fixture in part.fixtures],
                )
                for part in self.car.drawlist
            ]
        for part, (color, shapes) in zip(self.car.drawlist, self._shapes, strict=True):
            (px, py), angle = part.position, part.angle
            c, s = math.cos(angle), math.sin(angle)
            placed = camera @ np.array([[c, -s, px], [s, c, py], [0, 0, 1]])
            for shape in shapes:
                _fill(canvas, _through(placed, shape), color)
            if "phase" in part.__dict__ and (white := _spoke(part.phase)) is not None:
                _fill(canvas, _through(placed, np.array(white)), self._color(WHEEL_WHITE))

    def _draw_bar(self, rows: int) -> np.ndarray:
        """The black bar with the score, speed, wheels, steering and turning, (rows, frame_size, 3)."""
        assert self.car is not None
        size, unit = self.frame_size, WINDOW_W / 40
        high = WINDOW_H / 40
        across, down = size * SAMPLES / WINDOW_W, rows * SAMPLES / (WINDOW_H * BAR)
        bar = np.zeros((rows * SAMPLES, size * SAMPLES, 3), np.uint8)

        def box(left: float, right: float, top: float, bottom: float, color: tuple[int, int, int]) -> None:
            corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
            _fill(bar, corners * (across, down) - 0.5, _darker(color).tolist())

        def column(place: int, value: float, color: tuple[int, int, int]) -> None:
            if abs(value) > 1e-4:
                box(place * unit, (place + 1) * unit, 4 * high - high * value, 4 * high, color)

        def row(place: int, value: float, color: tuple[int, int, int]) -> None:
            if abs(value) > 1e-4:
                box(place * unit, (place + value) * unit, high, 3 * high, color)

        hull, wheels = self.car.hull, self.car.wheels
        column(5, 0.02 * math.hypot(*hull.linearVelocity), (255, 255, 255))
        for place, wheel in enumerate(wheels):
            column(7 + place, 0.01 * wheel.omega, (0, 0, 255) if place < 2 else (51, 0, 255))
        row(20, -10.0 * wheels[0].joint.angle, (0, 255, 0))
        row(30, -0.8 * hull.angularVelocity, (255, 0, 0))
        shrunk: np.ndarray = cv2.resize(bar, (size, rows), interpolation=cv2.INTER_AREA)
        score = self._score(f"{self.reward:04.0f}", rows)
        shrunk[:, : score.shape[1]] = score
        return shrunk

    def _score(self, text: str, rows: int) -> np.ndarray:
        """The score's digits, as the official picture shows them; drawn once for each number."""
        if text not in self._scores:
            pygame.font.init()
            columns = round(self.frame_size / 8)  # the bar's first eighth; the speed begins behind it
            surface = pygame.Surface((WINDOW_W // 8, int(WINDOW_H * BAR)))
            font = pygame.font.Font(pygame.font.get_default_font(), 42)
            drawn = font.render(text, True, (255, 255, 255), (0, 0, 0))
            place = drawn.get_rect()
            place.center = (60, int(WINDOW_H * BAR - WINDOW_H * 2.5 / 40))
            surface.blit(drawn, place)
            small = pygame.transform.smoothscale(surface, (columns, rows))
            self._scores[text] = pygame.surfarray.array3d(small).transpose(1, 0, 2)
        return self._scores[text]


def _darker(color: Any) -> np.ndarray:
    """A colour as it comes out of the official shrinking."""
    return np.maximum(np.asarray(color).astype(np.int64) - DARKER, 0)


def _fill(picture: np.ndarray, points: np.ndarray, color: Any) -> None:
    """Fill a polygon given by points (n, 2) in pixels."""
    cv2.fillConvexPoly(picture, (points * (1 << SHIFT) + 0.5).astype(np.int32), color, shift=SHIFT)


def _through(placed: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n, 2) of a body on the canvas."""
    return points @ placed[:, :2].T + (placed[:, 2] - 0.5)


def _spoke(phase: float) -> list[tuple[float, float]] | None:
    """The white mark of a turning wheel, in the wheel's own coordinates; None where it is below."""
    s1, s2, c1, c2 = math.sin(phase), math.sin(phase + 1.2), math.cos(phase), math.cos(phase + 1.2)
    if s1 > 0 and s2 > 0:
        return None
    c1, c2 = (math.copysign(1, c1) if s1 > 0 else c1), (math.copysign(1, c2) if s2 > 0 else c2)
    x, y1, y2 = WHEEL_W * SIZE, WHEEL_R * c1 * SIZE, WHEEL_R * c2 * SIZE
    return [(-x, y1), (x, y1), (x, y2), (-x, y2)]
