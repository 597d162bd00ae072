"""Measure reconstructions by VAEs of the quick preset in sixteen games: dark, white, and with small moving objects.

python -m benchmarks.reconstruction --runs FOLDER [GAME ...]     collect and train; a finished game is not trained again
python -m benchmarks.reconstruction --write                      the table of docs/reconstruction.md from docs/results
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import yaml

from benchmarks.results import put
from worldmodel.agents.analysis.diagnostics import measure_vae
from worldmodel.agents.config.sections import build
from worldmodel.agents.evaluation import hardware
from worldmodel.agents.pipeline.stages import collect, train_vae
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import write_json
from worldmodel.rollouts.store.datasets import Frames

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "docs" / "results" / "reconstruction.json"
PAGE = ROOT / "docs" / "reconstruction.md"
BEGIN, END = "<!-- written by `python -m benchmarks.reconstruction --write` -->\n", "<!-- end of table -->"
SIDE, SPEED, HALF, STEPS = 64, 3.0, 4, 100


class TwoSquares(gymnasium.Env[np.ndarray, np.ndarray]):
    """The actions move a red square, and a green one drifts; the reward of a step is 1 while they touch.

    Args:
        background: Grey level from 0 to 255.
        render_mode: "rgb_array" or None.
    """

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, background: int, render_mode: str | None = None) -> None:
        self.background, self.render_mode = background, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw the positions of both squares, and the velocity of the green one."""
        super().reset(seed=seed)
        self.positions = self.np_random.uniform(HALF, SIDE - HALF, (2, 2))  # green, then red
        self.drift = self.np_random.uniform(-1, 1, 2)
        self.steps = 0
        return self._frame(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move both squares; the edges reflect the green one."""
        moved = self.positions + np.stack((self.drift, SPEED * np.asarray(action)))
        self.drift = np.where((moved[0] < HALF) | (moved[0] > SIDE - HALF), -self.drift, self.drift)
        self.positions = np.clip(moved, HALF, SIDE - HALF)
        self.steps += 1
        touches = np.abs(self.positions[0] - self.positions[1]).max() < 2 * HALF
        return self._frame(), float(touches), False, self.steps >= STEPS, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Return the frame."""
        return self._frame()

    def _frame(self) -> np.ndarray:
        frame = np.full((SIDE, SIDE, 3), self.background, np.uint8)
        for (x, y), colour in zip(self.positions.astype(int), ((40, 200, 40), (220, 60, 60)), strict=True):
            frame[y - HALF : y + HALF, x - HALF : x + HALF] = colour
        return frame


def squares_on_black() -> gymnasium.Env[Any, Any]:
    """Make two squares on black."""
    return TwoSquares(0)


def squares_on_grey() -> gymnasium.Env[Any, Any]:
    """Make two squares on grey."""
    return TwoSquares(128)


def squares_on_white() -> gymnasium.Env[Any, Any]:
    """Make two squares on white."""
    return TwoSquares(255)


GAMES: dict[str, tuple[str | Callable[[], gymnasium.Env[Any, Any]], str]] = {
    "CartPole-v1": ("CartPole-v1", "any"),
    "MountainCarContinuous-v0": ("MountainCarContinuous-v0", "any"),
    "Acrobot-v1": ("Acrobot-v1", "any"),
    "Pendulum-v1": ("Pendulum-v1", "any"),
    "LunarLander-v3": ("LunarLander-v3", "any"),
    "BipedalWalker-v3": ("BipedalWalker-v3", "any"),
    "FrozenLake-v1": ("FrozenLake-v1", "any"),
    "Blackjack-v1": ("Blackjack-v1", "any"),
    "Pong": ("ale_py:ALE/Pong-v5", "any"),
    "Breakout": ("ale_py:ALE/Breakout-v5", "any"),
    "Take Cover": ("vizdoom.gymnasium_wrapper:VizdoomTakeCover-v1", "any"),
    "two squares on black": (squares_on_black, "any"),
    "two squares on grey": (squares_on_grey, "any"),
    "two squares on white": (squares_on_white, "any"),
    "CarRacing": ("FastCarRacing", "car-racing"),
    "Super Mario Bros 1-1": ("SuperMarioBros-1-1", "mario"),
}
"""Environment and name of the quick preset of each game."""


def train(name: str, runs: Path) -> dict[str, Any]:
    """Collect and train as ``worldmodel run GAME --preset quick`` does, and measure held-out frames.

    Args:
        name: Name of a game (`GAMES`).
        runs: Path of the folder of all runs.

    Returns:
        A row of ``docs/results/reconstruction.json``.
    """
    env, kind = GAMES[name]
    preset = yaml.safe_load((ROOT / "agents" / "presets" / f"{kind}.quick.yaml").read_text(encoding="utf-8"))
    run = Run(runs / name.replace(" ", "-"))
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.locked():
        settings = dataclasses.replace(build({**preset, "env": "", "workers": 1}), env=env)  # type: ignore[arg-type]
        collect(run, settings)
        vae = train_vae(run, settings)
        found = measure_vae(run, vae, 1)
    _draw(run, vae)
    store = run.store()
    return {
        "game": name,
        **dataclasses.asdict(found),
        "episodes": len(store),
        "steps": store.steps,
        "updates": preset["vae"]["num_updates"],
        "batch": preset["vae"]["batch_size"],
        "seconds": run.timings()["train vae"],
    }


def _draw(run: Run, vae: Any) -> None:
    """Write ``reconstructions.png`` into the run: held-out frames above their reconstructions."""
    from worldmodel.agents.analysis.video import write_png
    from worldmodel.batches import frames_to_float, frames_to_uint8
    from worldmodel.rollouts.pictures import grid

    frames = next(Frames(run.store()).split(0.1, 1)[1].batches(12))
    with torch.no_grad():
        decoded = frames_to_uint8(vae.decode(vae.encode(frames_to_float(frames)).loc))
    write_png(run.folder / "reconstructions.png", grid([frames.numpy(), decoded.numpy()]))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the page."""
    lines = [
        "| Game | Explained variance | of moving pixels | Steps |",
        "|---|---|---|---|",
    ]
    for row in rows:
        numbers = [f"{row[key]:.2f}" for key in ("explained_variance", "moving_explained_variance")]
        lines.append(f"| {row['game']} | {' | '.join(numbers)} | {row['steps']:,} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train and save the measurements, or only write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("games", nargs="*", help=f"Names of games (default: all): {', '.join(GAMES)}.")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/reconstruction"),
        help="Path of the folder of all runs (default: runs/reconstruction).",
    )
    parser.add_argument("--write", action="store_true", help="Only write the table.")
    options = parser.parse_args()
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"rows": []}
    rows = {row["game"]: row for row in kept["rows"]}
    if not options.write:
        for name in options.games or GAMES:
            rows[name] = train(name, options.runs)
            print(rows[name], flush=True)
            found = [rows[game] for game in GAMES if game in rows]
            write_json(
                RESULT, {"command": "python -m benchmarks.reconstruction", "hardware": hardware(), "rows": found}
            )
    put(PAGE, BEGIN, table([rows[game] for game in GAMES if game in rows]), END)


if __name__ == "__main__":
    main()
