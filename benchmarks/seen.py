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
TRACKS, FITTED, SEED, SPREAD = 40, 30, 70_000, 0.015
NEAR, FAR = 4, 10
"""Tiles ahead at which the road's way to the side is asked for: about 14 and 35 m."""
FACTS = ("speed, m/s", "slip, m/s", "turning, rad/s", "road 14 m ahead, m", "road 35 m ahead, m")
RIDGE, FIELD, LOST = 1e-5, 12.0, 60
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
    while not over and idle < LOST:
        away, known = _facts(track)
        facts.append(known)
        near.append(away < FIELD)
        for indicators, pictures in frames.items():
            pictures.append(_picture(track, indicators))
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
    """Standard deviations of what a linear map leaves over on tracks it was not fitted to, (5,)."""
    x, y = (
        np.concatenate([one[each.near] for one, each in zip(part, drives, strict=True)])
        for part in (seen, [d.facts for d in drives])
    )
    steps = sum(int(each.near.sum()) for each in drives[:FITTED])
    mean, scale, middle = x[:steps].mean(axis=0), x[:steps].std(axis=0) + 1e-6, y[:steps].mean(axis=0)
    x = (x - mean) / scale
    fitted = x[:steps]
    weights = np.linalg.solve(fitted.T @ fitted + RIDGE * steps * np.eye(x.shape[1]), fitted.T @ (y[:steps] - middle))
    left: np.ndarray = (y[steps:] - x[steps:] @ weights - middle).std(axis=0)
    return left


def measure(runs: list[Path]) -> dict[str, Any]:
    """Drive, look, and compare."""
    began = time.monotonic()
    agent, game_options = shipped("car-racing").agent(), shipped("car-racing").env_options
    for path in runs:
        if (found := _repeat(Run(path).store().metadata["env_options"])) != _repeat(game_options):
            raise SystemExit(
                f"{path} decides every {found} frames, the driver every {_repeat(game_options)}: its memory has another clock"
            )
    driver = Agent(agent.world, agent.controller, spread=SPREAD)
    drives = [drive(driver, game_options, SEED + number) for number in range(TRACKS)]
    facts = np.concatenate([one.facts[one.near] for one in drives[FITTED:]])
    rows = [{"world": "no knowledge", "sees": "nothing", "errors": facts.std(axis=0).tolist()}]
    for path in runs:
        run = Run(path)
        world, indicators = run.world(), bool(run.store().metadata["env_options"].get("indicators", False))
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


def _repeat(game_options: dict[str, Any]) -> int:
    return int(game_options.get("action_repeat", 1))


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
    return "\n".join([*lines, "", f"*Standard deviations of the error. {about}.*", ""])


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--write", action="store_true")
    result = measure(parser.parse_args().runs)
    publish(result, table(result), RESULT, ROOT / "docs" / "evolution.md", MARK, END)


if __name__ == "__main__":
    main()
