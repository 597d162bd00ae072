"""World Models' second environment: ViZDoom's Take Cover. Start reading at `DoomTakeCover`."""

import os
import shlex
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.envs.wrappers import StandardEnv, frame_space, resize_frame

MAX_TICS = 2100
"""Maximum number of tics of an episode: 60 s."""
THRESHOLD = 0.3333
"""Continuous actions between -THRESHOLD and THRESHOLD stay."""
MIDDLE = slice(80, 160)
"""Rows of the cropped view."""
LAUNCHER = """#!/bin/sh
cd {folder}
exec {python} -SEc 'import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the process that started it
except AttributeError:
    pass
if os.getppid() != {parent}:  # it ended before
    sys.exit(1)
os.execv(sys.argv[1], sys.argv[1:])' {program} "$@"
"""
"""Script that starts ViZDoom (`launcher_script`)."""
_STARTING = threading.Lock()


class DoomTakeCover(StandardEnv, gymnasium.Env[np.ndarray, Any]):
    """Take Cover as in World Models: evade the fireballs of the monsters on the other side of a room.

    The reward of a step is its number of tics (35 per second), also with a ``frame_skip``: the return is the number of tics
    survived. Death terminates an episode, and 2,100 tics truncate it. Frames show the view, area-resized from 320x240 to
    64x64; the last frame of an episode is that before the death. Actions: 0 left, 1 stay, 2 right. The skill is 4 of 5:
    doom-py 0.0.15, which World Models used, reduces its 5 to 4.

    Args:
        frame_skip: Number of tics per step.
        crop: Whether frames show only the middle third of the view. It has all monsters and fireballs, three times as tall as
            in the whole view; floor and ceiling never change.
        continuous: Whether an action is one number in [-1, 1], as in World Models: below -1/3 left, above 1/3 right.
        render_mode: "rgb_array" or None.
        frame_size: Height and width of the frames in pixels: 64, 96 or 128.

    Raises:
        ValueError: An argument is out of range, or ViZDoom is not installed.

    References:
        Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 4).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 35}

    def __init__(
        self,
        frame_skip: int = 1,
        crop: bool = False,
        continuous: bool = False,
        render_mode: str | None = "rgb_array",
        frame_size: int = 64,
    ) -> None:
        if frame_skip < 1 or not isinstance(crop, bool) or not isinstance(continuous, bool):
            raise ValueError(
                f"frame_skip must be at least 1, crop and continuous true or false, got {frame_skip!r}, {crop!r}, "
                f"{continuous!r}"
            )
        try:
            import vizdoom
        except ImportError:
            raise ValueError("DoomTakeCover needs vizdoom: pip install 'worldmodel[doom]'") from None
        self.frame_skip, self.crop, self.continuous, self.render_mode = frame_skip, crop, continuous, render_mode
        self.observation_space, self.frame_size = frame_space(1, frame_size), frame_size
        self.action_space = spaces.Box(-1, 1, (1,), np.float32) if continuous else spaces.Discrete(3)
        self._game = vizdoom.DoomGame()
        self._game.load_config(str(Path(vizdoom.scenarios_path) / "take_cover.cfg"))
        self._game.set_window_visible(False)
        self._game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        self._game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
        self._game.set_doom_skill(4)
        self._game.set_living_reward(1)
        self._game.set_episode_timeout(MAX_TICS)
        self._screen: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; the first one starts the process of the game."""
        super().reset(seed=seed)
        self._game.set_seed(int(self.np_random.integers(2**32)))
        if self._game.is_running():
            self._game.new_episode()
        else:
            start_game(self._game)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move for ``frame_skip`` tics, or until the episode ends."""
        if not self._game.is_running() or self._game.is_episode_finished():
            raise gymnasium.error.ResetNeeded("the episode is over: call reset")
        direction = float(np.asarray(action).item())
        left, right = (
            (direction < -THRESHOLD, direction > THRESHOLD) if self.continuous else (direction == 0, direction == 2)
        )
        reward = self._game.make_action([float(left), float(right)], self.frame_skip)
        terminated = self._game.is_player_dead()
        truncated = self._game.is_episode_finished() and not terminated
        return self._observe(), reward, terminated, truncated, {}

    def render(self) -> np.ndarray | None:
        """Return the screen, (240, 320, 3)."""
        return self._screen if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """End the process of the game."""
        self._game.close()

    def get_action_meanings(self) -> list[str]:
        """Return the names of the discrete actions, as Atari games do."""
        return [] if self.continuous else ["LEFT", "NOOP", "RIGHT"]

    def _observe(self) -> np.ndarray:
        if (state := self._game.get_state()) is not None:
            self._screen = state.screen_buffer
        assert self._screen is not None
        return resize_frame(self._screen[MIDDLE] if self.crop else self._screen, size=self.frame_size)


def launcher_script(folder: str | Path, program: str | Path, parent: int) -> str:
    """Return a script that runs a program in a folder, for as long as the process ``parent`` runs."""
    folder, python, program = (shlex.quote(str(one)) for one in (folder, sys.executable, program))
    return LAUNCHER.format(folder=folder, python=python, program=program, parent=parent)


def start_game(game: Any) -> None:
    """Start the process of a ``vizdoom.DoomGame``, so that it ends with this process, even a killed one, and leaves no files.

    By itself ViZDoom goes on when this process is killed, its shared memory stays, and it writes ``_vizdoom.ini`` and a folder
    ``_vizdoom`` into the working directory.
    """
    import vizdoom

    with _STARTING, tempfile.TemporaryDirectory(prefix="worldmodel-") as folder:
        game.set_doom_config_path(os.devnull)
        if os.name == "posix":
            launcher, program = Path(folder) / "vizdoom", Path(vizdoom.__file__).parent / "vizdoom"
            launcher.write_text(launcher_script(folder, program, os.getpid()), encoding="utf-8")
            launcher.chmod(0o700)
            game.set_vizdoom_path(str(launcher))
        game.init()
        if (maps := Path("/proc/self/maps")).exists():  # both processes have opened the shared memory: names can go
            for line in maps.read_text(encoding="utf-8").splitlines():
                if "/ViZDoom" in line and not line.endswith("(deleted)"):
                    Path(line.split(maxsplit=5)[-1]).unlink(missing_ok=True)


def make_doom(action_repeat: int = 1, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make DoomTakeCover.

    Args:
        action_repeat: Number of tics per step.
        options: Further arguments of `DoomTakeCover`.

    Raises:
        ValueError: An option is unknown or out of range, or ViZDoom is not installed.
    """
    try:
        return gymnasium.make(
            "worldmodel/DoomTakeCover-v0", frame_skip=action_repeat, disable_env_checker=True, **options
        )
    except TypeError as error:
        raise ValueError(f"DoomTakeCover cannot be made with {options}: {error}") from None
