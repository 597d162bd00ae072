"""Run tasks on a Ray cluster; tasks of dead workers or machines run again.

Start reading at `run_on_ray`; `workers.run_tasks` calls it. Every machine of the cluster needs the same version of this
package.
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

from worldmodel.rollouts.executors.retry import MAX_FAILURES, THREADS, WorkerDied, run_attempt


def connect(backend: str, workers: int | None = None) -> Any:
    """Connect to a Ray cluster, or start one with ``workers`` cores.

    A cluster that this function starts ends with this process.

    Args:
        backend: "ray": the cluster of ``RAY_ADDRESS`` or of this machine, or a new one. Otherwise the cluster's address.
        workers: Number of cores of a new cluster. None: all cores of this machine.

    Raises:
        ValueError: The cluster does not exist.
    """
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; avoids its warning
    atexit.register(_disconnect)
    try:
        with _preserve_signals():
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


def _disconnect() -> None:
    """Disconnect from the cluster and kill the processes of one that started here; `ray.shutdown` misses young ones."""
    children = [(process, _command(process)) for process in _ray_processes(os.getpid())]
    ray.shutdown()
    for process, command in children:
        if _is_ray_process(process) or (command and _command(process) == command):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _ray_processes(parent: int, below_ray: bool = False) -> list[int]:
    """Return Ray's processes below ``parent`` (on systems with /proc) and all their children, such as emulators.

    Processes of a cluster that started elsewhere are not below ``parent``.
    """
    processes: list[int] = []
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the process has ended
            for child in map(int, path.read_text().split()):
                is_ray = below_ray or _is_ray_process(child)
                processes += [child] * is_ray + _ray_processes(child, is_ray)
    return processes


def _is_ray_process(process: int) -> bool:
    command = _command(process)
    return command.startswith(b"ray::") or b"/ray/" in command


def _command(process: int) -> bytes:
    """Return a process's command line; empty if it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def _preserve_signals() -> Iterator[None]:
    """Restore the handlers of SIGTERM and SIGINT after `ray.init`, whose own handlers end the process."""
    if threading.current_thread() is not threading.main_thread():  # handlers can be set in the main thread only
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore_handlers() -> None:
        for number, handler in before.items():
            if handler is not None:  # None: not set by Python, so Python cannot set it again
                signal.signal(number, handler)

    try:
        yield
    except SystemExit:  # Ray's handler raises it on SIGTERM; run ours instead
        restore_handlers()
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        restore_handlers()


def run_on_ray(
    function: Callable[[Any], Any], tasks: Sequence[Any], workers: int, backend: str
) -> Iterator[tuple[int, Any]]:
    """Run `rollouts.executors.workers.run_tasks` on a Ray cluster, with at most ``workers`` tasks at a time."""
    connect(backend, workers)
    remote = ray.remote(num_cpus=1, max_retries=MAX_FAILURES - 1, runtime_env={"env_vars": THREADS})(_remote_attempt)
    pending = list(range(len(tasks)))[::-1]
    failures = [0] * len(tasks)
    running: dict[Any, int] = {}
    try:
        while pending or running:
            while pending and len(running) < workers:
                index = pending.pop()
                running[remote.remote(function, tasks[index])] = index
            (done,), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(done)
            try:
                result, failure = ray.get(done)
            except RayTaskError as error:
                raise error.cause from None  # bad input or a full disk
            except RayError as error:  # a dead worker or machine, or no memory; Ray has already retried
                raise WorkerDied(f"the same work failed {MAX_FAILURES} times; the last time:\n{error}") from None
            if not failure:
                yield index, result
                continue
            failures[index] += 1
            if failures[index] >= MAX_FAILURES:
                raise WorkerDied(f"the same work failed {MAX_FAILURES} times; the last time:\n{failure}")
            pending.append(index)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _remote_attempt(function: Callable[[Any], Any], task: Any) -> tuple[Any, str]:
    import torch

    torch.set_num_threads(1)
    return run_attempt(function, task)
