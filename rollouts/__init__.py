"""Collect, store and read rollouts, dream, and compute the returns of populations of controllers.

Start reading at `rollouts.collect` for rollouts in an environment and at `rollouts.dream` for dreams.
"""

from worldmodel.rollouts.collect import collect
from worldmodel.rollouts.dream import Dreams, dream
from worldmodel.rollouts.episode import Episode
from worldmodel.rollouts.estimate import estimate_collection
from worldmodel.rollouts.executors.workers import WorkerDied
from worldmodel.rollouts.fitness import DreamFitness, EnvFitness, Fitness, FitnessResult, disagreement
from worldmodel.rollouts.fitness_wrappers import HardEpisodes, StateResets
from worldmodel.rollouts.policy.policies import MixturePolicy, Policy, smooth_random, uniform
from worldmodel.rollouts.runner import play
from worldmodel.rollouts.store.dream_store import write_dreams
from worldmodel.rollouts.store.sources import import_from
from worldmodel.rollouts.store.store import Store
from worldmodel.rollouts.store.write import write

__all__ = [
    "DreamFitness",
    "Dreams",
    "EnvFitness",
    "Episode",
    "Fitness",
    "FitnessResult",
    "HardEpisodes",
    "MixturePolicy",
    "Policy",
    "StateResets",
    "Store",
    "WorkerDied",
    "collect",
    "disagreement",
    "dream",
    "estimate_collection",
    "import_from",
    "play",
    "smooth_random",
    "uniform",
    "write",
    "write_dreams",
]


def __dir__() -> list[str]:
    return sorted(__all__)
