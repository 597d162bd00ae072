"""Convert the fields of episodes from elsewhere to those of a store, and check them. Start reading at `to_episode`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from worldmodel.envs.choices import ChoiceSpace
from worldmodel.envs.env_checker import MAX_FLOAT32, iter_wrappers
from worldmodel.envs.images import is_frame_shape
from worldmodel.envs.wrappers import MAX_ACTIONS, MAX_NUMBERS, action_kind, resize_frame, validate_image
from worldmodel.rollouts.env_cache import make_portable, open_env
from worldmodel.rollouts.episode import Episode

FIELDS = ("frames", "actions", "rewards", "terminated", "truncated")
"""Fields of an episode, in the order of a tuple."""


class ActionKind(NamedTuple):
    """Kind of the actions of all episodes of a store."""

    discrete: bool
    size: int
    """Size of a Box action, or number of discrete actions; 0: unknown."""
    nvec: tuple[int, ...] = ()
    """Number of options of each choice of a Box that holds choices."""

    @classmethod
    def of(cls, space: spaces.Space[Any]) -> "ActionKind":
        """Return the kind of an action space."""
        kind, size = action_kind(space)
        return cls(kind == "discrete", size, space.nvec if isinstance(space, ChoiceSpace) else ())

    @classmethod
    def first(cls, episode: Episode, known: "ActionKind | None" = None) -> "ActionKind":
        """Return the kind that an episode's actions have, without the number of discrete actions; ``known`` if given."""
        discrete = episode.actions.ndim == 1
        return known or cls(discrete, 0 if discrete else episode.actions.shape[1])

    def validate(self, episode: Episode) -> None:
        """Check an episode's actions.

        Raises:
            ValueError: They are of another kind.
        """
        actions = episode.actions
        fits = (actions.ndim == 1) == self.discrete
        if not fits or (int(actions.max()) >= self.size > 0 if self.discrete else actions.shape[1] != self.size):
            found = f"{about(actions)} up to {actions.max()}"
            raise ValueError(f"episode {episode.index}: actions must be {self}, got {found}")

    def __str__(self) -> str:
        """Return a description for messages."""
        if self.discrete:
            return f"whole numbers from 0 to {self.size - 1}" if self.size else "whole numbers from 0"
        return f"(T, {self.size}) floats"


class Conventions(NamedTuple):
    """Frames and actions of an environment, as other programs record them."""

    kind: ActionKind | None = None
    """Kind of the standard actions. None: unknown."""
    shape: tuple[int, ...] = ()
    """Shape of an observation. Empty: unknown."""
    standard_frame: Callable[[np.ndarray], np.ndarray] = resize_frame
    """Resizes a frame as the environment's wrappers do."""
    standard_actions: Callable[[np.ndarray], np.ndarray] | None = None
    """Maps actions of the game to those of its wrappers. None: they are standard already."""


def conventions_of(env: str, env_options: dict[str, Any]) -> Conventions:
    """Return the conventions of an environment.

    Raises:
        ValueError: The environment cannot be made.
    """
    environment = open_env(make_portable(env), env_options)
    try:
        layers: list[Any] = list(iter_wrappers(environment))
        frames = [layer.standard_frame for layer in layers if hasattr(type(layer), "standard_frame")]
        actions = [layer.standard_actions for layer in layers if hasattr(type(layer), "standard_actions")]
        shape = environment.observation_space.shape or (0,)
        resize = partial(resize_frame, size=shape[0]) if len(shape) == 3 else resize_frame
        return Conventions(ActionKind.of(environment.action_space), shape, *frames or [resize], *actions)
    finally:
        environment.close()


def to_episode(
    episode: Episode | Mapping[str, Any] | tuple[Any, ...],
    name: str,
    to_frame: Callable[[np.ndarray], np.ndarray] = resize_frame,
) -> Episode:
    """Convert an episode's fields, and check them.

    Args:
        episode: As in `rollouts.write`.
        name: Name of the episode in messages.
        to_frame: Function that resizes an image.

    Raises:
        ValueError: A field is missing or invalid.
    """
    try:
        if isinstance(episode, Episode):
            to_frame = np.asarray if is_frame_shape(episode.frames.shape[1:]) else to_frame  # of any size
            episode = {field: getattr(episode, field) for field in (*FIELDS, "seed")}
        fields = dict(episode if isinstance(episode, Mapping) else zip(FIELDS, _values(episode), strict=False))
        if missing := [field for field in FIELDS[:4] if field not in fields]:
            raise ValueError(f"{missing[0]} is missing: an episode must have {', '.join(FIELDS[:4])}")
        if unknown := sorted(map(str, fields.keys() - {*FIELDS, "seed"})):
            raise ValueError(f"{unknown[0]} must be one of {', '.join(FIELDS)}")
        actions, rewards = to_actions(fields["actions"]), to_rewards(fields["rewards"])
        frames = to_frames(fields["frames"], to_frame)
        counts = len(frames), len(actions), len(rewards)
        if counts[1] != counts[2] or counts[0] - counts[1] not in (0, 1):
            raise ValueError(f"frames, actions and rewards must have T + 1 (or T), T and T rows, got {counts}")
        terminated = to_flag("terminated", fields["terminated"], len(actions))
        truncated = to_flag("truncated", fields.get("truncated", not terminated), len(actions))
        steps = len(frames) - 1
        if steps < 1:
            raise ValueError(f"frames must show at least one step, got {len(frames)} frames")
        return Episode(frames, actions[:steps], rewards[:steps], terminated, truncated, int(fields.get("seed", 0)))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _values(episode: Any) -> tuple[Any, ...]:
    """Return the fields of a tuple.

    Raises:
        ValueError: It is something else, or of another length.
    """
    if not isinstance(episode, tuple | list) or not 4 <= len(episode) <= len(FIELDS):
        found = f"{len(episode)} values" if isinstance(episode, tuple | list) else type(episode).__name__
        raise ValueError(
            f"an episode must be an Episode, a dictionary or a tuple of {', '.join(FIELDS[:4])}, got {found}"
        )
    return tuple(episode)


def to_frames(images: Any, to_frame: Callable[[np.ndarray], np.ndarray] = resize_frame) -> np.ndarray:
    """Convert images (N, H, W), (N, H, W, C) or a list of them to (N, 64, 64, 3) uint8, as environments show them.

    Vectors (N, n) of floats become single precision.

    Raises:
        ValueError: They are not images, or not finite.
    """
    if isinstance(images, np.ndarray) and images.ndim == 2 and images.dtype.kind == "f" and images.shape[1]:
        if images.shape[1] > MAX_NUMBERS:
            raise ValueError(f"frames must be images, or vectors of up to {MAX_NUMBERS:,} numbers, got {about(images)}")
        if not (np.abs(images) <= MAX_FLOAT32).all():
            raise ValueError(f"frames must be finite and below {MAX_FLOAT32:.2g}, got others in {about(images)}")
        return images.astype(np.float32)
    is_stored = isinstance(images, np.ndarray) and images.dtype == np.uint8 and is_frame_shape(images.shape[1:])
    if is_stored and len(images) and to_frame(images[0]).shape == images.shape[1:]:
        return images
    try:
        frames = [to_frame(validate_image("frames", image)) for image in images]
    except TypeError:
        frames = []
    if not frames:
        raise ValueError(f"frames must be an array (T + 1, H, W, 3) of bytes, got {about(images)}")
    return np.stack(frames)


def to_actions(values: Any) -> np.ndarray:
    """Convert actions to (T, n) float32 in [-1, 1], or (T,) int64 from 0.

    Raises:
        ValueError: They are neither.
    """
    actions = _array("actions", values)
    if actions.dtype.kind not in "iuf" or actions.ndim not in (1, 2):
        raise ValueError(f"actions must be (T, n) floats or (T,) whole numbers, got {about(actions)}")
    if actions.ndim == 2 and actions.shape[1] == 1 and actions.dtype.kind in "iu":
        actions = actions[:, 0]
    low, high = actions.min(initial=0), actions.max(initial=0)
    if actions.ndim == 1 and actions.dtype.kind in "iu":
        if low >= 0 and high < MAX_ACTIONS:
            return actions.astype(np.int64)
        raise ValueError(f"actions must be whole numbers from 0 to {MAX_ACTIONS - 1}, got {low} to {high}")
    if actions.ndim == 1:
        actions = actions[:, None]
    if not 1 <= actions.shape[1] <= MAX_ACTIONS:
        raise ValueError(f"actions must have from 1 to {MAX_ACTIONS} numbers, got {about(actions)}")
    if not (low >= -1 and high <= 1):  # also of NaN
        raise ValueError(
            f"actions must be in [-1, 1], got {low} to {high}: import with --env ENV maps the actions of a game"
        )
    return actions.astype(np.float32)


def to_rewards(values: Any) -> np.ndarray:
    """Convert rewards to (T,) float32.

    Raises:
        ValueError: They are not finite numbers of this shape.
    """
    rewards = _array("rewards", values)
    if rewards.ndim != 1 or rewards.dtype.kind not in "biuf":
        raise ValueError(f"rewards must be (T,) numbers, got {about(rewards)}")
    if not (np.abs(rewards.astype(np.float64)) <= MAX_FLOAT32).all():
        position = int(np.argmin(np.abs(rewards.astype(np.float64)) <= MAX_FLOAT32))
        raise ValueError(f"rewards must be finite and below {MAX_FLOAT32:.2g}, got {rewards[position]} at {position}")
    return rewards.astype(np.float32)


def to_flag(name: str, value: Any, steps: int) -> bool:
    """Convert a flag, or the flags (T,) of all steps, of which only the last may be set.

    Raises:
        ValueError: It is something else.
    """
    flags = _array(name, value)
    if flags.shape not in ((), (steps,)) or flags.dtype.kind not in "biu" or not np.isin(flags, (0, 1)).all():
        raise ValueError(f"{name} must be true or false, or ({steps},) of them, got {about(flags)}")
    if flags.ndim and flags[:-1].any():
        raise ValueError(
            f"{name} must be set at the last step alone, got it at step {int(np.argmax(flags))} of {steps}"
        )
    return bool(flags.any() if flags.ndim == 0 else flags[-1:].any())


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} must be an array of numbers, got rows of different lengths") from None


def about(values: Any) -> str:
    """Return the shape and type of an array for a message, or the start of another value."""
    return f"{values.shape} {values.dtype}" if isinstance(values, np.ndarray) and values.ndim else repr(values)[:40]
