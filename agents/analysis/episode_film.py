"""Pictures of episodes in the game: films of an evaluation, and frames of successive controllers.

Start reading at `write_films` and `learning_rows`.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldmodel import WorldModel, envs
from worldmodel.agents.agent import Agent
from worldmodel.agents.analysis import video
from worldmodel.agents.analysis.dream_video import frames_per_second, with_title
from worldmodel.messages import format_number
from worldmodel.rollouts.env_cache import PortableEnv, open_env
from worldmodel.rollouts.episode import Episode
from worldmodel.rollouts.pictures import enlarge, grid
from worldmodel.rollouts.policy.actors import make_actor
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.runner import EpisodeResult, play, run_episodes

logger = logging.getLogger(__name__)
COLUMNS = 10
"""Number of frames in a row of `learning_rows`."""


class Learned(NamedTuple):
    """A controller of a search, and what it does in one episode."""

    name: str
    episode_return: float
    steps: int
    picture: np.ndarray
    """Frames (64, width, 3) of the episode at the same steps in all rows; white after its end."""


def ranked(returns: Sequence[float]) -> dict[str, int]:
    """Return the index of the best, the worst and the median episode; of few episodes, each one once.

    Example:
        >>> ranked([3.0, 9.0, 1.0, 5.0]), ranked([2.0])
        ({'best': 1, 'worst': 2, 'median': 0}, {'best': 0})
    """
    order = np.argsort(-np.asarray(returns), kind="stable")
    found: dict[str, int] = {}
    for name, index in (("best", order[0]), ("worst", order[-1]), ("median", order[len(order) // 2])):
        if index not in found.values():
            found[name] = int(index)
    return found


def write_films(
    folder: Path,
    results: Sequence[EpisodeResult],
    seeds: Sequence[int],
    env: PortableEnv,
    env_options: dict[str, Any],
    max_steps: int | None = None,
    draw: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> list[Path]:
    """Write films of the best, the median and the worst episode of an evaluation, named by rank, seed and return.

    Each episode is replayed from its seed and its actions. An episode with another return has no film: its environment is
    not a function of them. Films of an earlier evaluation in the folder are deleted.

    Args:
        folder: Path of the folder.
        results: Episodes, with actions.
        seeds: Environment seeds of the episodes.
        env: Environment.
        env_options: Arguments of `envs.make`.
        max_steps: Largest number of steps of an episode.
        draw: Function from observations (T + 1, ...) to frames (T + 1, 64, 64, 3).

    Returns:
        Paths of the films.
    """
    chosen = ranked([result.episode_return for result in results])
    for name in ("best", "median", "worst"):
        for path in folder.glob(f"{name}-seed-*.mp4"):
            path.unlink()
    paths = []
    with contextlib.closing(open_env(env, env_options)) as environment:
        for name, index in chosen.items():
            expected, seed = results[index], seeds[index]

            def policy(space: Any, rng: np.random.Generator, actions: tuple[Any, ...] = expected.actions) -> Any:
                following = iter(actions)
                return lambda observation: next(following)

            actor = make_actor(policy, environment.action_space, [seed])
            try:
                [replay] = run_episodes([environment], actor, [seed], max_steps=max_steps, record=True)
            except ValueError:  # it goes on after the last action
                replay = expected._replace(length=0)
            if (replay.episode_return, replay.length) != (expected.episode_return, expected.length):
                logger.warning("no film of seed %d: the same actions do not give the same episode again", seed)
                continue
            assert replay.episode is not None
            frames, total = draw(replay.episode.frames), expected.episode_return
            path = folder / f"{name}-seed-{seed}-return-{total:.6g}.mp4"
            title = f"{name} of {len(results)}, seed {seed}: return {format_number(total)}"
            enlarged = (with_title(enlarge(frame[None]), title)[0] for frame in frames)
            video.write_mp4(path, enlarged, frames_per_second(len(frames)))
            paths.append(path)
    return paths


def learning_rows(
    controllers: dict[str, tuple[WorldModel, Controller]],
    env: str,
    env_options: dict[str, Any],
    seed: int,
    max_steps: int,
) -> list[Learned]:
    """Play one episode of the same seed with each controller.

    Args:
        controllers: World models and controllers, by name.
        env: Id of the environment.
        env_options: Arguments of `envs.make`.
        seed: Environment seed.
        max_steps: Largest number of steps.
    """
    episodes: list[Episode] = []
    with contextlib.closing(envs.make(env, **env_options)) as environment:
        for world, controller in controllers.values():
            episodes.append(play(environment, Agent(world, controller), seed, max_steps=max_steps))
    steps = np.linspace(0, max(map(len, episodes), default=0), COLUMNS).round().astype(int)
    rows = []
    for (name, (world, _)), episode in zip(controllers.items(), episodes, strict=True):
        frames = world.draw_observations(episode.frames[steps[steps <= len(episode)]])
        frames = np.concatenate([frames, np.full((COLUMNS - len(frames), *frames.shape[1:]), 255, np.uint8)])
        total = float(episode.rewards.sum(dtype=np.float64))
        rows.append(Learned(name, total, len(episode), grid([frames], scale=1)))
    return rows
