"""An emulator for Super Mario Bros, compiled by Numba: bit-equal to nes-py's, and many times as fast.

Start reading at `NumbaBackend`, then `_run_frame`. The speed has three reasons: the PPU (picture processing unit) catches up
only when the CPU accesses it, frames that nothing reads are not drawn, and the game's wait for the next frame (a jump to
itself) is skipped.

Where hardware and nes-py 8.2.1 differ (the order of the flags on the stack, the cost of page crossings, the start of an
interrupt), this emulator follows nes-py, so that scores are comparable. `tests/envs/test_nes_emulator.py` compares memory and
frames of both.

All compiled code is in this file, tables included: Numba's cache compiles again only when the date of a file changes.

References:
    NESdev Wiki, https://www.nesdev.org/wiki (CPU and PPU).
"""

from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from worldmodel.envs.mario.rom import validate_open

CPU_CYCLES_PER_FRAME = 29_781
"""CPU cycles per frame; the PPU runs three dots per cycle."""
VISIBLE_SCANLINES, SCREEN_WIDTH, DOTS_PER_SCANLINE, LAST_SCANLINE = 240, 256, 341, 261
"""Number of visible scanlines and their dots; number of dots of a whole scanline; last scanline of a frame."""

# Indices of the register array. CPU: registers, flags, cycle of the next instruction, cycles of OAM DMA.
A, X, Y, S, PC, N, V, OTHER_FLAGS, Z, C, NEXT_CYCLE, DMA_CYCLES = range(12)
# PPU: dots done, position, status, registers.
PPU_DOTS, PHASE, SCANLINE, DOT, ODD_FRAME, VBLANK, SPRITE0_HIT, NMI_PENDING = range(12, 20)
PPU_V, PPU_T, PPU_X, PPU_W, READ_BUFFER, OAM_ADDRESS = range(20, 26)
SHOW_SPRITES, SHOW_BACKGROUND, CLIP_SPRITES, CLIP_BACKGROUND, SPRITE_SIZE, NMI_ENABLE = range(26, 32)
BACKGROUND_TABLE, SPRITE_TABLE, VRAM_INCREMENT, SPRITE_COUNT = range(32, 36)
# Controller, nametable mirroring, and CPU cycles since power-on.
STROBE, BUTTONS, SHIFT_REGISTER, MIRRORING, CYCLE, NUM_REGISTERS = range(36, 42)
PRE_RENDER, RENDER, POST_RENDER, IN_VBLANK = range(4)
"""Phases of a frame: the scanline before the image, its scanlines, the scanline after it, and vertical blanking."""
PASSIVE_FLAGS = 0x3C
"""Flags that no instruction here tests. From the lowest bit, nes-py's order is N, V, one, B, D, I, Z, C."""
INTERRUPT_DISABLE = 0x20
NMI_VECTOR, RESET_VECTOR, IRQ_VECTOR = 0xFFFA, 0xFFFC, 0xFFFE

# Instructions --------------------------------------------------------------------------------------------------------------

(
    IMPLIED,
    IMMEDIATE,
    ZERO_PAGE,
    ZERO_PAGE_X,
    ZERO_PAGE_Y,
    ABSOLUTE,
    ABSOLUTE_X,
    ABSOLUTE_Y,
    INDIRECT_X,
    INDIRECT_Y,
    ACCUMULATOR,
) = range(11)
ADDRESSING_MODES = {
    "imp": IMPLIED, "imm": IMMEDIATE, "zp": ZERO_PAGE, "zpx": ZERO_PAGE_X, "zpy": ZERO_PAGE_Y,
    "abs": ABSOLUTE, "absx": ABSOLUTE_X, "absy": ABSOLUTE_Y, "inx": INDIRECT_X, "iny": INDIRECT_Y, "acc": ACCUMULATOR,
}  # fmt: skip
READ_CYCLES = {"imm": 2, "zp": 3, "zpx": 4, "zpy": 4, "abs": 4, "absx": 4, "absy": 4, "inx": 6, "iny": 5}
STORE_CYCLES = READ_CYCLES | {"absx": 5, "absy": 5, "iny": 6}
MODIFY_CYCLES = {"acc": 2, "zp": 5, "zpx": 6, "abs": 6, "absx": 7}
INSTRUCTIONS: dict[str, tuple[dict[str, int], str]] = {
    "ORA": (READ_CYCLES, "inx:01 zp:05 imm:09 abs:0D iny:11 zpx:15 absy:19 absx:1D"),
    "AND": (READ_CYCLES, "inx:21 zp:25 imm:29 abs:2D iny:31 zpx:35 absy:39 absx:3D"),
    "EOR": (READ_CYCLES, "inx:41 zp:45 imm:49 abs:4D iny:51 zpx:55 absy:59 absx:5D"),
    "ADC": (READ_CYCLES, "inx:61 zp:65 imm:69 abs:6D iny:71 zpx:75 absy:79 absx:7D"),
    "STA": (STORE_CYCLES, "inx:81 zp:85 abs:8D iny:91 zpx:95 absy:99 absx:9D"),
    "LDA": (READ_CYCLES, "inx:A1 zp:A5 imm:A9 abs:AD iny:B1 zpx:B5 absy:B9 absx:BD"),
    "CMP": (READ_CYCLES, "inx:C1 zp:C5 imm:C9 abs:CD iny:D1 zpx:D5 absy:D9 absx:DD"),
    "SBC": (READ_CYCLES, "inx:E1 zp:E5 imm:E9 abs:ED iny:F1 zpx:F5 absy:F9 absx:FD"),
    "ASL": (MODIFY_CYCLES, "zp:06 acc:0A abs:0E zpx:16 absx:1E"),
    "ROL": (MODIFY_CYCLES, "zp:26 acc:2A abs:2E zpx:36 absx:3E"),
    "LSR": (MODIFY_CYCLES, "zp:46 acc:4A abs:4E zpx:56 absx:5E"),
    "ROR": (MODIFY_CYCLES, "zp:66 acc:6A abs:6E zpx:76 absx:7E"),
    "STX": (STORE_CYCLES, "zp:86 abs:8E zpy:96"),
    "LDX": (READ_CYCLES, "imm:A2 zp:A6 abs:AE zpy:B6 absy:BE"),
    "DEC": (MODIFY_CYCLES, "zp:C6 abs:CE zpx:D6 absx:DE"),
    "INC": (MODIFY_CYCLES, "zp:E6 abs:EE zpx:F6 absx:FE"),
    "BIT": (READ_CYCLES, "zp:24 abs:2C"),
    "STY": (STORE_CYCLES, "zp:84 abs:8C zpx:94"),
    "LDY": (READ_CYCLES, "imm:A0 zp:A4 abs:AC zpx:B4 absx:BC"),
    "CPY": (READ_CYCLES, "imm:C0 zp:C4 abs:CC"),
    "CPX": (READ_CYCLES, "imm:E0 zp:E4 abs:EC"),
    **{name: ({"imp": 2}, f"imp:{code}") for name, code in (
        ("CLC", "18"), ("SEC", "38"), ("CLI", "58"), ("SEI", "78"), ("CLV", "B8"), ("CLD", "D8"), ("SED", "F8"), ("DEY", "88"),
        ("TXA", "8A"), ("TYA", "98"), ("TXS", "9A"), ("TAY", "A8"), ("TAX", "AA"), ("TSX", "BA"), ("INY", "C8"), ("DEX", "CA"),
        ("INX", "E8"), ("NOP", "EA"),
    )},
    **{name: ({"imp": cycles}, f"imp:{code}") for name, code, cycles in (
        ("BRK", "00", 7), ("PHP", "08", 3), ("JSR", "20", 6), ("PLP", "28", 4), ("RTI", "40", 6), ("PHA", "48", 3),
        ("JMP", "4C", 3), ("RTS", "60", 6), ("PLA", "68", 4), ("JMP_INDIRECT", "6C", 5),
    )},
    "BRANCH": ({"imp": 2}, "imp:10 imp:30 imp:50 imp:70 imp:90 imp:B0 imp:D0 imp:F0"),
}  # fmt: skip
(
    ORA, AND, EOR, ADC, STA, LDA, CMP, SBC, ASL, ROL, LSR, ROR, STX, LDX, DEC, INC, BIT, STY, LDY, CPY, CPX,
    CLC, SEC, CLI, SEI, CLV, CLD, SED, DEY, TXA, TYA, TXS, TAY, TAX, TSX, INY, DEX, INX, NOP,
    BRK, PHP, JSR, PLP, RTI, PHA, JMP, RTS, PLA, JMP_INDIRECT, BRANCH,
) = range(len(INSTRUCTIONS))  # fmt: skip
_OPERATION, _ADDRESSING, _CYCLES = np.full(256, NOP), np.zeros(256, np.int64), np.full(256, 1)
for _number, (_cycles, _codes) in enumerate(INSTRUCTIONS.values()):
    for _mode, _code in (pair.split(":") for pair in _codes.split()):
        _OPERATION[int(_code, 16)], _ADDRESSING[int(_code, 16)], _CYCLES[int(_code, 16)] = (
            _number,
            ADDRESSING_MODES[_mode],
            _cycles[_mode],
        )

_RGB = np.array(
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
COLORS = np.stack([_RGB >> 16, _RGB >> 8 & 255, _RGB & 255], axis=-1).astype(np.uint8)
"""The console's 64 colours as in nes-py, (64, 3) RGB."""


class NumbaBackend:
    """The emulator with the game loaded.

    Args:
        rom: Path of an iNES file of mapper 0, such as that of gym-super-mario-bros.

    Raises:
        ValueError: The file is not an iNES file of mapper 0.
    """

    def __init__(self, rom: Path) -> None:
        rom_file = rom.read_bytes()
        header = rom_file[:16].ljust(16)
        is_mapper_0 = (
            header[:4] == b"NES\x1a"
            and header[4] in (1, 2)
            and header[5] == 1
            and not (header[6] & 0xFE or header[7] & 0xF0)
        )
        if not is_mapper_0 or len(rom_file) < 16 + header[4] * 0x4000 + 0x2000:
            raise ValueError(f"rom must be an iNES file of mapper 0, got {rom}")
        prg_rom = np.frombuffer(rom_file, np.uint8, header[4] * 0x4000, 16)
        self._prg_rom = np.resize(prg_rom, 0x8000)  # a single bank is mirrored
        self._pattern_tables = np.frombuffer(rom_file, np.uint8, 0x2000, 16 + len(prg_rom)).copy()
        sizes = {
            "ram": 0x800,
            "nametables": 0x800,
            "palette": 0x20,
            "oam": 0x100,
            "secondary_oam": 8,
            "registers": 8 * NUM_REGISTERS,
        }
        self._state: np.ndarray = np.zeros(sum(sizes.values()), np.uint8)
        views, offset = {}, 0
        for name, size in sizes.items():
            views[name] = self._state[offset : offset + size]
            offset += size
        self.ram = memoryview(views["ram"])  # type: ignore[arg-type]
        registers = views["registers"].view(np.int64)
        # the last row is scratch space for sprite 0 hit tests of frames that are not drawn
        self._screen = np.zeros((VISIBLE_SCANLINES + 1, SCREEN_WIDTH), np.uint8)
        memory = (
            views["ram"],
            self._prg_rom,
            self._pattern_tables,
            views["nametables"],
            views["palette"],
            views["oam"],
        )
        self._arrays: Any = (*memory, views["secondary_oam"], registers, self._screen)
        self._registers = registers
        registers[[OTHER_FLAGS, S, STROBE, VRAM_INCREMENT, SHOW_BACKGROUND, SHOW_SPRITES]] = 0x34, 0xFD, 1, 1, 1, 1
        registers[PC] = int(self._prg_rom[RESET_VECTOR - 0x8000]) | int(self._prg_rom[RESET_VECTOR - 0x7FFF]) << 8
        registers[MIRRORING] = header[6] & 1
        self._frame_start = self._state.copy()
        """State at the start of the last frame. `screen` runs the frame again if it was not drawn."""
        self._screen_is_current = True

    def frame_advance(self, buttons: int, draw: bool = True) -> None:
        """Run one frame (1/60 s) with these buttons pressed; without ``draw`` it is drawn only if `screen` is called."""
        validate_open(self._arrays)
        self._registers[BUTTONS] = buttons
        self._frame_start[:] = self._state
        _run_frame(*self._arrays, draw)
        self._screen_is_current = draw

    def screen(self) -> np.ndarray:
        """Return a copy of the screen, (240, 256, 3)."""
        validate_open(self._arrays)
        if not self._screen_is_current:
            after = self._state.copy()
            self._state[:] = self._frame_start
            _run_frame(*self._arrays, True)
            self._state[:], self._screen_is_current = after, True
        screen: np.ndarray = COLORS.take(self._screen[:VISIBLE_SCANLINES], axis=0)
        return screen

    def save(self) -> bytes:
        """Return the complete state between two frames."""
        validate_open(self._arrays)
        return self._state.tobytes() + self._frame_start.tobytes()

    def load(self, state: bytes) -> None:
        """Restore a state of `save`.

        Raises:
            ValueError: The state is of another emulator.
        """
        validate_open(self._arrays)
        if not isinstance(state, bytes) or len(state) != 2 * len(self._state):
            raise ValueError("snapshot must be of the same emulator (numba), got another one")
        self._state[:], self._frame_start[:] = np.frombuffer(state, np.uint8).reshape(2, -1)
        self._screen_is_current = False

    def close(self) -> None:
        """Free the emulator's arrays."""
        self._arrays = None


def cached_njit(function: Any) -> Any:
    """Compile with Numba; the result is cached for all processes if the cache folder is writable."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # no writable cache folder
        return njit(function)


# CPU -----------------------------------------------------------------------------------------------------------------------


@cached_njit
def _run_frame(ram, prg_rom, pattern_tables, nametables, palette, oam, secondary_oam, regs, screen, draw):
    """Run one frame. Registers are local variables, which makes this loop fast."""
    end = regs[CYCLE] + CPU_CYCLES_PER_FRAME
    a, x, y, s, pc = regs[A], regs[X], regs[Y], regs[S], regs[PC]
    negative, overflow, other_flags, zero, carry = regs[N], regs[V], regs[OTHER_FLAGS], regs[Z], regs[C]
    cycle = regs[NEXT_CYCLE]
    ppu_limit = _next_ppu_event(regs)
    while True:
        until = 3 * (cycle + 1) if cycle < end else 3 * end
        if until >= ppu_limit or cycle >= end:
            _ppu_catch_up(pattern_tables, nametables, palette, oam, secondary_oam, regs, screen, until, draw)
            ppu_limit = _next_ppu_event(regs)
            if regs[NMI_PENDING]:
                regs[NMI_PENDING] = 0
                ram[0x100 | s] = pc >> 8
                ram[0x100 | (s - 1) & 255] = pc & 255
                ram[0x100 | (s - 2) & 255] = (
                    negative | overflow << 1 | other_flags | zero << 6 | carry << 7 | INTERRUPT_DISABLE
                )
                s = (s - 3) & 255
                other_flags |= INTERRUPT_DISABLE
                pc = prg_rom[NMI_VECTOR - 0x8000] | np.int64(prg_rom[NMI_VECTOR - 0x7FFF]) << 8
                cycle += 7
                continue
        if cycle >= end:
            break
        opcode = np.int64(prg_rom[pc & 0x7FFF])  # the game executes code from its cartridge only
        pc = (pc + 1) & 0xFFFF
        operation, mode, cycles = _OPERATION[opcode], _ADDRESSING[opcode], _CYCLES[opcode]
        address = 0
        if mode == IMMEDIATE:
            address = pc
            pc = (pc + 1) & 0xFFFF
        elif mode != IMPLIED and mode != ACCUMULATOR:
            low = np.int64(prg_rom[pc & 0x7FFF])
            pc = (pc + 1) & 0xFFFF
            if mode == ZERO_PAGE:
                address = low
            elif mode == ZERO_PAGE_X:
                address = (low + x) & 255
            elif mode == ZERO_PAGE_Y:
                address = (low + y) & 255
            elif mode == INDIRECT_X:
                low = (low + x) & 255
                address = ram[low] | np.int64(ram[(low + 1) & 255]) << 8
            elif mode == INDIRECT_Y:
                base = ram[low] | np.int64(ram[(low + 1) & 255]) << 8
                address = (base + y) & 0xFFFF
                if operation != STA and (base ^ address) & 0xFF00:
                    cycles += 1
            else:
                high = np.int64(prg_rom[pc & 0x7FFF])
                pc = (pc + 1) & 0xFFFF
                address = low | high << 8
                if mode != ABSOLUTE:
                    base = address
                    address = (base + (x if mode == ABSOLUTE_X else y)) & 0xFFFF
                    if operation != STA and (base ^ address) & 0xFF00:
                        cycles += 1
        value = 0
        if operation <= CPX:
            if operation != STA and operation != STX and operation != STY:
                if mode == ACCUMULATOR:
                    value = a
                elif address < 0x2000:
                    value = np.int64(ram[address & 0x7FF])
                elif address >= 0x8000:
                    value = np.int64(prg_rom[address - 0x8000])
                else:
                    value = _cpu_read(
                        ram,
                        prg_rom,
                        pattern_tables,
                        nametables,
                        palette,
                        oam,
                        secondary_oam,
                        regs,
                        screen,
                        draw,
                        cycle,
                        address,
                    )
            if operation == LDA:
                a = value
            elif operation == LDX:
                x = value
            elif operation == LDY:
                y = value
            elif operation == AND:
                a &= value
                value = a
            elif operation == ORA:
                a |= value
                value = a
            elif operation == EOR:
                a ^= value
                value = a
            elif operation == ADC:
                total = a + value + carry
                carry = total >> 8 & 1
                overflow = 1 if (a ^ total) & (value ^ total) & 0x80 else 0
                a = total & 255
                value = a
            elif operation == SBC:
                total = a - value - 1 + carry
                carry = 0 if total & 0x100 else 1
                overflow = 1 if (a ^ total) & (~value ^ total) & 0x80 else 0
                a = total & 255
                value = a
            elif operation == CMP or operation == CPX or operation == CPY:
                total = (a if operation == CMP else x if operation == CPX else y) - value
                carry = 0 if total & 0x100 else 1
                value = total & 255
            elif operation == BIT:
                zero = 0 if a & value else 1
                overflow = value >> 6 & 1
                negative = value >> 7 & 1
            elif operation == STA or operation == STX or operation == STY:
                value = a if operation == STA else x if operation == STX else y
            else:  # read-modify-write instructions
                if operation == ASL or operation == ROL:
                    last = carry if operation == ROL else 0
                    carry = value >> 7
                    value = (value << 1 | last) & 255
                elif operation == LSR or operation == ROR:
                    last = carry if operation == ROR else 0
                    carry = value & 1
                    value = value >> 1 | last << 7
                elif operation == DEC:
                    value = (value - 1) & 255
                else:
                    value = (value + 1) & 255
                if mode == ACCUMULATOR:
                    a = value
            if (
                operation == STA
                or operation == STX
                or operation == STY
                or (ASL <= operation <= ROR and mode != ACCUMULATOR)
                or operation == DEC
                or operation == INC
            ):
                if address < 0x2000:
                    ram[address & 0x7FF] = value
                else:
                    _cpu_write(
                        ram,
                        prg_rom,
                        pattern_tables,
                        nametables,
                        palette,
                        oam,
                        secondary_oam,
                        regs,
                        screen,
                        draw,
                        cycle,
                        address,
                        value,
                    )
                    cycles += regs[DMA_CYCLES]
                    regs[DMA_CYCLES] = 0
                    ppu_limit = _next_ppu_event(regs)
            if operation != STA and operation != STX and operation != STY and operation != BIT:
                zero = 1 if value == 0 else 0
                negative = value >> 7
        elif operation == BRANCH:
            flag_index = opcode >> 6
            flag = negative if flag_index == 0 else overflow if flag_index == 1 else carry if flag_index == 2 else zero
            if flag == opcode >> 5 & 1:
                offset = np.int64(prg_rom[pc & 0x7FFF])
                pc = (pc + 1) & 0xFFFF
                target = (pc + offset - (256 if offset > 127 else 0)) & 0xFFFF
                cycles += 3 if (pc ^ target) & 0xFF00 else 1
                pc = target
            else:
                pc = (pc + 1) & 0xFFFF
        elif operation == JMP or operation == JSR or operation == JMP_INDIRECT:
            low, high = np.int64(prg_rom[pc & 0x7FFF]), np.int64(prg_rom[(pc + 1) & 0x7FFF])
            target = low | high << 8
            if operation == JSR:
                return_address = (pc + 1) & 0xFFFF
                ram[0x100 | s] = return_address >> 8
                ram[0x100 | (s - 1) & 255] = return_address & 255
                s = (s - 2) & 255
            elif operation == JMP_INDIRECT:  # the high byte is read from the same page (a bug of the 6502)
                low = _cpu_read(
                    ram,
                    prg_rom,
                    pattern_tables,
                    nametables,
                    palette,
                    oam,
                    secondary_oam,
                    regs,
                    screen,
                    draw,
                    cycle,
                    target,
                )
                target = target & 0xFF00 | (target + 1) & 255
                high = _cpu_read(
                    ram,
                    prg_rom,
                    pattern_tables,
                    nametables,
                    palette,
                    oam,
                    secondary_oam,
                    regs,
                    screen,
                    draw,
                    cycle,
                    target,
                )
                target = low | high << 8
            elif target == (pc - 1) & 0xFFFF:  # a jump to itself: skip the cycles until the next PPU event
                idle = min((ppu_limit - 1) // 3 - 1, end - 1) - cycle
                if idle > 0:
                    cycle += idle // 3 * 3
            pc = target
        elif operation == RTS or operation == RTI:
            if operation == RTI:
                s = (s + 1) & 255
                flags = np.int64(ram[0x100 | s])
                negative, overflow, other_flags, zero, carry = (
                    flags & 1,
                    flags >> 1 & 1,
                    flags & PASSIVE_FLAGS,
                    flags >> 6 & 1,
                    flags >> 7,
                )
            low = np.int64(ram[0x100 | (s + 1) & 255])
            pc = low | np.int64(ram[0x100 | (s + 2) & 255]) << 8
            s = (s + 2) & 255
            if operation == RTS:
                pc = (pc + 1) & 0xFFFF
        elif operation == PHA or operation == PHP:
            ram[0x100 | s] = a if operation == PHA else negative | overflow << 1 | other_flags | zero << 6 | carry << 7
            s = (s - 1) & 255
        elif operation == PLA:
            s = (s + 1) & 255
            a = np.int64(ram[0x100 | s])
            zero = 1 if a == 0 else 0
            negative = a >> 7
        elif operation == PLP:
            s = (s + 1) & 255
            flags = np.int64(ram[0x100 | s])
            negative, overflow, other_flags, zero, carry = (
                flags & 1,
                flags >> 1 & 1,
                flags & PASSIVE_FLAGS,
                flags >> 6 & 1,
                flags >> 7,
            )
        elif operation == BRK:
            pc = (pc + 1) & 0xFFFF
            ram[0x100 | s] = pc >> 8
            ram[0x100 | (s - 1) & 255] = pc & 255
            ram[0x100 | (s - 2) & 255] = (
                negative | overflow << 1 | other_flags | zero << 6 | carry << 7 | INTERRUPT_DISABLE | 16
            )
            s = (s - 3) & 255
            other_flags |= INTERRUPT_DISABLE
            pc = prg_rom[IRQ_VECTOR - 0x8000] | np.int64(prg_rom[IRQ_VECTOR - 0x7FFF]) << 8
            cycles += 7
        elif operation == CLC:
            carry = 0
        elif operation == SEC:
            carry = 1
        elif operation == CLV:
            overflow = 0
        elif operation == CLI:
            other_flags &= ~0x20
        elif operation == SEI:
            other_flags |= 0x20
        elif operation == CLD:
            other_flags &= ~0x10
        elif operation == SED:
            other_flags |= 0x10
        elif operation == TXS:
            s = x
        elif operation != NOP:
            if operation == DEX:
                x = (x - 1) & 255
                value = x
            elif operation == DEY:
                y = (y - 1) & 255
                value = y
            elif operation == INX:
                x = (x + 1) & 255
                value = x
            elif operation == INY:
                y = (y + 1) & 255
                value = y
            elif operation == TAX:
                x = a
                value = x
            elif operation == TAY:
                y = a
                value = y
            elif operation == TXA:
                a = x
                value = a
            elif operation == TYA:
                a = y
                value = a
            else:
                x = s
                value = x
            zero = 1 if value == 0 else 0
            negative = value >> 7
        cycle += cycles
    regs[A], regs[X], regs[Y], regs[S], regs[PC] = a, x, y, s, pc
    regs[N], regs[V], regs[OTHER_FLAGS], regs[Z], regs[C] = negative, overflow, other_flags, zero, carry
    regs[NEXT_CYCLE], regs[CYCLE] = cycle, end


@cached_njit
def _next_ppu_event(regs):
    """Return the dot count up to which the PPU does nothing that the CPU can notice; vertical blanking starts with dot 1."""
    return regs[PPU_DOTS] + (DOTS_PER_SCANLINE - regs[DOT] if regs[DOT] > 1 else 1)


@cached_njit
def _cpu_read(
    ram, prg_rom, pattern_tables, nametables, palette, oam, secondary_oam, regs, screen, draw, cycle, address
):
    """Read from an address in the cycle ``cycle``."""
    if address >= 0x8000:
        return np.int64(prg_rom[address - 0x8000])
    if address < 0x2000:
        return np.int64(ram[address & 0x7FF])
    if address < 0x4000:
        register = address & 7
        touching = regs[PHASE] == RENDER and not regs[SPRITE0_HIT] and regs[SPRITE_COUNT] and secondary_oam[0] == 0
        if register != 2 or touching:  # otherwise no dot of this scanline changes the status
            _ppu_catch_up(pattern_tables, nametables, palette, oam, secondary_oam, regs, screen, 3 * (cycle + 1), draw)
        if register == 2:
            status = regs[SPRITE0_HIT] << 6 | regs[VBLANK] << 7
            regs[VBLANK] = regs[PPU_W] = 0
            return status
        if register == 4:
            return np.int64(oam[regs[OAM_ADDRESS]])
        if register == 7:
            value = _ppu_read(pattern_tables, nametables, palette, regs, regs[PPU_V])
            regs[PPU_V] = (regs[PPU_V] + regs[VRAM_INCREMENT]) & 0xFFFF
            if regs[PPU_V] < 0x3F00:  # reads are delayed by one through the read buffer
                value, regs[READ_BUFFER] = regs[READ_BUFFER], value
            return value
        return 0
    if address == 0x4016:
        if regs[STROBE]:
            return regs[BUTTONS] & 1 | 0x40
        value = regs[SHIFT_REGISTER] & 1 | 0x40
        regs[SHIFT_REGISTER] >>= 1
        return value
    if address == 0x4017:
        return 0x40  # no second controller
    return 0


@cached_njit
def _cpu_write(
    ram, prg_rom, pattern_tables, nametables, palette, oam, secondary_oam, regs, screen, draw, cycle, address, value
):
    """Write to an address outside of the RAM, in the cycle ``cycle``."""
    if address < 0x4000:
        _ppu_catch_up(pattern_tables, nametables, palette, oam, secondary_oam, regs, screen, 3 * (cycle + 1), draw)
        register = address & 7
        if register == 0:
            regs[NMI_ENABLE], regs[SPRITE_SIZE] = value >> 7 & 1, value >> 5 & 1
            regs[BACKGROUND_TABLE], regs[SPRITE_TABLE] = value >> 4 & 1, value >> 3 & 1
            regs[VRAM_INCREMENT] = 32 if value & 4 else 1
            regs[PPU_T] = regs[PPU_T] & ~0xC00 | (value & 3) << 10
        elif register == 1:
            regs[CLIP_BACKGROUND], regs[CLIP_SPRITES] = 1 - (value >> 1 & 1), 1 - (value >> 2 & 1)
            regs[SHOW_BACKGROUND], regs[SHOW_SPRITES] = value >> 3 & 1, value >> 4 & 1
        elif register == 3:
            regs[OAM_ADDRESS] = value
        elif register == 4:
            oam[regs[OAM_ADDRESS]] = value
            regs[OAM_ADDRESS] = (regs[OAM_ADDRESS] + 1) & 255
        elif register == 5:
            if regs[PPU_W]:
                regs[PPU_T] = regs[PPU_T] & ~0x73E0 | (value & 7) << 12 | (value & 0xF8) << 2
            else:
                regs[PPU_T] = regs[PPU_T] & ~0x1F | value >> 3
                regs[PPU_X] = value & 7
            regs[PPU_W] = 1 - regs[PPU_W]
        elif register == 6:
            if regs[PPU_W]:
                regs[PPU_T] = regs[PPU_T] & ~0xFF | value
                regs[PPU_V] = regs[PPU_T]
            else:
                regs[PPU_T] = regs[PPU_T] & ~0xFF00 | (value & 0x3F) << 8
            regs[PPU_W] = 1 - regs[PPU_W]
        elif register == 7:
            address = regs[PPU_V]
            if 0x2000 <= address < 0x3EFF:
                nametables[_nametable_offset(regs, address)] = value
            elif 0x3EFF <= address < 0x3FFF:
                palette[0 if address == 0x3F10 else address & 31] = value
            regs[PPU_V] = (address + regs[VRAM_INCREMENT]) & 0xFFFF
    elif address == 0x4014:
        _ppu_catch_up(pattern_tables, nametables, palette, oam, secondary_oam, regs, screen, 3 * (cycle + 1), draw)
        for place in range(256):
            source = value << 8 | place
            byte = ram[source & 0x7FF] if source < 0x2000 else prg_rom[source - 0x8000] if source >= 0x8000 else 0
            oam[(regs[OAM_ADDRESS] + place) & 255] = byte
        regs[DMA_CYCLES] = 513 + ((cycle + 1) & 1)
    elif address == 0x4016:
        regs[STROBE] = value & 1
        if not regs[STROBE]:
            regs[SHIFT_REGISTER] = regs[BUTTONS]


# PPU -------------------------------------------------------------------------------------------------------------------


@cached_njit
def _nametable_offset(regs, address):
    """Return the offset of an address in the two kilobytes of nametables."""
    table = (address - 0x2000) >> 10 if address < 0x3000 else 3
    half = table & 1 if regs[MIRRORING] else table >> 1
    return half << 10 | address & 0x3FF


@cached_njit
def _ppu_read(pattern_tables, nametables, palette, regs, address):
    if address < 0x2000:
        return np.int64(pattern_tables[address])
    if address < 0x3EFF:
        return np.int64(nametables[_nametable_offset(regs, address)])
    if address < 0x3FFF:
        return np.int64(palette[address & 31])
    return np.int64(0)


@cached_njit
def _ppu_catch_up(pattern_tables, nametables, palette, oam, secondary_oam, regs, screen, until, draw):
    """Run the PPU up to dot ``until``, scanline by scanline."""
    left = until - regs[PPU_DOTS]
    if left <= 0:
        return
    regs[PPU_DOTS] = until
    background, both = regs[SHOW_BACKGROUND], regs[SHOW_BACKGROUND] & regs[SHOW_SPRITES]
    while left > 0:
        first, last = regs[DOT], DOTS_PER_SCANLINE
        if regs[PHASE] == PRE_RENDER and regs[ODD_FRAME] and both:
            last = max(first, DOTS_PER_SCANLINE - 1)
        stop = min(first + left - 1, last)
        left -= stop - first + 1
        if regs[PHASE] == PRE_RENDER:
            if first <= 1 <= stop:
                regs[VBLANK] = regs[SPRITE0_HIT] = 0
            if both and first <= 258 <= stop:
                regs[PPU_V] = regs[PPU_V] & ~0x41F | regs[PPU_T] & 0x41F
            if both and first <= 304 and stop >= 281:
                regs[PPU_V] = regs[PPU_V] & ~0x7BE0 | regs[PPU_T] & 0x7BE0
        elif regs[PHASE] == RENDER:
            if first <= SCREEN_WIDTH:
                _run_dots(
                    pattern_tables,
                    nametables,
                    palette,
                    oam,
                    secondary_oam,
                    regs,
                    screen,
                    first - 1,
                    min(stop, SCREEN_WIDTH),
                    draw,
                )
            if background and first <= 257 <= stop:
                _increment_y(regs)
            if both and first <= 258 <= stop:
                regs[PPU_V] = regs[PPU_V] & ~0x41F | regs[PPU_T] & 0x41F
        elif regs[PHASE] == IN_VBLANK and first <= 1 <= stop and regs[SCANLINE] == VISIBLE_SCANLINES + 1:
            regs[VBLANK] = 1
            regs[NMI_PENDING] = regs[NMI_ENABLE]
        regs[DOT] = stop + 1
        if stop == last:
            regs[DOT] = 1
            _end_scanline(oam, secondary_oam, regs)


@cached_njit
def _increment_y(regs):
    """Increment the Y part of the VRAM address v by one row of dots."""
    address = regs[PPU_V]
    if address & 0x7000 != 0x7000:
        regs[PPU_V] = address + 0x1000
        return
    address &= ~0x7000
    coarse_y = address >> 5 & 31
    if coarse_y == 29:
        coarse_y = 0
        address ^= 0x800
    else:
        coarse_y = (coarse_y + 1) & 31
    regs[PPU_V] = address & ~0x3E0 | coarse_y << 5


@cached_njit
def _end_scanline(oam, secondary_oam, regs):
    """Finish a scanline: evaluate the sprites of the next one and advance the phase."""
    if regs[PHASE] == PRE_RENDER:
        regs[PHASE], regs[SCANLINE] = RENDER, 0
        return
    if regs[PHASE] == RENDER:  # sprite evaluation for the next scanline, at most eight
        count, height = 0, 16 if regs[SPRITE_SIZE] else 8
        for sprite in range(regs[OAM_ADDRESS] // 4, 64):
            if 0 <= regs[SCANLINE] - oam[4 * sprite] < height:
                secondary_oam[count] = sprite
                count += 1
                if count == 8:
                    break
        regs[SPRITE_COUNT] = count
    regs[SCANLINE] += 1
    if regs[PHASE] == RENDER and regs[SCANLINE] >= VISIBLE_SCANLINES:
        regs[PHASE] = POST_RENDER
    elif regs[PHASE] == POST_RENDER:
        regs[PHASE] = IN_VBLANK
    elif regs[PHASE] == IN_VBLANK and regs[SCANLINE] >= LAST_SCANLINE:
        regs[PHASE], regs[SCANLINE], regs[ODD_FRAME] = PRE_RENDER, 0, 1 - regs[ODD_FRAME]


@cached_njit
def _advance_coarse_x(regs, begin, end):
    """Advance the coarse X part of the VRAM address from the tile at dot ``begin`` to the tile at dot ``end``."""
    address = regs[PPU_V]
    column = (address & 31) + (regs[PPU_X] + end) // 8 - (regs[PPU_X] + begin) // 8
    regs[PPU_V] = (address & ~31 | column & 31) ^ (column >> 5 & 1) << 10


@cached_njit
def _run_dots(pattern_tables, nametables, palette, oam, secondary_oam, regs, screen, begin, end, draw):
    """Run the dots from ``begin`` to before ``end`` of the scanline."""
    background, count = regs[SHOW_BACKGROUND], regs[SPRITE_COUNT] if regs[SHOW_SPRITES] else 0
    if draw:
        _draw_dots(pattern_tables, nametables, palette, oam, secondary_oam, regs, screen[regs[SCANLINE]], begin, end)
    # not drawn, but sprite 0 may hit the background in these dots
    elif background and count and secondary_oam[0] == 0 and not regs[SPRITE0_HIT]:
        left = min(max(begin, np.int64(oam[3])), end)
        right = max(min(end, np.int64(oam[3]) + 8), left)
        _advance_coarse_x(regs, begin, left)
        _draw_dots(
            pattern_tables, nametables, palette, oam, secondary_oam, regs, screen[VISIBLE_SCANLINES], left, right
        )
        _advance_coarse_x(regs, right, end)
    elif background:
        _advance_coarse_x(regs, begin, end)


@cached_njit
def _draw_dots(pattern_tables, nametables, palette, oam, secondary_oam, regs, picture, begin, end):
    """Draw dots of a scanline: the background, tile by tile, and the first opaque sprite pixel in front of or behind it."""
    fine_x, clip_until = regs[PPU_X], 8 * regs[CLIP_BACKGROUND]
    x = begin
    while x < end:
        stop = min(end, x + 8 - ((fine_x + x) & 7))
        if not regs[SHOW_BACKGROUND]:
            picture[x:stop] = 0
        else:
            address = regs[PPU_V]
            pattern = (
                np.int64(nametables[_nametable_offset(regs, 0x2000 | address & 0xFFF)]) * 16
                + (address >> 12 & 7)
                + (regs[BACKGROUND_TABLE] << 12)
            )
            low, high = np.int64(pattern_tables[pattern]), np.int64(pattern_tables[pattern + 8]) << 1
            attribute = np.int64(
                nametables[_nametable_offset(regs, 0x23C0 | address & 0xC00 | address >> 4 & 0x38 | address >> 2 & 7)]
            )
            palette_index = (attribute >> (address >> 4 & 4 | address & 2) & 3) << 2
            for dot in range(x, stop):
                shift = 7 - ((fine_x + dot) & 7)
                color = low >> shift & 1 | high >> shift & 2
                picture[dot] = color | palette_index if color and dot >= clip_until else 0
            if (fine_x + stop) & 7 == 0:
                regs[PPU_V] = address ^ 0x41F if address & 31 == 31 else address + 1
        x = stop
    if regs[SHOW_SPRITES]:
        for number in range(regs[SPRITE_COUNT]):
            _draw_sprite(
                pattern_tables,
                oam,
                regs,
                picture,
                np.int64(secondary_oam[number]),
                max(begin, 8 * regs[CLIP_SPRITES]),
                end,
            )
    for dot in range(begin, end):
        picture[dot] = palette[picture[dot] & 31] & 0x3F


SPRITE_PIXEL = 0x80
"""Marks a dot with an opaque sprite pixel, visible or not: later sprites do not change it."""


@cached_njit
def _draw_sprite(pattern_tables, oam, regs, picture, sprite, begin, end):
    left, attributes, tile = np.int64(oam[4 * sprite + 3]), oam[4 * sprite + 2], np.int64(oam[4 * sprite + 1])
    height = 16 if regs[SPRITE_SIZE] else 8
    row = regs[SCANLINE] - oam[4 * sprite] - 1
    if row < 0:  # the first scanline shows the sprites of the last one; nes-py uses C's remainder
        row = -(-row % height)
    if attributes & 0x80:
        row ^= height - 1
    if regs[SPRITE_SIZE]:
        pattern = (tile >> 1) * 32 + (row & 7 | (row & 8) << 1) | (tile & 1) << 12
    else:
        pattern = tile * 16 + row + (regs[SPRITE_TABLE] << 12)
    low = np.int64(pattern_tables[pattern]) if pattern >= 0 else 0
    high = np.int64(pattern_tables[pattern + 8]) << 1 if pattern >= -8 else 0
    for dot in range(max(begin, left), min(end, left + 8)):
        shift = dot - left if attributes & 0x40 else 7 - dot + left
        color = low >> shift & 1 | high >> shift & 2
        background = picture[dot]
        if color and not background & SPRITE_PIXEL:
            if sprite == 0 and background and regs[SHOW_BACKGROUND]:
                regs[SPRITE0_HIT] = 1
            pixel = background if background and attributes & 0x20 else 0x10 | (attributes & 3) << 2 | color
            picture[dot] = pixel | SPRITE_PIXEL
