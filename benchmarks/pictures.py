"""The official CarRacing and FastCarRacing side by side, with the difference, for the docs.

python -m benchmarks.pictures      writes docs/pictures/fast-car-racing.png
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from agents.video import grid, png, write_png

MOMENTS = {(3, "start"): 1, (3, "zoom"): 12, (3, "road"): 60, (5, "corner"): 150, (7, "skid"): 220, (8, "grass"): 300}
"""Seeds of tracks, with a name for people, and the step that is shown."""
STRONGER = 8
"""The difference is shown this many times as strong."""


def main() -> None:
    """Drive both with the same actions, and draw."""
    rows: list[list[np.ndarray]] = [[], [], []]
    for (seed, _), moment in MOMENTS.items():
        games: list[gymnasium.Env[Any, Any]] = [gymnasium.make(id) for id in ("CarRacing-v3", "envs:FastCarRacing-v3")]
        frames = [game.reset(seed=seed)[0] for game in games]
        rng, action = np.random.default_rng(seed), np.zeros(3)
        for _ in range(moment):
            action = np.clip(action + rng.normal(0, 0.15, 3), [-1, 0, 0], [1, 1, 0.3])
            frames = [game.step(action.astype(np.float32))[0] for game in games]
        difference = np.abs(frames[0].astype(int) - frames[1].astype(int))
        print(f"seed {seed}, step {moment}: mean difference {difference.mean():.2f} of 255")
        for row, picture in zip(rows, (*frames, np.minimum(STRONGER * difference, 255)), strict=True):
            row.append(picture.astype(np.uint8))
    path = Path(__file__).parent.parent / "docs" / "pictures" / "fast-car-racing.png"
    write_png(path, png(grid([np.stack(row) for row in rows], scale=2)))


if __name__ == "__main__":
    main()
