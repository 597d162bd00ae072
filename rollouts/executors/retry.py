"""Run a task in a worker and report failures; shared by all kinds of workers. Start reading at `run_attempt`."""

import os
import traceback
from collections.abc import Callable
from typing import Any

MAX_FAILURES = 3
"""Number of failures of the same task after which `WorkerDied` is raised."""
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Environment variables of a worker: one thread each."""


working = False
"""Whether this process is running a task."""


def when_interrupted(number: int) -> None:
    """Handle signal ``number`` in a worker after its task has ended; `rollouts.executors.workers` replaces this function."""


class Interrupted(BaseException):
    """Raised within a task when its environments must be closed at once."""


class WorkerDied(RuntimeError):
    """Workers died, or failed, three times on the same task."""


def run_attempt(function: Callable[[Any], Any], task: Any, folder: str | None = None) -> tuple[Any, str]:
    """Run a task in a worker; return its result and "", or None and a traceback.

    A ValueError (bad input) or an OSError (such as a full disk) is raised. ``folder`` is the caller's working directory: a
    worker may have started in another one, and relative paths must mean the same.
    """
    global working
    try:
        working = True
        if folder is not None:
            os.chdir(folder)
        return function(task), ""
    except (ValueError, OSError):
        raise
    except Exception:
        return None, traceback.format_exc()
    except Interrupted as interruption:
        working = False
        when_interrupted(*interruption.args)
        return None, "it was interrupted"
    finally:
        working = False
