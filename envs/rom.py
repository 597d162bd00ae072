"""Find the ROM of Super Mario Bros; used by `envs.nes_py_backend` and `envs.nes_emulator`."""

import importlib.util
from functools import cache
from pathlib import Path


@cache
def rom_path() -> Path:
    """Super Mario Bros as gym-super-mario-bros brings it, an iNES file.

    Raises:
        ValueError: it is not installed.
    """
    path = package_dir("gym_super_mario_bros") / "_roms" / "super-mario-bros.nes"
    if not path.exists():
        raise ValueError(f"{path} is missing: pip install --force-reinstall gym-super-mario-bros")
    return path


def package_dir(package: str) -> Path:
    """Where a package is installed, without importing it.

    Raises:
        ValueError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"Super Mario Bros needs {package}: pip install gym-super-mario-bros nes-py (it needs g++)")
    return Path(next(iter(spec.submodule_search_locations)))


def validate_open(emulator: object) -> None:
    """Refuse a machine whose memory was given back.

    Raises:
        ValueError: ``emulator`` is None.
    """
    if emulator is None:
        raise ValueError("the environment is closed: make another one")
