"""Does a memory know where lives end? What dreams give behind steps that earned nothing, and what the game gave.

python -m benchmarks.ends RUN... --iteration N [--write]    --write keeps docs/results/ends.json and docs/evolution.md's table

RUN is a run with iterations whose episodes were cut for want of patience (`--collect.patience`). The controller of iteration
N played episodes in the game as it is; none of the memories of that iteration has seen them. Dreams, under this controller,
begin at moments of these episodes: after so many steps in a row that earned nothing (for memories that were told that stalls
are ends, before these). And each memory reads the episodes, up to their last rewards, and says step by step how likely it is
that they end: a log-likelihood, beside that of one chance for all steps, tells whether it knows when.
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from agents.controller import Controller
from agents.evaluation import hardware
from agents.iterations import home
from agents.run import Run
from benchmarks.results import ROOT, publish
from rollouts.controllers import population_of
from rollouts.dream import luck
from rollouts.endings import TOLD
from rollouts.latents import EncodedEpisode
from worldmodel import Memory, WorldModel
from worldmodel.checkpoints import read_json
from worldmodel.starts import Moment, awake

RESULT = ROOT / "docs" / "results" / "ends.json"
MARK, END = (
    "<!-- ends: written by `python -m benchmarks.ends RUN... --iteration N --write` -->\n",
    "<!-- end of ends -->",
)
QUIET = (0, 4, 8, 20)
"""Steps since the last reward."""
HORIZON, SEED = 120, 1


def moments(episodes: list[EncodedEpisode], quiet: int) -> list[Moment]:
    """All moments behind exactly so many steps without a reward above zero."""
    found = []
    for episode in episodes:
        idle = 0
        for step, reward in enumerate(episode.reward[:-1]):
            idle = 0 if reward > 0 else idle + 1
            if idle == quiet:
                found.append(Moment(episode, step + 1))
    return found


def given(places: list[Moment], horizon: int) -> float:
    """Mean return of the game over ``horizon`` steps from there on, or up to the end of the episode."""
    return float(np.mean([place.episode.reward[place.step : place.step + horizon].sum() for place in places]))


@torch.inference_mode()
def dreamed(
    world: WorldModel, memories: list[Memory], controller: Controller, places: list[Moment], horizon: int
) -> float:
    """Mean return of dreams that begin there, one in each of the memories, while the agent's own looks on."""
    family, parameters = population_of(controller, world.features, world.actions)
    total = 0.0
    for memory in memories:
        other, mind = WorldModel(world.vae, memory, discrete=world.discrete).eval(), awake(world, places)
        state, alive = awake(other, places), torch.ones(len(places), dtype=torch.bool)
        for noise in islice(luck(other, SEED, len(places), 1), horizon):
            assert state.latent is not None
            action = world.squash(family.outputs(parameters, mind.features[None])).flatten(0, 1)
            mind = world.observe(mind, state.latent, action)
            step, state = other.imagine_from(state, action, noise)
            mind = mind.seeing(step.latent)
            total += float(step.reward[alive].sum())
            alive = alive & ~step.terminated
    return total / len(memories) / len(places)


@torch.inference_mode()
def foretold(memories: list[Memory], episodes: list[EncodedEpisode]) -> dict[str, float]:
    """How many ends the memories expect in these episodes, and how likely they find what happened (nats), on average."""
    expected = likelihood = 0.0
    for memory in memories:
        for episode in episodes:
            latents = torch.from_numpy(episode.mean[:-1].astype(np.float32))[None]
            prediction, _ = memory.eval()(latents, torch.from_numpy(np.array(episode.action))[None])
            assert prediction.termination_logit is not None
            logits, ended = prediction.termination_logit[0], torch.from_numpy(np.array(episode.terminated))
            expected += float(logits.sigmoid().sum())
            likelihood -= float(binary_cross_entropy_with_logits(logits, ended, reduction="sum"))
    happened, steps = sum(float(one.terminated.sum()) for one in episodes), sum(len(one.action) for one in episodes)
    rate = happened / steps
    constant = happened * np.log(rate) + (steps - happened) * np.log1p(-rate) if 0 < rate < 1 else 0.0
    found = {"foretold": expected, "likelihood": likelihood}
    return {name: value / len(memories) for name, value in found.items()} | {
        "happened": happened,
        "steps": steps,
        "constant": float(constant),
    }


def measure(path: Path, number: int) -> dict[str, Any]:
    """All rows of one run."""
    run, here = Run(path), home(Run(path), number)
    world, controller = here.world(), here.controller("dream")
    memories = [Run(other).world().memory for other in sorted(here.folder.glob("world-*"))] or [world.memory]
    whole = run.store().latents(world.vae)
    ended = run.store().latents(world.vae, stalls_end=True)
    first = int(read_json(here.folder / "episodes.json")["episodes"])
    played = range(first, first + int(read_json(here.folder / "settings.json")["iterate"]["episodes"]))
    episodes, lives = ([part.episode(index) for index in played] for part in (whole, ended))
    told = TOLD in read_json(here.folder / "memory" / "settings.json")["data"]
    rows = []
    for quiet in QUIET:
        places = moments(episodes, quiet)
        if told:
            ends = {id(episode): len(life.action) for episode, life in zip(episodes, lives, strict=True)}
            places = [place for place in places if place.step < ends[id(place.episode)]]
        row: dict[str, Any] = {"quiet": quiet, "moments": len(places)}
        if places:
            row["dream"] = dreamed(world, memories, controller, places, HORIZON)
            row["game"] = given(places, HORIZON)
        rows.append(row)
    about = {"run": str(path), "iteration": number, "episodes": len(played), "told": told}
    return about | {"rows": rows, "ends": foretold(memories, lives)}


def table(result: dict[str, Any]) -> str:
    """The table of docs/evolution.md."""
    heads = [f"{quiet} quiet steps: dream, game" for quiet in QUIET]
    words = "Ends: predicted, happened | Log-likelihood, that of a constant"
    lines = [f"| Run | {words} | {' | '.join(heads)} |", "|---" * (3 + len(QUIET)) + "|"]
    for run in result["runs"]:
        cells = [
            f"{row['dream']:.0f}, {row['game']:.0f} ({row['moments']})" if row["moments"] else "(0)"
            for row in run["rows"]
        ]
        known = run["ends"]
        ends = f"{known['foretold']:.1f}, {known['happened']:.0f} | {known['likelihood']:.0f}, {known['constant']:.0f}"
        lines.append(f"| {run['run']}, iteration {run['iteration']} | {ends} | {' | '.join(cells)} |")
    about = f"Returns of {HORIZON} steps, in brackets from how many moments; temperature 1; {result['hardware']}"
    return "\n".join([*lines, "", f"*{about}.*", ""])


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--iteration", type=int, required=True, help="of each run")
    parser.add_argument("--write", action="store_true")
    words = parser.parse_args()
    result = {"runs": [measure(path, words.iteration) for path in words.runs], "hardware": hardware()}
    publish(result, table(result), RESULT, ROOT / "docs" / "evolution.md", MARK, END)


if __name__ == "__main__":
    main()
