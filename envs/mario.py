"""Super Mario Bros as a Gymnasium environment: buttons in, pictures and rewards out.

Start reading at `SuperMarioBros.step`; the machine that runs the game is in `envs.nes`.

The memory map is public: https://datacrystal.tcrf.net/wiki/Super_Mario_Bros./RAM_map.
"""

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.frames import Shrunk
from envs.nes import start_machine

RIGHT, LEFT, DOWN, UP, START, B, A = 128, 64, 32, 16, 8, 2, 1
"""The controller's buttons, as bits."""
BUTTONS: dict[str, tuple[int, ...]] = {
    "run": (RIGHT | B, RIGHT | A | B),
    "right": (0, RIGHT, RIGHT | A, RIGHT | B, RIGHT | A | B),
    "simple": (0, RIGHT, RIGHT | A, RIGHT | B, RIGHT | A | B, A, LEFT),
    "complex": (
        *(0, RIGHT, RIGHT | A, RIGHT | B, RIGHT | A | B, A),
        *(LEFT, LEFT | A, LEFT | B, LEFT | A | B, DOWN, UP),
    ),
}
"""Choices in each set of buttons, as gym-super-mario-bros numbers them; "right" is its right-only set. "run" is
ours: run to the right, and jump or not."""
REWARD_BOUND = 15.0
"""A frame's reward is cut to plus or minus this."""
DEATH = -25.0
FLAG, BOWSER = 0x31, 0x2D
DYING, DEAD = 0x0B, 0x06
BUSY = frozenset((0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x07))
"""Player states in which the game plays by itself: pipes, vines, entering an area, black screens."""
LONGEST_PAUSE = 2_000
"""Frames after which a scene that should have ended is taken for a broken emulator."""


class Snapshot(NamedTuple):
    """A moment of the game, with all that follows from it."""

    machine: Any
    """The whole machine: bytes, or an object of its own with nes-py 9."""
    pressed: int
    x: int
    clock: int
    over: bool
    random: Any
    """The state of ``np_random``, from which sticky actions are drawn."""


class SuperMarioBros(gymnasium.Env[np.ndarray, Any]):
    """One stage of Super Mario Bros, with one life.

    A frame's reward is the way to the right in pixels, minus the ticks of the clock, minus 25 for a death, cut to
    [-15, 15]; a step's is the sum over its frames. Death and the flag terminate; the end of the clock truncates.
    The game is deterministic: what differs from seed to seed are the idle frames at the start (``noops``), and the
    actions that are held on (``sticky``).

    Args:
        world: 1 to 8.
        stage: 1 to 4.
        buttons: "right", "simple" or "complex": the choices of gym-super-mario-bros; or "run": run, and jump or not.
        frame_skip: frames for each step.
        noops: at most this many idle frames before an episode begins, drawn with its seed.
        sticky: probability, at each frame, that the last buttons stay pressed (Machado et al., 2018, section 5.2).
        machine: "fast", ours, or "nes-py", the emulator that it repeats to the last bit.
        render_mode: "rgb_array" or None.

    Raises:
        ValueError: an argument is out of range, or the emulator is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}

    def __init__(
        self,
        world: int = 1,
        stage: int = 1,
        buttons: str = "simple",
        frame_skip: int = 4,
        noops: int = 30,
        sticky: float = 0.0,
        machine: str = "fast",
        render_mode: str | None = "rgb_array",
    ) -> None:
        if not (world in range(1, 9) and stage in range(1, 5)):
            raise ValueError(f"world must be 1 to 8 and stage 1 to 4, got {world} and {stage}")
        if buttons not in BUTTONS:
            raise ValueError(f"buttons must be one of {', '.join(BUTTONS)}, got {buttons!r}")
        if frame_skip < 1 or noops < 0 or not 0 <= sticky < 1:
            raise ValueError(
                f"frame_skip must be at least 1, noops at least 0 and sticky in [0, 1), got {frame_skip}, {noops}, {sticky}"
            )
        if machine not in ("fast", "nes-py"):
            raise ValueError(f"machine must be fast or nes-py, got {machine!r}")
        self.buttons, self.frame_skip, self.noops, self.sticky = BUTTONS[buttons], frame_skip, noops, sticky
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (240, 256, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self.buttons))
        self._machine = start_machine(machine)
        self._ram = self._machine.ram
        self._pressed = 0
        self._x = self._clock = 0
        self._over = True
        self._start(world, stage)
        self._begun = self._machine.save()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin the stage; its first idle frames come from the seed."""
        super().reset(seed=seed)
        self._machine.load(self._begun)
        for _ in range(int(self.np_random.integers(self.noops + 1))):
            self._machine.frame(0, draw=False)
        self._pressed, self._over = 0, False
        self._x, self._clock = self.x, self.clock
        return self._machine.picture(), self.info()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold a choice of buttons for ``frame_skip`` frames."""
        if not self.action_space.contains(np.int64(action)):
            raise ValueError(f"action must be one of 0 to {len(self.buttons) - 1}, got {action!r}")
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset")
        total, terminated, truncated = 0.0, False, False
        for frame in range(self.frame_skip):
            if not (self.sticky and self.np_random.random() < self.sticky):
                self._pressed = self.buttons[int(action)]
            self._machine.frame(self._pressed, draw=frame == self.frame_skip - 1)
            total += self._reward()
            truncated = self.clock == 0
            terminated = not truncated and (self.dead or self.flag)
            if terminated or truncated:
                break
            self._skip_pauses()
        self._over = terminated or truncated
        return self._machine.picture(), total, terminated, truncated, self.info()

    def save_state(self) -> Snapshot:
        """Remember this moment. Any number of snapshots may exist; they outlive resets, and this environment."""
        random = self.np_random.bit_generator.state
        return Snapshot(self._machine.save(), self._pressed, self._x, self._clock, self._over, random)

    def load_state(self, snapshot: Snapshot) -> tuple[np.ndarray, dict[str, Any]]:
        """Go to a moment that this environment, or another one of the same emulator, remembered.

        What follows is what followed then: the same actions lead to the same frames, sticky actions included.

        Returns:
            The picture and the info of that moment, as `reset` gives them.
        """
        self._machine.load(snapshot.machine)
        _, self._pressed, self._x, self._clock, self._over, random = snapshot
        self.np_random.bit_generator.state = random
        return self._machine.picture(), self.info()

    def render(self) -> np.ndarray | None:
        """The screen, (240, 256, 3)."""
        return self._machine.picture() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Give the emulator back."""
        self._machine.close()
        self._ram = self._machine.ram  # the emulator's memory may be gone

    # What the machine's memory says -----------------------------------------------------------------------------------

    @property
    def x(self) -> int:
        """Mario's way from the stage's left end, in pixels."""
        return self._ram[0x6D] * 256 + self._ram[0x86]

    @property
    def clock(self) -> int:
        """Time left, in the game's own units."""
        return self._digits(0x7F8, 3)

    @property
    def dead(self) -> bool:
        """Dying, dead, or below the screen."""
        return self._ram[0x0E] in (DYING, DEAD) or self._ram[0xB5] > 1

    @property
    def flag(self) -> bool:
        """The stage is won: sliding down the flagpole, or the axe that ends a castle."""
        if self._ram[0x770] == 2:
            return True
        return any(self._ram[0x16 + slot] in (FLAG, BOWSER) for slot in range(5)) and self._ram[0x1D] == 3

    def info(self) -> dict[str, Any]:
        """The state of the game in Python numbers."""
        ram = self._ram
        above = ram[0xB5] < 1
        return {
            "coins": self._digits(0x7ED, 2),
            "flag_get": self.flag,
            "life": ram[0x75A],
            "score": self._digits(0x7DE, 6),
            "stage": ram[0x75C] + 1,
            "status": ("small", "tall", "fireball")[min(ram[0x756], 2)],
            "time": self.clock,
            "world": ram[0x75F] + 1,
            "x_pos": self.x,
            "y_pos": 255 - ram[0x3B8] + (255 if above else 0),
        }

    def _digits(self, address: int, count: int) -> int:
        number = 0
        for digit in self._ram[address : address + count]:
            number = number * 10 + digit
        return number

    # The course of the game -------------------------------------------------------------------------------------------

    def _reward(self) -> float:
        moved, ticked = self.x - self._x, self.clock - self._clock
        self._x, self._clock = self.x, self.clock
        moved = moved if abs(moved) <= 5 else 0  # a jump in x is a change of area, not a way that was gone
        reward = moved + min(ticked, 0) + (DEATH if self.dead and self.clock else 0.0)
        return max(-REWARD_BOUND, min(REWARD_BOUND, reward))

    def _start(self, world: int, stage: int) -> None:
        """Press start until the stage runs; then let its first frames pass."""
        # In worlds with a walk into a pipe before the second stage, that walk counts as an area of its own.
        area = stage + 1 if world in (1, 2, 4, 7) and stage >= 2 else stage
        machine, ram = self._machine, self._ram
        machine.frame(START)
        machine.frame(0)
        self._until(lambda: self.clock > 0, START, lambda: self._choose(world, stage, area))
        seen = [self.clock]

        def ticking() -> bool:
            before, seen[0] = seen[0], self.clock
            return self.clock < before

        self._until(ticking, 0, lambda: None)
        assert (ram[0x75F], ram[0x75C]) == (world - 1, stage - 1)

    def _choose(self, world: int, stage: int, area: int) -> None:
        """Write the stage where the game reads it, and run out the timer of the black screen."""
        self._ram[0x75F], self._ram[0x75C], self._ram[0x760] = world - 1, stage - 1, area - 1
        self._machine.frame(0)
        self._ram[0x7A0] = 0

    def _skip_pauses(self) -> None:
        """Let scenes pass in which the player has no say: area changes, pipes, black screens."""
        if 1 < self._ram[0x6DE] < 255:
            self._ram[0x6DE] = 1
        self._until(lambda: self._ram[0x0E] not in BUSY and self._ram[0x770] != 2, 0, self._shorten)

    def _shorten(self) -> None:
        self._ram[0x7A0] = 0

    def _until(self, condition: Any, pressed: int, between: Any) -> None:
        for _ in range(LONGEST_PAUSE):
            if condition():
                return
            self._machine.frame(pressed, draw=False)
            between()
        raise RuntimeError(f"Super Mario Bros did not go on after {LONGEST_PAUSE} frames")


def make_mario(world: int, stage: int, action_repeat: int = 4, **options: Any) -> gymnasium.Env[Any, Any]:
    """One stage with 64x64 frames.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    try:
        game = gymnasium.make(
            "SuperMarioBros-v0", world=world, stage=stage, frame_skip=action_repeat, disable_env_checker=True, **options
        )
        return Shrunk(game)
    except TypeError as error:
        raise ValueError(f"SuperMarioBros-{world}-{stage} cannot be made with {options}: {error}") from None
