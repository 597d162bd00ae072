"""Checks of the installation, for ``worldmodel doctor``; start reading at `run_checks`."""

import importlib.util
import os
import platform
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldmodel.agents.progress import size

PACKAGES = ("torch", "numpy", "gymnasium", "opencv-python-headless", "h5py", "cma", "loky", "safetensors", "av")


EXTRAS = {
    "ray": "cluster",
    "minari": "minari",
    "onnxscript": "onnx",
    "starlette": "viewer",
    "soundfile": "audio",
    "wandb": "wandb",
    "huggingface_hub": "hub",
    "ale_py": "games",
    "vizdoom": "doom",
}
"""Optional packages, and the extra of this package that installs each."""


GAMES = {
    "CarRacing": "pip install 'gymnasium[box2d]'",
    "SuperMarioBros-1-1": "pip install gym-super-mario-bros nes-py",
}


class Check(NamedTuple):
    """The result of one check; ``advice`` says how to fix a failure."""

    name: str
    ok: bool
    state: str
    advice: str = ""


def run_checks() -> list[Check]:
    """Check Python, the packages, the device, the environments and the disk."""
    system = platform.system()
    checks = [
        Check("python", sys.version_info >= (3, 11), platform.python_version(), "Python 3.11 or newer"),
        Check("platform", True, system if system == "Linux" else f"{system} (not tested; Linux is)"),
    ]
    for name in PACKAGES:
        try:
            checks.append(Check(name, True, metadata.version(name)))
        except metadata.PackageNotFoundError:
            checks.append(Check(name, False, "missing", f"pip install {name}"))
    present = [name for name in EXTRAS if importlib.util.find_spec(name)]
    absent = ",".join(sorted({extra for name, extra in EXTRAS.items() if name not in present}))
    optional = ", ".join(present) or "none"
    optional += f"; for the others: pip install 'worldmodel[{absent}]'" if absent else ""
    checks.append(Check("optional", True, optional))
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    checks.append(Check("C++ compiler", True, compiler or "none (only the installation of nes-py needs one)"))
    checks.append(_device())
    checks += [_check_env(name, advice) for name, advice in GAMES.items()]
    free = shutil.disk_usage(Path.cwd()).free
    return [*checks, Check("disk", free > 2e9, f"{size(free)} free", "200 CarRacing episodes need about 1 GB")]


def _device() -> Check:
    from worldmodel.training.devices import VARIABLE, device_name, resolve_device

    try:
        device = resolve_device()
    except ValueError as error:
        return Check("device", False, str(error), f"unset {VARIABLE}, or name a device of this machine")
    slower = (
        "" if device.type != "cpu" else f", {os.cpu_count()} cores (everything works; trainings are faster on a GPU)"
    )
    return Check("device", True, device_name(device) + slower)


def _check_env(name: str, advice: str) -> Check:
    """Play 20 steps of an environment without a screen, and check that its frames are not black."""
    from worldmodel import envs

    try:
        env = envs.make(name)
        frame, _ = env.reset(seed=0)
        env.action_space.seed(0)
        began = time.monotonic()
        for _ in range(20):
            frame, *_ = env.step(env.action_space.sample())
        rate = 20 / (time.monotonic() - began)
        env.close()
    except Exception as error:  # reports any error
        return Check(name, False, f"{type(error).__name__}: {error}", advice)
    if not np.asarray(frame).any():
        return Check(name, False, "renders black frames", "unset SDL_VIDEODRIVER, or set it to dummy")
    return Check(name, True, f"renders frames, {rate:.0f} steps/s")
