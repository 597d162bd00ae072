"""Phases of a run: changes of its settings that follow each other in one folder. Start reading at `plan`.

A phase that changes only `CONTINUING` settings goes on with the world model and the rollouts of the phase before. Any other
phase starts anew, with its own rollouts; the agent of the phase before ("previous") can then be its behavior policy or be
cloned. The last world model is in the run folder, earlier ones are in ``runs/NUMBER``. The searches of the last phase are in
the run folder, too, those of earlier ones in ``phases/NUMBER`` beside their world model. Phases that change nothing of a search
share it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from worldmodel.agents.agent import Agent
from worldmodel.agents.config.schema import RunConfig, split_noise
from worldmodel.agents.config.sections import build
from worldmodel.agents.config.validate import validate_combination
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import write_json

CONTINUING = {"iterations", "iterate", "search", "dream", "game", "eval", "workers"}
"""Settings and sections that leave the world model and the rollouts as they are."""
PREVIOUS = "previous"
"""The agent of the phase before, in ``collect.policy`` and ``game.init_from``."""
SEARCHES = ("dream", "game")
"""Where controllers evolve."""
WORLD = ("rollouts", "vae", "memory", "world", "iterations", "earlier", "diagnostics.json", "phases")
"""Files and folders that belong to a world model, in a run folder."""


@dataclass(frozen=True)
class Phase:
    """A phase of a run: its settings, and the folders of its world model and of its searches."""

    number: int
    settings: RunConfig
    run: Run

    @property
    def folder(self) -> Path:
        """Path of the folder for the searches of an earlier phase and for its agent."""
        return self.run.folder / "phases" / f"{self.number:02d}"

    @property
    def agent(self) -> Path:
        """Path of the agent that a later phase can use."""
        return self.folder / "agent"

    @property
    def finished(self) -> bool:
        """Return whether all stages of the phase have ended."""
        return (self.folder / "finished.json").exists()

    @property
    def evolves(self) -> bool:
        """Return whether the phase evolves a controller."""
        return bool(self.settings.iterations or self.settings.dream.generations or self.settings.game.generations)

    def continues(self, previous: "Phase") -> bool:
        """Return whether the phase has the world model of the previous one."""
        return self.run.folder == previous.run.folder

    def shares(self, where: str, previous: "Phase") -> bool:
        """Return whether the phase changes nothing of the previous phase's search in the "dream" or in the "game"."""
        parts = [where, "search", "iterations", *(["dream"] if self.settings.game.init_from == "dream" else [])]
        same = all(getattr(self.settings, part) == getattr(previous.settings, part) for part in parts)
        return self.continues(previous) and same

    def after(self, previous: "Phase | None") -> "Phase":
        """Return the phase with the paths of the previous phase's agent in its settings."""
        if previous is None:
            return self
        settings, collect, start = self.settings, self.settings.collect, previous.agent
        if self.continues(previous):
            collect, start = previous.settings.collect, previous.agent / "controller.safetensors"
        names = collect.policy.split(",")
        names = [
            str(previous.agent) + name[len(PREVIOUS) :] if split_noise(name)[0] == PREVIOUS else name for name in names
        ]
        settings = replace(settings, collect=replace(collect, policy=",".join(names)))
        if self.run.search("game") == previous.run.search("game"):
            settings = replace(settings, game=previous.settings.game)
        elif settings.game.init_from == PREVIOUS:
            settings = replace(settings, game=replace(settings.game, init_from=str(start)))
        return replace(self, settings=settings)

    def finish(self) -> None:
        """Save the agent of the phase."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.evolves:
            where = "game" if self.settings.game.generations else "dream"
            Agent(self.run.world(), self.run.controller(where)).save(self.agent)
        write_json(self.folder / "finished.json", {"phase": self.number})

    def move(self, into: "Phase") -> None:
        """Move the last phase of a run to its place before further ones; the same call ends an interrupted one."""
        moves = [(self.run.search(where), into.run.search(where).relative_to(into.run.folder)) for where in SEARCHES]
        for source, path in moves:
            _rename(source, self.run.folder / path)
        if into.run.folder != self.run.folder:
            for name in WORLD:
                _rename(self.run.folder / name, into.run.folder / name)


def _rename(source: Path, target: Path) -> None:
    if source != target and source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


def plan(settings: RunConfig, run: Run) -> list[Phase]:
    """Return the phases of a run; a run without phases has one.

    Raises:
        ValueError: A setting of a phase is unknown, out of range, or contradicts another one; the message names the phase.
    """
    changes: list[Mapping[str, Any]] = settings.phases or [{}]  # type: ignore[assignment]
    if not all(isinstance(change, Mapping) for change in changes):
        raise ValueError(f"phases must be a list of mappings of settings, got {changes!r}")
    starts = [number for number, change in enumerate(changes, 1) if number == 1 or not change.keys() <= CONTINUING]
    phases, current = list[Phase](), replace(settings, phases=[])
    for number, change in enumerate(changes, 1):
        start = max(start for start in starts if start <= number)
        home = run if start == starts[-1] else Run(run.folder / "runs" / f"{start:02d}")
        try:
            if "phases" in change:
                raise ValueError("a phase cannot have phases")
            current = build(merged(asdict(current), change)) if settings.phases else current
            validate_combination(current)
            named = [current.game.init_from] if current.game.generations else []
            named += [split_noise(name)[0] for name in current.collect.policy.split(",")] if start == number else []
            if PREVIOUS in named and not (phases and phases[-1].evolves):
                raise ValueError(f"there is no {PREVIOUS} agent: no phase before, or it evolves none")
        except ValueError as error:
            raise ValueError(f"phase {number}: {error}" if settings.phases else str(error)) from None
        phases.append(Phase(number, current, home))
    for index in reversed(range(len(phases) - 1)):
        phase, following = phases[index], phases[index + 1]
        searches = {
            where: following.run.search(where) if following.shares(where, phase) else phase.folder / f"evolve-{where}"
            for where in SEARCHES
        }
        phases[index] = replace(phase, run=Run(phase.run.folder, searches))
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
