"""Tiny pipelines in processes that can be killed at any file operation, and the results that must not depend on kills.

Processes are forked from one that has imported all modules (multiprocessing's forkserver), so that fifty are cheap. They count
their file operations by Python's audit events. Nothing on disk changes between two events, so kills at events cover all points
in time, and the same number reproduces a kill.
"""

import ctypes
import gc
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch

SETTINGS = {
    "workers": 1,
    "iterations": 2,
    "iterate": {"episodes": 1, "vae_updates": 2, "ensemble_size": 2},
    "collect": {"episodes": 6, "max_steps": 12},
    "vae": {"num_updates": 4, "batch_size": 4, "latent_dim": 2},
    "memory": {
        "num_updates": 4,
        "batch_size": 4,
        "seq_len": 8,
        "hidden_size": 4,
        "num_components": 2,
        "num_couplings": 1,
    },
    "dream": {"generations": 2, "population": 3, "num_rollouts": 2, "horizon": 5},
    "game": {"generations": 2, "population": 3, "episodes": 1, "max_steps": 10, "eval_every": 1, "eval_episodes": 1},
    "eval": {"episodes": 2, "max_steps": 10},
}
FIT = {"eval_every": 2, "tensorboard": False}
PRELOADED = [
    "worldmodel.agents.pipeline.pipeline",
    "worldmodel.agents.analysis.report",
    "cma",
    "torch.utils.tensorboard",
    "pygame",
    "tests.trust.runs",
]
CHANGES = ("os.rename", "os.remove", "os.mkdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TIMEOUT = 600.0
"""Seconds for one process, on a busy machine."""


def context():
    result = multiprocessing.get_context("forkserver")
    result.set_forkserver_preload(PRELOADED)
    return result


def run_pipeline(cwd, log=None, target=None, order=None, stop=signal.SIGKILL):
    """Run the pipeline into ``run`` below ``cwd``; log the file operations in ``log``, or stop at ``target``.

    A target is a path and a number of operations on it to skip; ``order`` has the index of the first operation on each path.
    """
    os.chdir(cwd)
    sys.stdout = sys.stderr = Path(cwd, "output.txt").open("a", encoding="utf-8")  # noqa: SIM115
    from worldmodel.agents.config.sections import build
    from worldmodel.agents.pipeline import pipeline, stages
    from worldmodel.training import checkpoint
    from worldmodel.training import fit as training

    torch.set_num_threads(1)
    stages.fit = partial(training.fit, **FIT)
    checkpoint.SAVE_SECONDS = 0.0  # every validation saves, so that kills interrupt trainings
    operations = [] if log else None
    to_skip, stopped = [target[1] if target else 0], []

    def hook(event, arguments):
        path = changed(event, arguments)
        if path is None:
            return
        if operations is not None:
            operations.append(path)
        elif target and path == target[0] and to_skip[0]:
            to_skip[0] -= 1
        elif target and not stopped and (path == target[0] or order.get(path, -1) > order[target[0]]):
            stopped.append(path)
            os.kill(os.getpid(), stop)

    sys.addaudithook(hook)
    pipeline.run_pipeline(build({"env": "CartPole-v1", **SETTINGS}), "run")
    if log:
        names, operations = list(operations), None
        Path(log).write_text(json.dumps(names))


def run_pipeline_on_a_small_disk(cwd):
    """Run the pipeline until the disk is full: the OSError names a file, and the exit code is its number, 28."""
    try:
        run_pipeline(cwd)
    except OSError as error:
        assert str(error.filename).startswith("run/"), error.filename
        os._exit(error.errno)


def reset_often(id, count, path):
    """Reset an environment often, and write the memory in use during the second and the last tenth of the resets.

    Images of ten megabytes are allocated and freed, so the minimum within a tenth of the resets is used.
    """
    from worldmodel import envs

    return_freed_memory()
    env = envs.make(id)
    parts = {1: list[int](), 9: list[int]()}
    for seed in range(count):
        env.reset(seed=seed)
        if (part := 10 * seed // count) in parts:
            gc.collect()
            parts[part].append(resident())
    used = [min(part) for part in parts.values()]
    Path(path).write_text(json.dumps(used))


def dream_long(horizon, path):
    """Dream one long batch, and write the memory in use every half second."""
    import threading

    from worldmodel import RMDN, VAE, Memory, WorldModel, rollouts, seeded
    from worldmodel.agents import LinearController

    return_freed_memory()
    torch.set_num_threads(1)
    with seeded(1):
        world = WorldModel(VAE(2), Memory(RMDN(3, 2, hidden_size=4, num_components=2), termination=False))
    used, over = [], threading.Event()

    def watch():
        while not over.wait(0.5):
            used.append(resident())

    rollouts.dream(world, LinearController.for_world_model(world), torch.zeros(1, 2), horizon=200, num_rollouts=4)
    watcher = threading.Thread(target=watch)
    watcher.start()
    dreams = rollouts.dream(
        world, LinearController.for_world_model(world), torch.zeros(1, 2), horizon=horizon, num_rollouts=4
    )
    over.set()
    watcher.join()
    assert (dreams.lengths == horizon).all()
    Path(path).write_text(json.dumps([*used[len(used) // 10 :], resident()]))


def resident():
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def return_freed_memory():
    """Make the C library return freed blocks larger than 128 KiB to the system at once.

    By default it keeps the first large blocks for reuse: an image of ten megabytes stays allocated, sometimes from the first
    reset on and sometimes from the thousandth.
    """
    library, M_MMAP_THRESHOLD = ctypes.CDLL(None), -3  # malloc.h's name and number
    if hasattr(library, "mallopt"):  # glibc
        assert library.mallopt(M_MMAP_THRESHOLD, 128 * 1024) == 1


def changed(event, arguments):
    """The final path of the file of the run that an event changes; None if nothing lasting changes."""
    if (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING) or event in CHANGES:
        path = arguments[0]
    else:
        return None
    if not isinstance(path, str | os.PathLike):
        return None
    path = os.fspath(path)
    if not isinstance(path, str) or not path.startswith("run/"):
        return None
    whole = re.sub(r"/\.([^/]+)\.\d+\.part$", r"/\1", path)
    return None if whole.endswith(("timings.json", "config.yaml", ".lock")) else whole


def run_in_process(function, *arguments, timeout=TIMEOUT):
    """Run a function in its own process and return the exit code, negative for a signal."""
    process = context().Process(target=function, args=arguments)
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"it hung for more than {timeout} seconds")
    return process.exitcode


def copy(run, target_folder):
    """Copy a run: link files that commands replace, and copy files that they append to."""

    def one(source, target):
        (shutil.copy2 if source.endswith((".jsonl", ".lock")) else os.link)(source, target)

    return Path(shutil.copytree(run, target_folder, copy_function=one))


def replace_content(path, content):
    """Replace the content of a file in a copy without changing the linked original."""
    path.unlink()
    path.write_bytes(content)


def results(run):
    """The contents of all files of a run by path, without wall-clock times."""
    result = {}
    for path in sorted(Path(run).rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and not path.name.startswith(".") and path.name != "timings.json":
            result[name] = _reproducible(path)
    return result


def _reproducible(path):
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: (saved[name].dtype.str, saved[name].tobytes()) for name in saved.files if name != "about"}
            return arrays | {"about": _timeless(json.loads(str(saved["about"])))}
    if path.suffix == ".pt":
        return _plain(torch.load(path, weights_only=True))  # equal objects may be pickled as one or as two
    if path.suffix == ".mp4":  # encoder threads may write the same video in other bytes; its GIF is compared
        with av.open(str(path)) as video:
            return [sum(1 for _ in video.decode(video=0)), video.streams.video[0].width, video.streams.video[0].height]
    if path.suffix == ".yaml":  # without the first line, which has versions
        return path.read_text(encoding="utf-8").partition("\n")[2]
    if path.suffix == ".html":
        # without clocks and the folder's path
        clocks = r'<p class="note">\d{4}-.*?</p>|<details[^>]*><summary>Wall clock</summary>.*?</details>'
        return re.sub(clocks, "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return path.read_bytes()


def _plain(value):
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _timeless(value):
    if isinstance(value, dict):
        return {name: _timeless(part) for name, part in value.items() if name not in ("seconds", "wall_clock_s")}
    return [_timeless(part) for part in value] if isinstance(value, list) else value
