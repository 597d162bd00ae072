"""Descriptions of folders, for ``worldmodel inspect``; start reading at `describe`."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.agents.progress import duration, size
from worldmodel.messages import format_number


def describe(path: Path) -> list[tuple[str, str]]:
    """Describe a run, a store, a world model or an agent as rows of (name, value).

    Raises:
        ValueError: The folder is none of them.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    rows: list[tuple[str, str]] = []
    if is_run(path):
        rows += _describe_run(path)
    if (path / "shards").is_dir() or (path / "metadata.json").exists():
        rows += _describe_store(path)
    if (path / "config.json").exists():
        rows += _describe_world(path)
    if (path / "controller.safetensors").exists():
        rows += _describe_controller(path / "controller.safetensors")
    if (path / "report.json").exists():
        from worldmodel.agents.evaluation import Report

        report = Report.load(path / "report.json")
        rows += [*_options(report.env_options), ("score", str(report))]
    if not rows:
        raise ValueError(f"{path} is neither a run nor a store, a world model or an agent")
    return rows


def is_run(path: Path) -> bool:
    """Return whether a folder is a run folder."""
    return (path / "rollouts" / "metadata.json").exists() or (path / "config.yaml").exists()


def _options(env_options: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a row of an environment's options, if there are any."""
    return [("env_options", json.dumps(env_options))] if env_options else []


def _describe_run(path: Path) -> list[tuple[str, str]]:
    """Describe a run: its rollouts, stopped trainings, world model, controllers, times and scores."""
    from worldmodel.agents.runs.renewal import outdated
    from worldmodel.agents.runs.run_folder import Run
    from worldmodel.training.checkpoint import unfinished

    run = Run(path)
    rows = [("run", str(path))]
    if (run.rollouts_folder / "metadata.json").exists():
        rows += _describe_store(run.rollouts_folder)
    for part in ("vae", "memory"):
        try:
            if stopped := unfinished(path / part):
                rows += [
                    (f"train {part}", "stopped at update {:,} of {:,}; the same command continues".format(*stopped))
                ]
        except ValueError as error:  # a damaged file must not hide the rest
            rows += [(f"train {part}", str(error))]
    if (run.world_folder / "config.json").exists():
        rows += _describe_world(run.world_folder)
        if sentence := outdated(run):
            rows += [("out of date", sentence)]
    for where in ("dream", "game"):
        controller = path / f"evolve-{where}" / "controller.safetensors"
        if controller.exists():
            rows += [(f"evolved in the {where}", str(controller))]
    if (clone := path / "clone" / "controller.safetensors").exists():
        rows += [("imitates", str(clone))]
    rows += [(f"time, {name}", duration(seconds)) for name, seconds in run.timings().items()]
    return rows + [(f"score, {name}", str(report)) for name, report in run.reports().items()]


def _describe_store(path: Path) -> list[tuple[str, str]]:
    from worldmodel.rollouts import Store
    from worldmodel.rollouts.episode import observation_dtype

    store = Store(path)
    kind = f"{store.action_dim} choices" if store.discrete else f"{store.action_dim} numbers in [-1, 1]"
    kind = f"choices of {store.nvec}" if store.nvec else kind
    options = store.metadata.get("env_options") or {}
    stored = sum(shard.path.stat().st_size for shard in store.shards)
    shape = store.observation_shape
    raw = (store.steps + len(store)) * math.prod(shape) * observation_dtype(shape)().itemsize
    rows = [
        (
            "rollouts",
            f"{len(store)} episodes, {store.steps:,} steps of {store.env} by {store.metadata.get('policy', '?')}",
        ),
        *([("observations", f"vectors of {shape[0]} numbers")] if len(shape) == 1 else ()),
        ("actions", kind),
        *_options({} if "world" in options else options),  # a store of dreams has the world model's fingerprint there
        ("size", f"{size(stored)} in {len(store.shards)} shards, {raw / max(stored, 1):.1f} times compressed"),
    ]
    if len(store):
        returns, lengths = np.array(store.returns), np.array(store.lengths)
        rows.append(("steps of an episode", _spread(lengths)))
        rows.append(("return of an episode", _spread(returns)))
        ended = sum(store.episode_metadata(index).terminated for index in range(len(store)))
        rows.append(("ended by the game", f"{ended} of {len(store)}"))
    return rows + [(f"damaged: {name}", reason) for name, reason in store.damaged.items()]


def read_with_minari(path: Path) -> list[tuple[str, str]]:
    """Read a store, or that of a run, with Minari, and return a row of its size.

    Raises:
        ValueError: Minari is not installed, or there is no complete store.
    """
    from worldmodel.rollouts import Store

    dataset = Store(path if (path / "metadata.json").exists() else path / "rollouts").minari()
    return [("read by Minari", f"{dataset.total_episodes} episodes, {dataset.total_steps:,} steps")]


def _spread(values: np.ndarray) -> str:
    low, median, high = np.quantile(values, [0, 0.5, 1])
    mean, low, median, high = (format_number(value) for value in (values.mean(), low, median, high))
    return f"mean {mean}, min {low}, median {median}, max {high}"


def contact_sheet(path: Path, picture: Path) -> bool:
    """Draw frames of episodes of a store, or of a run's store; returns whether there are any (vectors have none).

    Raises:
        OSError: The picture cannot be written.
    """
    from worldmodel.agents.analysis import video
    from worldmodel.rollouts import Store

    folder = next((one for one in (path, path / "rollouts") if (one / "metadata.json").exists()), None)
    sheet = None if folder is None else Store(folder).contact_sheet()
    if sheet is not None:
        video.write_png(picture, sheet)
    return sheet is not None


def _describe_world(path: Path) -> list[tuple[str, str]]:
    from worldmodel import WorldModel

    world = WorldModel.load(path)
    num_parameters = sum(parameter.numel() for parameter in world.parameters())
    kind = (
        "choices" if world.discrete else f"numbers for choices of {world.nvec}" if world.nvec else "numbers in [-1, 1]"
    )
    density = world.memory.density
    return [
        ("world model", f"{num_parameters:,} parameters"),
        ("latent, hidden", f"{world.latent_dim}, {world.hidden_size}"),
        *([("hud_loss_weight", f"{hud:g}")] if (hud := getattr(world.vae, "hud_loss_weight", 1)) != 1 else ()),
        ("actions", f"{world.action_dim} {kind}"),
        ("density", f"{type(density).__name__} {', '.join(f'{k}={v}' for k, v in density.config.items())}"),
    ]


def _describe_controller(path: Path) -> list[tuple[str, str]]:
    from worldmodel.rollouts.policy.controllers import Controller

    controller = Controller.load(path)
    return [
        ("controller", f"{controller.size} parameters: {controller.num_inputs} inputs, {controller.action_dim} actions")
    ]
