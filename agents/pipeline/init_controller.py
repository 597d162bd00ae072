"""Initial controller of a search: zeros, a saved controller, or a copy of an agent with another world model.

Start reading at `init_controller`.
"""

from pathlib import Path
from typing import Any

from worldmodel import WorldModel
from worldmodel.agents.agent import Agent
from worldmodel.agents.config.schema import ControllerConfig
from worldmodel.agents.evaluation import Report
from worldmodel.agents.evolution.behavior_cloning import imitate
from worldmodel.agents.progress import bar
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import fingerprint
from worldmodel.io.paths import expand
from worldmodel.rollouts.policy.controllers import Controller, LinearController


def validate_picture(folder: str, env_options: dict[str, Any]) -> None:
    """Raise a ValueError if the training of the agent in a folder used another ``show_hud`` option of CarRacing."""
    report = expand(folder) / "report.json"
    used = bool(Report.load(report).env_options.get("show_hud")) if report.exists() else None
    shown = bool(env_options.get("show_hud"))
    if used not in (None, shown):
        raise ValueError(
            f"show_hud must be {str(used).lower()}, as in the training of {folder}, got {str(shown).lower()}: "
            f"set it in env_options, or use another agent"
        )


def zero_controller(world: WorldModel, settings: ControllerConfig) -> Controller:
    """Return a linear controller with zero parameters."""
    return LinearController.for_world_model(world, settings.inputs)


def init_controller(run: Run, world: WorldModel, settings: ControllerConfig, init_from: str) -> Controller:
    """Return the initial controller of a search in the game.

    Args:
        run: Run of the search.
        world: World model of the search.
        settings: Kind of controller.
        init_from: Source of the controller: "zeros", "dream" (the controller evolved in dreams), path of a controller
            file, or path of an agent's folder. An agent with another world model is copied by behavior cloning.

    Raises:
        ValueError: The controller does not exist, or is of another kind than in the settings.
    """
    template = zero_controller(world, settings)
    if init_from == "zeros":
        return template
    if init_from != "dream" and expand(init_from).is_dir():
        return _imitate(run, world, template, init_from)
    controller = run.controller("dream") if init_from == "dream" else Controller.load(init_from)
    return _validate_kind(controller, template, init_from)


def _imitate(run: Run, world: WorldModel, template: Controller, init_from: str) -> Controller:
    """Return a copy of an agent with this run's world model; it is saved, so a resumed search has the same start."""
    agent = Agent.load(init_from)
    validate_picture(init_from, run.store().metadata["env_options"])
    path = run.search("game") / f"{agent.name}-on-{fingerprint(world)[:8]}.safetensors"
    if not path.exists():
        with bar("encode frames", "frames") as progress:
            copied = imitate(agent, world, run.store(), template, progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        copied.save(path)
    return _validate_kind(Controller.load(path), template, path)


def _validate_kind(controller: Controller, template: Controller, source: str | Path) -> Controller:
    if repr(controller) != repr(template):
        raise ValueError(f"init_from must be a {template}, got {source}: {controller}")
    return controller
