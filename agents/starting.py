"""Where a search starts: at zeros, at a controller of before, or at what an agent with another world model does."""

from pathlib import Path
from typing import Any

from agents.agent import Agent
from agents.controller import Controller, HiddenController, LinearController, load_controller
from agents.display import bar
from agents.evaluation import Report
from agents.imitation import imitate
from agents.run import Run
from agents.settings import Controlling
from worldmodel import WorldModel
from worldmodel.io import fingerprint
from worldmodel.paths import expand


def check_picture(folder: str, env_options: dict[str, Any]) -> None:
    """Refuse an agent's folder where CarRacing's HUD is shown and it never saw them, or the other way round."""
    report = expand(folder) / "report.json"
    used = bool(Report.load(report).env_options.get("show_hud")) if report.exists() else None
    shown = bool(env_options.get("show_hud"))
    if used not in (None, shown):
        raise ValueError(
            f"{folder} is used to pictures with show_hud {str(used).lower()}, asked for {str(shown).lower()}: "
            f"say so in env_options, or take another agent"
        )


def zeros(world: WorldModel, settings: Controlling) -> Controller:
    """A controller of the kind that is asked for, with all parameters zero."""
    if settings.units:
        return HiddenController.sized(world, settings.sees, settings.units)
    return LinearController.sized(world, settings.sees)


def beginning(run: Run, world: WorldModel, settings: Controlling, start: str) -> Controller:
    """The controller that a search in the game starts at: "zeros", "dream", a file, or an agent's folder, which is imitated.

    Raises:
        ValueError: there is no such controller, or it is of another kind than the one asked for.
    """
    wanted = zeros(world, settings)
    if start == "zeros":
        return wanted
    if start != "dream" and expand(start).is_dir():
        return _imitated(run, world, wanted, start)
    found = run.controller("dream") if start == "dream" else load_controller(start)
    return _checked(found, wanted, start)


def _imitated(run: Run, world: WorldModel, wanted: Controller, start: str) -> Controller:
    """What an agent does, on this run's world model; kept, so that a search which goes on began at the same one."""
    agent = Agent.load(start)
    check_picture(start, run.store().metadata["env_options"])
    path = run.folder / "evolve-game" / f"{agent.name}-on-{fingerprint(world)[:8]}.safetensors"
    if not path.exists():
        with bar("encode frames", "frames") as progress:
            made = imitate(agent, world, run.store(), wanted, progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)
    return _checked(load_controller(path), wanted, path)


def _checked(found: Controller, wanted: Controller, where: str | Path) -> Controller:
    if repr(found) != repr(wanted):
        raise ValueError(f"start must be a {wanted}, got {where}: {found}")
    return found
