"""Phases of a run: changes of its settings that follow each other in one folder. Start reading at `plan`.

A phase that changes only `CONTINUING` settings goes on with the world model and the rollouts of the phase before. Any other
phase starts anew, with its own rollouts; the agent of the phase before ("previous") can then be its behavior policy or be
cloned. The last world model is in the run folder, earlier ones are in ``runs/NUMBER``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from worldmodel.agents.agent import Agent
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.config.sections import build
from worldmodel.agents.config.validate import validate_combination
from worldmodel.agents.pipeline.run_folder import Run
from worldmodel.io.files import write_json

CONTINUING = {"iterations", "iterate", "search", "dream", "game", "eval", "workers", "backend"}
"""Settings and sections that leave the world model and the rollouts as they are."""
PREVIOUS = "previous"
"""The agent of the phase before, in ``collect.policy`` and ``game.init_from``."""


@dataclass(frozen=True)
class Phase:
    """A phase of a run: its settings, and the folder of its world model."""

    number: int
    settings: RunConfig
    run: Run
    searches: int = 0
    """Number of phases before with the same world model: their searches have other seeds."""

    @property
    def folder(self) -> Path:
        """Path of the folder for the agent of the finished phase, and for searches that the next phase repeats."""
        return self.run.folder / "phases" / f"{self.number:02d}"

    @property
    def agent(self) -> Path:
        """Path of the agent that a later phase can use."""
        return self.folder / "agent"

    @property
    def finished(self) -> bool:
        """Return whether all stages of the phase have ended."""
        return (self.folder / "finished.json").exists()

    def has_archived(self, where: str) -> bool:
        """Return whether the phase's search in the "dream" or in the "game" has ended and made room for that of the next."""
        return (self.folder / f"evolve-{where}").exists()

    def after(self, previous: "Phase | None") -> "Phase":
        """Return the phase with the paths of the previous phase's agent in its settings."""
        if previous is None:
            return self
        settings, collect, start = self.settings, self.settings.collect, previous.agent
        if previous.run == self.run:
            collect, start = previous.settings.collect, previous.agent / "controller.safetensors"
        names = (str(previous.agent) if name == PREVIOUS else name for name in collect.policy.split(","))
        settings = replace(settings, collect=replace(collect, policy=",".join(names)))
        if settings.game.init_from == PREVIOUS:
            settings = replace(settings, game=replace(settings.game, init_from=str(start)))
        return replace(self, settings=settings)

    def finish(self, following: "Phase") -> None:
        """Save the agent of this phase, and make room for searches that the following phase repeats with other settings."""
        settings = self.settings
        where = "game" if settings.game.generations else "dream"
        if (self.run.folder / f"evolve-{where}" / "controller.safetensors").exists():
            Agent(self.run.world(), self.run.controller(where)).save(self.agent)
        for name in ("dream", "game"):
            source = self.run.folder / f"evolve-{name}"
            same = all(getattr(settings, part) == getattr(following.settings, part) for part in (name, "search"))
            if following.run == self.run and not same and (source / "state.npz").exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                source.rename(self.folder / source.name)
        write_json(self.folder / "finished.json", {"phase": self.number})


def plan(settings: RunConfig, run: Run) -> list[Phase]:
    """Return the phases of a run; a run without phases has one.

    Raises:
        ValueError: A setting of a phase is unknown, out of range, or contradicts another one; the message names the phase.
    """
    changes: list[Mapping[str, Any]] = settings.phases or [{}]  # type: ignore[assignment]
    starts = [number for number, change in enumerate(changes, 1) if number == 1 or not change.keys() <= CONTINUING]
    phases, current = list[Phase](), replace(settings, phases=[])
    for number, change in enumerate(changes, 1):
        try:
            current = build(merged(asdict(current), change)) if settings.phases else current
            validate_combination(current)
            if number == 1 and PREVIOUS in (*current.collect.policy.split(","), current.game.init_from):
                raise ValueError(f"the first phase has no {PREVIOUS} agent")
        except ValueError as error:
            raise ValueError(f"phase {number}: {error}" if settings.phases else str(error)) from None
        start = max(start for start in starts if start <= number)
        home = run if start == starts[-1] else Run(run.folder / "runs" / f"{start:02d}")
        phases.append(Phase(number, current, home, number - start))
    return phases


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with changes; options of environments are replaced as a whole.

    Example:
        >>> merged({"seed": 1, "game": {"sigma": 0.1, "episodes": 3}}, {"game": {"episodes": 6}})
        {'seed': 1, 'game': {'sigma': 0.1, 'episodes': 6}}
    """
    result = dict(values)
    for name, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(name), Mapping) and not name.endswith("_options")
        result[name] = merged(result[name], value) if nested else value
    return result
