"""Stages of a run whose inputs have changed: a training continues, an evolution starts again.

Start reading at `set_aside`. Nothing is deleted: an outdated evolution is moved to the run's folder ``earlier``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.agents.progress import console
from worldmodel.agents.runs.run_folder import Run
from worldmodel.agents.shell import command
from worldmodel.batches import Data
from worldmodel.io import migration
from worldmodel.io.files import array_digest, fingerprint, read_json
from worldmodel.rollouts.policy.controllers import Controller

CAUSES = {"world": "the world model", "start_states": "the set of episodes", "start": "the initial controller"}
"""Keys of a search's identity that make it outdated, with their names in messages."""


def print_new_data(folder: Path, data: Data, updates: int) -> None:
    """Print one line if a finished training continues because its data have changed.

    Args:
        folder: Path of the training's folder.
        data: Present data.
        updates: Number of updates that follow.
    """
    path = folder / "settings.json"
    if not (folder / "resume.pt").exists() or not path.exists():
        return
    if migration.training_settings(read_json(path)).get("data") != data.identity:
        console.print(
            f"train {folder.name}: the data have changed; training continues from its weights for {updates:,} updates",
            markup=False,
        )


def search_settings(folder: Path) -> dict[str, Any]:
    """Return the settings in the state of a search; empty: no state, or a damaged one, which `agents.evolve` reports."""
    try:
        with np.load(folder / "state.npz", allow_pickle=False) as saved:
            settings = migration.search_state(json.loads(str(saved["about"])))["settings"]
            return {**settings, "fitness": dict(settings["fitness"])}
    except Exception:
        return {}


def set_aside(run: Run, where: str, identity: Mapping[str, Any], start: Controller | None = None) -> None:
    """Move an evolution to ``earlier`` if its world model, episodes or initial controller have changed.

    Args:
        run: Run of the evolution.
        where: Where it evolved a controller: in the "dream" or in the "game".
        identity: Present identity of the fitness (`rollouts.DreamFitness`, `rollouts.EnvFitness`); only the keys in `CAUSES`
            are compared.
        start: Present initial controller; None: only `agents.evolve` compares it.
    """
    folder, now = run.search(where), dict(identity)
    before = search_settings(folder)
    was = before.get("fitness", {}) | {"start": before.get("start")}
    if start is not None:
        now["start"] = array_digest(start.parameters.double().numpy())
    changed = [words for key, words in CAUSES.items() if key in was and key in now and was[key] != now[key]]
    if not changed:
        return
    aside = move_to_earlier(folder)
    console.print(
        f"{folder.name}: {changed[0]} has changed; evolution starts again, the old one is now in {aside}", markup=False
    )


def move_to_earlier(folder: Path) -> Path:
    """Move a folder of a run to ``earlier``; returns its new path."""
    number = 1
    while (aside := folder.parent / "earlier" / f"{folder.name}-{number}").exists():
        number += 1
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    return aside


def print_outdated(run: Run) -> None:
    """Print one line if the world model of a run does not contain its newest VAE."""
    if sentence := outdated(run):
        console.print(f"{run.folder}: {sentence}", markup=False)


def outdated(run: Run) -> str:
    """Return a sentence with a command if the world model of a run does not contain its newest VAE; otherwise ""."""
    if (run.folder / "iterations").exists() or not (run.folder / "vae" / "weights.safetensors").exists():
        return ""
    if fingerprint(run.vae()) == fingerprint(run.world().vae):
        return ""
    again = command("worldmodel", "train", "memory", run.folder)
    return f"the VAE is newer than the world model; {again} updates the world model"
