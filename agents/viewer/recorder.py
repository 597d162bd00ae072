"""Rollouts of what people play on the page: FOLDER/game and FOLDER/dream, two run folders. Start reading at `Recorder`."""

import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel import WorldModel
from worldmodel.io.files import fingerprint
from worldmodel.rollouts.episode import Episode
from worldmodel.rollouts.store.append import append, opened
from worldmodel.rollouts.store.conversion import ActionKind
from worldmodel.rollouts.store.write import DREAM_ENV_ID, store_metadata

POLICY = "person"
"""Policy in the metadata of a recording."""
LONGEST = 4_096
"""Largest number of steps of an episode; a longer one is cut, so that it is written in parts."""


class Recorder:
    """Writes each finished episode to the store of the game or of the dream.

    Args:
        folder: Path of the recording; it is continued if it exists.
        world: World model of the dreams.
        env: Id of the real environment.
        env_options: Arguments of `envs.make`.

    Raises:
        ValueError: The folder holds something else, or a recording of another environment or world model.
        OSError: Nothing can be written there.
    """

    def __init__(self, folder: Path, world: WorldModel, env: str, env_options: dict[str, Any]) -> None:
        self.folder, self.kind = folder, ActionKind(world.discrete, world.action_dim, world.nvec)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # fails before the first episode is played, not after it
            pass
        names = {child.name for child in folder.iterdir()}
        if other := sorted(name for name in names - {"game", "dream"} if not name.startswith(".")):
            raise ValueError(f"{folder} is not a recording (it has {other[0]}): use another folder")
        self.metadata = {
            "game": store_metadata(env, env_options, POLICY),
            "dream": store_metadata(DREAM_ENV_ID, {"world": fingerprint(world)}, POLICY),
        }
        stores = [opened(self.store_folder(name), one, self.kind) for name, one in self.metadata.items()]
        self.episodes = sum(len(store) for store in stores if store is not None)
        """Number of episodes in the recording."""
        self.error = ""
        """Why the last episode could not be written; empty: it was."""
        self._lock = threading.Lock()  # of the visitors' threads

    def store_folder(self, name: str) -> Path:
        """Return the path of the store of the "game" or of the "dream"."""
        return self.folder / name / "rollouts"

    def save(self, name: str, episode: Episode) -> None:
        """Add an episode of the "game" or of the "dream"; an error is kept in ``error``, and the play goes on."""
        with self._lock:
            try:
                append(episode, self.store_folder(name), self.metadata[name], self.kind)
            except (OSError, ValueError) as error:
                self.error = str(error)
            else:
                self.episodes, self.error = self.episodes + 1, ""


class Take:
    """The steps of an episode while a visitor plays it.

    Args:
        save: Called with each episode that ends.
    """

    def __init__(self, save: Callable[[Episode], None]) -> None:
        self._save = save
        self._clear()

    def _clear(self) -> None:
        self.frames, self.actions, self.rewards = list[np.ndarray](), list[Any](), list[float]()

    def add(
        self,
        before: np.ndarray,
        action: Any,
        reward: float,
        after: np.ndarray,
        terminated: bool,
        truncated: bool = False,
    ) -> None:
        """Add a step, with the observations before and after it."""
        if not self.frames:
            self.frames = [before.copy()]
        self.frames.append(after.copy())  # an environment may reuse its array
        self.actions.append(action)
        self.rewards.append(reward)
        if terminated or truncated or len(self.actions) >= LONGEST:
            self.end(terminated)

    def rewind(self, steps: int) -> None:
        """Drop the last steps."""
        kept = len(self.actions) - steps
        if kept <= 0:
            self._clear()
        else:
            del self.frames[kept + 1 :], self.actions[kept:], self.rewards[kept:]

    def end(self, terminated: bool = False) -> None:
        """End the episode, if it has a step: it is truncated unless it terminated."""
        if self.actions:
            actions = np.asarray(self.actions)
            actions = actions.astype(np.float32) if actions.ndim == 2 else actions.astype(np.int64)
            rewards = np.asarray(self.rewards, np.float32)
            episode = Episode(np.stack(self.frames), actions, rewards, terminated, not terminated)
            self._clear()
            self._save(episode)


class Takes:
    """The episodes of the game and of the dream that one visitor plays; without a recorder, nothing."""

    def __init__(self, recorder: Recorder | None) -> None:
        names = ("game", "dream") if recorder else ()
        self._takes = {name: Take(partial(recorder.save, name)) for name in names if recorder}

    def add(self, name: str, *step: Any) -> None:
        """Add a step to the episode of the "game" or of the "dream" (`Take.add`)."""
        if self._takes:
            self._takes[name].add(*step)

    def rewind(self, steps: int) -> None:
        """Drop the dream's last steps, and end the episode of the game, which cannot be rewound."""
        if self._takes:
            self._takes["dream"].rewind(steps)
            self._takes["game"].end()

    def end(self) -> None:
        """End both episodes, which are cut, so truncated."""
        for take in self._takes.values():
            take.end()
