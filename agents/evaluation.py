"""Evaluation: how good is an agent, on which episodes, and how sure are we."""

import math
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from agents.agent import Agent
from rollouts import played, policies
from rollouts.episode import Policy
from rollouts.lockstep import EnvSpec
from rollouts.workers import run_tasks, worker_env
from worldmodel.checkpoints import read_json, write_json
from worldmodel.progress import Progress, silent


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
    """Tells its weights apart (`rollouts.policies.name_of`)."""
    env_options: dict[str, Any] = field(default_factory=dict)
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
        return (
            f"{self.env}, {self.policy}: {self.mean:.1f} +- {self.std:.1f} (n = {self.n}, se {self.stderr:.1f}{flag})"
        )

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
        content = read_json(path)
        try:
            return cls(**{key: value for key, value in content.items() if key in cls.__dataclass_fields__})
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a report: {error}") from None


def evaluate(
    agent: Agent | Policy,
    env: EnvSpec,
    episodes: int = 100,
    seed: int = 10_000,
    *,
    workers: int = 1,
    env_options: dict[str, Any] | None = None,
    max_steps: int | None = None,
    policy_name: str = "",
    progress: Progress = silent,
) -> Report:
    """Let an agent, or any policy, play ``episodes`` whole episodes with seeds ``seed, seed + 1, ...``.

    Nothing is cut short, and no episode is left out. Evolution draws its seeds from another stream (beyond 2**24 with
    overwhelming probability), so these episodes are new to the agent.

    Args:
        agent: an `Agent`, or a policy such as `rollouts.uniform`.
        env: an id for `envs.make`, or a picklable function that makes an environment.
        episodes: n.
        seed: the first environment seed.
        workers: processes.
        env_options: more arguments of `envs.make`.
        max_steps: cut episodes here (for environments that never end).
        policy_name: the name in the report.
        progress: called as ``progress(episodes done, episodes, note)``.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    began = time.monotonic()
    seeds = list(range(seed, seed + episodes))
    options = dict(env_options or {})
    if isinstance(agent, Agent):
        if agent.exploration:
            raise ValueError(f"an agent is evaluated without exploration, got exploration = {agent.exploration}")
        fitness = played(env, agent.world, workers=workers, env_options=options, max_steps=max_steps,
                         controller=agent.controller, progress=progress)  # fmt: skip
        lives = fitness.live(np.repeat(agent.controller.parameters[None].numpy(), episodes, axis=0), seeds)
        rows = [(life.total, life.length, life.info.get("flag_get")) for life in lives]
    else:
        tasks = [(env, options, agent, number, max_steps) for number in seeds]
        done: dict[int, tuple[float, int, bool | None]] = {}
        for index, row in run_tasks(_play_policy, tasks, workers):
            done[index] = row
            progress(len(done), episodes, "")
        rows = [done[index] for index in range(episodes)]
    totals, lengths, flags = zip(*rows, strict=True)
    return Report(
        env=env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__),
        returns=[float(total) for total in totals],
        lengths=[int(length) for length in lengths],
        seeds=seeds,
        policy=policy_name or ("agent" if isinstance(agent, Agent) else policies.name_of(agent)),
        agent=policies.name_of(agent),
        env_options=options,
        flags=None if None in flags else [bool(flag) for flag in flags],
        wall_clock_s=round(time.monotonic() - began, 2),
        hardware=hardware(),
    )


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


def _play_policy(task: tuple[EnvSpec, dict[str, Any], Policy, int, int | None]) -> tuple[float, int, bool | None]:
    """Play one episode of a plain policy in a worker, without keeping its frames."""
    env, options, policy, seed, max_steps = task
    game = worker_env(env, options)
    act = policy(game.action_space, np.random.default_rng([seed, 2]))
    frame, info = game.reset(seed=seed)
    total, length, over = 0.0, 0, False
    while not over and (max_steps is None or length < max_steps):
        frame, reward, terminated, truncated, info = game.step(act(frame))
        total, length, over = total + float(reward), length + 1, terminated or truncated
    return total, length, info.get("flag_get")
