"""Agents that come with the package, and agents in folders: a world model, a controller, real moments, a report.

    agents/pretrained/<name>/   vae.safetensors, memory.safetensors, config.json, controller.safetensors,
                                starts.safetensors, report.json, README.md (the model card)

The same files lie in a run's ``agent/``. Nothing in them is executed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.agent import Agent
from agents.evaluation import Report
from agents.run import Run
from worldmodel.paths import folder_path
from worldmodel.start_states import StartStates
from worldmodel.suggestions import did_you_mean

HOME = Path(__file__).parent


@dataclass(frozen=True)
class PretrainedAgent:
    """An agent's folder."""

    folder: Path
    out: Path
    """Where commands write what they make of it."""

    def agent(self) -> Agent:
        """World model and controller.

        Raises:
            ValueError: a file is missing or damaged.
        """
        return Agent.load(self.folder)

    def starts(self) -> StartStates:
        """Real moments to dream from."""
        return StartStates.load(self.folder)

    def report(self) -> Report:
        """How good it is, and in which environment."""
        return Report.load(self.folder / "report.json")

    @property
    def env(self) -> str:
        """The official environment's id."""
        return self.report().env

    @property
    def env_options(self) -> dict[str, Any]:
        """Arguments of `envs.make`."""
        return dict(self.report().env_options)


def names() -> list[str]:
    """Agents that come with the package."""
    return sorted(path.parent.name for path in HOME.glob("*/controller.safetensors"))


def pretrained_names() -> list[str]:
    """Names of the agents that come with the package.

    Example:
        >>> pretrained_names()
        ['car-racing', 'car-racing-dream', 'mario-1-1']
    """
    return names()


def load_pretrained(name: str) -> Agent:
    """Load an agent that comes with the package.

    Args:
        name: one of `pretrained_names`. Its environment and score are in ``agents/pretrained/NAME/README.md``.

    Raises:
        ValueError: there is none of that name.
    """
    return pretrained_agent(name).agent()


def pretrained_agent(name: str) -> PretrainedAgent:
    """An agent that comes with the package.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in names():
        known = ", ".join(names()) or "none"
        raise ValueError(f"there is no pretrained agent {name!r}, only {known}{did_you_mean(name, names())}")
    return PretrainedAgent(HOME / name, Path("runs") / f"{name}-pretrained")


def resolve_agent(path: str, pretrained: bool) -> Run | PretrainedAgent:
    """What a command was given: a run folder, an agent's folder, or the name of a pretrained agent.

    Raises:
        ValueError: there is no such agent, or only with ``pretrained``.
    """
    if pretrained:
        return pretrained_agent(path)
    folder = folder_path(path, "run")
    if (folder / "controller.safetensors").exists() and (folder / "config.json").exists():
        return PretrainedAgent(folder, folder)
    if not folder.is_dir() and path in names():
        raise ValueError(f"there is no run folder {path}; the agent that comes with the package needs --pretrained")
    return Run(folder)
