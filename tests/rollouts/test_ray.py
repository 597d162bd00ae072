"""Work on Ray gives the same results, also when workers are killed."""

import os
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest

from tests import toys
from tests.rollouts.dreams import beacon_world, controllers
from tests.rollouts.test_workers import always_die, always_fail, bad_input, die_once, double
from worldmodel import rollouts
from worldmodel.rollouts.executors import ray_tasks
from worldmodel.rollouts.executors.workers import WorkerDied, run_tasks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster on this machine that can import the functions of the tests."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error",
             runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}})  # fmt: skip
    yield
    ray.shutdown()


def test_every_task_has_its_result():
    assert dict(run_tasks(double, list(range(7)), 2, "ray")) == {n: 2 * n for n in range(7)}


def test_tasks_of_dead_workers_are_repeated(tmp_path):
    tasks = [(str(tmp_path / "died"), number) for number in range(6)]
    assert dict(run_tasks(die_once, tasks, 2, "ray")) == {n: n for n in range(6)}
    assert (tmp_path / "died").exists()


def test_a_task_that_kills_three_workers_raises_an_error():
    with pytest.raises(WorkerDied, match=r"\b3\b"):
        list(run_tasks(always_die, [0, 1, 2], 2, "ray"))


def test_failures_contain_the_traceback_of_the_worker():
    with pytest.raises(WorkerDied, match='always_fail[\\s\\S]*KeyError: "the worker\'s own reason"'):
        list(run_tasks(always_fail, [0, 1, 2], 2, "ray"))


def test_bad_input_is_raised_at_once():
    with pytest.raises(ValueError, match="the worker's own reason"):
        list(run_tasks(bad_input, [0, 1], 2, "ray"))


def test_ray_keeps_our_signal_handlers(monkeypatch):
    """`ray.init` installs its own handlers; ours handles a SIGTERM that arrives meanwhile."""
    answered = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ours = {number: lambda number, frame: answered.append(number) for number in before}

    def fake_init(**options):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        if options.get("address") == "auto":
            raise ConnectionError("there is none")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ray_tasks.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_tasks.ray, "init", fake_init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    try:
        for number, handler in ours.items():
            signal.signal(number, handler)
        with pytest.raises(SystemExit):
            ray_tasks.connect("ray", 1)
        assert answered == [signal.SIGTERM]
        assert {number: signal.getsignal(number) for number in ours} == ours
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


START_CLUSTER = """
import os
from worldmodel.rollouts.executors import ray_tasks
ray_tasks.connect("ray", 1)
print(*ray_tasks._ray_processes(os.getpid()))
"""


def test_a_cluster_ends_with_the_process_that_started_it():
    """Also a new cluster, whose helper processes have not started yet. Other clusters are kept."""
    args = [sys.executable, "-c", START_CLUSTER]
    done = subprocess.run(args, env=os.environ | {"RAY_ADDRESS": "local"}, capture_output=True, text=True, check=True)
    processes = list(map(int, done.stdout.split()))
    assert len(processes) > 2
    deadline = time.monotonic() + 20
    while remaining := [process for process in processes if ray_tasks._is_ray_process(process)]:
        assert time.monotonic() < deadline, remaining
        time.sleep(0.1)
    assert dict(run_tasks(double, [1, 2], 2, "ray")) == {0: 2, 1: 4}  # the cluster of the tests still works


class Deadly(toys.Beacon):
    """An environment that kills its worker, the first time only."""

    marker = ""

    def step(self, action):
        if self.now == 3 and not os.path.exists(self.marker):
            open(self.marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Maker:
    """Makes the deadly environment in a worker."""

    def __init__(self, marker):
        self.marker = marker

    def __call__(self):
        env = Deadly()
        env.marker = self.marker
        return env


@pytest.mark.parametrize("backend", ["loky", "ray"])
def test_a_generation_with_a_killed_worker_has_the_same_returns(tmp_path, backend):
    population = controllers(6, 9)
    marker = tmp_path / "killed"
    fitness = rollouts.EnvFitness(
        Maker(str(marker)), beacon_world(), episodes=2, workers=2, envs_per_worker=4, backend=backend
    )
    returns = fitness(population, 4).returns
    assert marker.exists()
    undisturbed = rollouts.EnvFitness(toys.beacon, beacon_world(), episodes=2, envs_per_worker=4)
    np.testing.assert_array_equal(returns, undisturbed(population, 4).returns)


def test_collecting_on_ray_gives_the_same_store(tmp_path):
    here = rollouts.collect(toys.counter, toys.marking, 7, seed=1, out=tmp_path / "here", episodes_per_shard=2)
    there = rollouts.collect(toys.counter, toys.marking, 7, seed=1, out=tmp_path / "there", episodes_per_shard=2, workers=2,
                             backend="ray")  # fmt: skip
    assert there.identity == here.identity
    for one, other in zip(here.episodes(), there.episodes(), strict=True):
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.actions, other.actions)


def test_registrations_are_sent_to_ray(tmp_path):
    gymnasium.register("Short-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=4)
    try:
        store = rollouts.collect(
            "Short-v0", rollouts.uniform, 4, workers=2, episodes_per_shard=1, backend="ray", out=tmp_path / "s"
        )
    finally:
        del gymnasium.registry["Short-v0"]
    assert store.lengths == [4] * 4
