"""What does a controller know of the car and the road?

python -m benchmarks.seen RUN... [--write]      --write keeps docs/results/seen.json and the table of docs/evolution.md

The shipped driver drives tracks of FastCarRacing, with a little noise on its parameters; every world model is shown the same
drives, in the picture that it learned from. How well a controller could tell the car's speed, its slip and turning, and where
the road lies, is how well a linear map (ridge regression) of what it sees does so on tracks that the map was not fitted to.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import envs
from agents.agent import Agent
from agents.evaluation import hardware
from agents.pretrained import shipped
from agents.run import Run
from benchmarks.results import ROOT, publish
from worldmodel import WorldModel

RESULT = ROOT / "docs" / "results" / "seen.json"
MARK, END = "<!-- seen: written by `python -m benchmarks.seen RUN... --write` -->\n", "<!-- end of seen -->"
TRACKS, FOLDS, SEED, SPREAD = 40, 4, 70_000, 0.015
NEAR, FAR = 4, 10
"""Tiles ahead at which the road's way to the side is asked for: about 14 and 35 m."""
FACTS = ("speed, m/s", "slip, m/s", "turning, rad/s", "road 14 m ahead, m", "road 35 m ahead, m")
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FIELD, LOST = 12.0, 60
"""A track ends after so many decisions without a reward; what is seen farther than `FIELD` metres from the road is left out."""


class Drive(NamedTuple):
    """One track, seen in both pictures."""

    frames: dict[bool, np.ndarray]
    """(steps, 64, 64, 3), by whether they show the indicators."""
    actions: np.ndarray
    facts: np.ndarray
    """(steps, 5): `FACTS`."""
    near: np.ndarray
    """(steps,): whether the road was near."""


def drive(agent: Agent, game_options: dict[str, Any], seed: int) -> Drive:
    """Drive one track."""
    game = envs.make("FastCarRacing", **game_options)
    frame, _ = game.reset(seed=seed)
    act, track = agent(game.action_space, np.random.default_rng(seed)), game.unwrapped
    frames: dict[bool, list[np.ndarray]] = {True: [], False: []}
    actions, facts, near, idle, over = [], [], [], 0, False
    own = bool(game_options.get("indicators", False))
    while not over and idle < LOST:
        away, known = _facts(track)
        facts.append(known)
        near.append(away < FIELD)
        frames[own].append(frame)
        frames[not own].append(_picture(track, not own))  # a score's digits may be one frame newer
        actions.append(act(frame))
        frame, reward, terminated, truncated, _ = game.step(actions[-1])
        idle, over = 0 if float(reward) > 0 else idle + 1, terminated or truncated
    game.close()
    shown = {indicators: np.stack(pictures) for indicators, pictures in frames.items()}
    return Drive(shown, np.asarray(actions, np.float32), np.array(facts), np.array(near))


def _picture(track: Any, indicators: bool) -> np.ndarray:
    crop, track.crop = track.crop, not indicators
    picture: np.ndarray = track._picture()
    track.crop = crop
    return picture


def _facts(track: Any) -> tuple[float, list[float]]:
    """The distance to the road's middle, and `FACTS`."""
    road, hull = np.array([point[2:4] for point in track.track]), track.car.hull
    away = road - np.array(hull.position)
    nearest = int(np.square(away).sum(axis=1).argmin())
    cos, sin = np.cos(hull.angle), np.sin(hull.angle)
    right, ahead = np.array([cos, sin]), np.array([-sin, cos])
    velocity = np.array(hull.linearVelocity)
    sides = [float(away[(nearest + tiles) % len(road)] @ right) for tiles in (NEAR, FAR)]
    return float(np.hypot(*away[nearest])), [
        float(velocity @ ahead),
        float(velocity @ right),
        hull.angularVelocity,
        *sides,
    ]


@torch.no_grad()
def features(world: WorldModel, one: Drive, indicators: bool) -> np.ndarray:
    """What a controller sees of a drive, (steps, features): latents first."""
    frames = torch.from_numpy(one.frames[indicators])
    latents = torch.cat([world.see(part) for part in frames.split(256)])
    state, found = world.initial(1), []
    for latent, action in zip(latents, one.actions, strict=True):
        found.append(state.seeing(latent[None]).features[0].numpy())
        state = world.observe(state, latent[None], world.action_inputs(action[None]))
    return np.stack(found)


def errors(seen: list[np.ndarray], drives: list[Drive]) -> np.ndarray:
    """Root mean square errors of a linear map on tracks that it was not fitted to, the median over all tracks, (5,).

    A quarter of the tracks is judged by a map that was fitted to the others, and so on; a quarter of these chooses the ridge.
    """
    parts = [(one[each.near], each.facts[each.near]) for one, each in zip(seen, drives, strict=True)]
    numbers, found = np.arange(len(parts)), np.zeros((len(parts), len(FACTS)))
    for fold in range(FOLDS):
        rest = numbers[numbers % FOLDS != fold]
        chosen, fitted = rest[::FOLDS], np.setdiff1d(rest, rest[::FOLDS])
        tried = np.stack([_missed(parts, fitted, chosen, ridge).mean(axis=0) for ridge in RIDGES])
        best = tried.argmin(axis=0)
        judged = numbers[numbers % FOLDS == fold]
        all_ridges = np.stack([_missed(parts, rest, judged, ridge) for ridge in RIDGES])  # (ridges, tracks, 5)
        found[judged] = np.take_along_axis(all_ridges, best[None, None], axis=0)[0]
    middle: np.ndarray = np.median(found, axis=0)
    return middle


def _missed(
    parts: list[tuple[np.ndarray, np.ndarray]], fitted: np.ndarray, judged: np.ndarray, ridge: float
) -> np.ndarray:
    """Root mean square errors on each judged track, (tracks, 5)."""
    x, y = (np.concatenate([parts[number][kind] for number in fitted]) for kind in (0, 1))
    mean, scale, middle = x.mean(axis=0), x.std(axis=0) + 1e-6, y.mean(axis=0)
    x = (x - mean) / scale
    weights = np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ (y - middle))
    left = [parts[number][1] - (parts[number][0] - mean) / scale @ weights - middle for number in judged]
    return np.stack([np.sqrt(np.square(each).mean(axis=0)) for each in left])


def measure(runs: list[Path]) -> dict[str, Any]:
    """Drive, look, and compare."""
    began = time.monotonic()
    car = shipped("car-racing")
    agent, game_options = car.agent(), car.env_options
    lived = {path: Run(path).store().metadata["env_options"] for path in runs}
    for path, options in lived.items():
        if (found := options.get("action_repeat")) != (wanted := game_options.get("action_repeat")):
            raise SystemExit(
                f"action_repeat must be {wanted}, as the driver's, or a memory has another clock; {path}: {found}"
            )
    driver = Agent(agent.world, agent.controller, spread=SPREAD)
    drives = [drive(driver, game_options, SEED + number) for number in range(TRACKS)]
    blind = [np.zeros((len(one.facts), 1)) for one in drives]
    rows = [{"world": "none", "sees": "nothing", "errors": errors(blind, drives).tolist()}]
    for path in runs:
        world, indicators = Run(path).world(), bool(lived[path].get("indicators", False))
        seen, size = [features(world, one, indicators) for one in drives], world.vae.latent
        about = {"world": str(path), "indicators": indicators, "emphasis": world.vae.emphasis}
        rows.append(about | {"sees": "latent", "errors": errors([each[:, :size] for each in seen], drives).tolist()})
        rows.append(about | {"sees": "latent and memory", "errors": errors(seen, drives).tolist()})
    return {
        "tracks": TRACKS,
        "steps": sum(len(one.facts) for one in drives),
        "rows": rows,
        "hardware": hardware(),
        "seconds": time.monotonic() - began,
    }


def table(result: dict[str, Any]) -> str:
    """The table of docs/evolution.md."""
    lines = [f"| World model | Picture | A controller sees | {' | '.join(FACTS)} |", "|---" * (3 + len(FACTS)) + "|"]
    for row in result["rows"]:
        picture = ""
        if "indicators" in row:
            picture = f"{'whole' if row['indicators'] else 'cropped'}, emphasis {row['emphasis']:g}"
        numbers = " | ".join(f"{value:.2f}" for value in row["errors"])
        lines.append(f"| {row['world']} | {picture} | {row['sees']} | {numbers} |")
    about = f"{result['tracks']} tracks, {result['steps']:,} decisions; {result['hardware']}, {result['seconds']:.0f} s"
    return "\n".join([*lines, "", f"*Root mean square errors of a track, the median over all. {about}.*", ""])


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--write", action="store_true")
    result = measure(parser.parse_args().runs)
    publish(result, table(result), RESULT, ROOT / "docs" / "evolution.md", MARK, END)


if __name__ == "__main__":
    main()
