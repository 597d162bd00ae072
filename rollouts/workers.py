"""Work on several cores that does not hang: what a dead worker lost is done again.

Start reading at `run_tasks`. Workers live on between calls, each with one torch thread, and keep their environments
(`worker_env`): making new ones for every task leaks memory in some games. loky's workers are processes of this machine,
Ray's may be anywhere.
"""

import contextlib
import importlib.util
import json
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import torch
from loky import get_reusable_executor
from loky.backend.reduction import dumps
from loky.process_executor import BrokenProcessPool

import envs
from rollouts.attempts import DEATHS, THREADS, WorkerDied, attempt
from worldmodel.arguments import at_least_one
from worldmodel.checkpoints import write_bytes

MOST_WORKERS = 4096
"""More processes than any machine or cluster of ours has cores: such a number is a slip."""
KEPT_KINDS = 2
"""A worker keeps the environments of this many (id, options)."""

EnvSpec = str | Callable[[], gymnasium.Env[Any, Any]]
"""What names an environment: an id for `envs.make`, or a picklable function that makes one."""
Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int = 1, backend: str = "loky"
) -> Iterator[tuple[int, Result]]:
    """Yield ``(index, function(tasks[index]))`` as results arrive.

    Args:
        function: picklable; it runs in worker processes, or here if ``workers`` is 1 and they are loky's.
        tasks: picklable.
        workers: processes.
        backend: "loky": processes of this machine. "ray": tasks on the running Ray cluster, or on one that begins here;
            "ray://HOST:PORT": on that cluster.

    Raises:
        ValueError: an argument is out of range; or the function raised one (bad input is not tried again), or an OSError.
        WorkerDied: the same work failed three times; with the last traceback, or the signal that killed the worker.
    """
    check_backend(backend, workers)
    if backend != "loky":
        from rollouts.ray_tasks import run_on_ray

        yield from run_on_ray(function, tasks, workers, backend)
    elif workers == 1:
        with _one_thread():
            yield from ((index, function(task)) for index, task in enumerate(tasks))
    else:
        yield from _run_on_loky(function, tasks, workers)


def check_backend(backend: str, workers: int) -> None:
    """Refuse a backend or a number of workers that cannot be.

    Raises:
        ValueError: names the argument; or Ray is not installed.
    """
    at_least_one(workers=workers)
    if workers > MOST_WORKERS:
        raise ValueError(f"workers must be at most {MOST_WORKERS}, got {workers}")
    if backend not in ("loky", "ray") and not backend.startswith("ray://"):
        raise ValueError(f"backend must be 'loky', 'ray' or 'ray://HOST:PORT', got {backend!r}")
    if backend != "loky" and importlib.util.find_spec("ray") is None:
        raise ValueError("backend 'ray' needs Ray: pip install 'worldmodel[cluster]'")


def _run_on_loky(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[int, Result]]:
    waiting = list(range(len(tasks)))[::-1]
    deaths = [0] * len(tasks)
    here = str(Path.cwd())
    running: dict[Future[Any], int] = {}
    try:
        while waiting or running:
            lost: list[tuple[int, str]] = []
            try:
                while waiting and len(running) < workers:
                    index = waiting[-1]
                    running[_pool(workers).submit(attempt, function, tasks[index], here)] = index
                    waiting.pop()
            except BrokenProcessPool as error:  # it broke between two tasks: what was running comes back as lost
                lost.append((waiting.pop(), str(error)))
            finished = wait(running, return_when=FIRST_COMPLETED).done if running else set()
            for future in finished:
                index = running.pop(future)
                try:
                    result, failure = future.result()
                except BrokenProcessPool as error:
                    lost.append((index, f"a worker process was killed: {_first_line(error)}"))
                    continue
                if failure:
                    lost.append((index, failure))
                    continue
                yield index, result
            for index, reason in lost:
                deaths[index] += 1
                if deaths[index] >= DEATHS:
                    raise WorkerDied(f"the same work failed {DEATHS} times; the last time:\n{reason}")
                waiting.append(index)
    finally:
        if running:
            _pool(workers).shutdown(wait=True, kill_workers=True)


def _pool(workers: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_reusable_executor(
            workers,
            timeout=300,
            kill_workers=True,  # an executor that is replaced must not wait for what its workers still do
            initializer=_begin,
            initargs=(os.getpid(),),
            env=THREADS,
        )


def _begin(parent: int) -> None:
    """Prepare a worker: one thread, deaf to Ctrl-C (its parent decides), and gone when its parent is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The arithmetic of a worker, in this process: results do not depend on the number of workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Shared:
    """An object that workers need for many tasks: sent once, not with every task."""

    mark: str
    """Says what it is: the same mark, the same object."""
    value: Any = field(default=None, compare=False)
    """The object itself, where the work is done in this process."""
    path: Path | None = None
    reference: Any = field(default=None, compare=False)
    """Ray's name for it; each machine fetches it once."""

    def get(self) -> Any:
        """The object; a worker keeps the last ones."""
        return _received(self) if self.value is None else self.value


@lru_cache(maxsize=2)
def _received(shared: Shared) -> Any:
    if shared.path is not None:
        return pickle.loads(shared.path.read_bytes())  # written by `share` of this very program
    import ray

    return ray.get(shared.reference)


def share(value: Any, mark: str, folder: Path, workers: int, backend: str) -> Shared:
    """Let the workers of a backend have an object; ``folder`` must stay until they are done."""
    if backend == "loky" and workers == 1:
        return Shared(mark, value)
    if backend == "loky":
        path = folder / f"{mark}.pickle"
        write_bytes(path, bytes(dumps(value)))
        return Shared(mark, path=path)
    from rollouts.ray_tasks import connect

    return Shared(mark, reference=connect(backend).put(value))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_kept: dict[tuple[bytes, str], list[gymnasium.Env[Any, Any]]] = {}


def env_key(env: EnvSpec, options: dict[str, Any]) -> tuple[bytes, str]:
    """Tells environments apart: the same id, or the same function, with the same options."""
    name = env.encode() if isinstance(env, str) else bytes(dumps(env))
    return name, json.dumps(options, sort_keys=True, default=str)


def open_env(env: EnvSpec, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make what an id or a function names; only an id takes options."""
    return envs.make(env, **options) if isinstance(env, str) else env()


def worker_env(env: EnvSpec, options: dict[str, Any], slot: int = 0) -> gymnasium.Env[Any, Any]:
    """This process's environment number ``slot`` for an id (or a function that makes one), kept for the next task."""
    key = env_key(env, options)
    games = _kept.pop(key, [])
    _kept[key] = games  # the last key is the one used last
    while len(_kept) > KEPT_KINDS:
        for game in _kept.pop(next(iter(_kept))):
            game.close()
    while len(games) <= slot:
        games.append(open_env(env, options))
    return games[slot]
