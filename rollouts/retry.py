"""What every kind of worker does with a task: try it, and say what came of it."""

import os
import traceback
from collections.abc import Callable
from typing import Any

MAX_FAILURES = 3
"""So many times the same work may end with a dead worker before all stops."""
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""The environment of a worker: one thread each."""


working = False
"""Whether this process is at a task."""


def when_interrupted(number: int) -> None:
    """What a worker does about signal ``number`` once its task has ended (`rollouts.workers` says)."""


class Interrupted(BaseException):
    """Raised within a task whose environments must be closed now."""


class WorkerDied(RuntimeError):
    """Workers died, or failed, three times over the same work."""


def run_attempt(function: Callable[[Any], Any], task: Any, folder: str | None = None) -> tuple[Any, str]:
    """Run a task in a worker; a failure comes back as its traceback, bad input and a full disk as themselves.

    ``folder`` is the caller's working directory: a worker may have begun in another, and relative paths must mean the same.
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
