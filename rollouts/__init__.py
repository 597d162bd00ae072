"""Rollouts, real and dreamed: collecting, storing, reading, dreaming, and returns of whole populations.

Start reading at `rollouts.collect` for real episodes, at `rollouts.dream` for dreams.
"""

import worldmodel  # noqa: F401 - it sets OpenMP up, which must come before torch
from rollouts.collect import collect, estimate
from rollouts.dream import Dreams, dream
from rollouts.dream_store import keep_dreams
from rollouts.episode import Episode
from rollouts.lockstep import play
from rollouts.policies import Mixed, Policy, smooth_random, uniform
from rollouts.returns import disagreement, dreamed, played
from rollouts.store import Store
from rollouts.workers import WorkerDied

__all__ = [
    "Dreams",
    "Episode",
    "Mixed",
    "Policy",
    "Store",
    "WorkerDied",
    "collect",
    "disagreement",
    "dream",
    "dreamed",
    "estimate",
    "keep_dreams",
    "play",
    "played",
    "smooth_random",
    "uniform",
]


def __dir__() -> list[str]:
    return sorted(__all__)
