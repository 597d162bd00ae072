"""Tiny whole stories, told by processes that can be killed at any file they write, and what must not depend on that.

A process is forked from one that has imported everything (multiprocessing's forkserver), so that fifty cost little. It counts
what it does to files by Python's audit events: between two of them nothing on disk changes, so a kill at each of them is a
kill at any moment, and the same number repeats it.
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
    "iterate": {"episodes": 1, "vae_updates": 2, "vae_every": 1, "ensemble_size": 2},
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
PRELOADED = ["agents.pipeline", "agents.report", "cma", "torch.utils.tensorboard", "pygame", "tests.trust.runs"]
CHANGES = ("os.rename", "os.remove", "os.mkdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
PATIENCE = 600.0
"""Seconds for one sitting, on a machine that does much else."""


def context():
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


def run_pipeline(cwd, log=None, target=None, order=None, stop=signal.SIGKILL):
    """Tell the story into ``run`` below ``cwd``; write down what is done to files in ``log``, or stop at ``target``.

    A target is a path, and how often it is met before; ``order`` has the first time of every path.
    """
    os.chdir(cwd)
    sys.stdout = sys.stderr = Path(cwd, "said.txt").open("a", encoding="utf-8")  # noqa: SIM115
    from agents import pipeline, stages
    from agents.config.schema import RunConfig
    from worldmodel import training

    torch.set_num_threads(1)
    stages.fit = partial(training.fit, **FIT)
    training.SAVE_SECONDS = 0.0  # every check saves, so that a kill finds trainings in their middle
    kinds = {name: field.default_factory for name, field in RunConfig.__dataclass_fields__.items()}
    plain = {name: kinds[name](**value) if isinstance(value, dict) else value for name, value in SETTINGS.items()}
    written = [] if log else None
    left, stopped = [target[1] if target else 0], []

    def hook(event, arguments):
        path = changed(event, arguments)
        if path is None:
            return
        if written is not None:
            written.append(path)
        elif target and path == target[0] and left[0]:
            left[0] -= 1
        elif target and not stopped and (path == target[0] or order.get(path, -1) > order[target[0]]):
            stopped.append(path)
            os.kill(os.getpid(), stop)

    sys.addaudithook(hook)
    pipeline.run_pipeline(RunConfig("CartPole-v1", **plain), "run")
    if log:
        names, written = list(written), None
        Path(log).write_text(json.dumps(names))


def run_pipeline_on_little_room(cwd):
    """Tell until the disk is full, which is an error of the disk's own that names a file: exit code 28, its number."""
    try:
        run_pipeline(cwd)
    except OSError as error:
        assert str(error.filename).startswith("run/"), error.filename
        os._exit(error.errno)


def reset_often(id, count, path):
    """Reset an environment, and write down how much memory was in use before the last eight tenths of it, and behind.

    Pictures come and go by the ten megabytes: what counts is the least that was in use within a tenth of the resets.
    """
    import envs

    give_back()
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
    """Dream one long batch, and write down how much memory was in use, every half second."""
    import threading

    import rollouts
    from agents import LinearController
    from worldmodel import RMDN, VAE, Memory, WorldModel, seeded

    give_back()
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
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def give_back():
    """Have the C library return whatever is larger than 128 KiB to the system as soon as it is free.

    By itself it keeps the first large pieces that are given up, to use them again: a picture of ten megabytes stays, sometimes
    from the first reset on and sometimes from the thousandth.
    """
    library, M_MMAP_THRESHOLD = ctypes.CDLL(None), -3  # malloc.h's name and number
    if hasattr(library, "mallopt"):  # glibc
        assert library.mallopt(M_MMAP_THRESHOLD, 128 * 1024) == 1


def changed(event, arguments):
    """The file of the run that something is done to, as it will be called; None: nothing that lasts."""
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


def sit(function, *arguments, timeout=PATIENCE):
    """Run a function in a process of its own; returns its exit code, negative for a signal."""
    process = context().Process(target=function, args=arguments)
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"it hung for more than {timeout} seconds")
    return process.exitcode


def copy(run, place):
    """A copy that shares what commands replace whole, and has its own of what they append to."""

    def one(source, target):
        (shutil.copy2 if source.endswith((".jsonl", ".lock")) else os.link)(source, target)

    return Path(shutil.copytree(run, place, copy_function=one))


def spoil(path, content):
    """Give a copy's file another content, and let the one that it shares be."""
    path.unlink()
    path.write_bytes(content)


def results(run):
    """All that a run wrote but for wall clocks, by path."""
    found = {}
    for path in sorted(Path(run).rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and not path.name.startswith(".") and path.name != "timings.json":
            found[name] = _lasting(path)
    return found


def _lasting(path):
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
    if path.suffix == ".mp4":  # threads of the encoder may write the same film in other bytes; its GIF is compared
        with av.open(str(path)) as film:
            return [sum(1 for _ in film.decode(video=0)), film.streams.video[0].width, film.streams.video[0].height]
    if path.suffix == ".yaml":  # without the versions in its first line
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
