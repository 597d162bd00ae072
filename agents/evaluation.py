"""Evaluation of agents and policies over seeded episodes.

Start reading at `evaluate`, which returns a `Report`.
"""

import html
import json
import logging
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

from worldmodel.agents.agent import Agent
from worldmodel.io.files import from_json, read_json, write_json
from worldmodel.io.migration import renamed_env_options, renamed_evaluation
from worldmodel.io.paths import folder_path
from worldmodel.messages import format_number
from worldmodel.rollouts import EnvFitness
from worldmodel.rollouts.env_cache import EnvSpec, make_portable
from worldmodel.rollouts.executors.workers import envs_closed_after
from worldmodel.rollouts.policy import policies
from worldmodel.rollouts.policy.policies import Policy
from worldmodel.rollouts.rollout_tasks import RolloutTask, run_rollout_tasks
from worldmodel.rollouts.runner import EpisodeResult
from worldmodel.training.progress import Progress, callback, shows_progress, silent
from worldmodel.validation import validate_optional_positive_int, validate_positive_int, validate_test_seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """Returns of one agent or policy over episodes that no training used."""

    env: str
    returns: list[float]
    lengths: list[int]
    seeds: list[int]
    policy: str = "agent"
    """Name in tables."""
    agent: str = ""
    """Identifier of the weights (`rollouts.policy.policies.policy_name`)."""
    env_options: dict[str, Any] = field(default_factory=dict)
    max_steps: int | None = None
    """Maximal number of steps of an episode; None: no limit."""
    flags: list[bool] | None = None
    """Whether each episode reached the flag; None: another game than Super Mario."""
    wall_clock_s: float = 0.0
    hardware: str = ""
    command: str = ""
    real_steps: int | None = None
    """Number of environment steps of the agent's training; None: unknown."""
    dream_steps: int | None = None
    """Number of dreamed steps of the agent's training; None: unknown."""

    @property
    def n(self) -> int:
        """Number of episodes."""
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
        """Fraction of episodes that reached the flag; None: another game than Super Mario."""
        return None if self.flags is None else float(np.mean(self.flags))

    def __str__(self) -> str:
        """Return one line with the environment, the policy and the statistics."""
        flag = "" if self.flag_rate is None else f", flag in {self.flag_rate:.0%}"
        if self.n == 1:  # one episode has no standard deviation
            return f"{self.env}, {self.policy}: {format_number(self.mean)} (n = 1{flag})"
        mean, std, stderr = (format_number(value) for value in (self.mean, self.std, self.stderr))
        return f"{self.env}, {self.policy}: {mean} +- {std} (n = {self.n}, se {stderr}{flag})"

    def __repr__(self) -> str:
        """Return ``Report(...)`` around the line of `str`."""
        return f"Report({str(self)!r})"

    def _repr_html_(self) -> str:
        """Return the statistics as an HTML table for a notebook."""
        low, high, mean, std = (
            format_number(value) for value in (min(self.returns), max(self.returns), self.mean, self.std)
        )
        cells = {"environment": self.env, "policy": self.policy, "mean ± std": f"{mean} ± {std}", "n": self.n}
        cells |= {"lowest": low, "highest": high, "seeds": f"{min(self.seeds)} to {max(self.seeds)}"}
        heads, values = (
            "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in part)
            for tag, part in (("th", cells), ("td", cells.values()))
        )
        return f"<table><tr>{heads}</tr><tr>{values}</tr></table>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report and its statistics as JSON."""
        statistics = {"n": self.n, "mean": self.mean, "std": self.std, "stderr": self.stderr}
        write_json(path, {**statistics, "flag_rate": self.flag_rate, **asdict(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read the file of `save`.

        Raises:
            ValueError: The file is missing or is not a report.
        """
        report = from_json(cls, read_json(path), path)
        report = replace(
            report,
            env_options=renamed_env_options(report.env, report.env_options),
            command=renamed_evaluation(report.env, report.command),
        )
        if not 0 < len(report.returns) == len(report.lengths) == len(report.seeds):
            counts = (len(report.returns), len(report.lengths), len(report.seeds))
            raise ValueError(f"{path} must hold one return, length and seed for each episode, got {counts}")
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
    film: str | os.PathLike[str] | None = None,
) -> Report:
    """Evaluate an agent or a policy over ``episodes`` complete episodes with the seeds ``seed, seed + 1, ...``.

    All episodes count, without idle truncation. Seeds below 2**24 are reserved for evaluation: no training draws them.

    Args:
        agent: `Agent`, policy such as `rollouts.uniform`, or name of a policy.
        env: Id for `envs.make`, or picklable function that makes an environment.
        episodes: Number of episodes.
        seed: Seed of the first episode.
        workers: Number of worker processes.
        env_options: Keyword arguments of `envs.make`.
        max_steps: Maximal number of steps of an episode; None: no limit.
        policy_name: Name in the report; empty: "agent" or the name of the policy.
        backend: Executor of the workers (`rollouts.executors.workers.run_tasks`).
        progress: Function that is called as ``progress(episodes done, episodes, note)``; True: a bar.
        film: Path of a folder for films (MP4) of the best, the median and the worst episode; None: no films
            (`agents.analysis.episode_film.write_films`).

    Returns:
        The report, in the order of the seeds.

    Raises:
        ValueError: An argument is out of range, or the agent does not fit the environment.
    """
    report = callback(progress)
    agent = agent if isinstance(agent, Agent) else policies.resolve_policy(agent)
    validate_positive_int(episodes=episodes)
    validate_optional_positive_int(max_steps=max_steps)
    validate_test_seed(seed, episodes)
    start_time = time.monotonic()
    seeds = list(range(seed, seed + episodes))
    options, portable = dict(env_options or {}), make_portable(env)
    if isinstance(agent, Agent):
        if agent.action_noise or agent.param_noise:
            noise = f"action_noise = {agent.action_noise}, param_noise = {agent.param_noise}"
            raise ValueError(f"agent must have no action_noise or param_noise, got {noise}")
        fitness = EnvFitness(env, agent.world, workers=workers, env_options=options, max_steps=max_steps,
                         controller=agent.controller, backend=backend, progress=report)  # fmt: skip
        parameters = agent.controller.parameters[None].numpy()
        results = fitness.run_episodes(parameters, seeds, return_actions=film is not None).episodes
    else:
        task = RolloutTask(portable, options, agent, [], 1, None, max_steps, return_actions=film is not None)
        tasks = [task._replace(seeds=[one], first_index=index) for index, one in enumerate(seeds)]
        results = run_rollout_tasks(tasks, workers, backend, report).episodes
    if film is not None:
        about = {"seeds": seeds, "env": portable, "env_options": options, "max_steps": max_steps}
        _write_films(folder_path(film, "film"), agent, results, **about)
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
        wall_clock_s=round(time.monotonic() - start_time, 2),
        hardware=hardware(),
    )


def _write_films(folder: Path, agent: Agent | Policy, results: Sequence[EpisodeResult], **about: Any) -> None:
    """Write films of an evaluation, whose result must not be lost if they fail."""
    from worldmodel.agents.analysis.episode_film import write_films  # loads libraries of videos

    if isinstance(agent, Agent):
        about["draw"] = agent.world.draw_observations
    try:
        write_films(folder, results, **about)
    except (OSError, ValueError) as error:
        logger.warning("no films: %s", error)


def reproduce_command(source: Sequence[str], report: Report, more: dict[str, Any], max_steps: int | None = None) -> str:
    """Return the shell command that repeats an evaluation.

    Args:
        source: Arguments that name the agent: a folder or a name, and the choice of the controller.
        report: Report of the evaluation.
        more: Environment options beyond the stored ones.
        max_steps: Maximal number of steps of an episode; None: no limit.
    """
    words = ["worldmodel", "evaluate", *source, "--eval.episodes", str(report.n), "--eval.seed", str(report.seeds[0])]
    words += [] if max_steps is None else ["--eval.max_steps", str(max_steps)]
    return shlex.join([*words, "--env_options", json.dumps(more)] if more else words)


def hardware() -> str:
    """Return the name of the processor, the number of cores, and the name of the GPU if there is one."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    cpu = f"{name}, {os.cpu_count()} cores"
    import torch

    return f"{cpu}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else cpu
