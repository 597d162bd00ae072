"""Super Mario Bros as a Gymnasium environment.

Start reading at `SuperMarioBros.step`; `envs.mario.nes_py_backend` has the emulators that run the game.

References:
    Super Mario Bros RAM map, https://datacrystal.tcrf.net/wiki/Super_Mario_Bros./RAM_map.
"""

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.envs.mario.nes_py_backend import make_backend
from worldmodel.envs.wrappers import ResizeFrame

RIGHT, LEFT, DOWN, UP, START, B, A = 128, 64, 32, 16, 8, 2, 1
"""Bits of the controller's buttons."""
ACTION_SETS: dict[str, tuple[int, ...]] = {
    "run": (RIGHT | B, RIGHT | A | B),
    "right": (0, RIGHT, RIGHT | A, RIGHT | B, RIGHT | A | B),
    "simple": (0, RIGHT, RIGHT | A, RIGHT | B, RIGHT | A | B, A, LEFT),
    "complex": (
        *(0, RIGHT, RIGHT | A, RIGHT | B, RIGHT | A | B, A),
        *(LEFT, LEFT | A, LEFT | B, LEFT | A | B, DOWN, UP),
    ),
}
"""Buttons of each action, by action set. "right", "simple" and "complex" are numbered as in gym-super-mario-bros, where
"right" is the right-only set. "run" is our own: run to the right, with or without a jump."""
REWARD_BOUND = 15.0
"""A frame's reward is clipped to [-REWARD_BOUND, REWARD_BOUND]."""
DEATH_PENALTY = -25.0
FLAGPOLE, BOWSER = 0x31, 0x2D
DYING, DEAD = 0x0B, 0x06
BUSY_STATES = frozenset((0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x07))
"""Player states in which the game ignores the buttons: pipes, vines, entering an area, black screens."""
MAX_CUTSCENE_FRAMES = 2_000
"""Maximum number of frames of a scene without control; a longer one means that the emulator is broken."""


class MarioSnapshot(NamedTuple):
    """Complete state of the environment."""

    backend: Any
    """State of the emulator: bytes, or an object of nes-py 9."""
    buttons: int
    x_pos: int
    time_left: int
    is_over: bool
    rng_state: Any
    """State of ``np_random``, which draws the sticky actions."""


class SuperMarioBros(gymnasium.Env[np.ndarray, Any]):
    """One stage of Super Mario Bros, with one attempt per episode.

    The reward of a frame is the movement to the right in pixels, minus the ticks of the clock, minus 25 for a death, clipped
    to [-15, 15]. The reward of a step is the sum over its frames. Death and the flag terminate an episode; the end of the
    clock truncates it. The game is deterministic: the seed determines only the number of idle frames at the start
    (``noop_max``) and the repeated actions (``sticky_action_prob``).

    Args:
        world: World, 1 to 8.
        stage: Stage, 1 to 4.
        action_set: "right", "simple" or "complex": the actions of gym-super-mario-bros. "run": run, with or without a jump.
        frame_skip: Number of frames per step.
        noop_max: Maximum number of idle frames at the start of an episode; the number is drawn from the seed.
        sticky_action_prob: Probability, at each frame, that the previous buttons stay pressed (Machado et al., 2018,
            section 5.2).
        backend: "numba": the emulator of this package. "nes-py": the emulator that it reproduces bit by bit.
        render_mode: "rgb_array" or None.

    Raises:
        ValueError: An argument is out of range, or the emulator is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}

    def __init__(
        self,
        world: int = 1,
        stage: int = 1,
        action_set: str = "simple",
        frame_skip: int = 4,
        noop_max: int = 30,
        sticky_action_prob: float = 0.0,
        backend: str = "numba",
        render_mode: str | None = "rgb_array",
    ) -> None:
        if not (world in range(1, 9) and stage in range(1, 5)):
            raise ValueError(f"world must be 1 to 8 and stage 1 to 4, got {world} and {stage}")
        if action_set not in ACTION_SETS:
            raise ValueError(f"action_set must be one of {', '.join(ACTION_SETS)}, got {action_set!r}")
        if frame_skip < 1 or noop_max < 0 or not 0 <= sticky_action_prob < 1:
            raise ValueError(
                f"frame_skip must be at least 1, noop_max at least 0 and sticky_action_prob in [0, 1), "
                f"got {frame_skip}, {noop_max}, {sticky_action_prob}"
            )
        if backend not in ("numba", "nes-py"):
            raise ValueError(f"backend must be numba or nes-py, got {backend!r}")
        self.button_sets, self.frame_skip = ACTION_SETS[action_set], frame_skip
        self.noop_max, self.sticky_action_prob = noop_max, sticky_action_prob
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (240, 256, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self.button_sets))
        self._backend = make_backend(backend)
        self._ram = self._backend.ram
        self._held_buttons = 0
        self._last_x_pos = self._last_time_left = 0
        self._is_over = True
        self._enter_stage(world, stage)
        self._start_state = self._backend.save()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the stage; the seed determines the number of idle frames."""
        super().reset(seed=seed)
        self._backend.load(self._start_state)
        for _ in range(int(self.np_random.integers(self.noop_max + 1))):
            self._backend.frame_advance(0, draw=False)
        self._held_buttons, self._is_over = 0, False
        self._last_x_pos, self._last_time_left = self.x_pos, self.time_left
        return self._backend.screen(), self.info()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Press the buttons of an action for ``frame_skip`` frames."""
        if not self.action_space.contains(np.int64(action)):
            raise ValueError(f"action must be one of 0 to {len(self.button_sets) - 1}, got {action!r}")
        if self._is_over:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset")
        total_reward, terminated, truncated = 0.0, False, False
        for frame in range(self.frame_skip):
            if not (self.sticky_action_prob and self.np_random.random() < self.sticky_action_prob):
                self._held_buttons = self.button_sets[int(action)]
            self._backend.frame_advance(self._held_buttons, draw=frame == self.frame_skip - 1)
            total_reward += self._reward()
            truncated = self.time_left == 0
            terminated = not truncated and (self.is_dead or self.flag_get)
            if terminated or truncated:
                break
            self._skip_cutscenes()
        self._is_over = terminated or truncated
        return self._backend.screen(), total_reward, terminated, truncated, self.info()

    def save_state(self) -> MarioSnapshot:
        """Return the current state. Snapshots stay valid after a reset, and after this environment is closed."""
        rng_state = self.np_random.bit_generator.state
        return MarioSnapshot(
            self._backend.save(), self._held_buttons, self._last_x_pos, self._last_time_left, self._is_over, rng_state
        )

    def load_state(self, snapshot: MarioSnapshot) -> tuple[np.ndarray, dict[str, Any]]:
        """Restore a state of this environment, or of another one with the same emulator.

        The same actions then give the same frames as after the save, sticky actions included.

        Returns:
            The frame and the info of that state, as in `reset`.
        """
        self._backend.load(snapshot.backend)
        _, self._held_buttons, self._last_x_pos, self._last_time_left, self._is_over, rng_state = snapshot
        self.np_random.bit_generator.state = rng_state
        return self._backend.screen(), self.info()

    def render(self) -> np.ndarray | None:
        """Return the screen, (240, 256, 3)."""
        return self._backend.screen() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the emulator."""
        self._backend.close()
        self._ram = self._backend.ram  # the emulator's memory may have been freed

    # Values in the console's memory -----------------------------------------------------------------------------------

    @property
    def x_pos(self) -> int:
        """Mario's distance from the left end of the stage, in pixels."""
        return self._ram[0x6D] * 256 + self._ram[0x86]

    @property
    def time_left(self) -> int:
        """Time left, in the game's time units."""
        return self._read_digits(0x7F8, 3)

    @property
    def is_dead(self) -> bool:
        """Whether Mario is dying, dead, or below the screen."""
        return self._ram[0x0E] in (DYING, DEAD) or self._ram[0xB5] > 1

    @property
    def flag_get(self) -> bool:
        """Whether the stage is won: Mario slides down the flagpole, or reached the axe of a castle."""
        if self._ram[0x770] == 2:
            return True
        return any(self._ram[0x16 + slot] in (FLAGPOLE, BOWSER) for slot in range(5)) and self._ram[0x1D] == 3

    def info(self) -> dict[str, Any]:
        """Return the state of the game as Python numbers."""
        ram = self._ram
        above = ram[0xB5] < 1
        return {
            "coins": self._read_digits(0x7ED, 2),
            "flag_get": self.flag_get,
            "life": ram[0x75A],
            "score": self._read_digits(0x7DE, 6),
            "stage": ram[0x75C] + 1,
            "status": ("small", "tall", "fireball")[min(ram[0x756], 2)],
            "time": self.time_left,
            "world": ram[0x75F] + 1,
            "x_pos": self.x_pos,
            "y_pos": 255 - ram[0x3B8] + (255 if above else 0),
        }

    def _read_digits(self, address: int, count: int) -> int:
        number = 0
        for digit in self._ram[address : address + count]:
            number = number * 10 + digit
        return number

    # Progress of the game ---------------------------------------------------------------------------------------------

    def _reward(self) -> float:
        moved, ticked = self.x_pos - self._last_x_pos, self.time_left - self._last_time_left
        self._last_x_pos, self._last_time_left = self.x_pos, self.time_left
        moved = moved if abs(moved) <= 5 else 0  # a larger change of x is a change of area, not a movement
        reward = moved + min(ticked, 0) + (DEATH_PENALTY if self.is_dead and self.time_left else 0.0)
        return max(-REWARD_BOUND, min(REWARD_BOUND, reward))

    def _enter_stage(self, mario_world: int, stage: int) -> None:
        """Press start until the stage runs; then skip its first frames."""
        # Worlds whose second stage starts with a walk into a pipe count this walk as an area.
        area = stage + 1 if mario_world in (1, 2, 4, 7) and stage >= 2 else stage
        backend, ram = self._backend, self._ram
        backend.frame_advance(START)
        backend.frame_advance(0)
        self._run_until(lambda: self.time_left > 0, START, lambda: self._select_stage(mario_world, stage, area))
        previous = [self.time_left]

        def has_ticked() -> bool:
            last, previous[0] = previous[0], self.time_left
            return self.time_left < last

        self._run_until(has_ticked, 0, lambda: None)
        assert (ram[0x75F], ram[0x75C]) == (mario_world - 1, stage - 1)

    def _select_stage(self, mario_world: int, stage: int, area: int) -> None:
        """Write the stage to the address that the game reads, and end the timer of the black screen."""
        self._ram[0x75F], self._ram[0x75C], self._ram[0x760] = mario_world - 1, stage - 1, area - 1
        self._backend.frame_advance(0)
        self._ram[0x7A0] = 0

    def _skip_cutscenes(self) -> None:
        """Skip scenes in which the buttons have no effect: area changes, pipes, black screens."""
        if 1 < self._ram[0x6DE] < 255:
            self._ram[0x6DE] = 1
        self._run_until(lambda: self._ram[0x0E] not in BUSY_STATES and self._ram[0x770] != 2, 0, self._end_black_screen)

    def _end_black_screen(self) -> None:
        self._ram[0x7A0] = 0

    def _run_until(self, condition: Any, buttons: int, between: Any) -> None:
        for _ in range(MAX_CUTSCENE_FRAMES):
            if condition():
                return
            self._backend.frame_advance(buttons, draw=False)
            between()
        raise RuntimeError(f"Super Mario Bros did not continue within {MAX_CUTSCENE_FRAMES} frames")


def make_mario(
    mario_world: int, stage: int, action_repeat: int = 4, frame_size: int = 64, **options: Any
) -> gymnasium.Env[Any, Any]:
    """Make one stage with 64x64 frames.

    Args:
        mario_world: World, 1 to 8.
        stage: Stage, 1 to 4.
        action_repeat: Number of game frames per step.
        frame_size: Height and width of the frames in pixels.
        options: Further arguments of `SuperMarioBros`.

    Raises:
        ValueError: An option is unknown or out of range.
    """
    try:
        env = gymnasium.make(
            "worldmodel/SuperMarioBros-v0",
            world=mario_world,
            stage=stage,
            frame_skip=action_repeat,
            disable_env_checker=True,
            **options,
        )
        return ResizeFrame(env, frame_size=frame_size)
    except TypeError as error:
        raise ValueError(f"SuperMarioBros-{mario_world}-{stage} cannot be made with {options}: {error}") from None
