"""One iteration of iterative training: its settings, its folders and its results. Start reading at `IterationContext`."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import error_context, from_json, read_json


@dataclass(frozen=True)
class Iteration:
    """Results of one iteration."""

    number: int
    dream: float
    """Mean return of the controller over ``horizon`` dreamed steps that start in states of its own real episodes."""
    real: float
    """Mean return of the same controller over ``horizon`` steps of these episodes, from the same start states."""
    gap: float
    """Model-exploitation gap: ``dream - real``."""
    disagreement: float
    """Standard deviation of its mean returns over the models of the ensemble; 0 with one model."""
    episode_mean: float
    """Mean return of its complete real episodes. With several candidates it is too high: these episodes choose the best one."""
    episode_std: float
    """Standard deviation of these returns."""
    n: int
    """Number of its complete real episodes, played without noise."""
    real_steps: int
    """Number of real steps in the store afterwards."""
    dream_steps: int
    """Number of dreamed steps of the search."""


@dataclass(frozen=True)
class IterationContext:
    """An iteration and the settings that it started with."""

    run: Run
    settings: RunConfig
    number: int

    @property
    def current(self) -> Run:
        """The folder of this iteration."""
        return iteration_run(self.run, self.number)

    @property
    def previous(self) -> Run | None:
        """The folder of the previous iteration; None: this is the first one."""
        return iteration_run(self.run, self.number - 1) if self.number > 1 else None

    def init_from(self, candidate: int = 0) -> Run | None:
        """Return the folder of the iteration whose controller is the start of a search; None: the search starts at zeros.

        With "last", the first candidate starts at the controller of the last iteration; the others start at that of the best
        one, because the last one may have exploited errors of its memory.
        """
        start = self.settings.iterate.init_from
        if self.previous is None or start == "zeros":
            return None
        if start == "last" and not candidate:
            return self.previous
        return iteration_run(self.run, best_iteration(earlier_results(self.run, self.number)).number)

    @property
    def untimed(self) -> Self:
        """The same iteration in a worker process, which measures no times."""
        return replace(self, run=UntimedRun(self.run.folder))

    @property
    def copied_world(self) -> Run | None:
        """The folder whose world model this iteration's agent keeps unchanged; None: its memory is trained."""
        if self.previous is None:
            return self.run
        return self.init_from() if self.settings.iterate.init_from == "best" else None

    @property
    def result_path(self) -> Path:
        """Path of the results."""
        return self.current.folder / "iteration.json"

    @property
    def num_episodes(self) -> int:
        """Number of episodes in the store at the start of the iteration."""
        return read_num_episodes(self.current.folder)


class UntimedRun(Run):
    """A run folder whose timings another process measures."""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run a block."""
        yield


def iteration_run(run: Run, number: int) -> Run:
    """Return the folder of an iteration, which is a run folder without rollouts."""
    return Run(run.folder / "iterations" / f"{number:02d}")


def candidate_run(context: IterationContext, number: int) -> Run:
    """Return the folder of a candidate's search; the only candidate's is that of the iteration."""
    several = context.settings.iterate.candidates > 1
    return Run(context.current.folder / f"candidate-{number + 1}") if several else context.current


def read_num_episodes(folder: Path) -> int:
    """Read the number of episodes in the store at the start of the iteration in ``folder``.

    Raises:
        ValueError: The file is missing or damaged; the message names it.
    """
    with error_context(path := folder / "episodes.json", wrap_value_errors=True):
        count = read_json(path)["episodes"]
        if type(count) is not int or count < 1:
            raise ValueError(f"episodes must be a positive whole number, got {count!r}")
        return count


def num_training_episodes(run: Run) -> int:
    """Return the number of episodes that the run's memory was trained on: those before the iteration that trained it."""
    weights = "memory.safetensors"
    present = (run.world_folder / weights).read_bytes()
    for path in sorted((run.folder / "iterations").glob(f"[0-9]*/world/{weights}")):  # a later one may have a copy
        if path.read_bytes() == present:
            return read_num_episodes(path.parent.parent)
    return len(run.store())


def read_result(run: Run, number: int) -> Iteration:
    """Read the results of an iteration.

    Raises:
        ValueError: The file is missing, damaged, or of another iteration; the message names it.
    """
    path = iteration_run(run, number).folder / "iteration.json"
    with error_context(path, wrap_value_errors=True):
        one = from_json(Iteration, read_json(path), path)
        if one.number != number:
            raise ValueError(f"number must be {number}, got {one.number}")
    return one


def earlier_results(run: Run, number: int) -> list[Iteration]:
    """Return the results of the iterations before this one."""
    return [read_result(run, earlier) for earlier in range(1, number)]


def best_iteration(done: Sequence[Iteration]) -> Iteration:
    """Return the iteration with the highest mean return over complete real episodes; the first one of equals."""
    return max(done, key=lambda one: one.episode_mean)
