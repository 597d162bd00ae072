"""Run tasks on several cores; tasks of dead workers run again, and nothing waits forever.

Start reading at `run_tasks`. Workers stay alive between calls, each with one torch thread, and keep their environments
(`rollouts.env_cache`) until `close_all_envs`. loky's workers are processes of this machine; Ray's may be on any machine.
"""

import atexit
import contextlib
import importlib.util
import os
import pickle
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from loky import get_reusable_executor, process_executor
from loky.backend.reduction import dumps
from loky.process_executor import BrokenProcessPool

from worldmodel.io.files import write_bytes
from worldmodel.rollouts.env_cache import close_envs
from worldmodel.rollouts.executors import retry
from worldmodel.rollouts.executors.retry import MAX_FAILURES, THREADS, Interrupted, WorkerDied, run_attempt
from worldmodel.validation import validate_positive_int

MAX_WORKERS = 4096
"""Upper bound of ``workers``, above the core count of any machine or cluster in use; a larger number is a typing error."""
CLOSE_SIGNAL = getattr(signal, "SIGUSR1", None)
"""Requests that a worker closes its environments. None: Windows lacks it; workers end instead, which closes them."""
MAX_GROWTH = 8e9
"""Bytes by which a worker's memory may grow before loky replaces it: a training grows by far more than loky's limit of 0.3e9,
and a replacement imports torch again, and warns."""
POLL_S = 0.5
"""Seconds between two calls of ``poll``."""
CLOSE_TIMEOUT_S = 5.0
"""Maximum number of seconds to wait for workers to close their environments."""
NOT_PICKLABLE = "workers above 1 need picklable tasks: "
Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int = 1,
    backend: str = "loky",
    poll: Callable[[], None] | None = None,
) -> Iterator[tuple[int, Result]]:
    """Yield ``(index, function(tasks[index]))`` as results arrive.

    Args:
        function: Picklable; it runs in worker processes, or in this one if ``workers`` is 1 and ``backend`` is "loky".
        tasks: Picklable.
        workers: Number of worker processes.
        backend: "loky": processes of this machine. "ray": the running Ray cluster, or a new one on this machine.
            "ray://HOST:PORT": that cluster.
        poll: Called every `POLL_S` seconds while processes of this machine work, for example to show progress.

    Raises:
        ValueError: An argument is out of range, or the function raised a ValueError (bad input is not retried).
        OSError: The function raised it.
        WorkerDied: The same task failed three times; with the last traceback, or the signal that killed the worker.
    """
    validate_backend(backend, workers)
    if backend != "loky":
        from worldmodel.rollouts.executors.ray_tasks import run_on_ray

        yield from run_on_ray(function, tasks, workers, backend)
    elif workers == 1:
        with one_thread():
            yield from ((index, function(task)) for index, task in enumerate(tasks))
    else:
        yield from _run_on_loky(function, tasks, workers, poll)


def validate_backend(backend: str, workers: int) -> None:
    """Check a backend and a number of workers.

    Raises:
        ValueError: Names the argument, or Ray is not installed.
    """
    validate_positive_int(workers=workers)
    if workers > MAX_WORKERS:
        raise ValueError(f"workers must be at most {MAX_WORKERS}, got {workers}")
    if backend not in ("loky", "ray") and not backend.startswith("ray://"):
        raise ValueError(f"backend must be 'loky', 'ray' or 'ray://HOST:PORT', got {backend!r}")
    if backend != "loky" and importlib.util.find_spec("ray") is None:
        raise ValueError("backend 'ray' needs Ray: pip install 'worldmodel[cluster]'")


def _run_on_loky(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, poll: Callable[[], None] | None
) -> Iterator[tuple[int, Result]]:
    pending = list(range(len(tasks)))[::-1]
    failures = [0] * len(tasks)
    working_folder = str(Path.cwd())
    running: dict[Future[Any], int] = {}
    try:
        while pending or running:
            lost: list[tuple[int, str]] = []
            try:
                while pending and len(running) < workers:
                    index = pending[-1]
                    running[_pool(workers).submit(run_attempt, function, tasks[index], working_folder)] = index
                    pending.pop()
            except BrokenProcessPool as error:  # between two tasks; the running ones fail below
                lost.append((pending.pop(), str(error)))
            finished = wait(running, POLL_S if poll else None, FIRST_COMPLETED).done if running else set()
            if poll is not None:
                poll()
            for future in finished:
                index = running.pop(future)
                try:
                    result, failure = future.result()
                except BrokenProcessPool as error:
                    lost.append((index, f"a worker process was killed: {_first_line(error)}"))
                    continue
                except pickle.PicklingError as error:
                    raise ValueError(NOT_PICKLABLE + _first_line(error.__cause__ or error)) from error
                if failure:
                    lost.append((index, failure))
                    continue
                yield index, result
            for index, reason in lost:
                failures[index] += 1
                if failures[index] >= MAX_FAILURES:
                    raise WorkerDied(f"the same work failed {MAX_FAILURES} times; the last time:\n{reason}")
                pending.append(index)
    finally:
        if running:
            try:
                if CLOSE_SIGNAL is not None:  # otherwise it would wait for the running tasks
                    close_all_envs()
            finally:
                _pool(workers).shutdown(wait=True, kill_workers=True)


_executors: list[Any] = []
"""The last executor, if any."""


def _pool(workers: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _executors[:] = [
            get_reusable_executor(
                workers,
                timeout=300,
                kill_workers=True,  # a replaced executor must not wait for its running tasks
                initializer=_init_worker,
                initargs=(os.getpid(), _signal_folder()),
                env=THREADS,
            )
        ]
    return _executors[0]


@cache
def _signal_folder() -> Path:
    """Return a folder with a file per worker that handles signals, and another while it must close its environments."""
    folder = tempfile.TemporaryDirectory(prefix="worldmodel-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def close_all_envs() -> None:
    """Close the environments of this process and of its workers, so that no emulator process is left."""
    close_envs()
    if CLOSE_SIGNAL is None:
        for executor in _executors:
            executor.shutdown(wait=True)
        return
    workers = [
        worker
        for worker in (_executors[0]._processes if _executors else ())
        if (_signal_folder() / f"{worker}").exists()
    ]
    for worker in workers:
        (_signal_folder() / f"{worker}.close").touch()
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, CLOSE_SIGNAL)
    deadline = time.monotonic() + CLOSE_TIMEOUT_S
    for worker in workers:
        while (_signal_folder() / f"{worker}.close").exists() and _is_alive(worker) and time.monotonic() < deadline:
            time.sleep(0.005)


def shutdown_workers() -> None:
    """Close all environments and kill the workers; an orderly shutdown takes seconds."""
    close_all_envs()
    for executor in _executors:
        executor.shutdown(wait=True, kill_workers=True)
    _executors.clear()


def _is_alive(process: int) -> bool:
    """Whether a child process is running."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def envs_closed_after() -> Iterator[None]:
    """Close all environments at the end of the block."""
    try:
        yield
    finally:
        close_all_envs()


def _init_worker(parent: int, signal_folder: Path) -> None:
    """Set up a worker: one thread, no reaction to Ctrl-C (its parent decides), and exit when its parent exits."""

    def close(number: int) -> None:
        close_envs()
        (signal_folder / f"{os.getpid()}.close").unlink(missing_ok=True)
        if number == signal.SIGTERM:
            os._exit(128 + number)

    def handle(number: int, frame: Any) -> None:
        if retry.working:
            raise Interrupted(number)
        close(number)

    def exit_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(CLOSE_TIMEOUT_S)
        os._exit(1)

    process_executor._MAX_MEMORY_LEAK_SIZE = MAX_GROWTH
    retry.when_interrupted = close
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, handle)
    if CLOSE_SIGNAL is not None:
        signal.signal(CLOSE_SIGNAL, handle)
    (signal_folder / f"{os.getpid()}").touch()
    torch.set_num_threads(1)
    threading.Thread(target=exit_with_parent, daemon=True).start()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Use one torch thread, as workers do, so that results do not depend on the number of workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Shared:
    """An object that many tasks use; it is sent to each worker once, not with every task."""

    key: str
    """Identifies the object: equal keys mean equal objects."""
    value: Any = field(default=None, compare=False)
    """The object itself, if tasks run in this process."""
    path: Path | None = None
    reference: Any = field(default=None, compare=False)
    """Ray's object reference; each machine fetches it once."""

    def get(self) -> Any:
        """Return the object; a worker caches the last two."""
        return _load_shared(self) if self.value is None else self.value


@lru_cache(maxsize=2)
def _load_shared(shared: Shared) -> Any:
    if shared.path is not None:
        return pickle.loads(shared.path.read_bytes())  # trusted: written by `share` in the parent process
    import ray

    return ray.get(shared.reference)


def share(value: Any, key: str, folder: Path, workers: int, backend: str) -> Shared:
    """Make an object available to the workers of a backend; ``folder`` must exist until they are done."""
    if backend == "loky" and workers == 1:
        return Shared(key, value)
    if backend == "loky":
        path = folder / f"{key}.pickle"
        try:
            content = bytes(dumps(value))
        except Exception as error:
            raise ValueError(NOT_PICKLABLE + _first_line(error)) from error
        write_bytes(path, content)
        return Shared(key, path=path)
    from worldmodel.rollouts.executors.ray_tasks import connect

    return Shared(key, reference=connect(backend).put(value))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
