"""What tells the members of a generation apart: whole episodes, hard ones, or lives from moments of the best one's way?

python -m benchmarks.fitness [--write]      --write keeps docs/results/fitness.json and the table of docs/evolution.md

The shipped driver and members around it live through whole episodes of FastCarRacing, and from moments along the best lives of
them (`rollouts.played`), in three parts with tracks of their own. The truth about a member is its mean return in the whole
episodes of the other two parts; a fitness of k episodes and m moments is as good as its correlation with that, on average over
draws of k and m columns of a part. Where k episodes are scouted, they are those of n drawn ones in which the driver, whom the
members are around, had least.
"""

import time
from typing import Any, NamedTuple

import numpy as np

import rollouts
from agents.evaluation import hardware
from agents.pretrained import shipped
from agents.search import balance
from benchmarks.results import ROOT, publish

RESULT = ROOT / "docs" / "results" / "fitness.json"
MARK, END = "<!-- fitness: written by `python -m benchmarks.fitness --write` -->\n", "<!-- end of fitness -->"
MEMBERS, SIGMA, PARTS, EPISODES, MOMENTS, STRETCH = 24, 0.03, 3, 24, 24, 60


class Kind(NamedTuple):
    """A fitness."""

    episodes: int
    moments: int = 0
    scouted: int = 0


KINDS = [Kind(1), Kind(2), Kind(4), Kind(8), Kind(16), Kind(24), Kind(0, 24), Kind(4, 24), Kind(8, 24)]
KINDS += [Kind(4, scouted=12), Kind(4, scouted=24), Kind(8, scouted=16), Kind(8, scouted=24)]
DRAWS = 300


def live(workers: int = 2) -> tuple[list[np.ndarray], float]:
    """Returns (1 + members, episodes + moments) of each part, the driver's first, and the mean steps of an episode.

    Retracing the ways is part of these.
    """
    agent = shipped("car-racing").agent()
    parameters = agent.controller.parameters.double().numpy()
    around = SIGMA * np.random.default_rng(0).normal(size=(MEMBERS, parameters.size))
    members = parameters + np.concatenate((np.zeros((1, parameters.size)), around))
    game_options = shipped("car-racing").env_options
    options: dict[str, Any] = {"workers": workers, "lanes": 16, "patience": 60, "env_options": game_options}
    fitness = rollouts.played("FastCarRacing", agent.world, EPISODES, moments=MOMENTS, stretch=STRETCH, **options)
    returns = []
    for part in range(PARTS):
        returns.append(fitness(members, 1_000 + part))
        print(f"part {part + 1} of {PARTS}: {fitness.steps:,} steps", flush=True)
    whole = fitness.steps - PARTS * len(members) * MOMENTS * STRETCH  # a stretch seldom ends before its time
    return returns, whole / (PARTS * len(members) * EPISODES)


def goodness(returns: list[np.ndarray], kind: Kind, balanced: bool) -> float:
    """The mean correlation of such a fitness with the truth."""
    rng, found = np.random.default_rng(1), []
    for _ in range(DRAWS):
        part = int(rng.integers(len(returns)))
        others = [each[1:, :EPISODES] for number, each in enumerate(returns) if number != part]
        drawn = rng.choice(EPISODES, kind.scouted or kind.episodes, replace=False)
        if kind.scouted:
            drawn = drawn[np.argsort(returns[part][0, drawn], kind="stable")][: kind.episodes]
        lived = returns[part][1:, [*drawn, *(EPISODES + rng.choice(MOMENTS, kind.moments, replace=False))]]
        fitness = (balance(lived) if balanced else lived).mean(axis=1)
        found.append(np.corrcoef(fitness, np.hstack(others).mean(axis=1))[0, 1])
    return float(np.mean(found))


def table(result: dict[str, Any]) -> str:
    """The table of docs/evolution.md."""
    lines = [
        "| Whole episodes | Lives from moments | Steps of a member | Correlation | `balanced` |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        own = row["episodes"] + row["scouted"] / result["members"]
        steps = own * result["steps_of_an_episode"] + row["moments"] * STRETCH
        episodes = f"the {row['episodes']} hardest of {row['scouted']}" if row["scouted"] else row["episodes"]
        numbers = f"{row['plain']:.2f} | {row['balanced']:.2f}"
        lines.append(f"| {episodes} | {row['moments']} | {steps:,.0f} | {numbers} |")
    about = f"{result['members']} members, steps of {result['sigma']}, {PARTS} parts of {EPISODES} episodes"
    return "\n".join([*lines, "", f"*{about}; {result['hardware']}, {result['seconds']:.0f} s.*", ""])


def main() -> None:
    """Live, compare, print, and keep."""
    began = time.monotonic()
    returns, steps = live()
    rows = [
        kind._asdict() | {"plain": goodness(returns, kind, balanced=False), "balanced": goodness(returns, kind, True)}
        for kind in KINDS
    ]
    result = {"members": MEMBERS, "sigma": SIGMA, "steps_of_an_episode": steps, "rows": rows}
    result |= {"seconds": time.monotonic() - began, "hardware": hardware()}
    publish(result, table(result), RESULT, ROOT / "docs" / "evolution.md", MARK, END)


if __name__ == "__main__":
    main()
