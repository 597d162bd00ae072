"""Returns of a population of controllers, from dreams (`DreamFitness`) or from the environment (`EnvFitness`).

Start reading at `Fitness`, the only thing that evolution needs. A seed determines the episodes, or the start states and noise
of dreams, of all controllers.
"""

import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from worldmodel import Memory, WorldModel
from worldmodel.io.files import array_digest, fingerprint
from worldmodel.rng import Stream
from worldmodel.rollouts.dream import dream
from worldmodel.rollouts.ensemble import ModelEnsemble
from worldmodel.rollouts.env_cache import EnvSpec, make_portable
from worldmodel.rollouts.episode import training_seeds
from worldmodel.rollouts.executors.workers import Shared, share, validate_backend
from worldmodel.rollouts.policy.controllers import Controller, LinearController, validate_controller
from worldmodel.rollouts.policy.policies import policy_name
from worldmodel.rollouts.rollout_tasks import ControllerBatch, RolloutResult, RolloutTask, run_rollout_tasks
from worldmodel.rollouts.runner import EpisodeResult
from worldmodel.rollouts.state_resets import Trajectory
from worldmodel.start_states import EncodedEpisodes, validate_start_states
from worldmodel.training.progress import Progress, silent
from worldmodel.validation import validate_optional_positive_int, validate_positive_int

NUM_TASKS, MAX_TASK_EPISODES = 8, 64
"""A generation is split into about `NUM_TASKS` tasks of at most `MAX_TASK_EPISODES` episodes. The split does not depend on
the number of workers, so returns do not either."""


class FitnessResult(NamedTuple):
    """Returns of a population."""

    returns: np.ndarray
    """Returns (P, n) of the members in n complete episodes, the same for all members."""
    steps: int = 0
    """Number of steps."""
    reset_returns: np.ndarray | None = None
    """Returns (P, r) of the members in episodes from restored states."""
    candidate_returns: np.ndarray | None = None
    """Returns of the population's mean in the candidate episodes."""

    @property
    def all_returns(self) -> np.ndarray:
        """Returns of complete episodes and of those from restored states, (P, n + r)."""
        return self.returns if self.reset_returns is None else np.hstack((self.returns, self.reset_returns))


@runtime_checkable
class Fitness(Protocol):
    """Computes the returns of populations; more is better."""

    @property
    def identity(self) -> Any:
        """What returns depend on, for JSON; a resumed search must have the same."""
        ...

    def __call__(self, population: np.ndarray, seed: int) -> FitnessResult:
        """Return the returns of a population (P, size); the seed determines the episodes, the same for all members."""
        ...


FitnessFunction = Callable[[np.ndarray, int], Any]
"""A function ``function(population, seed)`` that gives returns of shape (P,) or (P, n)."""


def call_fitness(fitness: Fitness | FitnessFunction, population: np.ndarray, seed: int) -> FitnessResult:
    """Return the result of a fitness or of a plain function, whose returns (P,) or (P, n) are those of one or n episodes.

    Raises:
        ValueError: The returns have another shape, or are not finite.
    """
    result, count = fitness(population, seed), len(population)
    if not isinstance(result, FitnessResult):
        returns = np.asarray(result, dtype=np.float64)
        result = FitnessResult(returns[:, None] if returns.ndim == 1 else returns)
    if (returns := result.all_returns).ndim != 2 or len(returns) != count:
        raise ValueError(f"fitness must return shape ({count},) or ({count}, n), got {returns.shape}")
    if not np.isfinite(returns).all():
        raise ValueError("fitness must return finite numbers, got NaN or infinity")
    return result


class DreamFitness:
    """Fitness in dreams: each controller's sums of expected rewards in ``num_rollouts`` dreams from common start states.

    Args:
        world: World model.
        start_states: ``store.latents(vae)``, or a tensor (S, latent).
        horizon: Maximum number of steps of a dream.
        num_rollouts: Number of dreams per controller.
        temperature: Sampling temperature above zero.
        controller: Kind of the controllers. None: linear.
        ensemble: Memories that imagine the dreams in turn. None: the world model's own (`rollouts.ensemble`).
        use_expected_continuation: Whether rewards are weighted with the probability that the dream has not ended before,
            instead of sampling terminations: returns have the same mean and less variance.
        termination_hazard_ratio: Exponent of the survival probability (`rollouts.dream`).
        options: Further arguments of `rollouts.dream`.

    Raises:
        ValueError: Sizes do not match.
    """

    def __init__(
        self,
        world: WorldModel,
        start_states: EncodedEpisodes | Float[Tensor, "starts latent"],
        horizon: int = 1000,
        num_rollouts: int = 16,
        temperature: float = 1.0,
        controller: Controller | None = None,
        ensemble: Sequence[Memory] | None = None,
        use_expected_continuation: bool = True,
        termination_hazard_ratio: float = 1.0,
        **options: Any,
    ) -> None:
        validate_positive_int(horizon=horizon, num_rollouts=num_rollouts)
        validate_start_states(world, start_states)
        controller = controller or LinearController.for_world_model(world)
        validate_controller(controller, world)
        if ensemble is not None:
            ModelEnsemble(world, ensemble, num_rollouts, population=1)
        self.world, self.start_states, self.controller, self.ensemble = world, start_states, controller, ensemble
        self.settings = {"horizon": horizon, "num_rollouts": num_rollouts, "temperature": temperature, **options}
        self.settings["use_expected_continuation"] = use_expected_continuation
        self.settings["termination_hazard_ratio"] = termination_hazard_ratio

    @property
    def identity(self) -> dict[str, Any]:
        """All settings that returns depend on."""
        start_states = self.start_states
        if isinstance(start_states, Tensor | np.ndarray):
            starts: Any = array_digest(np.asarray(start_states))
        else:
            starts = getattr(start_states, "identity", len(start_states))
        identity = {**self.settings, "world": fingerprint(self.world), "start_states": starts}
        if self.ensemble is not None:
            identity["ensemble"] = [fingerprint(memory) for memory in self.ensemble]
        return identity

    def __call__(self, population: np.ndarray, seed: int) -> FitnessResult:
        """Return the returns (P, dreams)."""
        controllers = self.controller.with_parameters(population)
        result = dream(self.world, controllers, self.start_states, seed=seed, ensemble=self.ensemble, **self.settings)
        return FitnessResult(result.returns, int(result.lengths.sum()))

    def __repr__(self) -> str:
        """Return the main settings."""
        return f"DreamFitness({', '.join(f'{name}={value}' for name, value in self.settings.items())})"


def disagreement(
    returns: Float[np.ndarray, "population dreams"], ensemble_size: int
) -> Float[np.ndarray, "population"]:
    """Return the standard deviation between the mean returns of a controller with each ensemble member.

    Dream n uses member ``n % ensemble_size``. Only complete groups count: their dreams differ by their members alone
    (`rollouts.ensemble`).

    Raises:
        ValueError: There are fewer than two members, or fewer dreams than members.
    """
    groups = returns.shape[1] // ensemble_size if ensemble_size else 0
    if ensemble_size < 2 or not groups:
        raise ValueError(f"ensemble_size must be from 2 to num_rollouts ({returns.shape[1]}), got {ensemble_size}")
    complete = returns[:, : groups * ensemble_size].reshape(len(returns), groups, ensemble_size)
    spread: np.ndarray = complete.mean(axis=1).std(axis=1, ddof=1)
    return spread


class EnvFitness:
    """Fitness in the environment: each controller's returns in ``episodes`` episodes with common seeds.

    Args:
        env: Id for `envs.make`, or a picklable function that makes an environment.
        world: World model that encodes frames and updates the memory for the controllers.
        episodes: Number of episodes per controller.
        workers: Number of worker processes.
        envs_per_worker: Number of environments that a process steps together.
        max_idle_steps: Truncate an episode after this number of steps without a positive reward. None: never.
        max_steps: Truncate an episode after this number of steps. None: never.
        env_options: Further arguments of `envs.make`.
        controller: Kind of the controllers. None: linear.
        backend: Where workers run (`rollouts.executors.workers.run_tasks`).
        progress: Called as ``progress(episodes, total, note)``.

    Raises:
        ValueError: An argument is out of range.
        rollouts.WorkerDied: Workers died three times on the same task.
    """

    def __init__(
        self,
        env: EnvSpec,
        world: WorldModel,
        episodes: int = 1,
        workers: int = 1,
        envs_per_worker: int = 8,
        max_idle_steps: int | None = None,
        max_steps: int | None = None,
        env_options: dict[str, Any] | None = None,
        controller: Controller | None = None,
        backend: str = "loky",
        progress: Progress = silent,
    ) -> None:
        validate_backend(backend, workers)
        validate_positive_int(episodes=episodes, envs_per_worker=envs_per_worker)
        validate_optional_positive_int(max_idle_steps=max_idle_steps, max_steps=max_steps)
        self._portable_env = make_portable(env)
        self.env, self.world, self.episodes, self.env_options = env, world, episodes, dict(env_options or {})
        self.workers, self.envs_per_worker, self.backend, self.progress = workers, envs_per_worker, backend, progress
        self.max_idle_steps, self.max_steps = max_idle_steps, max_steps
        self.controller = controller or LinearController.for_world_model(world)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._shared: Shared | None = None

    @property
    def unwrapped(self) -> "EnvFitness":
        """This fitness, without wrappers (`rollouts.fitness_wrappers`)."""
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """All settings that returns depend on."""
        # without envs_per_worker, which changes returns by rounding errors at most
        return {
            "env": self.env if isinstance(self.env, str) else policy_name(self.env),
            "env_options": self.env_options,
            "episodes": self.episodes,
            "max_idle_steps": self.max_idle_steps,
            "max_steps": self.max_steps,
            "world": fingerprint(self.world),
        }

    def __call__(self, population: np.ndarray, seed: int, env_seeds: Sequence[int] | None = None) -> FitnessResult:
        """Return the returns (P, n) in the episodes with these seeds; None: ``episodes`` seeds drawn from ``seed``."""
        population = np.atleast_2d(population)
        env_seeds = self.env_seeds(seed) if env_seeds is None else env_seeds
        episodes, steps = self.run_episodes(population, env_seeds)
        return FitnessResult(episode_returns(episodes, len(population)), steps)

    def env_seeds(self, seed: int, count: int | None = None) -> list[int]:
        """Return ``count`` environment seeds for a call with this seed; None: one for each episode."""
        return training_seeds(seed, Stream.ENV_SEEDS, count=count or self.episodes)

    def run_episodes(
        self, population: np.ndarray, env_seeds: Sequence[int], return_actions: bool = False
    ) -> RolloutResult:
        """Play the episodes with these seeds with each member (P, size), in the order of the seeds."""
        # an environment may reset faster with its previous seed
        seeds = [seed for seed in env_seeds for _ in population]
        return self.run(self.tasks(np.tile(population, (len(env_seeds), 1)), seeds, return_actions))

    def tasks(
        self,
        parameters: np.ndarray,
        seeds: list[int],
        return_actions: bool = False,
        trajectory: Trajectory | None = None,
        reset_horizon: int | None = None,
    ) -> list[RolloutTask]:
        """Return tasks with one episode per row of ``parameters`` (episodes, size) and seed.

        With a trajectory they start at its reset steps in turn, and are truncated after ``reset_horizon`` steps.
        """
        reset_steps = trajectory.reset_steps * (len(seeds) // len(trajectory.reset_steps)) if trajectory else ()
        parameters = self.controller.with_parameters(parameters).parameters.numpy()
        half = -(-len(seeds) // 2)
        chunk = min(MAX_TASK_EPISODES, max(-(-len(seeds) // NUM_TASKS), min(self.envs_per_worker, half)))
        shared = self._share_world()
        return [
            RolloutTask(
                self._portable_env,
                self.env_options,
                ControllerBatch(shared, self.controller, parameters[first : first + chunk]),
                seeds[first : first + chunk],
                self.envs_per_worker,
                self.max_idle_steps,
                reset_horizon if trajectory else self.max_steps,
                trajectory,
                reset_steps[first : first + chunk],
                return_actions,
                first_index=first,
            )
            for first in range(0, len(seeds), chunk)
        ]

    def run(self, tasks: list[RolloutTask]) -> RolloutResult:
        """Run tasks in the workers."""
        return run_rollout_tasks(tasks, self.workers, self.backend, self.progress)

    def _share_world(self) -> Shared:
        """Share the current world model with the workers; it is written again only after its weights change."""
        key = fingerprint(self.world)
        if self._shared is None or self._shared.key != key:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="worldmodel-")
                weakref.finalize(self, self._folder.cleanup)
            self._shared = share(self.world, key, Path(self._folder.name), self.workers, self.backend)
        return self._shared

    def __repr__(self) -> str:
        """Return the main settings."""
        return f"EnvFitness({self.env!r}, episodes={self.episodes}, workers={self.workers}, max_steps={self.max_steps})"


def episode_returns(results: list[EpisodeResult], members: int) -> np.ndarray:
    """Return the returns (members, n) of the episodes of `EnvFitness.run_episodes`."""
    return np.array([result.episode_return for result in results]).reshape(-1, members).T
