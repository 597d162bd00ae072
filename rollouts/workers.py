"""Work on several cores that does not hang: what a dead worker lost is done again.

Start reading at `run_tasks`. Workers live on between calls, each with one torch thread, and keep their environments
(`rollouts.env_cache`) until `close_all_envs`. loky's workers are processes of this machine, Ray's may be anywhere.
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
from loky import get_reusable_executor
from loky.backend.reduction import dumps
from loky.process_executor import BrokenProcessPool

from rollouts import retry
from rollouts.env_cache import close_envs
from rollouts.retry import MAX_FAILURES, THREADS, Interrupted, WorkerDied, run_attempt
from worldmodel.io import write_bytes
from worldmodel.validation import validate_positive_int

MAX_WORKERS = 4096
"""More processes than any machine or cluster of ours has cores: such a number is a slip."""
CLOSE = getattr(signal, "SIGUSR1", None)
"""Asks a worker to close its environments. None: Windows has no such signal; workers end there, which closes them."""
POLL_S = 0.5
"""Seconds between two looks at how far workers are."""
CLOSE_TIMEOUT_S = 5.0
"""How long this may take."""
NOT_PICKLABLE = "what more than one of workers shall do cannot be sent to other processes: "
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
        function: picklable; it runs in worker processes, or here if ``workers`` is 1 and they are loky's.
        tasks: picklable.
        workers: processes.
        backend: "loky": processes of this machine. "ray": tasks on the running Ray cluster, or on one that begins here;
            "ray://HOST:PORT": on that cluster.
        poll: called every `POLL_S` while processes of this machine work, such as to show how far they are.

    Raises:
        ValueError: an argument is out of range; or the function raised one (bad input is not tried again), or an OSError.
        WorkerDied: the same work failed three times; with the last traceback, or the signal that killed the worker.
    """
    validate_backend(backend, workers)
    if backend != "loky":
        from rollouts.ray_tasks import run_on_ray

        yield from run_on_ray(function, tasks, workers, backend)
    elif workers == 1:
        with _one_thread():
            yield from ((index, function(task)) for index, task in enumerate(tasks))
    else:
        yield from _run_on_loky(function, tasks, workers, poll)


def validate_backend(backend: str, workers: int) -> None:
    """Refuse a backend or a number of workers that cannot be.

    Raises:
        ValueError: names the argument; or Ray is not installed.
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
    waiting = list(range(len(tasks)))[::-1]
    failures = [0] * len(tasks)
    here = str(Path.cwd())
    running: dict[Future[Any], int] = {}
    try:
        while waiting or running:
            lost: list[tuple[int, str]] = []
            try:
                while waiting and len(running) < workers:
                    index = waiting[-1]
                    running[_pool(workers).submit(run_attempt, function, tasks[index], here)] = index
                    waiting.pop()
            except BrokenProcessPool as error:  # it broke between two tasks: what was running comes back as lost
                lost.append((waiting.pop(), str(error)))
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
                waiting.append(index)
    finally:
        if running:
            try:
                if CLOSE is not None:  # else the end of a worker's task would be waited for
                    close_all_envs()
            finally:
                _pool(workers).shutdown(wait=True, kill_workers=True)


_executors: list[Any] = []
"""The last one that was asked for."""


def _pool(workers: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _executors[:] = [
            get_reusable_executor(
                workers,
                timeout=300,
                kill_workers=True,  # an executor that is replaced must not wait for what its workers still do
                initializer=_init_worker,
                initargs=(os.getpid(), _signal_folder()),
                env=THREADS,
            )
        ]
    return _executors[0]


@cache
def _signal_folder() -> Path:
    """A folder with a file for each worker that answers signals, and another while it shall close its environments."""
    folder = tempfile.TemporaryDirectory(prefix="worldmodel-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def close_all_envs() -> None:
    """Close the environments of this process and of its workers, so that no emulator of theirs stays behind."""
    close_envs()
    if CLOSE is None:
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
            os.kill(worker, CLOSE)
    until = time.monotonic() + CLOSE_TIMEOUT_S
    for worker in workers:
        while (_signal_folder() / f"{worker}.close").exists() and _is_alive(worker) and time.monotonic() < until:
            time.sleep(0.005)


def shutdown_workers() -> None:
    """Close all environments and end the workers at once: an orderly end of theirs takes seconds."""
    close_all_envs()
    for executor in _executors:
        executor.shutdown(wait=True, kill_workers=True)
    _executors.clear()


def _is_alive(process: int) -> bool:
    """Whether a child of ours has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def envs_closed_after() -> Iterator[None]:
    """Close all environments at the end."""
    try:
        yield
    finally:
        close_all_envs()


def _init_worker(parent: int, signal_folder: Path) -> None:
    """Prepare a worker: one thread, deaf to Ctrl-C (its parent decides), and gone when its parent is."""

    def close(number: int) -> None:
        close_envs()
        (signal_folder / f"{os.getpid()}.close").unlink(missing_ok=True)
        if number == signal.SIGTERM:
            os._exit(128 + number)

    def answer(number: int, frame: Any) -> None:
        if retry.working:
            raise Interrupted(number)
        close(number)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(CLOSE_TIMEOUT_S)
        os._exit(1)

    retry.when_interrupted = close
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, answer)
    if CLOSE is not None:
        signal.signal(CLOSE, answer)
    (signal_folder / f"{os.getpid()}").touch()
    torch.set_num_threads(1)
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

    key: str
    """Says what it is: the same mark, the same object."""
    value: Any = field(default=None, compare=False)
    """The object itself, where the work is done in this process."""
    path: Path | None = None
    reference: Any = field(default=None, compare=False)
    """Ray's name for it; each machine fetches it once."""

    def get(self) -> Any:
        """The object; a worker keeps the last ones."""
        return _load_shared(self) if self.value is None else self.value


@lru_cache(maxsize=2)
def _load_shared(shared: Shared) -> Any:
    if shared.path is not None:
        return pickle.loads(shared.path.read_bytes())  # written by `share` of this very program
    import ray

    return ray.get(shared.reference)


def share(value: Any, key: str, folder: Path, workers: int, backend: str) -> Shared:
    """Let the workers of a backend have an object; ``folder`` must stay until they are done."""
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
    from rollouts.ray_tasks import connect

    return Shared(key, reference=connect(backend).put(value))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
