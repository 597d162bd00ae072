"""What tells the members of a generation apart: whole episodes, or lives from moments of the best one's way?

python -m benchmarks.fitness [--write]      --write keeps docs/results/fitness.json and the table of docs/evolution.md

Members around the shipped driver live through whole episodes of FastCarRacing, and from moments along the best lives of them
(`rollouts.played`), in three parts with tracks of their own. The truth about a member is its mean return in the whole episodes
of the other two parts; a fitness of k episodes and m moments is as good as its correlation with that, on average over draws of
k and m columns of a part.
"""

import json
import sys
import time
from typing import Any

import numpy as np

import rollouts
from agents.agent import Agent
from agents.evaluation import hardware
from agents.pretrained import HOME
from agents.search import balance
from benchmarks.results import ROOT, put
from worldmodel.checkpoints import write_json

RESULT = ROOT / "docs" / "results" / "fitness.json"
MARK, END = "<!-- fitness: written by `python -m benchmarks.fitness --write` -->\n", "<!-- end of fitness -->"
MEMBERS, SIGMA, PARTS, EPISODES, MOMENTS, STRETCH = 24, 0.05, 3, 8, 24, 60
KINDS = ((1, 0), (2, 0), (4, 0), (8, 0), (0, 24), (2, 24), (4, 12))
DRAWS = 300


def live(workers: int = 2) -> tuple[list[np.ndarray], float]:
    """Returns (members, episodes + moments) of each part, and the mean steps of an episode, with its share of retracing."""
    agent = Agent.load(HOME / "car-racing")
    parameters = agent.controller.parameters.double().numpy()
    members = parameters + SIGMA * np.random.default_rng(0).normal(size=(MEMBERS, parameters.size))
    options: dict[str, Any] = {"workers": workers, "lanes": 16, "patience": 60, "env_options": {"action_repeat": 2}}
    fitness = rollouts.played("FastCarRacing", agent.world, EPISODES, moments=MOMENTS, stretch=STRETCH, **options)
    returns = []
    for part in range(PARTS):
        returns.append(fitness(members, 1_000 + part))
        print(f"part {part + 1} of {PARTS}: {fitness.steps:,} steps", flush=True)
    whole = fitness.steps - PARTS * MEMBERS * MOMENTS * STRETCH  # a stretch seldom ends before its time
    return returns, whole / (PARTS * MEMBERS * EPISODES)


def goodness(returns: list[np.ndarray], episodes: int, moments: int, balanced: bool) -> float:
    """The mean correlation of such a fitness with the truth."""
    rng, found = np.random.default_rng(1), []
    for _ in range(DRAWS):
        part = int(rng.integers(len(returns)))
        truth = np.hstack([each[:, :EPISODES] for number, each in enumerate(returns) if number != part]).mean(axis=1)
        columns = [*rng.choice(EPISODES, episodes, replace=False)]
        columns += [*(EPISODES + rng.choice(MOMENTS, moments, replace=False))]
        lived = returns[part][:, columns]
        found.append(np.corrcoef((balance(lived) if balanced else lived).mean(axis=1), truth)[0, 1])
    return float(np.mean(found))


def table(result: dict[str, Any]) -> str:
    """The table of docs/evolution.md."""
    lines = [
        "| Whole episodes | Lives from moments | Steps of a member | Correlation | `balanced` |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        steps = row["episodes"] * result["steps_of_an_episode"] + row["moments"] * STRETCH
        numbers = f"{row['plain']:.2f} | {row['balanced']:.2f}"
        lines.append(f"| {row['episodes']} | {row['moments']} | {steps:,.0f} | {numbers} |")
    about = f"{result['members']} members, steps of {result['sigma']}, {PARTS} parts of {EPISODES} episodes"
    return "\n".join([*lines, "", f"*{about}; {result['hardware']}, {result['seconds']:.0f} s.*", ""])


def main() -> None:
    """Live, compare, print, and keep."""
    began = time.monotonic()
    returns, steps = live()
    rows = [
        {
            "episodes": episodes,
            "moments": moments,
            "plain": goodness(returns, episodes, moments, balanced=False),
            "balanced": goodness(returns, episodes, moments, balanced=True),
        }
        for episodes, moments in KINDS
    ]
    result = {"members": MEMBERS, "sigma": SIGMA, "steps_of_an_episode": steps, "rows": rows}
    result |= {"seconds": time.monotonic() - began, "hardware": hardware()}
    print(json.dumps(result, indent=1), table(result), sep="\n")
    if "--write" in sys.argv:
        write_json(RESULT, result)
        put(ROOT / "docs" / "evolution.md", MARK, table(result), END)


if __name__ == "__main__":
    main()
