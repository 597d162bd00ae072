"""Collect, store and read rollouts, dream, and compute the returns of populations of controllers.

Start reading at `rollouts.collect` for rollouts in an environment and at `rollouts.dream` for dreams.
"""

import worldmodel  # noqa: F401 - it sets OpenMP up, which must come before torch
from rollouts.collect import collect, estimate_collection
from rollouts.dream import Dreams, dream
from rollouts.dream_store import write_dreams
from rollouts.episode import Episode
from rollouts.fitness import DreamFitness, EnvFitness, disagreement
from rollouts.policies import MixturePolicy, Policy, smooth_random, uniform
from rollouts.runner import play
from rollouts.store import Store
from rollouts.workers import WorkerDied

__all__ = [
    "DreamFitness",
    "Dreams",
    "EnvFitness",
    "Episode",
    "MixturePolicy",
    "Policy",
    "Store",
    "WorkerDied",
    "collect",
    "disagreement",
    "dream",
    "estimate_collection",
    "play",
    "smooth_random",
    "uniform",
    "write_dreams",
]


def __dir__() -> list[str]:
    return sorted(__all__)
