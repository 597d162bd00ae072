"""Pretrained agents of this package, and agents in other folders.

    agents/pretrained/<name>/   vae.safetensors, memory.safetensors, config.json, controller.safetensors,
                                starts.safetensors (start states), report.json, README.md (the model card)

The folder ``agent/`` of a run has the same files. Loading them executes no code. Start reading at `PretrainedAgent`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.agents.agent import Agent
from worldmodel.agents.evaluation import Report
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.paths import folder_path
from worldmodel.messages import did_you_mean
from worldmodel.start_states import StartStates

HOME = Path(__file__).parent
"""Path of the folder with one folder for each pretrained agent."""


@dataclass(frozen=True)
class PretrainedAgent:
    """The folder of an agent: its world model, controller, start states and report.

    Args:
        folder: Path of the agent's folder.
        out: Path of the folder for the output of commands.
    """

    folder: Path
    out: Path

    def agent(self) -> Agent:
        """Load the world model and the controller.

        Raises:
            ValueError: a file is missing or damaged.
        """
        return Agent.load(self.folder)

    def start_states(self) -> StartStates:
        """Load the start states of its dreams, encoded from real episodes."""
        return StartStates.load(self.folder)

    def report(self) -> Report:
        """Load the report of its evaluation."""
        return Report.load(self.folder / "report.json")

    @property
    def env(self) -> str:
        """Id of the official environment."""
        return self.report().env

    @property
    def env_options(self) -> dict[str, Any]:
        """Arguments of `envs.make`."""
        return dict(self.report().env_options)


def pretrained_names() -> list[str]:
    """Return the names of the pretrained agents of this package.

    Example:
        >>> pretrained_names()
        ['car-racing', 'car-racing-dream', 'mario-1-1']
    """
    return sorted(path.parent.name for path in HOME.glob("*/controller.safetensors"))


def load_pretrained(name: str) -> Agent:
    """Load a pretrained agent of this package.

    Args:
        name: One of `pretrained_names`. Its environment and score are in ``agents/pretrained/NAME/README.md``.

    Raises:
        ValueError: there is no pretrained agent of this name.
    """
    return pretrained_agent(name).agent()


def pretrained_agent(name: str) -> PretrainedAgent:
    """Return the folder of a pretrained agent of this package.

    Raises:
        ValueError: there is no pretrained agent of this name.
    """
    if name not in (names := pretrained_names()):
        known = ", ".join(names) or "none"
        raise ValueError(f"there is no pretrained agent {name!r}, expected one of {known}{did_you_mean(name, names)}")
    return PretrainedAgent(HOME / name, Path("runs") / f"{name}-pretrained")


def resolve_agent(path: str, pretrained: bool) -> Run | PretrainedAgent:
    """Return the run, the agent's folder or the pretrained agent that a command got as its argument.

    Args:
        path: Path of a run folder or of an agent's folder; with ``pretrained``, the name of a pretrained agent.
        pretrained: Whether ``path`` is the name of a pretrained agent.

    Raises:
        ValueError: there is no pretrained agent of this name, or ``path`` is such a name and ``pretrained`` is False.
    """
    if pretrained:
        return pretrained_agent(path)
    folder = folder_path(path, "run")
    if (folder / "controller.safetensors").exists() and (folder / "config.json").exists():
        return PretrainedAgent(folder, folder)
    if not folder.is_dir() and path in pretrained_names():
        raise ValueError(f"there is no run folder {path}; use --pretrained for the pretrained agent of this name")
    return Run(folder)
