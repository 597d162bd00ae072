"""Estimated time and size of a collection, before it starts. Start reading at `estimate_collection`."""

import math
import os
import shutil
import time
from dataclasses import dataclass
from typing import Any

from worldmodel.envs.adapters import frame_source
from worldmodel.io.paths import expand
from worldmodel.rollouts.env_cache import EnvSpec, make_portable, open_env
from worldmodel.rollouts.policy.policies import Policy, resolve_policy
from worldmodel.rollouts.runner import play
from worldmodel.rollouts.store.shards import shard_bytes
from worldmodel.validation import validate_optional_positive_int, validate_positive_int, validate_seed

ENDLESS = 1_000
"""Number of frames of an episode in estimates, if nothing limits it."""
PROBE_STEPS = 60
WORKER_STARTUP_S = 5.0
"""Seconds until worker processes have imported torch and opened their environments."""


@dataclass(frozen=True)
class CollectionEstimate:
    """Estimated time and size of a collection, measured on a few steps."""

    seconds: float
    bytes: float
    steps: int
    free_bytes: int
    """Free bytes on the disk."""
    startup_s: float = 0.0
    """Seconds until workers start to play."""
    frame_source: str = ""
    """What the frames show (`worldmodel.envs.adapters.frame_source`)."""
    has_limit: bool = True
    """Whether the number of steps of an episode is limited."""

    def __str__(self) -> str:
        """Return one line."""
        seconds = self.seconds + self.startup_s
        time = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{max(seconds, 1):.0f} s"
        return (
            f"up to {self.steps:,} steps, about {time} and {max(self.bytes / 1e6, 1):,.0f} MB "
            f"({self.free_bytes / 1e9:,.1f} GB free)"
            + ("" if self.has_limit else f"; {ENDLESS:,} steps an episode are assumed: collect.max_steps limits them")
        )


def estimate_collection(
    env: EnvSpec,
    policy: Policy | str,
    episodes: int,
    seed: int = 0,
    workers: int = 1,
    out: str | os.PathLike[str] = ".",
    max_steps: int | None = None,
    env_options: dict[str, Any] | None = None,
) -> CollectionEstimate:
    """Measure a few steps and estimate what `collect` with these arguments takes if no episode ends early.

    An environment without a time limit counts as `ENDLESS` frames an episode.

    Raises:
        ValueError: An argument is out of range, or the environment cannot be played.
    """
    validate_positive_int(episodes=episodes, workers=workers)
    validate_optional_positive_int(max_steps=max_steps)
    validate_seed(seed)
    policy, options = resolve_policy(policy), dict(env_options or {})
    environment = open_env(make_portable(env), options)
    action_repeat = int(options.get("action_repeat", 1) or 1)
    time_limit = getattr(environment.spec, "max_episode_steps", None)  # counted in frames
    limit = min(max_steps or math.inf, -(-time_limit // action_repeat) if time_limit else math.inf)
    has_limit = limit < math.inf
    limit = int(limit) if has_limit else -(-ENDLESS // action_repeat)
    play(environment, policy, seed, max_steps=2)  # excludes one-time work, such as loading fonts
    started = time.monotonic()
    probe = play(environment, policy, seed, max_steps=min(PROBE_STEPS, limit))
    seconds = (time.monotonic() - started) / len(probe)
    environment.close()
    size = len(shard_bytes([probe])) / len(probe)
    target = expand(out).absolute()
    existing_folder = next(parent for parent in (target, *target.parents) if parent.exists())
    steps = episodes * limit
    cores = min(workers, os.cpu_count() or 1)
    free_bytes = shutil.disk_usage(existing_folder).free
    startup_s = WORKER_STARTUP_S if workers > 1 else 0.0
    shown = frame_source(environment)
    return CollectionEstimate(seconds * steps / cores, size * steps, steps, free_bytes, startup_s, shown, has_limit)
