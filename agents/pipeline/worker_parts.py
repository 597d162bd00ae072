"""Run parts of an iteration, such as the trainings of its memories, in worker processes. Start reading at `run_in_workers`."""

from collections.abc import Sequence
from typing import Protocol

from worldmodel.agents.progress import quiet
from worldmodel.rollouts.executors.workers import run_tasks
from worldmodel.training.devices import resolve_device
from worldmodel.training.progress import Progress


class Part(Protocol):
    """A part of an iteration that a worker process runs; its results are files."""

    def run(self) -> None:
        """Run it."""
        ...

    @property
    def progress(self) -> tuple[int, int]:
        """Numbers of finished and of all units, from its files."""
        ...


def runs_in_workers(parts: Sequence[Part]) -> bool:
    """Return whether parts run in worker processes: several of them, and no GPU."""
    return len(parts) > 1 and resolve_device().type == "cpu"


def run_in_workers(parts: Sequence[Part], workers: int, progress: Progress) -> None:
    """Run parts of an iteration in worker processes.

    Each has one thread: a second one helps small networks little, and results do not depend on the number of workers.
    """

    def report() -> None:
        done, total = zip(*(part.progress for part in parts), strict=True)
        progress(sum(done), sum(total), "")

    for _ in run_tasks(_run_part, parts, min(workers, len(parts)), poll=report):
        report()


def _run_part(part: Part) -> None:
    """Run a part without messages on the terminal."""
    with quiet():
        part.run()
