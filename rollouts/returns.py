"""From a population of controllers to returns: lived in dreams (`dreamed`) or in the real game (`played`).

Both give a function ``fitness(population, seed) -> returns`` of shape (P, size) -> (P, n): all that evolution sees. The same
seed means the same episodes, or the same starts and the same luck in dreams, for every controller.
"""

import contextlib
import hashlib
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rollouts.controllers import Controller, Population, check_fits, population_of
from rollouts.dream import dream
from rollouts.episode import training_seeds
from rollouts.lockstep import Life
from rollouts.opening import EnvSpec, open_env, portable
from rollouts.policies import name_of
from rollouts.tasks import Controllers, Counter, Group, play_group
from rollouts.ways import Way, check_remembers
from rollouts.workers import Shared, check_backend, run_tasks, share
from rollouts.worlds import Worlds
from worldmodel import Memory, WorldModel
from worldmodel.io import fingerprint
from worldmodel.migration import stored_env_options
from worldmodel.progress import Progress, silent
from worldmodel.rng import Stream
from worldmodel.start_states import EncodedEpisodes, validate_start_states
from worldmodel.validation import validate_non_negative_int, validate_optional_positive_int, validate_positive_int

TASKS, LARGEST_TASK = 8, 64
"""A generation is cut into about eight tasks of at most 64 lives: the cut never depends on the number of workers, so
neither do the numbers."""


class dreamed:
    """Fitness in dreams: each controller's summed expected rewards over ``dreams`` dreams from common starts.

    Args:
        world: the world model.
        starts: ``store.latents(vae)``, or a (S, latent) tensor.
        horizon: steps of a dream.
        dreams: dreams for each controller.
        temperature: above zero.
        controller: the family; None: linear.
        worlds: memories that the dreams happen in, in turn; None: the world model's own (`rollouts.worlds`).
        caution: how many standard deviations between its mean returns in the several worlds a controller is marked down:
            where memories disagree, at most one of them is right.
        options: more arguments of `rollouts.dream`.

    Raises:
        ValueError: sizes do not fit together, or ``caution`` is below zero, or above it with a single world.
    """

    def __init__(
        self,
        world: WorldModel,
        starts: EncodedEpisodes | Float[Tensor, "starts latent"],
        horizon: int = 1000,
        dreams: int = 16,
        temperature: float = 1.0,
        controller: Controller | None = None,
        worlds: Sequence[Memory] | None = None,
        caution: float = 0.0,
        **options: Any,
    ) -> None:
        if not caution >= 0 or (caution and len(worlds or ()) < 2):
            raise ValueError(f"caution must be zero, or above it with at least two worlds, got {caution}")
        validate_positive_int(horizon=horizon, dreams=dreams)
        validate_start_states(world, starts)
        if controller is not None:
            check_fits(controller, world)
        if worlds is not None:
            Worlds(world, worlds, dreams, population=1)
        self.world, self.starts, self.controller = world, starts, controller
        self.worlds, self.caution = worlds, caution
        self.settings = {"horizon": horizon, "dreams": dreams, "temperature": temperature, **options}
        self.steps = 0
        """Dream steps taken so far."""

    @property
    def identity(self) -> dict[str, Any]:
        """All that returns depend on."""
        starts = self.starts
        if isinstance(starts, Tensor | np.ndarray):
            where: Any = hashlib.sha256(np.asarray(starts).tobytes()).hexdigest()[:16]
        else:
            where = getattr(starts, "identity", len(starts))
        identity = {**self.settings, "world": fingerprint(self.world), "starts": where}
        if self.worlds is not None:
            identity |= {"worlds": [fingerprint(memory) for memory in self.worlds], "caution": self.caution}
        return identity

    @property
    def episodes(self) -> int:
        """Dreams for each controller."""
        return int(self.settings["dreams"])

    def __call__(self, population: np.ndarray, seed: int, episodes: int | None = None) -> np.ndarray:
        """Returns of shape (P, dreams), or of as many ``episodes``."""
        if self.controller is None:
            controllers: Any = population
        else:
            controllers = Population(self.controller, population)
        settings = self.settings | {"dreams": episodes or self.episodes}
        result = dream(self.world, controllers, self.starts, seed=seed, worlds=self.worlds, **settings)
        self.steps += int(result.lengths.sum())
        if not self.caution:
            return result.returns
        assert self.worlds is not None
        return result.returns - self.caution * disagreement(result.returns, len(self.worlds))[:, None]

    def __repr__(self) -> str:
        """The settings that matter."""
        return f"dreamed({', '.join(f'{name}={value}' for name, value in self.settings.items())})"


def disagreement(returns: Float[np.ndarray, "population dreams"], worlds: int) -> Float[np.ndarray, "population"]:
    """The standard deviation between a controller's mean returns in each of several worlds.

    Dream n is in world ``n % worlds``; only whole groups count, whose dreams differ by their worlds alone (`rollouts.worlds`).

    Raises:
        ValueError: there are fewer than two worlds, or fewer dreams than worlds.
    """
    groups = returns.shape[1] // worlds if worlds else 0
    if worlds < 2 or not groups:
        raise ValueError(f"worlds must be from 2 to as many as dreams ({returns.shape[1]}), got {worlds}")
    spread: np.ndarray = (
        returns[:, : groups * worlds].reshape(len(returns), groups, worlds).mean(axis=1).std(axis=1, ddof=1)
    )
    return spread


class played:
    """Fitness in the real game: each controller's returns over ``episodes`` episodes with common seeds.

    Args:
        env: an id for `envs.make`, or a picklable function that makes an environment.
        world: the world model that sees and remembers for the controllers.
        episodes: episodes for each controller.
        workers: processes.
        lanes: environments that a process steps in lockstep.
        patience: give up an episode after this many steps without a reward above zero; None: never.
        max_steps: cut episodes here.
        env_options: more arguments of `envs.make`.
        controller: the family; None: linear.
        backend: where the workers are (`rollouts.workers.run_tasks`).
        progress: called as ``progress(lives, total, note)``.
        moments: so many more lives for each controller, which begin along the ways of the best lives of the call, one way for
            each episode, the same moments for all: obstacles that only the best reach are practised by all. For
            environments with ``save_state`` and ``load_state``, such as Super Mario Bros and FastCarRacing.
        stretch: the steps of such a life.
        scouted: so many episodes the average of the population plays first; the controllers' ``episodes``, fewer of them, are
            those in which it had least, so that rare failures show in every generation. 0: none, all episodes are drawn
            alike. (A cousin of prioritized level replay, Jiang, Grefenstette and Rocktaschel, 2021,
            https://arxiv.org/abs/2010.03934.)

    Raises:
        ValueError: an argument is out of range, or ``moments`` asks for what the environment cannot do.
        rollouts.WorkerDied: workers died three times over the same work.
    """

    def __init__(
        self,
        env: EnvSpec,
        world: WorldModel,
        episodes: int = 1,
        workers: int = 1,
        lanes: int = 8,
        patience: int | None = None,
        max_steps: int | None = None,
        env_options: dict[str, Any] | None = None,
        controller: Controller | None = None,
        backend: str = "loky",
        progress: Progress = silent,
        moments: int = 0,
        stretch: int = 40,
        scouted: int = 0,
    ) -> None:
        check_backend(backend, workers)
        validate_positive_int(episodes=episodes, lanes=lanes, stretch=stretch)
        validate_optional_positive_int(patience=patience, max_steps=max_steps)
        check_scouted(scouted, episodes)
        self._opened = portable(env)
        check_moments(env, dict(env_options or {}), moments)
        self.env, self.world, self.episodes, self.workers = env, world, episodes, workers
        self.lanes, self.patience, self.max_steps = lanes, patience, max_steps
        self.env_options, self.controller, self.progress = dict(env_options or {}), controller, progress
        self.backend, self.moments, self.stretch, self.scouted = backend, moments, stretch, scouted
        self.steps = 0
        """Environment steps (decisions) taken so far, those of ways that workers went again for ``moments`` included."""
        self.scouts: np.ndarray | None = None
        """Returns of the last population's average in the episodes that it ``scouted``."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._shared: Shared | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """All that returns depend on."""
        more = {"moments": self.moments, "stretch": self.stretch} if self.moments else {}
        more |= {"scouted": self.scouted} if self.scouted else {}
        return {
            "env": self.env if isinstance(self.env, str) else name_of(self.env),
            "env_options": stored_env_options(self.env, self.env_options),
            "episodes": self.episodes,
            "patience": self.patience,
            "max_steps": self.max_steps,
            "lanes": self.lanes,
            "world": fingerprint(self.world),
        } | more

    def __call__(self, population: np.ndarray, seed: int, episodes: int | None = None) -> np.ndarray:
        """Returns of shape (P, episodes + moments); another number of episodes begins with the same seeds."""
        population, episodes = np.atleast_2d(population), episodes or self.episodes
        check_scouted(self.scouted, episodes)
        seeds, members = training_seeds(seed, Stream.ENV_SEEDS, count=max(episodes, self.scouted)), len(population)
        if self.scouted:
            lives = self.live(np.tile(population.mean(axis=0), (len(seeds), 1)), seeds)
            self.scouts = np.array([life.total for life in lives])
            seeds = [seeds[place] for place in np.argsort(self.scouts, kind="stable")[:episodes]]
        # episode by episode: an environment that begins as it did before may be quick about it
        lives = self.live(np.tile(population, (episodes, 1)), [seed for seed in seeds for _ in range(members)])
        returns = np.array([life.total for life in lives]).reshape(episodes, members).T
        ways = []
        for episode, count in enumerate(shares(self.moments, episodes)):
            if count:  # so many moments of the way of the best life that began as this episode does
                best = lives[episode * members + int(returns[:, episode].argmax())]
                rng = np.random.default_rng([seed, Stream.STATE_RESETS, episode])
                ways.append(Way.of(seeds[episode], best.actions, count, self.stretch, rng))
        along = self._live([group for way in ways for group in self._along(population, way)])
        columns, begin = [returns], 0
        for way in ways:
            end = begin + len(way.at) * members
            columns.append(np.array([life.total for life in along[begin:end]]).reshape(members, -1))
            begin = end
        return np.hstack(columns)

    def live(self, parameters: np.ndarray, seeds: list[int]) -> list[Life]:
        """Live one life for each row of ``parameters`` (lives, size), with its seed."""
        return self._live(self._groups(parameters, seeds))

    def _along(self, population: np.ndarray, way: Way) -> list[Group]:
        """Tasks in which each controller begins once at each of a way's steps."""
        parameters = np.repeat(population, len(way.at), axis=0)
        return self._groups(parameters, [way.seed] * len(parameters), way)

    def _groups(self, parameters: np.ndarray, seeds: list[int], way: Way | None = None) -> list[Group]:
        """Tasks of one life for each row of ``parameters``, with its seed; along a way, at its steps in turn."""
        begins = way.at * (len(seeds) // len(way.at)) if way else ()
        family, checked = population_of(
            parameters if self.controller is None else Population(self.controller, parameters),
            self.world.num_features,
            self.world.action_dim,
        )
        parameters = checked.numpy()
        half = -(-len(seeds) // 2)
        chunk = min(LARGEST_TASK, max(-(-len(seeds) // TASKS), min(self.lanes, half)))
        shared = self._weights()
        return [
            Group(
                self._opened,
                self.env_options,
                Controllers(shared, family, parameters[at : at + chunk]),
                seeds[at : at + chunk],
                self.lanes,
                self.patience,
                self.stretch if way else self.max_steps,
                way,
                begins[at : at + chunk],
                actions=self.moments > 0 and way is None,
                first=at,
            )
            for at in range(0, len(seeds), chunk)
        ]

    def _live(self, tasks: list[Group]) -> list[Life]:
        """The lives of some tasks, in their order."""
        results: dict[int, list[Life]] = {}
        total = sum(len(task.seeds) for task in tasks)
        self.progress(0, total, "")
        here = self.workers == 1 and self.backend == "loky"
        with tempfile.TemporaryDirectory(prefix="worldmodel-") as folder:
            counter = Counter(Path(folder) / "ended")

            def report() -> None:  # work that is done again, after a worker's death, counts twice
                done = sum(map(len, results.values()))
                self.progress(max(done, min(counter.count, total - 1)), total, "")

            def ended() -> None:
                counter()
                report()

            if self.backend == "loky":  # other machines do not see the file
                tasks = [task._replace(on_end=ended if here else counter) for task in tasks]
            for index, came in run_tasks(play_group, tasks, self.workers, self.backend, report):
                results[index] = came.lives
                self.steps += came.steps
                report()
        return [life for index in range(len(tasks)) for life in results[index]]

    def _weights(self) -> Shared:
        """The world model as it is now, where workers find it; written again only when weights change."""
        mark = fingerprint(self.world)
        if self._shared is None or self._shared.mark != mark:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="worldmodel-")
                weakref.finalize(self, self._folder.cleanup)
            self._shared = share(self.world, mark, Path(self._folder.name), self.workers, self.backend)
        return self._shared

    def __repr__(self) -> str:
        """The settings that matter."""
        names = ("episodes", "workers", "patience", "moments", "scouted")
        return f"played({self.env!r}, {', '.join(f'{name}={getattr(self, name)}' for name in names)})"


def check_scouted(scouted: int, episodes: int) -> None:
    """Refuse to scout no more episodes than are chosen of them.

    Raises:
        ValueError: names the argument.
    """
    validate_non_negative_int(scouted=scouted)
    if scouted and scouted <= episodes:
        raise ValueError(f"scouted must be zero or above episodes = {episodes}, got {scouted}")


def check_moments(env: EnvSpec, options: dict[str, Any], moments: int) -> None:
    """Refuse moments in an environment that cannot go back to them.

    Raises:
        ValueError: names the argument.
    """
    validate_non_negative_int(moments=moments)
    if moments:
        with contextlib.closing(open_env(env, options)) as game:
            check_remembers(game)


def shares(total: int, parts: int) -> list[int]:
    """``total`` in as many whole parts, as equal as can be, larger ones first."""
    return [total // parts + (number < total % parts) for number in range(parts)]
