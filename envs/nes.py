"""The machine that runs Super Mario Bros, frame by frame, with snapshots: ours (`envs.fast_nes`) or nes-py's emulator.

Start reading at `start_machine`. gym-super-mario-bros ships the game and nes-py the emulator; their own Python classes need
the old gym and break under NumPy 2, so this module talks to the emulator's library by itself. Reading the machine's memory
through a memoryview gives Python ints, which do not overflow as NumPy's bytes do.
"""

import ctypes
import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from envs.cartridge import check_open, folder_of, game_file

if TYPE_CHECKING:
    from envs.fast_nes import FastMachine


class Machine:
    """The emulator with the game in it, of nes-py below Python 3.13."""

    def __init__(self) -> None:
        library = _library()
        self._library, self._handle = library, library.Initialize(str(game_file()))
        self.ram = memoryview((ctypes.c_uint8 * 0x800).from_address(library.Memory(self._handle))).cast("B")
        self._controller = (ctypes.c_uint8 * 1).from_address(library.Controller(self._handle, 0))
        screen = memoryview((ctypes.c_uint8 * (240 * 256 * 4)).from_address(library.Screen(self._handle)))
        # 32-bit pixels, little endian: blue, green, red, nothing
        self._screen = np.frombuffer(screen, np.uint8).reshape(240, 256, 4)
        library.Reset(self._handle)
        self._parts, self._sprites = _state_of(library, self._handle)

    def frame(self, pressed: int, draw: bool = True) -> None:
        """One sixtieth of a second with these buttons pressed; it is drawn in any case."""
        check_open(self._handle)
        self._controller[0] = pressed
        self._library.Step(self._handle)

    def picture(self) -> np.ndarray:
        """A copy of the screen, (240, 256, 3)."""
        check_open(self._handle)
        picture: np.ndarray = cv2.cvtColor(self._screen, cv2.COLOR_BGRA2RGB)
        return picture

    def save(self) -> bytes:
        """The whole machine between two frames."""
        check_open(self._handle)
        count = (self._sprites[1] - self._sprites[0]) & 0xFF
        return b"".join((bytes((count,)), *self._parts))

    def load(self, content: bytes) -> None:
        """Go back to what `save` gave.

        Raises:
            ValueError: it is of another emulator.
        """
        check_open(self._handle)
        if not isinstance(content, bytes) or len(content) != 1 + sum(part.nbytes for part in self._parts):
            raise ValueError("snapshot must be of the same emulator (nes-py 8), got another one")
        place = 1
        for part in self._parts:
            part[:] = content[place : place + part.nbytes]
            place += part.nbytes
        self._sprites[1] = self._sprites[0] + content[0]

    def close(self) -> None:
        """Give the machine's memory back; once."""
        if self._handle is not None:
            self._parts.clear()
            self.ram = memoryview(bytearray(_RAM))
            self._library.Close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()


class NativeMachine:
    """The same, of nes-py 9 and newer (Python 3.13), which is a Python extension and knows Gymnasium."""

    def __init__(self) -> None:
        self._emulator: Any = importlib.import_module("nes_py._native").NativeEmulator(str(game_file()))
        self._emulator.reset()
        self.ram = memoryview(self._emulator.ram_buffer())
        self._screen = self._emulator.screen_buffer()

    def frame(self, pressed: int, draw: bool = True) -> None:
        """One sixtieth of a second with these buttons pressed; it is drawn in any case."""
        check_open(self._emulator)
        self._emulator.frame_advance(pressed)

    def picture(self) -> np.ndarray:
        """A copy of the screen, (240, 256, 3)."""
        check_open(self._emulator)
        return np.array(self._screen, np.uint8)

    def save(self) -> Any:
        """The whole machine between two frames."""
        check_open(self._emulator)
        return self._emulator.dump_state()

    def load(self, content: Any) -> None:
        """Go back to what `save` gave.

        Raises:
            ValueError: it is of another emulator.
        """
        check_open(self._emulator)
        try:
            self._emulator.load_state(content)
        except TypeError:
            raise ValueError("snapshot must be of the same emulator (nes-py 9), got another one") from None

    def close(self) -> None:
        """Give the machine's memory back; once."""
        if self._emulator is not None:
            self.ram, self._screen = memoryview(bytearray(0x800)), None
            self._emulator.close()
            self._emulator = None


def start_machine(kind: str = "fast") -> "FastMachine | Machine | NativeMachine":
    """A machine of a kind: "fast" is ours, "nes-py" the emulator that is installed."""
    if kind == "fast":
        from envs.fast_nes import FastMachine  # Numba is slow to import

        return FastMachine(game_file())
    return NativeMachine() if any(folder_of("nes_py").glob("_native*")) else Machine()


# Snapshots of nes-py 8 ------------------------------------------------------------------------------------------------
#
# Its library keeps one backup only, inside the emulator. The emulator is one C++ object; in the order of their declaration:
#
#     cartridge, controllers (3 bytes each), main bus {ram, extended ram: vectors; mapper; callbacks},
#     picture bus {ram: vector; 4 name tables; palette: vector; mapper}, cpu {16 bytes},
#     picture unit {callback; sprite memory, sprites of the line: vectors; plain numbers; screen}, and a backup of all these
#
# A vector is three pointers: begin, end, end of storage. Sizes say which vector is which, so that no offset is written down
# here; a library that is laid out in another way is refused.

_WORD = ctypes.sizeof(ctypes.c_void_p)
_RAM, _PALETTE, _SPRITES, _CPU, _SCREEN = 0x800, 0x20, 0x100, 16, 240 * 256 * 4


def _state_of(library: ctypes.CDLL, handle: int) -> tuple[list[memoryview], Any]:
    """The parts of the emulator that change from frame to frame, and the three pointers of the line's sprites.

    Raises:
        ValueError: this nes-py keeps its state in another way.
    """
    screen, ram = library.Screen(handle), library.Memory(handle)
    words = (ctypes.c_uint64 * ((screen - handle) // _WORD)).from_address(handle)

    def vector(size: int, after: int) -> int:
        """Which word a vector of ``size`` bytes begins with."""
        for word in range(after, len(words) - 2):
            begin, end, limit = words[word : word + 3]
            if begin and end - begin == size and limit >= end:
                return word
        raise ValueError(f"this nes-py keeps no vector of {size} bytes where 8.2.1 does: pip install nes-py==8.2.1")

    main = vector(_RAM, 0)
    pictures = vector(_RAM, main + 3)
    palette = vector(_PALETTE, pictures + 3)
    sprites = vector(_SPRITES, palette + 3)
    line = sprites + 3  # the sprites of the line: room for eight, some of it used
    cpu = palette + 3 + 1
    if words[main] != ram or words[line + 2] - words[line] != 8 or not _CPU < (sprites - cpu) * _WORD <= _CPU + 64:
        raise ValueError("this nes-py is laid out in another way than 8.2.1: pip install nes-py==8.2.1")
    plain = handle + (line + 3) * _WORD
    places = [
        (library.Controller(handle, 0) - 1, 6),
        (words[main], _RAM),
        (words[pictures], _RAM),
        (words[palette], _PALETTE),
        (handle + cpu * _WORD, _CPU),
        (words[sprites], _SPRITES),
        (words[line], 8),
        (plain, screen + _SCREEN - plain),
    ]
    parts = [memoryview((ctypes.c_uint8 * size).from_address(place)).cast("B") for place, size in places]
    return parts, (ctypes.c_uint64 * 3).from_address(handle + line * _WORD)


class _Signature(NamedTuple):
    result: Any
    arguments: list[Any]


_POINTER = ctypes.c_void_p
_FUNCTIONS = {
    "Initialize": _Signature(_POINTER, [ctypes.c_wchar_p]),
    "Controller": _Signature(_POINTER, [_POINTER, ctypes.c_uint]),
    "Screen": _Signature(_POINTER, [_POINTER]),
    "Memory": _Signature(_POINTER, [_POINTER]),
    **{name: _Signature(None, [_POINTER]) for name in ("Reset", "Step", "Close")},
}


@cache
def _library() -> ctypes.CDLL:
    """nes-py's emulator, without importing nes-py (which imports gym)."""
    found = sorted(folder_of("nes_py").glob("lib_nes_env*"))
    if not found:
        raise ValueError(
            "nes-py is installed without its emulator: pip install --force-reinstall nes-py (it needs g++)"
        )
    library = ctypes.CDLL(str(found[0]))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
