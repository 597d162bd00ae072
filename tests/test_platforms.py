"""The packages import, lock, save and load without the modules that Windows lacks."""

import os
import subprocess
import sys

import pytest

from worldmodel.agents.cli import doctor

WITHOUT = """
import importlib, pathlib, pkgutil, signal, sys, warnings
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in {"SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2"} & set(dir(signal)):
    delattr(signal, name)
import os, torch, worldmodel
from worldmodel import agents, envs, rollouts
for name in ("pread", "fork", "killpg", "getuid", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
for package in (worldmodel, agents, envs, rollouts):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if "__main__" not in module.name and not module.name.endswith("ray_tasks"):  # Ray for Linux needs them itself
            importlib.import_module(module.name)
from worldmodel.io.files import locked
warnings.simplefilter("ignore")  # without flock the lock is a file
folder = pathlib.Path(sys.argv[1])
with locked(folder / "lock"):
    try:
        with locked(folder / "lock"):
            sys.exit("two at once")
    except ValueError:
        pass
with locked(folder / "lock"):
    worldmodel.VAE(4)
store = rollouts.collect("FrozenLake-v1", rollouts.uniform, 2, workers=2, out=folder / "store", max_steps=4)
assert store.episode(1).frames.shape[1:] == (64, 64, 3)
with torch.random.fork_rng():
    memory = worldmodel.Memory(worldmodel.FRMDN(8, 4, 8, 2), reward=True, termination=True)
world = worldmodel.WorldModel(worldmodel.VAE(4), memory, discrete=True)
world.save(folder / "world")
worldmodel.WorldModel.load(folder / "world")
print(rollouts.estimate_collection("FrozenLake-v1", rollouts.uniform, 1, out=folder))
"""


@pytest.mark.slow
def test_packages_work_without_posix_modules(tmp_path):
    args = [sys.executable, "-c", WITHOUT, str(tmp_path)]
    done = subprocess.run(args, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "GB" in done.stdout


def test_doctor_reports_whether_the_platform_is_tested(monkeypatch):
    states = {system: platform_state(system, monkeypatch) for system in ("Linux", "Darwin", "Windows")}
    assert all(system in state for system, state in states.items())
    assert len(states["Linux"]) < min(len(states["Darwin"]), len(states["Windows"]))  # the others have a caveat


def platform_state(system, monkeypatch):
    monkeypatch.setattr(doctor.platform, "system", lambda: system)
    monkeypatch.setattr(doctor, "GAMES", {})
    monkeypatch.setattr(doctor, "_device", lambda: doctor.Check("device", True, "none"))
    [found] = [one for one in doctor.run_checks() if one.name == "platform"]
    assert found.ok
    return found.state
