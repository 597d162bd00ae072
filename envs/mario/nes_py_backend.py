"""Emulators that run Super Mario Bros frame by frame, with snapshots: this package's (`envs.mario.nes_emulator`) or nes-py's.

Start reading at `make_backend`. gym-super-mario-bros contains the game and nes-py the emulator. Their Python classes need the
old gym and fail with NumPy 2, so this module calls nes-py's library directly. A memoryview of the console's memory gives
Python ints, which do not overflow as NumPy's uint8 does.
"""

import ctypes
import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from worldmodel.envs.mario.rom import package_dir, rom_path, validate_open

if TYPE_CHECKING:
    from worldmodel.envs.mario.nes_emulator import NumbaBackend


class NesPyBackend:
    """The emulator of nes-py below Python 3.13, with the game loaded."""

    def __init__(self) -> None:
        library = _load_library()
        self._library, self._handle = library, library.Initialize(str(rom_path()))
        self.ram = memoryview((ctypes.c_uint8 * 0x800).from_address(library.Memory(self._handle))).cast("B")
        self._controller = (ctypes.c_uint8 * 1).from_address(library.Controller(self._handle, 0))
        screen = memoryview((ctypes.c_uint8 * (240 * 256 * 4)).from_address(library.Screen(self._handle)))
        # 32-bit little-endian pixels: blue, green, red, unused
        self._screen = np.frombuffer(screen, np.uint8).reshape(240, 256, 4)
        library.Reset(self._handle)
        self._parts, self._line_sprites = _state_views(library, self._handle)

    def frame_advance(self, buttons: int, draw: bool = True) -> None:
        """Run one frame (1/60 s) with these buttons pressed; this emulator ignores ``draw`` and always draws."""
        validate_open(self._handle)
        self._controller[0] = buttons
        self._library.Step(self._handle)

    def screen(self) -> np.ndarray:
        """Return a copy of the screen, (240, 256, 3)."""
        validate_open(self._handle)
        screen: np.ndarray = cv2.cvtColor(self._screen, cv2.COLOR_BGRA2RGB)
        return screen

    def save(self) -> bytes:
        """Return the complete state between two frames."""
        validate_open(self._handle)
        count = (self._line_sprites[1] - self._line_sprites[0]) & 0xFF
        return b"".join((bytes((count,)), *self._parts))

    def load(self, state: bytes) -> None:
        """Restore a state of `save`.

        Raises:
            ValueError: The state is of another emulator.
        """
        validate_open(self._handle)
        if not isinstance(state, bytes) or len(state) != 1 + sum(part.nbytes for part in self._parts):
            raise ValueError("snapshot must be of the same emulator (nes-py 8), got another one")
        offset = 1
        for part in self._parts:
            part[:] = state[offset : offset + part.nbytes]
            offset += part.nbytes
        self._line_sprites[1] = self._line_sprites[0] + state[0]

    def close(self) -> None:
        """Free the emulator's memory; further calls do nothing."""
        if self._handle is not None:
            self._parts.clear()
            self.ram = memoryview(bytearray(_RAM))
            self._library.Close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()


class NesPyNativeBackend:
    """The emulator of nes-py 9 and newer (Python 3.13), a Python extension that supports Gymnasium."""

    def __init__(self) -> None:
        self._emulator: Any = importlib.import_module("nes_py._native").NativeEmulator(str(rom_path()))
        self._emulator.reset()
        self.ram = memoryview(self._emulator.ram_buffer())
        self._screen = self._emulator.screen_buffer()

    def frame_advance(self, buttons: int, draw: bool = True) -> None:
        """Run one frame (1/60 s) with these buttons pressed; this emulator ignores ``draw`` and always draws."""
        validate_open(self._emulator)
        self._emulator.frame_advance(buttons)

    def screen(self) -> np.ndarray:
        """Return a copy of the screen, (240, 256, 3)."""
        validate_open(self._emulator)
        return np.array(self._screen, np.uint8)

    def save(self) -> Any:
        """Return the complete state between two frames."""
        validate_open(self._emulator)
        return self._emulator.dump_state()

    def load(self, state: Any) -> None:
        """Restore a state of `save`.

        Raises:
            ValueError: The state is of another emulator.
        """
        validate_open(self._emulator)
        try:
            self._emulator.load_state(state)
        except TypeError:
            raise ValueError("snapshot must be of the same emulator (nes-py 9), got another one") from None

    def close(self) -> None:
        """Free the emulator's memory; further calls do nothing."""
        if self._emulator is not None:
            self.ram, self._screen = memoryview(bytearray(0x800)), None
            self._emulator.close()
            self._emulator = None


def make_backend(name: str = "numba") -> "NumbaBackend | NesPyBackend | NesPyNativeBackend":
    """Make an emulator by name: "numba" is this package's, "nes-py" the installed nes-py's."""
    if name == "numba":
        from worldmodel.envs.mario.nes_emulator import NumbaBackend  # Numba is slow to import

        return NumbaBackend(rom_path())
    return NesPyNativeBackend() if any(package_dir("nes_py").glob("_native*")) else NesPyBackend()


# Snapshots of nes-py 8 ------------------------------------------------------------------------------------------------
#
# nes-py's library keeps a single backup, inside the emulator. The emulator is one C++ object; in the order of declaration:
#
#     cartridge, controllers (3 bytes each), main bus {RAM, extended RAM: vectors; mapper; callbacks},
#     PPU bus {RAM: vector; 4 nametables; palette: vector; mapper}, CPU {16 bytes},
#     PPU {callback; OAM, secondary OAM: vectors; plain numbers; screen}, and a backup of all these
#
# A vector is three pointers: begin, end, end of storage. Vectors are found by their sizes, so that no offset is hard-coded.
# A library with another layout is rejected.

_WORD = ctypes.sizeof(ctypes.c_void_p)
_RAM, _PALETTE, _OAM, _CPU, _SCREEN = 0x800, 0x20, 0x100, 16, 240 * 256 * 4


def _state_views(library: ctypes.CDLL, handle: int) -> tuple[list[memoryview], Any]:
    """Return views of the emulator's memory that changes from frame to frame, and the pointers of the secondary OAM.

    Raises:
        ValueError: This version of nes-py has another memory layout.
    """
    screen, ram = library.Screen(handle), library.Memory(handle)
    words = (ctypes.c_uint64 * ((screen - handle) // _WORD)).from_address(handle)

    def find_vector(size: int, after: int) -> int:
        """Return the index of the first word of a vector of ``size`` bytes."""
        for word in range(after, len(words) - 2):
            begin, end, limit = words[word : word + 3]
            if begin and end - begin == size and limit >= end:
                return word
        raise ValueError(
            f"nes-py must be laid out as 8.2.1, found no vector of {size} bytes: pip install nes-py==8.2.1"
        )

    ram_vector = find_vector(_RAM, 0)
    ppu_ram = find_vector(_RAM, ram_vector + 3)
    palette = find_vector(_PALETTE, ppu_ram + 3)
    oam = find_vector(_OAM, palette + 3)
    secondary_oam = oam + 3  # sprites of the current scanline, at most eight
    cpu = palette + 3 + 1
    if (
        words[ram_vector] != ram
        or words[secondary_oam + 2] - words[secondary_oam] != 8
        or not _CPU < (oam - cpu) * _WORD <= _CPU + 64
    ):
        raise ValueError("nes-py must be laid out as 8.2.1, found another layout: pip install nes-py==8.2.1")
    ppu_numbers = handle + (secondary_oam + 3) * _WORD
    regions = [
        (library.Controller(handle, 0) - 1, 6),
        (words[ram_vector], _RAM),
        (words[ppu_ram], _RAM),
        (words[palette], _PALETTE),
        (handle + cpu * _WORD, _CPU),
        (words[oam], _OAM),
        (words[secondary_oam], 8),
        (ppu_numbers, screen + _SCREEN - ppu_numbers),
    ]
    parts = [memoryview((ctypes.c_uint8 * size).from_address(start)).cast("B") for start, size in regions]
    return parts, (ctypes.c_uint64 * 3).from_address(handle + secondary_oam * _WORD)


class _Signature(NamedTuple):
    restype: Any
    argtypes: list[Any]


_POINTER = ctypes.c_void_p
_SIGNATURES = {
    "Initialize": _Signature(_POINTER, [ctypes.c_wchar_p]),
    "Controller": _Signature(_POINTER, [_POINTER, ctypes.c_uint]),
    "Screen": _Signature(_POINTER, [_POINTER]),
    "Memory": _Signature(_POINTER, [_POINTER]),
    **{name: _Signature(None, [_POINTER]) for name in ("Reset", "Step", "Close")},
}


@cache
def _load_library() -> ctypes.CDLL:
    """Load nes-py's library, without importing nes-py (which imports gym)."""
    libraries = sorted(package_dir("nes_py").glob("lib_nes_env*"))
    if not libraries:
        raise ValueError(
            "nes-py is installed without its emulator: pip install --force-reinstall nes-py (it needs g++)"
        )
    library = ctypes.CDLL(str(libraries[0]))
    for name, (restype, argtypes) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = restype, argtypes
    return library
