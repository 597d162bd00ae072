"""What does the shipped driver leave out, and would it leave less if it drove otherwise?

python -m benchmarks.missed [--write]      --write keeps docs/results/missed.json and the table of docs/records.md

CarRacing ends an episode when every tile of the road was met, and else when the time is up: a tile that is left out costs its
share of 1,000 points, and the bonus of an early end. The driver drives tracks of FastCarRacing, and what it left out on its
way round is looked at. Then all of its decisions are shifted or scaled by a little, on other tracks that are the same for all.
"""

import time
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

import envs
import rollouts
from agents.agent import Agent
from agents.evaluation import hardware
from agents.pretrained import shipped
from benchmarks.results import ROOT, publish

RESULT = ROOT / "docs" / "results" / "missed.json"
MARK, END = "<!-- missed: written by `python -m benchmarks.missed --write` -->\n", "<!-- end of missed -->"
TRACKS, SEED, OTHERWISE = 48, 60_000, 48
OUTPUTS = ("steering", "gas", "brake")
AROUND = 3
"""Tiles to both sides of one between which the road's turn is measured."""


class Course(NamedTuple):
    """One track."""

    returned: float
    length: int
    """Decisions."""
    left: int
    """Tiles that were left out, of those before the last one that was met."""
    groups: list[int]
    """How many of them lie one behind the other."""
    turn_left: list[float]
    """Degrees that the road turns around each tile that was left out."""
    turn: float
    """The same, on average over all tiles."""


def driven(agent: Agent, game_options: dict[str, Any], seed: int) -> Course:
    """Drive one track, and look back at it."""
    game = envs.make("FastCarRacing", **game_options)
    frame, _ = game.reset(seed=seed)
    act, track = agent(game.action_space, np.random.default_rng(seed)), game.unwrapped
    total, length, over = 0.0, 0, False
    while not over:
        frame, reward, terminated, truncated, _ = game.step(act(frame))
        total, length, over = total + float(reward), length + 1, terminated or truncated
    met = np.array([tile.road_visited for tile in track.road])  # type: ignore[attr-defined]
    heading = np.unwrap([point[1] for point in track.track])  # type: ignore[attr-defined]
    behind, before = np.roll(heading, AROUND), np.roll(heading, -AROUND)
    turn = np.abs(np.degrees((before - behind + np.pi) % (2 * np.pi) - np.pi))
    out = ~met[: np.flatnonzero(met)[-1] + 1]
    groups = [len(list(each)) for skipped, each in groupby(out) if skipped]
    game.close()
    return Course(total, length, int(out.sum()), groups, turn[: len(out)][out].tolist(), float(turn.mean()))


def otherwise() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Gains and shifts of the three raw outputs."""
    one, none = np.ones(3), np.zeros(3)
    found = {"as it is": (one, none)}
    for number, name in enumerate(OUTPUTS):
        unit = np.eye(3)[number]
        found |= {f"{name} x {gain}": (one + (gain - 1) * unit, none) for gain in (0.85, 1.15)}
        found |= {f"{name} {shift:+}": (one, shift * unit) for shift in (-0.4, -0.2, 0.2, 0.4) if number}
    return found


def measure(workers: int = 2) -> dict[str, Any]:
    """Drive as it is, and otherwise."""
    began = time.monotonic()
    agent = shipped("car-racing").agent()
    game_options = shipped("car-racing").env_options
    courses = [driven(agent, game_options, SEED + number) for number in range(TRACKS)]
    left, groups = sum(one.left for one in courses), [size for one in courses for size in one.groups]
    limit = 1_000 / game_options.get("action_repeat", 1)
    full = [one for one in courses if one.left == 0 and one.length < limit]
    parameters = agent.controller.parameters.double().numpy()
    weight, bias = parameters[:-3].reshape(3, -1), parameters[-3:]
    ways = otherwise()
    members = [np.concatenate(((weight * gain[:, None]).ravel(), bias * gain + shift)) for gain, shift in ways.values()]
    options: dict[str, Any] = {"workers": workers, "lanes": 16, "patience": 60, "env_options": game_options}
    returns = rollouts.played("FastCarRacing", agent.world, OTHERWISE, **options)(np.stack(members), SEED)
    rows = [
        {
            "name": name,
            "mean": float(own.mean()),
            "more": float(more.mean()),
            "error": float(more.std(ddof=1) / len(more) ** 0.5),
        }
        for name, own, more in zip(ways, returns, returns - returns[0], strict=True)
    ]
    return {
        "tracks": TRACKS,
        "mean": float(np.mean([one.returned for one in courses])),
        "complete": len(full),
        "mean_complete": float(np.mean([one.returned for one in full])),
        "left_out": left / TRACKS,
        "in_groups_of_three": sum(size for size in groups if size >= 3) / max(left, 1),
        "turn_where_left_out": float(np.mean([turn for one in courses for turn in one.turn_left])),
        "turn": float(np.mean([one.turn for one in courses])),
        "rows": rows,
        "hardware": hardware(),
        "seconds": time.monotonic() - began,
    }


def table(result: dict[str, Any]) -> str:
    """The table of docs/records.md."""
    lines = ["| The driver's decisions | Mean | More than as it is |", "|---|---|---|"]
    lines += [
        f"| {row['name']} | {row['mean']:.0f} | {row['more']:.1f} ± {row['error']:.1f} |" for row in result["rows"]
    ]
    about = f"{OTHERWISE} tracks of FastCarRacing, the same for all; {result['hardware']}"
    return "\n".join([*lines, "", f"*{about}, {result['seconds']:.0f} s.*", ""])


def main() -> None:
    """Measure, print, and keep."""
    result = measure()
    publish(result, table(result), RESULT, ROOT / "docs" / "records.md", MARK, END)


if __name__ == "__main__":
    main()
