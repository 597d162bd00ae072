"""A machine for Super Mario Bros, compiled by Numba: many times as fast as nes-py's, and the same game to the last bit.

Start reading at `FastMachine`, then `_run`. What makes it fast: the picture unit catches up only when the processor looks at
it, pictures that nobody sees are not drawn, and the game's wait for the next one (a jump to itself) is jumped over.

The processor and the picture unit are described in public (https://www.nesdev.org/wiki). Where hardware and nes-py 8.2.1 differ
(the order of the flags on the stack, the price of crossed pages, when an interrupt begins) this machine does as nes-py does, so
that scores mean the same; `tests/envs/test_fast_nes.py` compares memory and pictures of both.

All that is compiled stands in this one file, tables included: Numba's cache knows by its date alone when to compile again.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from envs.cartridge import check_open

CYCLES = 29_781
"""Processor cycles of a frame; the picture unit takes three steps in each."""
VISIBLE, WIDTH, LINE, LINES = 240, 256, 341, 261
"""Lines that are seen and their dots; all dots of a line; the line with which a picture is over."""

# Places in the machine's numbers. The processor: registers, flags, the cycle of its next instruction, cycles that copying took.
A, X, Y, S, PC, N, V, REST, Z, C, NEXT, LOST = range(12)
# The picture unit: dots done, where it stands, what it tells, its registers.
DONE, STAGE, ROW, DOT, ODD, BLANK, HIT, NMI = range(12, 20)
ADDRESS, SAVED, FINE, SECOND, BUFFER, SPRITE = range(20, 26)
SHOW_SPRITES, SHOW_GROUND, HIDE_SPRITES, HIDE_GROUND, TALL, ALERT = range(26, 32)
GROUND_PAGE, SPRITE_PAGE, STRIDE, ON_LINE = range(32, 36)
# The controller, how name tables are mirrored, and the cycles since the machine was switched on.
STROBE, PRESSED, BITS, MIRROR, CLOCK, NUMBERS = range(36, 42)
BEFORE, SEEN, AFTER, PAUSE = range(4)
"""Stages: the line before the picture, its lines, the line after it, the pause in which the game thinks."""
HELD = 0x3C
"""Flags that only move around. From the lowest bit nes-py's are N, V, one, B, D, I, Z, C."""
INTERRUPT = 0x20
NMI_VECTOR, RESET_VECTOR, BREAK_VECTOR = 0xFFFA, 0xFFFC, 0xFFFE

# Instructions --------------------------------------------------------------------------------------------------------------

IMPLIED, IMMEDIATE, ZERO, ZERO_X, ZERO_Y, FAR, FAR_X, FAR_Y, BY_X, BY_Y, OWN = range(11)
MODES = {
    "imp": IMPLIED, "imm": IMMEDIATE, "zp": ZERO, "zpx": ZERO_X, "zpy": ZERO_Y, "abs": FAR, "absx": FAR_X, "absy": FAR_Y,
    "inx": BY_X, "iny": BY_Y, "acc": OWN,
}  # fmt: skip
READS = {"imm": 2, "zp": 3, "zpx": 4, "zpy": 4, "abs": 4, "absx": 4, "absy": 4, "inx": 6, "iny": 5}
STORES = READS | {"absx": 5, "absy": 5, "iny": 6}
CHANGES = {"acc": 2, "zp": 5, "zpx": 6, "abs": 6, "absx": 7}
INSTRUCTIONS: dict[str, tuple[dict[str, int], str]] = {
    "ORA": (READS, "inx:01 zp:05 imm:09 abs:0D iny:11 zpx:15 absy:19 absx:1D"),
    "AND": (READS, "inx:21 zp:25 imm:29 abs:2D iny:31 zpx:35 absy:39 absx:3D"),
    "EOR": (READS, "inx:41 zp:45 imm:49 abs:4D iny:51 zpx:55 absy:59 absx:5D"),
    "ADC": (READS, "inx:61 zp:65 imm:69 abs:6D iny:71 zpx:75 absy:79 absx:7D"),
    "STA": (STORES, "inx:81 zp:85 abs:8D iny:91 zpx:95 absy:99 absx:9D"),
    "LDA": (READS, "inx:A1 zp:A5 imm:A9 abs:AD iny:B1 zpx:B5 absy:B9 absx:BD"),
    "CMP": (READS, "inx:C1 zp:C5 imm:C9 abs:CD iny:D1 zpx:D5 absy:D9 absx:DD"),
    "SBC": (READS, "inx:E1 zp:E5 imm:E9 abs:ED iny:F1 zpx:F5 absy:F9 absx:FD"),
    "ASL": (CHANGES, "zp:06 acc:0A abs:0E zpx:16 absx:1E"),
    "ROL": (CHANGES, "zp:26 acc:2A abs:2E zpx:36 absx:3E"),
    "LSR": (CHANGES, "zp:46 acc:4A abs:4E zpx:56 absx:5E"),
    "ROR": (CHANGES, "zp:66 acc:6A abs:6E zpx:76 absx:7E"),
    "STX": (STORES, "zp:86 abs:8E zpy:96"),
    "LDX": (READS, "imm:A2 zp:A6 abs:AE zpy:B6 absy:BE"),
    "DEC": (CHANGES, "zp:C6 abs:CE zpx:D6 absx:DE"),
    "INC": (CHANGES, "zp:E6 abs:EE zpx:F6 absx:FE"),
    "BIT": (READS, "zp:24 abs:2C"),
    "STY": (STORES, "zp:84 abs:8C zpx:94"),
    "LDY": (READS, "imm:A0 zp:A4 abs:AC zpx:B4 absx:BC"),
    "CPY": (READS, "imm:C0 zp:C4 abs:CC"),
    "CPX": (READS, "imm:E0 zp:E4 abs:EC"),
    **{name: ({"imp": 2}, f"imp:{code}") for name, code in (
        ("CLC", "18"), ("SEC", "38"), ("CLI", "58"), ("SEI", "78"), ("CLV", "B8"), ("CLD", "D8"), ("SED", "F8"), ("DEY", "88"),
        ("TXA", "8A"), ("TYA", "98"), ("TXS", "9A"), ("TAY", "A8"), ("TAX", "AA"), ("TSX", "BA"), ("INY", "C8"), ("DEX", "CA"),
        ("INX", "E8"), ("NOP", "EA"),
    )},
    **{name: ({"imp": cycles}, f"imp:{code}") for name, code, cycles in (
        ("BRK", "00", 7), ("PHP", "08", 3), ("JSR", "20", 6), ("PLP", "28", 4), ("RTI", "40", 6), ("PHA", "48", 3),
        ("JMP", "4C", 3), ("RTS", "60", 6), ("PLA", "68", 4), ("JMI", "6C", 5),
    )},
    "BRANCH": ({"imp": 2}, "imp:10 imp:30 imp:50 imp:70 imp:90 imp:B0 imp:D0 imp:F0"),
}  # fmt: skip
(
    ORA, AND, EOR, ADC, STA, LDA, CMP, SBC, ASL, ROL, LSR, ROR, STX, LDX, DEC, INC, BIT, STY, LDY, CPY, CPX,
    CLC, SEC, CLI, SEI, CLV, CLD, SED, DEY, TXA, TYA, TXS, TAY, TAX, TSX, INY, DEX, INX, NOP,
    BRK, PHP, JSR, PLP, RTI, PHA, JMP, RTS, PLA, JMI, BRANCH,
) = range(len(INSTRUCTIONS))  # fmt: skip
_WHAT, _HOW, _LONG = np.full(256, NOP), np.zeros(256, np.int64), np.full(256, 1)
for _number, (_cycles, _codes) in enumerate(INSTRUCTIONS.values()):
    for _mode, _code in (pair.split(":") for pair in _codes.split()):
        _WHAT[int(_code, 16)], _HOW[int(_code, 16)], _LONG[int(_code, 16)] = _number, MODES[_mode], _cycles[_mode]

_HEX = np.array(
    [
        0x7C7C7C, 0x0000FC, 0x0000BC, 0x4428BC, 0x940084, 0xA80020, 0xA81000, 0x881400,
        0x503000, 0x007800, 0x006800, 0x005800, 0x004058, 0x000000, 0x000000, 0x000000,
        0xBCBCBC, 0x0078F8, 0x0058F8, 0x6844FC, 0xD800CC, 0xE40058, 0xF83800, 0xE45C10,
        0xAC7C00, 0x00B800, 0x00A800, 0x00A844, 0x008888, 0x000000, 0x000000, 0x000000,
        0xF8F8F8, 0x3CBCFC, 0x6888FC, 0x9878F8, 0xF878F8, 0xF85898, 0xF87858, 0xFCA044,
        0xF8B800, 0xB8F818, 0x58D854, 0x58F898, 0x00E8D8, 0x787878, 0x000000, 0x000000,
        0xFCFCFC, 0xA4E4FC, 0xB8B8F8, 0xD8B8F8, 0xF8B8F8, 0xF8A4C0, 0xF0D0B0, 0xFCE0A8,
        0xF8D878, 0xD8F878, 0xB8F8B8, 0xB8F8D8, 0x00FCFC, 0xF8D8F8, 0x000000, 0x000000,
    ]
)  # fmt: skip
COLOURS = np.stack([_HEX >> 16, _HEX >> 8 & 255, _HEX & 255], axis=-1).astype(np.uint8)
"""The console's 64 colours as nes-py shows them, (64, 3)."""


class FastMachine:
    """The emulator with the game in it.

    Args:
        rom: an iNES file of mapper 0, such as the one gym-super-mario-bros brings.

    Raises:
        ValueError: the file is of another kind.
    """

    def __init__(self, rom: Path) -> None:
        content = rom.read_bytes()
        header = content[:16].ljust(16)
        plain = (
            header[:4] == b"NES\x1a"
            and header[4] in (1, 2)
            and header[5] == 1
            and not (header[6] & 0xFE or header[7] & 0xF0)
        )
        if not plain or len(content) < 16 + header[4] * 0x4000 + 0x2000:
            raise ValueError(f"rom must be an iNES file of mapper 0, got {rom}")
        program = np.frombuffer(content, np.uint8, header[4] * 0x4000, 16)
        self._program = np.resize(program, 0x8000)  # a single bank is there twice
        self._patterns = np.frombuffer(content, np.uint8, 0x2000, 16 + len(program)).copy()
        parts = {"ram": 0x800, "names": 0x800, "palette": 0x20, "sprites": 0x100, "line": 8, "numbers": 8 * NUMBERS}
        self._state: np.ndarray = np.zeros(sum(parts.values()), np.uint8)
        views, place = {}, 0
        for name, size in parts.items():
            views[name] = self._state[place : place + size]
            place += size
        self.ram = memoryview(views["ram"])  # type: ignore[arg-type]
        numbers = views["numbers"].view(np.int64)
        self._screen = np.zeros((VISIBLE + 1, WIDTH), np.uint8)  # and a line for what is only looked at
        memory = (views["ram"], self._program, self._patterns, views["names"], views["palette"], views["sprites"])
        self._parts: Any = (*memory, views["line"], numbers, self._screen)
        self._numbers = numbers
        numbers[[REST, S, STROBE, STRIDE, SHOW_GROUND, SHOW_SPRITES]] = 0x34, 0xFD, 1, 1, 1, 1
        numbers[PC] = int(self._program[RESET_VECTOR - 0x8000]) | int(self._program[RESET_VECTOR - 0x7FFF]) << 8
        numbers[MIRROR] = header[6] & 1
        self._before = self._state.copy()
        """Where the last frame began: it is lived again when its picture is wanted and was not drawn."""
        self._drawn = True

    def frame(self, pressed: int, draw: bool = True) -> None:
        """One sixtieth of a second with these buttons pressed; its picture may be drawn now or when it is asked for."""
        check_open(self._parts)
        self._numbers[PRESSED] = pressed
        self._before[:] = self._state
        _run(*self._parts, draw)
        self._drawn = draw

    def picture(self) -> np.ndarray:
        """A copy of the screen, (240, 256, 3)."""
        check_open(self._parts)
        if not self._drawn:
            after = self._state.copy()
            self._state[:] = self._before
            _run(*self._parts, True)
            self._state[:], self._drawn = after, True
        picture: np.ndarray = COLOURS.take(self._screen[:VISIBLE], axis=0)
        return picture

    def save(self) -> bytes:
        """The whole machine between two frames."""
        check_open(self._parts)
        return self._state.tobytes() + self._before.tobytes()

    def load(self, content: bytes) -> None:
        """Go back to what `save` gave.

        Raises:
            ValueError: it is of another emulator.
        """
        check_open(self._parts)
        if not isinstance(content, bytes) or len(content) != 2 * len(self._state):
            raise ValueError("snapshot must be of the same emulator, got one of another")
        self._state[:], self._before[:] = np.frombuffer(content, np.uint8).reshape(2, -1)
        self._drawn = False

    def close(self) -> None:
        """Nothing more can be remembered."""
        self._parts = None


def compiled(function: Any) -> Any:
    """Compile with Numba, once for all processes where a folder for that can be written."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # there is no such folder
        return njit(function)


# The processor -------------------------------------------------------------------------------------------------------------


@compiled
def _run(ram, program, patterns, names, palette, sprites, line, n, screen, draw):
    """Live one frame. Registers are in local variables, which is what makes this loop fast."""
    end = n[CLOCK] + CYCLES
    a, x, y, s, pc = n[A], n[X], n[Y], n[S], n[PC]
    sign, over, rest, zero, carry = n[N], n[V], n[REST], n[Z], n[C]
    at = n[NEXT]
    limit = _unwatched(n)
    while True:
        until = 3 * (at + 1) if at < end else 3 * end
        if until >= limit or at >= end:
            _catch_up(patterns, names, palette, sprites, line, n, screen, until, draw)
            limit = _unwatched(n)
            if n[NMI]:
                n[NMI] = 0
                ram[0x100 | s] = pc >> 8
                ram[0x100 | (s - 1) & 255] = pc & 255
                ram[0x100 | (s - 2) & 255] = sign | over << 1 | rest | zero << 6 | carry << 7 | INTERRUPT
                s = (s - 3) & 255
                rest |= INTERRUPT
                pc = program[NMI_VECTOR - 0x8000] | np.int64(program[NMI_VECTOR - 0x7FFF]) << 8
                at += 7
                continue
        if at >= end:
            break
        code = np.int64(program[pc & 0x7FFF])  # the game runs from its cartridge alone
        pc = (pc + 1) & 0xFFFF
        what, how, spent = _WHAT[code], _HOW[code], _LONG[code]
        where = 0
        if how == IMMEDIATE:
            where = pc
            pc = (pc + 1) & 0xFFFF
        elif how != IMPLIED and how != OWN:
            low = np.int64(program[pc & 0x7FFF])
            pc = (pc + 1) & 0xFFFF
            if how == ZERO:
                where = low
            elif how == ZERO_X:
                where = (low + x) & 255
            elif how == ZERO_Y:
                where = (low + y) & 255
            elif how == BY_X:
                low = (low + x) & 255
                where = ram[low] | np.int64(ram[(low + 1) & 255]) << 8
            elif how == BY_Y:
                base = ram[low] | np.int64(ram[(low + 1) & 255]) << 8
                where = (base + y) & 0xFFFF
                if what != STA and (base ^ where) & 0xFF00:
                    spent += 1
            else:
                high = np.int64(program[pc & 0x7FFF])
                pc = (pc + 1) & 0xFFFF
                where = low | high << 8
                if how != FAR:
                    base = where
                    where = (base + (x if how == FAR_X else y)) & 0xFFFF
                    if what != STA and (base ^ where) & 0xFF00:
                        spent += 1
        value = 0
        if what <= CPX:
            if what != STA and what != STX and what != STY:
                if how == OWN:
                    value = a
                elif where < 0x2000:
                    value = np.int64(ram[where & 0x7FF])
                elif where >= 0x8000:
                    value = np.int64(program[where - 0x8000])
                else:
                    value = _load(ram, program, patterns, names, palette, sprites, line, n, screen, draw, at, where)
            if what == LDA:
                a = value
            elif what == LDX:
                x = value
            elif what == LDY:
                y = value
            elif what == AND:
                a &= value
                value = a
            elif what == ORA:
                a |= value
                value = a
            elif what == EOR:
                a ^= value
                value = a
            elif what == ADC:
                total = a + value + carry
                carry = total >> 8 & 1
                over = 1 if (a ^ total) & (value ^ total) & 0x80 else 0
                a = total & 255
                value = a
            elif what == SBC:
                total = a - value - 1 + carry
                carry = 0 if total & 0x100 else 1
                over = 1 if (a ^ total) & (~value ^ total) & 0x80 else 0
                a = total & 255
                value = a
            elif what == CMP or what == CPX or what == CPY:
                total = (a if what == CMP else x if what == CPX else y) - value
                carry = 0 if total & 0x100 else 1
                value = total & 255
            elif what == BIT:
                zero = 0 if a & value else 1
                over = value >> 6 & 1
                sign = value >> 7 & 1
            elif what == STA or what == STX or what == STY:
                value = a if what == STA else x if what == STX else y
            else:  # what changes a value in place
                if what == ASL or what == ROL:
                    last = carry if what == ROL else 0
                    carry = value >> 7
                    value = (value << 1 | last) & 255
                elif what == LSR or what == ROR:
                    last = carry if what == ROR else 0
                    carry = value & 1
                    value = value >> 1 | last << 7
                elif what == DEC:
                    value = (value - 1) & 255
                else:
                    value = (value + 1) & 255
                if how == OWN:
                    a = value
            if (
                what == STA
                or what == STX
                or what == STY
                or (ASL <= what <= ROR and how != OWN)
                or what == DEC
                or what == INC
            ):
                if where < 0x2000:
                    ram[where & 0x7FF] = value
                else:
                    _store(ram, program, patterns, names, palette, sprites, line, n, screen, draw, at, where, value)
                    spent += n[LOST]
                    n[LOST] = 0
                    limit = _unwatched(n)
            if what != STA and what != STX and what != STY and what != BIT:
                zero = 1 if value == 0 else 0
                sign = value >> 7
        elif what == BRANCH:
            kind = code >> 6
            flag = sign if kind == 0 else over if kind == 1 else carry if kind == 2 else zero
            if flag == code >> 5 & 1:
                step = np.int64(program[pc & 0x7FFF])
                pc = (pc + 1) & 0xFFFF
                target = (pc + step - (256 if step > 127 else 0)) & 0xFFFF
                spent += 3 if (pc ^ target) & 0xFF00 else 1
                pc = target
            else:
                pc = (pc + 1) & 0xFFFF
        elif what == JMP or what == JSR or what == JMI:
            low, high = np.int64(program[pc & 0x7FFF]), np.int64(program[(pc + 1) & 0x7FFF])
            target = low | high << 8
            if what == JSR:
                back = (pc + 1) & 0xFFFF
                ram[0x100 | s] = back >> 8
                ram[0x100 | (s - 1) & 255] = back & 255
                s = (s - 2) & 255
            elif what == JMI:  # its second byte comes from the same page
                low = _load(ram, program, patterns, names, palette, sprites, line, n, screen, draw, at, target)
                target = target & 0xFF00 | (target + 1) & 255
                high = _load(ram, program, patterns, names, palette, sprites, line, n, screen, draw, at, target)
                target = low | high << 8
            elif target == (pc - 1) & 0xFFFF:  # it waits, and nothing happens until the picture unit needs a look
                turns = min((limit - 1) // 3 - 1, end - 1) - at
                if turns > 0:
                    at += turns // 3 * 3
            pc = target
        elif what == RTS or what == RTI:
            if what == RTI:
                s = (s + 1) & 255
                flags = np.int64(ram[0x100 | s])
                sign, over, rest, zero, carry = flags & 1, flags >> 1 & 1, flags & HELD, flags >> 6 & 1, flags >> 7
            low = np.int64(ram[0x100 | (s + 1) & 255])
            pc = low | np.int64(ram[0x100 | (s + 2) & 255]) << 8
            s = (s + 2) & 255
            if what == RTS:
                pc = (pc + 1) & 0xFFFF
        elif what == PHA or what == PHP:
            ram[0x100 | s] = a if what == PHA else sign | over << 1 | rest | zero << 6 | carry << 7
            s = (s - 1) & 255
        elif what == PLA:
            s = (s + 1) & 255
            a = np.int64(ram[0x100 | s])
            zero = 1 if a == 0 else 0
            sign = a >> 7
        elif what == PLP:
            s = (s + 1) & 255
            flags = np.int64(ram[0x100 | s])
            sign, over, rest, zero, carry = flags & 1, flags >> 1 & 1, flags & HELD, flags >> 6 & 1, flags >> 7
        elif what == BRK:
            pc = (pc + 1) & 0xFFFF
            ram[0x100 | s] = pc >> 8
            ram[0x100 | (s - 1) & 255] = pc & 255
            ram[0x100 | (s - 2) & 255] = sign | over << 1 | rest | zero << 6 | carry << 7 | INTERRUPT | 16
            s = (s - 3) & 255
            rest |= INTERRUPT
            pc = program[BREAK_VECTOR - 0x8000] | np.int64(program[BREAK_VECTOR - 0x7FFF]) << 8
            spent += 7
        elif what == CLC:
            carry = 0
        elif what == SEC:
            carry = 1
        elif what == CLV:
            over = 0
        elif what == CLI:
            rest &= ~0x20
        elif what == SEI:
            rest |= 0x20
        elif what == CLD:
            rest &= ~0x10
        elif what == SED:
            rest |= 0x10
        elif what == TXS:
            s = x
        elif what != NOP:
            if what == DEX:
                x = (x - 1) & 255
                value = x
            elif what == DEY:
                y = (y - 1) & 255
                value = y
            elif what == INX:
                x = (x + 1) & 255
                value = x
            elif what == INY:
                y = (y + 1) & 255
                value = y
            elif what == TAX:
                x = a
                value = x
            elif what == TAY:
                y = a
                value = y
            elif what == TXA:
                a = x
                value = a
            elif what == TYA:
                a = y
                value = a
            else:
                x = s
                value = x
            zero = 1 if value == 0 else 0
            sign = value >> 7
        at += spent
    n[A], n[X], n[Y], n[S], n[PC] = a, x, y, s, pc
    n[N], n[V], n[REST], n[Z], n[C] = sign, over, rest, zero, carry
    n[NEXT], n[CLOCK] = at, end


@compiled
def _unwatched(n):
    """The dots up to which the picture unit does nothing that the processor would notice: its pause begins with a dot 1."""
    return n[DONE] + (LINE - n[DOT] if n[DOT] > 1 else 1)


@compiled
def _load(ram, program, patterns, names, palette, sprites, line, n, screen, draw, at, address):
    """What the processor reads at an address, in cycle ``at``."""
    if address >= 0x8000:
        return np.int64(program[address - 0x8000])
    if address < 0x2000:
        return np.int64(ram[address & 0x7FF])
    if address < 0x4000:
        register = address & 7
        touching = n[STAGE] == SEEN and not n[HIT] and n[ON_LINE] and line[0] == 0
        if register != 2 or touching:  # else no dot of this line changes the status
            _catch_up(patterns, names, palette, sprites, line, n, screen, 3 * (at + 1), draw)
        if register == 2:
            status = n[HIT] << 6 | n[BLANK] << 7
            n[BLANK] = n[SECOND] = 0
            return status
        if register == 4:
            return np.int64(sprites[n[SPRITE]])
        if register == 7:
            value = _look(patterns, names, palette, n, n[ADDRESS])
            n[ADDRESS] = (n[ADDRESS] + n[STRIDE]) & 0xFFFF
            if n[ADDRESS] < 0x3F00:  # what is read there comes one reading late
                value, n[BUFFER] = n[BUFFER], value
            return value
        return 0
    if address == 0x4016:
        if n[STROBE]:
            return n[PRESSED] & 1 | 0x40
        value = n[BITS] & 1 | 0x40
        n[BITS] >>= 1
        return value
    if address == 0x4017:
        return 0x40  # nobody plays there
    return 0


@compiled
def _store(ram, program, patterns, names, palette, sprites, line, n, screen, draw, at, address, value):
    """What the processor writes outside its memory, in cycle ``at``."""
    if address < 0x4000:
        _catch_up(patterns, names, palette, sprites, line, n, screen, 3 * (at + 1), draw)
        register = address & 7
        if register == 0:
            n[ALERT], n[TALL] = value >> 7 & 1, value >> 5 & 1
            n[GROUND_PAGE], n[SPRITE_PAGE] = value >> 4 & 1, value >> 3 & 1
            n[STRIDE] = 32 if value & 4 else 1
            n[SAVED] = n[SAVED] & ~0xC00 | (value & 3) << 10
        elif register == 1:
            n[HIDE_GROUND], n[HIDE_SPRITES] = 1 - (value >> 1 & 1), 1 - (value >> 2 & 1)
            n[SHOW_GROUND], n[SHOW_SPRITES] = value >> 3 & 1, value >> 4 & 1
        elif register == 3:
            n[SPRITE] = value
        elif register == 4:
            sprites[n[SPRITE]] = value
            n[SPRITE] = (n[SPRITE] + 1) & 255
        elif register == 5:
            if n[SECOND]:
                n[SAVED] = n[SAVED] & ~0x73E0 | (value & 7) << 12 | (value & 0xF8) << 2
            else:
                n[SAVED] = n[SAVED] & ~0x1F | value >> 3
                n[FINE] = value & 7
            n[SECOND] = 1 - n[SECOND]
        elif register == 6:
            if n[SECOND]:
                n[SAVED] = n[SAVED] & ~0xFF | value
                n[ADDRESS] = n[SAVED]
            else:
                n[SAVED] = n[SAVED] & ~0xFF00 | (value & 0x3F) << 8
            n[SECOND] = 1 - n[SECOND]
        elif register == 7:
            address = n[ADDRESS]
            if 0x2000 <= address < 0x3EFF:
                names[_name(n, address)] = value
            elif 0x3EFF <= address < 0x3FFF:
                palette[0 if address == 0x3F10 else address & 31] = value
            n[ADDRESS] = (address + n[STRIDE]) & 0xFFFF
    elif address == 0x4014:
        _catch_up(patterns, names, palette, sprites, line, n, screen, 3 * (at + 1), draw)
        for place in range(256):
            source = value << 8 | place
            byte = ram[source & 0x7FF] if source < 0x2000 else program[source - 0x8000] if source >= 0x8000 else 0
            sprites[(n[SPRITE] + place) & 255] = byte
        n[LOST] = 513 + ((at + 1) & 1)
    elif address == 0x4016:
        n[STROBE] = value & 1
        if not n[STROBE]:
            n[BITS] = n[PRESSED]


# The picture unit ------------------------------------------------------------------------------------------------------


@compiled
def _name(n, address):
    """Where in the two kilobytes of name tables an address is."""
    table = (address - 0x2000) >> 10 if address < 0x3000 else 3
    half = table & 1 if n[MIRROR] else table >> 1
    return half << 10 | address & 0x3FF


@compiled
def _look(patterns, names, palette, n, address):
    if address < 0x2000:
        return np.int64(patterns[address])
    if address < 0x3EFF:
        return np.int64(names[_name(n, address)])
    if address < 0x3FFF:
        return np.int64(palette[address & 31])
    return np.int64(0)


@compiled
def _catch_up(patterns, names, palette, sprites, line, n, screen, until, draw):
    """Let the picture unit do its dots up to ``until``, line by line."""
    left = until - n[DONE]
    if left <= 0:
        return
    n[DONE] = until
    ground, both = n[SHOW_GROUND], n[SHOW_GROUND] & n[SHOW_SPRITES]
    while left > 0:
        first, last = n[DOT], LINE
        if n[STAGE] == BEFORE and n[ODD] and both:
            last = max(first, LINE - 1)
        stop = min(first + left - 1, last)
        left -= stop - first + 1
        if n[STAGE] == BEFORE:
            if first <= 1 <= stop:
                n[BLANK] = n[HIT] = 0
            if both and first <= 258 <= stop:
                n[ADDRESS] = n[ADDRESS] & ~0x41F | n[SAVED] & 0x41F
            if both and first <= 304 and stop >= 281:
                n[ADDRESS] = n[ADDRESS] & ~0x7BE0 | n[SAVED] & 0x7BE0
        elif n[STAGE] == SEEN:
            if first <= WIDTH:
                _dots(patterns, names, palette, sprites, line, n, screen, first - 1, min(stop, WIDTH), draw)
            if ground and first <= 257 <= stop:
                _next_row(n)
            if both and first <= 258 <= stop:
                n[ADDRESS] = n[ADDRESS] & ~0x41F | n[SAVED] & 0x41F
        elif n[STAGE] == PAUSE and first <= 1 <= stop and n[ROW] == VISIBLE + 1:
            n[BLANK] = 1
            n[NMI] = n[ALERT]
        n[DOT] = stop + 1
        if stop == last:
            n[DOT] = 1
            _end_line(sprites, line, n)


@compiled
def _next_row(n):
    """Let the address go down by a row of dots."""
    address = n[ADDRESS]
    if address & 0x7000 != 0x7000:
        n[ADDRESS] = address + 0x1000
        return
    address &= ~0x7000
    row = address >> 5 & 31
    if row == 29:
        row = 0
        address ^= 0x800
    else:
        row = (row + 1) & 31
    n[ADDRESS] = address & ~0x3E0 | row << 5


@compiled
def _end_line(sprites, line, n):
    """What happens with the last dot of a line."""
    if n[STAGE] == BEFORE:
        n[STAGE], n[ROW] = SEEN, 0
        return
    if n[STAGE] == SEEN:  # which sprites are on the next line, eight at most
        count, height = 0, 16 if n[TALL] else 8
        for sprite in range(n[SPRITE] // 4, 64):
            if 0 <= n[ROW] - sprites[4 * sprite] < height:
                line[count] = sprite
                count += 1
                if count == 8:
                    break
        n[ON_LINE] = count
    n[ROW] += 1
    if n[STAGE] == SEEN and n[ROW] >= VISIBLE:
        n[STAGE] = AFTER
    elif n[STAGE] == AFTER:
        n[STAGE] = PAUSE
    elif n[STAGE] == PAUSE and n[ROW] >= LINES:
        n[STAGE], n[ROW], n[ODD] = BEFORE, 0, 1 - n[ODD]


@compiled
def _along(n, begin, end):
    """Move the address from the tile at dot ``begin`` to the tile at dot ``end``."""
    address = n[ADDRESS]
    column = (address & 31) + (n[FINE] + end) // 8 - (n[FINE] + begin) // 8
    n[ADDRESS] = (address & ~31 | column & 31) ^ (column >> 5 & 1) << 10


@compiled
def _dots(patterns, names, palette, sprites, line, n, screen, begin, end, draw):
    """The dots from ``begin`` to before ``end`` of the line."""
    ground, count = n[SHOW_GROUND], n[ON_LINE] if n[SHOW_SPRITES] else 0
    if draw:
        _draw(patterns, names, palette, sprites, line, n, screen[n[ROW]], begin, end)
    elif ground and count and line[0] == 0 and not n[HIT]:  # the first sprite may touch the ground
        left = min(max(begin, np.int64(sprites[3])), end)
        right = max(min(end, np.int64(sprites[3]) + 8), left)
        _along(n, begin, left)
        _draw(patterns, names, palette, sprites, line, n, screen[VISIBLE], left, right)
        _along(n, right, end)
    elif ground:
        _along(n, begin, end)


@compiled
def _draw(patterns, names, palette, sprites, line, n, picture, begin, end):
    """Draw dots of a line: the ground, tile by tile, and over it or behind it the first sprite that has a colour there."""
    fine, hidden = n[FINE], 8 * n[HIDE_GROUND]
    x = begin
    while x < end:
        stop = min(end, x + 8 - ((fine + x) & 7))
        if not n[SHOW_GROUND]:
            picture[x:stop] = 0
        else:
            address = n[ADDRESS]
            place = (
                np.int64(names[_name(n, 0x2000 | address & 0xFFF)]) * 16 + (address >> 12 & 7) + (n[GROUND_PAGE] << 12)
            )
            low, high = np.int64(patterns[place]), np.int64(patterns[place + 8]) << 1
            block = np.int64(names[_name(n, 0x23C0 | address & 0xC00 | address >> 4 & 0x38 | address >> 2 & 7)])
            group = (block >> (address >> 4 & 4 | address & 2) & 3) << 2
            for dot in range(x, stop):
                shift = 7 - ((fine + dot) & 7)
                colour = low >> shift & 1 | high >> shift & 2
                picture[dot] = colour | group if colour and dot >= hidden else 0
            if (fine + stop) & 7 == 0:
                n[ADDRESS] = address ^ 0x41F if address & 31 == 31 else address + 1
        x = stop
    if n[SHOW_SPRITES]:
        for number in range(n[ON_LINE]):
            _draw_sprite(patterns, sprites, n, picture, np.int64(line[number]), max(begin, 8 * n[HIDE_SPRITES]), end)
    for dot in range(begin, end):
        picture[dot] = palette[picture[dot] & 31] & 0x3F


TAKEN = 0x80
"""Marks a dot in which a sprite has a colour, seen or not: the sprites after it are not asked."""


@compiled
def _draw_sprite(patterns, sprites, n, picture, sprite, begin, end):
    left, look, tile = np.int64(sprites[4 * sprite + 3]), sprites[4 * sprite + 2], np.int64(sprites[4 * sprite + 1])
    height = 16 if n[TALL] else 8
    row = n[ROW] - sprites[4 * sprite] - 1
    if row < 0:  # on the first line are the sprites of the last one; nes-py's remainder is that of C
        row = -(-row % height)
    if look & 0x80:
        row ^= height - 1
    if n[TALL]:
        place = (tile >> 1) * 32 + (row & 7 | (row & 8) << 1) | (tile & 1) << 12
    else:
        place = tile * 16 + row + (n[SPRITE_PAGE] << 12)
    low = np.int64(patterns[place]) if place >= 0 else 0
    high = np.int64(patterns[place + 8]) << 1 if place >= -8 else 0
    for dot in range(max(begin, left), min(end, left + 8)):
        shift = dot - left if look & 0x40 else 7 - dot + left
        colour = low >> shift & 1 | high >> shift & 2
        ground = picture[dot]
        if colour and not ground & TAKEN:
            if sprite == 0 and ground and n[SHOW_GROUND]:
                n[HIT] = 1
            shown = ground if ground and look & 0x20 else 0x10 | (look & 3) << 2 | colour
            picture[dot] = shown | TAKEN
