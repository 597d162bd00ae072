"""Workers that die, fail and leave."""

import os
import signal
import time

import pytest
import torch

from rollouts import workers
from rollouts.env_cache import worker_env
from rollouts.workers import WorkerDied, run_tasks, share
from tests import toys


def double(number):
    return 2 * number


def die_once(task):
    """Kill this very process, the first time only."""
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


def test_what_a_dead_worker_lost_is_done_again(tmp_path):
    tasks = [(str(tmp_path / "died"), number) for number in range(6)]
    assert dict(run_tasks(die_once, tasks, 2)) == {n: n for n in range(6)}
    assert (tmp_path / "died").exists()


def test_relative_paths_mean_what_they_mean_to_the_caller(tmp_path, monkeypatch):
    """Workers live on between calls: one that began in another folder would write there."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert [folder for _, folder in run_tasks(working_folder, [None] * 4, workers=2)] == [str(tmp_path / name)] * 4


@pytest.mark.slow
def test_three_deaths_over_the_same_work_stop_with_the_reason():
    with pytest.raises(WorkerDied, match=r"\b3\b"):
        list(run_tasks(always_die, [0, 1, 2], 2))
    assert dict(run_tasks(double, [1, 2], 2)) == {0: 2, 1: 4}  # the pool is well again


def test_failures_come_with_the_worker_s_own_traceback():
    with pytest.raises(WorkerDied, match='always_fail[\\s\\S]*KeyError: "the worker\'s own reason"'):
        list(run_tasks(always_fail, [0, 1, 2], 2))


def test_bad_input_is_told_at_once():
    with pytest.raises(ValueError, match="the worker's own reason"):
        list(run_tasks(bad_input, [0, 1], 2))
    with pytest.raises(ValueError, match="workers"):
        list(run_tasks(double, [0], 0))
    with pytest.raises(ValueError, match="workers"):
        list(run_tasks(double, [0], 2**64 + 1))


def receive(task):
    shared, _ = task
    time.sleep(0.02)  # so that both workers get some of the tasks
    return os.getpid(), shared.get(), workers._load_shared.cache_info().misses, torch.get_num_threads()


def test_an_object_reaches_each_worker_once_per_change_and_workers_have_one_thread(tmp_path):
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
    assert all(len(counts) == 1 for counts in misses.values())  # read with the first task, kept for the others
    for pid in {pid for pid, _ in misses}:
        if (pid, "first") in misses and (pid, "second") in misses:
            assert misses[pid, "second"].pop() == misses[pid, "first"].pop() + 1


def nap(task):
    time.sleep(task)
    return task


@pytest.mark.slow
def test_leaving_early_stops_the_workers():
    began = time.monotonic()
    for _ in run_tasks(nap, [0.1, 600, 600], 2):
        break
    assert dict(run_tasks(double, [1], 2)) == {0: 2}
    assert time.monotonic() - began < 60


def test_environments_are_kept_and_old_ones_closed():
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


def test_a_missing_ray_is_told_with_its_cure(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'worldmodel\[cluster\]'"):
        list(run_tasks(double, [1], 1, "ray"))
