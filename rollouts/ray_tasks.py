"""The same tasks on a Ray cluster: what a dead worker, or a dead machine, lost is done again.

Start reading at `run_on_ray`; `rollouts.workers.run_tasks` calls it. The package must be installed on every machine of the
cluster, in the same version.
"""

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from rollouts.retry import MAX_FAILURES, THREADS, WorkerDied, run_attempt


def connect(backend: str, workers: int | None = None) -> Any:
    """Join the cluster that ``backend`` names, a running one of this machine, or begin one with ``workers`` cores.

    One that begins here ends with this process.

    Raises:
        ValueError: there is no such cluster.
    """
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own future default; keeps it quiet
    atexit.register(_end)
    try:
        with _signals_kept():
            if backend != "ray":
                ray.init(address=backend, **options)
            elif os.environ.get("RAY_ADDRESS"):
                ray.init(**options)
            else:
                try:
                    ray.init(address="auto", **options)
                except ConnectionError:
                    ray.init(num_cpus=workers or os.cpu_count(), include_dashboard=False, **options)
    except ConnectionError as error:
        raise ValueError(f"backend {backend!r}: there is no Ray cluster ({str(error).splitlines()[0]})") from None
    return ray


def _end() -> None:
    """Leave the cluster; of one that began here nothing stays: Ray alone forgets helpers that are still beginning."""
    ours = [(process, _command(process)) for process in _processes(os.getpid())]
    ray.shutdown()
    for process, command in ours:
        if _is_of_ray(process) or (command and _command(process) == command):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _processes(parent: int, inside: bool = False) -> list[int]:
    """Ray's processes below one (where the system has /proc), and what runs below those, such as emulators.

    Those of a cluster that began elsewhere are not below.
    """
    found: list[int] = []
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended
            for child in map(int, path.read_text().split()):
                of_ray = inside or _is_of_ray(child)
                found += [child] * of_ray + _processes(child, of_ray)
    return found


def _is_of_ray(process: int) -> bool:
    words = _command(process)
    return words.startswith(b"ray::") or b"/ray/" in words


def _command(process: int) -> bytes:
    """The words a process was started with; none where it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back what answers SIGTERM and SIGINT behind `ray.init`, whose own handlers end the process."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may, and Ray knows that, too
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def put_back() -> None:
        for number, handler in before.items():
            if handler is not None:  # None: it was not set by Python, and cannot be from here
                signal.signal(number, handler)

    try:
        yield
    except SystemExit:  # Ray's answer to a SIGTERM: ours comes instead
        put_back()
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        put_back()


def run_on_ray(
    function: Callable[[Any], Any], tasks: Sequence[Any], workers: int, backend: str
) -> Iterator[tuple[int, Any]]:
    """`rollouts.workers.run_tasks` on a Ray cluster, at most ``workers`` tasks at a time."""
    connect(backend, workers)
    remote = ray.remote(num_cpus=1, max_retries=MAX_FAILURES - 1, runtime_env={"env_vars": THREADS})(_remote_attempt)
    waiting = list(range(len(tasks)))[::-1]
    failures = [0] * len(tasks)
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                index = waiting.pop()
                running[remote.remote(function, tasks[index])] = index
            (done,), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(done)
            try:
                result, failure = ray.get(done)
            except RayTaskError as error:
                raise error.cause from None  # bad input, or a full disk
            except RayError as error:  # a dead worker or machine, no memory left: Ray has tried again
                raise WorkerDied(f"the same work failed {MAX_FAILURES} times; the last time:\n{error}") from None
            if not failure:
                yield index, result
                continue
            failures[index] += 1
            if failures[index] >= MAX_FAILURES:
                raise WorkerDied(f"the same work failed {MAX_FAILURES} times; the last time:\n{failure}")
            waiting.append(index)
    finally:
        for left in running:
            ray.cancel(left, force=True)


def _remote_attempt(function: Callable[[Any], Any], task: Any) -> tuple[Any, str]:
    import torch

    torch.set_num_threads(1)
    return run_attempt(function, task)
