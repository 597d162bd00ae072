"""What becomes of a run's stages when what they began with has changed: a training learns on, an evolution begins anew.

Nothing is deleted: an evolution whose world model has changed is renamed into the run's folder ``earlier``.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents.controller import Controller
from agents.progress import console
from agents.run import Run
from agents.shell import command
from worldmodel.batches import Data
from worldmodel.io import fingerprint, read_json

CAUSES = {"world": "the world model", "starts": "the set of episodes", "start": "the controller that it starts at"}


def print_new_data(folder: Path, data: Data, updates: int) -> None:
    """Say in one line that a training goes on because its data have changed."""
    path = folder / "settings.json"
    if (folder / "resume.pt").exists() and path.exists() and read_json(path).get("data") != data.identity:
        console.print(
            f"train {folder.name}: its data have changed; it goes on from its weights for {updates:,} updates",
            markup=False,
        )


def set_aside(run: Run, name: str, identity: Mapping[str, Any], start: Controller | None = None) -> None:
    """Rename an evolution that began with another world model, other episodes or another controller than there are now.

    Args:
        run: the run.
        name: the evolution's folder.
        identity: what its returns depend on now (`rollouts.DreamFitness`, `rollouts.EnvFitness`); only CAUSES of it count.
        start: the controller that it starts at; None: that is a setting, which must be what it was.
    """
    folder = run.folder / name
    try:
        with np.load(folder / "state.npz", allow_pickle=False) as saved:
            before = json.loads(str(saved["about"]))["settings"]
            was, now = {**before["fitness"], "start": before["start"]}, dict(identity)
    except Exception:  # there is none, or the evolution itself says what is wrong with it
        return
    if start is not None:
        now["start"] = hashlib.sha256(start.parameters.double().numpy().tobytes()).hexdigest()[:16]
    changed = [words for key, words in CAUSES.items() if key in was and key in now and was[key] != now[key]]
    if not changed:
        return
    number = 1
    while (aside := run.folder / "earlier" / f"{name}-{number}").exists():
        number += 1
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    console.print(f"{name}: {changed[0]} has changed; it begins anew, and what it was lies in {aside}", markup=False)


def print_outdated(run: Run) -> None:
    """Say in one line that a run's world model was not made of its newest VAE."""
    if sentence := outdated(run):
        console.print(f"{run.folder}: {sentence}", markup=False)


def outdated(run: Run) -> str:
    """That a run's world model was not made of its newest VAE, and the command that makes it anew; empty: it was."""
    if (run.folder / "iterations").exists() or not (run.folder / "vae" / "weights.safetensors").exists():
        return ""
    if fingerprint(run.vae()) == fingerprint(run.world().vae):
        return ""
    again = command("worldmodel", "train", "memory", run.folder)
    return f"the VAE has changed since the world model was made; {again} brings it up to date"
