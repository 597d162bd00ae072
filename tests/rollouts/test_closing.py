"""Environments are closed when work ends, so that none of their processes stays behind."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests import toys
from tests.skips import IMPOSSIBLE
from worldmodel import rollouts
from worldmodel.agents import evaluate

ROOT = Path(__file__).parent.parent.parent


class Emulated(toys.Beacon):
    """An environment with a child process, as emulators have; only `close` ends it."""

    def __init__(self, folder, pause=0.0, length=5):
        super().__init__(length)
        self.pause = pause
        self.child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        (Path(folder) / str(self.child.pid)).touch()

    def step(self, action):
        time.sleep(self.pause)
        return super().step(action)

    def close(self):
        self.child.kill()
        self.child.wait()


def running_children(folder):
    """Ids of child processes that still run."""
    return [int(path.name) for path in Path(folder).iterdir() if Path(f"/proc/{path.name}/status").exists()]


@pytest.fixture
def children(tmp_path):
    """Folder in which environments record their child processes; the fixture kills those that are left."""
    folder = tmp_path / "children"
    folder.mkdir()
    yield folder
    for child in running_children(folder):
        os.kill(child, signal.SIGKILL)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason=f"{IMPOSSIBLE}it looks into /proc")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_collecting_and_evaluating_leave_no_process_behind(children, tmp_path, workers):
    make = partial(Emulated, children)
    rollouts.collect(make, rollouts.uniform, 4, seed=1, workers=workers, out=tmp_path / "s", episodes_per_shard=1)
    assert len(list(children.iterdir())) > 1
    assert running_children(children) == []
    evaluate(rollouts.uniform, make, 4, workers=workers)
    assert running_children(children) == []


def test_a_failing_environment_is_closed(children, tmp_path):
    def broken():
        env = Emulated(children)
        env.action_space = None
        return env

    with pytest.raises(ValueError, match="action_space"):
        rollouts.collect(broken, rollouts.uniform, 1, out=tmp_path / "s")
    assert len(list(children.iterdir())) == 1
    assert running_children(children) == []


GAME = """
import gymnasium
from tests.rollouts.test_closing import Emulated

gymnasium.register("Emulated-v0", entry_point=Emulated, kwargs={"folder": CHILDREN, "pause": 0.02, "length": 1000})
"""
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in a shell's background
sys.path.remove("")
from worldmodel.agents.cli.main import main
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "workers"),
    [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGKILL, 2)],
)
def test_a_stopped_command_leaves_no_process_behind(children, tmp_path, how, workers):
    (tmp_path / "emulated.py").write_text(GAME.replace("CHILDREN", repr(str(children))))
    words = ["collect", "emulated:Emulated-v0", "--out", "run", "--collect.episodes", "8", "--workers", str(workers)]
    command = subprocess.Popen(
        [sys.executable, "-c", START, *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 120
    # two environments are opened before
    while len(running_children(children)) < workers or len(list(children.iterdir())) < 2 + workers:
        assert time.monotonic() < deadline
        assert command.poll() is None
        time.sleep(0.05)
    command.send_signal(how)
    assert command.wait(timeout=60) == (130 if how != signal.SIGKILL else -how)
    deadline = time.monotonic() + 60
    while running_children(children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running_children(children) == []
