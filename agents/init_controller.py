"""Where a search starts: at zeros, at a controller of before, or at what an agent with another world model does."""

from pathlib import Path
from typing import Any

from agents.agent import Agent
from agents.behavior_cloning import imitate
from agents.config.schema import ControllerConfig
from agents.controller import Controller, HiddenController, LinearController, load_controller
from agents.evaluation import Report
from agents.progress import bar
from agents.run import Run
from worldmodel import WorldModel
from worldmodel.io import fingerprint
from worldmodel.paths import expand


def validate_picture(folder: str, env_options: dict[str, Any]) -> None:
    """Refuse an agent's folder where CarRacing's HUD is shown and it never saw them, or the other way round."""
    report = expand(folder) / "report.json"
    used = bool(Report.load(report).env_options.get("show_hud")) if report.exists() else None
    shown = bool(env_options.get("show_hud"))
    if used not in (None, shown):
        raise ValueError(
            f"{folder} is used to pictures with show_hud {str(used).lower()}, asked for {str(shown).lower()}: "
            f"say so in env_options, or take another agent"
        )


def zero_controller(world: WorldModel, settings: ControllerConfig) -> Controller:
    """A controller of the kind that is asked for, with all parameters zero."""
    if settings.hidden_units:
        return HiddenController.for_world_model(world, settings.inputs, settings.hidden_units)
    return LinearController.for_world_model(world, settings.inputs)


def init_controller(run: Run, world: WorldModel, settings: ControllerConfig, init_from: str) -> Controller:
    """The controller at which a search in the game starts: "zeros", "dream", a file, or an agent's folder.

    The agent of another world model is copied by behavior cloning.

    Raises:
        ValueError: there is no such controller, or it is of another kind than the one asked for.
    """
    like = zero_controller(world, settings)
    if init_from == "zeros":
        return like
    if init_from != "dream" and expand(init_from).is_dir():
        return _imitated(run, world, like, init_from)
    found = run.controller("dream") if init_from == "dream" else load_controller(init_from)
    return _validated(found, like, init_from)


def _imitated(run: Run, world: WorldModel, like: Controller, init_from: str) -> Controller:
    """What an agent does, on this run's world model; kept, so that a search which goes on began at the same one."""
    agent = Agent.load(init_from)
    validate_picture(init_from, run.store().metadata["env_options"])
    path = run.folder / "evolve-game" / f"{agent.name}-on-{fingerprint(world)[:8]}.safetensors"
    if not path.exists():
        with bar("encode frames", "frames") as progress:
            made = imitate(agent, world, run.store(), like, progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)
    return _validated(load_controller(path), like, path)


def _validated(found: Controller, like: Controller, where: str | Path) -> Controller:
    if repr(found) != repr(like):
        raise ValueError(f"init_from must be a {like}, got {where}: {found}")
    return found
