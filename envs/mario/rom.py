"""Find the ROM of Super Mario Bros for both emulators. Start reading at `rom_path`."""

import importlib.util
from functools import cache
from pathlib import Path


@cache
def rom_path() -> Path:
    """Return the path of Super Mario Bros, an iNES file in gym-super-mario-bros.

    Raises:
        ValueError: It is not installed.
    """
    path = package_dir("gym_super_mario_bros") / "_roms" / "super-mario-bros.nes"
    if not path.exists():
        raise ValueError(f"{path} is missing: pip install --force-reinstall gym-super-mario-bros")
    return path


def package_dir(package: str) -> Path:
    """Return the folder of an installed package, without importing the package.

    Raises:
        ValueError: It is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"Super Mario Bros needs {package}: pip install gym-super-mario-bros nes-py (it needs g++)")
    return Path(next(iter(spec.submodule_search_locations)))


def validate_open(emulator: object) -> None:
    """Check that an emulator was not closed.

    Raises:
        ValueError: ``emulator`` is None.
    """
    if emulator is None:
        raise ValueError("the environment is closed: make another one")
