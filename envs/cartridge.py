"""What the machines of `envs.nes` and `envs.fast_nes` share: where the game is, and what to say of a machine that is closed."""

import importlib.util
from functools import cache
from pathlib import Path


@cache
def game_file() -> Path:
    """Super Mario Bros as gym-super-mario-bros brings it, an iNES file.

    Raises:
        ValueError: it is not installed.
    """
    path = folder_of("gym_super_mario_bros") / "_roms" / "super-mario-bros.nes"
    if not path.exists():
        raise ValueError(f"{path} is missing: pip install --force-reinstall gym-super-mario-bros")
    return path


def folder_of(package: str) -> Path:
    """Where a package is installed, without importing it.

    Raises:
        ValueError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"Super Mario Bros needs {package}: pip install gym-super-mario-bros nes-py (it needs g++)")
    return Path(next(iter(spec.submodule_search_locations)))


def check_open(emulator: object) -> None:
    """Refuse a machine whose memory was given back.

    Raises:
        ValueError: ``emulator`` is None.
    """
    if emulator is None:
        raise ValueError("the environment is closed: make another one")
