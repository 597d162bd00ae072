"""Draw frames of the official CarRacing and of FastCarRacing, and their difference, for the documentation.

python -m benchmarks.pictures      writes docs/pictures/fast-car-racing.png
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from agents.video import grid, png, write_png

SCENES = {(3, "start"): 1, (3, "zoom"): 12, (3, "road"): 60, (5, "corner"): 150, (7, "skid"): 220, (8, "grass"): 300}
"""Seed of the track, description of the scene, and number of steps before the frame."""
GAIN = 8
"""Factor on the difference."""


def main() -> None:
    """Play both environments with the same actions, and write the picture."""
    rows: list[list[np.ndarray]] = [[], [], []]
    for (seed, _), step in SCENES.items():
        games: list[gymnasium.Env[Any, Any]] = [gymnasium.make(id) for id in ("CarRacing-v3", "envs:FastCarRacing-v3")]
        frames = [game.reset(seed=seed)[0] for game in games]
        rng, action = np.random.default_rng(seed), np.zeros(3)
        for _ in range(step):
            action = np.clip(action + rng.normal(0, 0.15, 3), [-1, 0, 0], [1, 1, 0.3])
            frames = [game.step(action.astype(np.float32))[0] for game in games]
        difference = np.abs(frames[0].astype(int) - frames[1].astype(int))
        print(f"seed {seed}, step {step}: mean difference {difference.mean():.2f} of 255")
        for row, picture in zip(rows, (*frames, np.minimum(GAIN * difference, 255)), strict=True):
            row.append(picture.astype(np.uint8))
    path = Path(__file__).parent.parent / "docs" / "pictures" / "fast-car-racing.png"
    write_png(path, png(grid([np.stack(row) for row in rows], scale=2)))


if __name__ == "__main__":
    main()
