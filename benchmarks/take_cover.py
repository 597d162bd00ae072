"""World Models' temperature table on Take Cover: the score of controllers evolved in dreams, in the dream and in the game.

python -m benchmarks.take_cover RUN     # a run folder with rollouts and a VAE, such as of `worldmodel run doom-take-cover`

For each model and temperature, a memory is trained on the rollouts of RUN and a linear controller of z and h is evolved in
its dreams, which start at first frames of episodes and last up to 2,100 tics. A score is the mean number of tics survived.
Each cell has a folder, and the same command continues a stopped table. About two hours on two idle cores.

References:
    Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (table 2).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel import WorldModel, rollouts
from worldmodel.agents.agent import Agent
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.config.sections import build
from worldmodel.agents.evaluation import Report, evaluate, hardware
from worldmodel.agents.pipeline.stages import evolve_dream, train_memory
from worldmodel.agents.runs.run_folder import Run
from worldmodel.envs.doom import MAX_TICS
from worldmodel.io.files import read_json, write_json

PUBLISHED = {
    "0.1": ((2086, 140), (193, 58)),
    "0.5": ((2060, 277), (196, 50)),
    "1.0": ((1145, 690), (868, 511)),
    "1.15": ((918, 546), (1092, 556)),
    "1.3": ((732, 269), (753, 139)),
}
"""Published mean and standard deviation in the dream and in the game, by temperature."""
PUBLISHED_RANDOM = (210, 108)
EVALUATION_SEED = 20_000
FLOWS = {"frmdn": "affine", "rmdn": "none"}
"""Values of ``memory.flow`` by model."""


def first_latents(world: WorldModel, store: rollouts.Store, seed: int) -> torch.Tensor:
    """Draw the latents of the first frames of all episodes, (episodes, latent)."""
    encoded = store.latents(world.vae)
    first = [encoded.episode(index) for index in range(len(store))]
    mean, logvar = (np.stack([part[0] for part in parts]) for parts in zip(*(one[:2] for one in first), strict=True))
    noise = np.random.default_rng(seed).standard_normal(mean.shape)
    return torch.from_numpy((mean + np.exp(logvar.astype(np.float64) / 2) * noise).astype(np.float32))


def run_cell(run: Run, settings: RunConfig, world: WorldModel, folder: Path, episodes: int) -> dict[str, Any]:
    """Evolve a controller in dreams, and measure its scores in the dream and in the game.

    Args:
        run: Run with the rollouts.
        settings: Settings of the cell.
        world: World model.
        folder: Path of the cell's folder.
        episodes: Number of dreams and of episodes.
    """
    if (folder / "cell.json").exists():
        return read_json(folder / "cell.json")
    store, seed, options = run.store(), settings.seed, settings.env_options
    controller = evolve_dream(
        run, settings, into=Run(folder), world=world, start_states=first_latents(world, store, seed)
    )
    dreams = rollouts.dream(
        world,
        controller,
        first_latents(world, store, seed + 1),
        settings.dream.horizon,
        episodes,
        settings.dream.temperature,
        seed + 1_000_003,
    )
    tics = dreams.lengths[0] * options.get("action_repeat", 1)
    report = evaluate(
        Agent(world, controller), store.env, episodes, EVALUATION_SEED, env_options=options, **settings.executor
    )
    report.save(folder / "report.json")
    cell = {
        "model": next(model for model, flow in FLOWS.items() if flow == settings.memory.flow),
        "temperature": settings.dream.temperature,
        "dream": {"mean": float(tics.mean()), "std": float(tics.std(ddof=1)), "n": episodes},
        "game": {"mean": report.mean, "std": report.std, "n": report.n},
    }
    write_json(folder / "cell.json", cell)
    return cell


def run_table(run: Run, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run all cells; return the results."""
    store = run.store()
    env_options = dict(store.metadata.get("env_options") or {})
    common: dict[str, Any] = {
        "env": store.env,
        "env_options": env_options,
        "seed": options.seed,
        "workers": options.workers,
    }
    horizon = -(-(options.tics or MAX_TICS) // env_options.get("action_repeat", 1))
    cells = []
    for model in options.models:
        memory = {"flow": FLOWS[model], "hidden_size": options.hidden_size, "num_updates": options.memory_updates}
        settings = build(common | {"memory": memory | {"pad_episode_ends": True}})
        world = train_memory(run, settings, into=Run(out / model), vae=run.vae())
        for temperature in options.temperatures:
            dream = {"generations": options.generations, "population": options.population, "horizon": horizon}
            dream |= {"num_rollouts": options.num_rollouts, "temperature": float(temperature)}
            cell_settings = build(common | {"memory": memory, "dream": dream})
            cells.append(run_cell(run, cell_settings, world, out / model / temperature, options.episodes))
            print(cells[-1], flush=True)
    if not (path := out / "random.json").exists():
        evaluate(
            rollouts.uniform,
            store.env,
            options.episodes,
            EVALUATION_SEED,
            workers=options.workers,
            env_options=env_options,
        ).save(path)
    random = Report.load(path)
    return {
        "command": "python -m benchmarks.take_cover",
        "hardware": hardware(),
        "settings": {name: value for name, value in vars(options).items() if name not in ("run", "out", "results")},
        "env_options": env_options,
        "episodes": len(store),
        "steps": store.steps,
        "random": {"mean": random.mean, "std": random.std, "n": random.n},
        "cells": cells,
    }


def table(results: dict[str, Any]) -> str:
    """Return the Markdown table of results."""
    models = list(dict.fromkeys(cell["model"] for cell in results["cells"]))
    found = {(cell["model"], f"{cell['temperature']:g}"): cell for cell in results["cells"]}
    heads = [f"{model.upper()}, {where}" for model in models for where in ("dream", "game")]
    lines = [
        f"| Temperature | {' | '.join(heads)} | published, dream | published, game |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for temperature in dict.fromkeys(f"{cell['temperature']:g}" for cell in results["cells"]):
        cells = [found[model, temperature][where] for model in models for where in ("dream", "game")]
        scores = [(cell["mean"], cell["std"]) for cell in cells]
        scores += {f"{float(name):g}": pair for name, pair in PUBLISHED.items()}.get(temperature, ())
        texts = [f"{mean:.0f} ± {std:.0f}" for mean, std in scores] + [""] * (len(heads) + 2 - len(scores))
        lines.append(f"| {temperature} | {' | '.join(texts)} |")
    random, games = results["random"], ["", f"{results['random']['mean']:.0f} ± {results['random']['std']:.0f}"]
    lines.append(f"| random | {' | '.join(games * len(models))} | | {PUBLISHED_RANDOM[0]} ± {PUBLISHED_RANDOM[1]} |")
    return "\n".join(lines) + f"\n\nTics survived, mean ± standard deviation, n = {random['n']}.\n"


def main(words: list[str] | None = None) -> None:
    """Run the table; write ``results.json`` and ``table.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Path of a run folder with rollouts and a VAE.")
    parser.add_argument("--out", type=Path, default=Path("runs/take-cover"), help="Path of the folder of all cells.")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "docs" / "results" / "take-cover")
    parser.add_argument("--models", nargs="+", default=list(FLOWS), choices=FLOWS)
    parser.add_argument("--temperatures", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--memory_updates", type=int, default=5000)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--population", type=int, default=64)
    parser.add_argument("--num_rollouts", type=int, default=16)
    parser.add_argument("--tics", type=int, default=None, help="Maximum length of a dream; default: 2,100.")
    parser.add_argument("--episodes", type=int, default=100, help="Number of episodes of a score; seeds from 20000 on.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(words)
    results = run_table(Run(options.run), options.out, options)
    write_json(options.results / "results.json", results)
    (options.results / "table.md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
