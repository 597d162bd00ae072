"""Draw pictures of the documentation: frames of both CarRacings, and the play page in Chromium.

python -m benchmarks.pictures      writes docs/pictures/fast-car-racing.png
python -m benchmarks.pictures play      writes docs/pictures/play.png and play-phone.png; needs Chromium
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from worldmodel.agents import viewer
from worldmodel.agents.analysis.video import write_png
from worldmodel.rollouts.pictures import grid, png

SCENES = {(3, "start"): 1, (3, "zoom"): 12, (3, "road"): 60, (5, "corner"): 150, (7, "skid"): 220, (8, "grass"): 300}
"""Seed of the track, description of the scene, and number of steps before the frame."""
GAIN = 8
"""Factor on the difference."""


PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
SIZES = {"play.png": (1100, 760), "play-phone.png": (390, 844)}
"""Widths and heights of the screenshots, in pixels."""


def play() -> None:
    """Let the pretrained controller of CarRacing play in its dream and in the game, and take a screenshot of the page."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with viewer.serve("car-racing") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(server.url)
            page.wait_for_function("globalThis.dreamPage?.facts()")
            page.get_by_role("button", name="Start").click()
            page.wait_for_function("globalThis.dreamPage?.facts()?.step > 2")
            page.get_by_role("button", name="Let the controller play").click()
            page.get_by_role("button", name="Show the real game").click()
            page.wait_for_function("globalThis.dreamPage?.facts()?.step > 60", timeout=120_000)
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=str(PICTURES / name))
            page.close()
        browser.close()


def compare() -> None:
    """Play both environments with the same actions, and write the picture."""
    rows: list[list[np.ndarray]] = [[], [], []]
    for (seed, _), step in SCENES.items():
        games: list[gymnasium.Env[Any, Any]] = [
            gymnasium.make(id) for id in ("CarRacing-v3", "worldmodel.envs:worldmodel/FastCarRacing-v3")
        ]
        frames = [game.reset(seed=seed)[0] for game in games]
        rng, action = np.random.default_rng(seed), np.zeros(3)
        for _ in range(step):
            action = np.clip(action + rng.normal(0, 0.15, 3), [-1, 0, 0], [1, 1, 0.3])
            frames = [game.step(action.astype(np.float32))[0] for game in games]
        difference = np.abs(frames[0].astype(int) - frames[1].astype(int))
        print(f"seed {seed}, step {step}: mean difference {difference.mean():.2f} of 255")
        for row, picture in zip(rows, (*frames, np.minimum(GAIN * difference, 255)), strict=True):
            row.append(picture.astype(np.uint8))
    write_png(PICTURES / "fast-car-racing.png", png(grid([np.stack(row) for row in rows], scale=2)))


if __name__ == "__main__":
    play() if sys.argv[1:] == ["play"] else compare()
