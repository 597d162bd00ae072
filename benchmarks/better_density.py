"""Does the better density make the better agent? Memories that differ in their density alone, and controllers of their dreams.

python -m benchmarks.better_density run runs/car-racing-quick runs/doom-take-cover-quick [--seeds 1 2 3 4 5]
python -m benchmarks.better_density write      a table on standard output, from docs/results/better-density.json

The runs are those of `make demo` (WORLD=doom): their rollouts and VAE are given. Each memory trains on all of their episodes
but a tenth, until plateaus of its held-out loss, with as many parameters as the FRMDN. A controller is evolved from zero in its
dreams alone, and plays in the official game. A finished cell is not run again. Start reading at `run_cell`.
"""

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.density import matching_size
from benchmarks.density_tables import spread
from worldmodel import Memory, WorldModel, fit, rollouts, seeded
from worldmodel.agents.agent import Agent
from worldmodel.agents.analysis.metrics import evaluate_memory
from worldmodel.agents.analysis.report_card import report_card
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.config.schema import MemoryConfig, RunConfig
from worldmodel.agents.config.sections import build
from worldmodel.agents.evaluation import evaluate, hardware
from worldmodel.agents.evolution.evolve import evolve
from worldmodel.agents.pipeline.init_controller import zero_controller
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import read_json, write_json
from worldmodel.registry import build_memory
from worldmodel.rollouts.store.datasets import Sequences

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "docs" / "results" / "better-density.json"
FLOWS = {
    "RMDN": "none",
    "FRMDN": "affine",
    "FRMDN, conditional": "conditional",
    "FRMDN, spline": "spline",
}
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"flow": flow} for name, flow in FLOWS.items()},
    **{f"{name}, differences": {"flow": flow, "residual": True} for name, flow in FLOWS.items()},
}
"""Settings of each density; "differences" is the density of the whitened change of the latent."""
UNTRAINED = "FRMDN, untrained"
NUM_UPDATES, EVAL_EVERY, PATIENCE, NUM_DECAYS = 20_000, 250, 4, 2
"""Largest number of updates, and the plateaus that end a training (`worldmodel.fit`)."""
HIDDEN_SIZE = 192
"""Number of recurrent units of the FRMDN; a smaller one has fewer parameters than the spline's networks alone."""
GENERATIONS, EPISODES, TEST_SEED = 60, 24, 20_000
VAL_FRACTION = 0.1


def memory_settings(settings: RunConfig, variant: str, sizes: tuple[int, int]) -> MemoryConfig:
    """Return the settings of a variant, with as many parameters as the FRMDN.

    Args:
        settings: Settings of the run.
        variant: Name of the variant.
        sizes: Sizes of the memory's input and output.
    """
    changes = VARIANTS.get(variant, {"flow": "affine"})
    frmdn = replace(settings.memory, flow="affine", residual=False, hidden_size=HIDDEN_SIZE)
    variant_of = partial(replace, settings.memory, **changes)
    size = matching_size(num_parameters(frmdn, sizes), lambda size: num_parameters(variant_of(hidden_size=size), sizes))
    return variant_of(hidden_size=size)


def num_parameters(section: MemoryConfig, sizes: tuple[int, int]) -> int:
    """Return the number of parameters of a memory."""
    with torch.device("meta"):
        memory = build_memory(section.density | {"input_size": sizes[0], "output_size": sizes[1]})
    return sum(parameter.numel() for parameter in memory.parameters())


def run_cell(run: Run, variant: str, seed: int) -> None:
    """Train a memory, evolve a controller in its dreams, play, and save what was measured."""
    out = run.folder / "better-density" / f"{variant.lower().replace(', ', '-')}-{seed}"
    if (out / "cell.json").exists():
        return
    settings = build(read_yaml(run.folder / "config.yaml"))
    store, vae = run.store(), run.vae()
    latents = store.latents(vae, stall_delay=settings.memory.stall_delay)
    section = memory_settings(settings, variant, (vae.latent_dim + store.action_dim, vae.latent_dim))
    sequences = Sequences(latents, section.seq_len, "sample", pad_episode_ends=section.pad_episode_ends)
    training, held_out = sequences.split(VAL_FRACTION, seed)
    began = time.monotonic()
    memory = trained(section, sequences, vae.latent_dim, store.action_dim, seed, out, variant == UNTRAINED)
    seconds = time.monotonic() - began
    world = WorldModel(vae, memory, store)
    controller = evolved(world, latents, settings, seed)
    report = evaluate(
        Agent(world, controller),
        settings.env,
        EPISODES,
        TEST_SEED,
        env_options=settings.env_options,
        workers=settings.executor["workers"],
    )
    card = report_card(world, [latents.episode(int(index)) for index in held_out.episodes], latent_targets="sample")
    likelihood = evaluate_memory(memory, latents, held_out.episodes, "sample", memoryless=False)
    row = {
        "env": settings.env,
        "variant": variant,
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in memory.parameters()),
        "hidden_size": section.hidden_size,
        "seconds": round(seconds),
        "nll": float(np.mean(likelihood["nll"])),
        "reward_r2": card.rewards[0].r2 if card.rewards else None,
        "promise_r": [promise.correlation for promise in card.promises],
        "latent_steps": card.latent_steps,
        "training_episodes": len(training.episodes),
        "returns": [float(value) for value in report.returns],
        "hardware": hardware(),
    }
    write_json(out / "cell.json", row)


def trained(
    section: MemoryConfig, sequences: Sequences, latent_dim: int, action_dim: int, seed: int, out: Path, untrained: bool
) -> Memory:
    """Return a memory that was trained until plateaus of its held-out loss."""
    with seeded(seed):
        memory = build_memory(section.density | {"input_size": latent_dim + action_dim, "output_size": latent_dim})
    if untrained:
        memory.init_from_data(sequences.batch(64, np.random.default_rng(seed)))
        return memory.eval()
    return fit(
        memory,
        sequences,
        num_updates=NUM_UPDATES,
        batch_size=section.batch_size,
        seed=seed,
        val_fraction=VAL_FRACTION,
        eval_every=EVAL_EVERY,
        patience=PATIENCE,
        num_decays=NUM_DECAYS,
        out=out / "memory",
        tensorboard=False,
        progress=True,
    )


def evolved(world: WorldModel, latents: Any, settings: RunConfig, seed: int) -> Any:
    """Return a controller evolved from zero in the dreams of a world model."""
    dream = settings.dream
    initial = zero_controller(world, settings.controller)
    fitness = rollouts.DreamFitness(
        world, latents, dream.horizon, dream.num_rollouts, dream.temperature, controller=initial
    )
    return evolve(
        initial,
        fitness,
        seed=seed,
        generations=GENERATIONS,
        population=dream.population,
        sigma=settings.search.sigma,
        progress=True,
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Return a row of Markdown for each game and variant: means over seeds with their standard deviation."""
    lines = ["| Game | Memory | NLL, nats per step | r of returns | Return | Each seed |", "|---|---|---|---|---|---|"]
    for env in dict.fromkeys(row["env"] for row in rows):
        for variant in [*VARIANTS, UNTRAINED]:
            cells = [row for row in rows if (row["env"], row["variant"]) == (env, variant)]
            if not cells:
                continue
            means = [np.mean(row["returns"]) for row in cells]
            promises = [row["promise_r"][0] for row in cells if row["promise_r"] and row["promise_r"][0] is not None]
            numbers = [
                spread([row["nll"] for row in cells], 1),
                spread(promises, 2) if promises else "",
                spread(means, 0),
            ]
            each = ", ".join(f"{mean:.0f}" for mean in means)
            lines.append(f"| {env} | {variant} | {' | '.join(numbers)} | {each} |")
    n = len(rows[0]["returns"])
    return "\n".join([*lines, "", f"n = {n} episodes of the official game for each seed; {rows[0]['hardware']}.", ""])


def main(words: list[str] | None = None) -> None:
    """Run cells, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "write"])
    parser.add_argument("runs", type=Path, nargs="*", help="Paths of finished run folders.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, UNTRAINED], default=[*VARIANTS, UNTRAINED])
    given = parser.parse_args(words)
    if given.what == "run":
        for seed in given.seeds:
            for folder in given.runs:
                for variant in given.variants:
                    run_cell(Run(folder), variant, seed)
    rows = [read_json(path) for folder in given.runs for path in sorted(folder.glob("better-density/*/cell.json"))]
    kept = read_json(RESULT) if RESULT.exists() else []
    found = {(row["env"], row["variant"], row["seed"]): row for row in kept + rows}
    write_json(RESULT, [found[key] for key in sorted(found)])
    print(table(list(found.values())))


if __name__ == "__main__":
    main()
