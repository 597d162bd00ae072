"""Evaluation: how good is an agent, on which episodes, and how sure are we."""

import json
import math
import os
import platform
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from agents.agent import Agent
from rollouts import EnvFitness, policies
from rollouts.env_cache import EnvSpec, make_portable
from rollouts.policies import Policy
from rollouts.rollout_tasks import RolloutTask, run_rollout_task
from rollouts.runner import EpisodeResult
from rollouts.workers import envs_closed_after, run_tasks
from worldmodel.formatting import format_number
from worldmodel.io import from_json, read_json, write_json
from worldmodel.migration import renamed_env_options
from worldmodel.progress import Progress, callback, shows_progress, silent
from worldmodel.validation import validate_optional_positive_int, validate_positive_int, validate_test_seed


@dataclass(frozen=True)
class Report:
    """Returns of one agent over episodes it was not trained on."""

    env: str
    returns: list[float]
    lengths: list[int]
    seeds: list[int]
    policy: str = "agent"
    """What tables call it."""
    agent: str = ""
    """Tells its weights apart (`rollouts.policies.policy_name`)."""
    env_options: dict[str, Any] = field(default_factory=dict)
    max_steps: int | None = None
    """Where episodes were cut; None: nowhere."""
    flags: list[bool] | None = None
    """Super Mario: whether each episode ended at the flag."""
    wall_clock_s: float = 0.0
    hardware: str = ""
    command: str = ""
    real_steps: int | None = None
    """Environment steps the agent was trained with, where known."""
    dream_steps: int | None = None

    @property
    def n(self) -> int:
        """Episodes."""
        return len(self.returns)

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns (n - 1 in the denominator)."""
        return float(np.std(self.returns, ddof=1)) if self.n > 1 else 0.0

    @property
    def stderr(self) -> float:
        """Standard error of the mean."""
        return self.std / math.sqrt(self.n)

    @property
    def flag_rate(self) -> float | None:
        """Super Mario: the share of episodes that ended at the flag."""
        return None if self.flags is None else float(np.mean(self.flags))

    def __str__(self) -> str:
        """One line for people."""
        flag = "" if self.flag_rate is None else f", flag in {self.flag_rate:.0%}"
        if self.n == 1:  # a single episode has no spread
            return f"{self.env}, {self.policy}: {format_number(self.mean)} (n = 1{flag})"
        mean, std, stderr = (format_number(value) for value in (self.mean, self.std, self.stderr))
        spread = f"{mean} +- {std} (n = {self.n}, se {stderr}{flag})"
        return f"{self.env}, {self.policy}: {spread}"

    def __repr__(self) -> str:
        """The environment, the policy and the statistics."""
        return f"Report({str(self)!r})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report, with its statistics, as JSON."""
        statistics = {"n": self.n, "mean": self.mean, "std": self.std, "stderr": self.stderr}
        write_json(path, {**statistics, "flag_rate": self.flag_rate, **asdict(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is missing or is not a report.
        """
        report = from_json(cls, read_json(path), path)
        report = replace(report, env_options=renamed_env_options(report.env, report.env_options))
        if not 0 < len(report.returns) == len(report.lengths) == len(report.seeds):
            counts = (len(report.returns), len(report.lengths), len(report.seeds))
            raise ValueError(f"{path} must hold a return, a length and a seed for each episode, got {counts}")
        return report


@shows_progress("evaluate", "episodes")
@envs_closed_after()
def evaluate(
    agent: Agent | Policy | str,
    env: EnvSpec,
    episodes: int = 100,
    seed: int = 10_000,
    *,
    workers: int = 1,
    env_options: dict[str, Any] | None = None,
    max_steps: int | None = None,
    policy_name: str = "",
    backend: str = "loky",
    progress: Progress | bool = silent,
) -> Report:
    """Let an agent, or any policy, play ``episodes`` whole episodes with seeds ``seed, seed + 1, ...``.

    No episode is left out, and none is given up early. Seeds below 2**24 are for tests: no training of ours draws them.

    Raises:
        ValueError: an argument is out of range, or the agent does not fit the environment.

    Args:
        agent: an `Agent`, a policy such as `rollouts.uniform`, or its name.
        env: an id for `envs.make`, or a picklable function that makes an environment.
        episodes: n.
        seed: the first environment seed.
        workers: processes.
        env_options: more arguments of `envs.make`.
        max_steps: cut episodes here (for environments that never end).
        policy_name: the name in the report.
        backend: where the workers are (`rollouts.workers.run_tasks`).
        progress: called as ``progress(episodes done, episodes, note)``; True: a bar.
    """
    report = callback(progress)
    agent = agent if isinstance(agent, Agent) else policies.resolve_policy(agent)
    validate_positive_int(episodes=episodes)
    validate_optional_positive_int(max_steps=max_steps)
    validate_test_seed(seed, episodes)
    began = time.monotonic()
    seeds = list(range(seed, seed + episodes))
    options = dict(env_options or {})
    if isinstance(agent, Agent):
        if agent.action_noise or agent.param_noise:
            noise = f"action_noise = {agent.action_noise}, param_noise = {agent.param_noise}"
            raise ValueError(f"an agent is evaluated without action_noise or param_noise, got {noise}")
        fitness = EnvFitness(env, agent.world, workers=workers, env_options=options, max_steps=max_steps,
                         controller=agent.controller, backend=backend, progress=report)  # fmt: skip
        results = fitness.run_episodes(np.repeat(agent.controller.parameters[None].numpy(), episodes, axis=0), seeds)
    else:
        opened = make_portable(env)
        tasks = [
            RolloutTask(opened, options, agent, [number], 1, None, max_steps, first_index=index)
            for index, number in enumerate(seeds)
        ]
        done: dict[int, EpisodeResult] = {}
        report(0, episodes, "")
        for index, result in run_tasks(run_rollout_task, tasks, workers, backend):
            done[index] = result.episodes[0]
            report(len(done), episodes, "")
        results = [done[index] for index in range(episodes)]
    flags = [result.info.get("flag_get") for result in results]
    return Report(
        env=env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__),
        returns=[result.episode_return for result in results],
        lengths=[result.length for result in results],
        seeds=seeds,
        policy=policy_name or ("agent" if isinstance(agent, Agent) else policies.policy_name(agent)),
        agent=policies.policy_name(agent),
        env_options=options,
        max_steps=max_steps,
        flags=None if None in flags else [bool(flag) for flag in flags],
        wall_clock_s=round(time.monotonic() - began, 2),
        hardware=hardware(),
    )


def reproduce_command(place: Sequence[str], report: Report, more: dict[str, Any], max_steps: int | None = None) -> str:
    """The command, as a shell takes it, that repeats a test of what ``place`` names.

    Args:
        place: words of the command: a folder or a name, and what says which controller.
        report: of the test.
        more: options of the environment besides those that are stored.
        max_steps: where episodes were cut.
    """
    words = ["worldmodel", "evaluate", *place, "--eval.episodes", str(report.n), "--eval.seed", str(report.seeds[0])]
    words += [] if max_steps is None else ["--eval.max_steps", str(max_steps)]
    return shlex.join([*words, "--env_options", json.dumps(more)] if more else words)


def hardware() -> str:
    """This machine in a few words: processor, cores, GPU."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    words = f"{name}, {os.cpu_count()} cores"
    import torch

    return f"{words}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else words
