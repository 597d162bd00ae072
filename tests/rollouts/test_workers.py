"""Workers that die or fail, shared objects, and callers that stop early."""

import os
import signal
import time

import pytest
import torch

from tests import toys
from worldmodel.rollouts.env_cache import worker_env
from worldmodel.rollouts.executors import workers
from worldmodel.rollouts.executors.workers import WorkerDied, run_tasks, share


def double(number):
    return 2 * number


def die_once(task):
    """Kill the current process, the first time only."""
    marker, number = task
    if number == 2 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def always_die(task):
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def always_fail(task):
    if task == 1:
        raise KeyError("the worker's own reason")
    return task


def bad_input(task):
    raise ValueError("the worker's own reason")


def working_folder(_):
    return os.getcwd()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_has_its_result(workers):
    assert dict(run_tasks(double, list(range(7)), workers)) == {n: 2 * n for n in range(7)}


@pytest.mark.slow
def test_tasks_of_dead_workers_are_repeated(tmp_path):
    tasks = [(str(tmp_path / "died"), number) for number in range(6)]
    assert dict(run_tasks(die_once, tasks, 2)) == {n: n for n in range(6)}
    assert (tmp_path / "died").exists()


def test_relative_paths_are_those_of_the_caller(tmp_path, monkeypatch):
    """Workers stay alive between calls: one that started in another folder would write there."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert [folder for _, folder in run_tasks(working_folder, [None] * 4, workers=2)] == [str(tmp_path / name)] * 4


@pytest.mark.slow
def test_a_task_that_kills_three_workers_raises_an_error():
    with pytest.raises(WorkerDied, match=r"\b3\b"):
        list(run_tasks(always_die, [0, 1, 2], 2))
    assert dict(run_tasks(double, [1, 2], 2)) == {0: 2, 1: 4}  # the pool works again


def test_failures_contain_the_traceback_of_the_worker():
    with pytest.raises(WorkerDied, match='always_fail[\\s\\S]*KeyError: "the worker\'s own reason"'):
        list(run_tasks(always_fail, [0, 1, 2], 2))


def test_bad_input_is_raised_at_once():
    with pytest.raises(ValueError, match="the worker's own reason"):
        list(run_tasks(bad_input, [0, 1], 2))
    with pytest.raises(ValueError, match="workers"):
        list(run_tasks(double, [0], 0))
    with pytest.raises(ValueError, match="workers"):
        list(run_tasks(double, [0], 2**64 + 1))


def receive(task):
    shared, _ = task
    time.sleep(0.02)  # so that both workers get tasks
    return os.getpid(), shared.get(), workers._load_shared.cache_info().misses, torch.get_num_threads()


@pytest.mark.slow
def test_workers_load_shared_objects_once_and_have_one_thread(tmp_path):
    results = []
    for value in ("first", "second"):
        shared = share(value, f"{tmp_path.name}-{value}", tmp_path, 2, "loky")
        results.append([result for _, result in run_tasks(receive, [(shared, n) for n in range(12)], 2)])
    misses = {}
    for rows, value in zip(results, ("first", "second"), strict=True):
        for pid, got, count, threads in rows:
            assert got == value
            assert threads == 1
            misses.setdefault((pid, value), set()).add(count)
    assert all(len(counts) == 1 for counts in misses.values())  # loaded for the first task and cached for the others
    for pid in {pid for pid, _ in misses}:
        if (pid, "first") in misses and (pid, "second") in misses:
            assert misses[pid, "second"].pop() == misses[pid, "first"].pop() + 1


def grow(task):
    """Keep 400 MB after some tasks; loky looks at the memory of a worker every second."""
    time.sleep(0.6)
    if task == 4:
        grow.kept = torch.ones(100_000_000)
    return os.getpid()


@pytest.mark.slow
def test_a_worker_that_needs_memory_stays(recwarn):
    assert len({pid for _, pid in run_tasks(grow, list(range(14)), 2)}) == 2
    assert not [one for one in recwarn if "restarted" in str(one.message)]


def nap(task):
    time.sleep(task)
    return task


@pytest.mark.slow
def test_stopping_early_stops_the_workers():
    start = time.monotonic()
    for _ in run_tasks(nap, [0.1, 600, 600], 2):
        break
    assert dict(run_tasks(double, [1], 2)) == {0: 2}
    assert time.monotonic() - start < 60


def test_environments_are_cached_and_old_ones_closed():
    first = worker_env(toys.counter, {}, 0)
    assert worker_env(toys.counter, {}, 0) is first
    assert worker_env(toys.counter, {}, 1) is not first
    closed = []
    first.close = lambda: closed.append(True)
    worker_env(toys.beacon, {}, 0)
    worker_env("CartPole-v1", {}, 0)
    assert closed == [True]


@pytest.mark.parametrize("backend", ["spark", "ray:/somewhere"])
def test_unknown_backends_are_refused(backend):
    with pytest.raises(ValueError, match="backend"):
        list(run_tasks(double, [1], 1, backend))


def test_a_missing_ray_names_the_install_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'worldmodel\[cluster\]'"):
        list(run_tasks(double, [1], 1, "ray"))
