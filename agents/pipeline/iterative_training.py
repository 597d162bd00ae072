"""Iterative training: evolve a controller in dreams, play it in the game, train a new memory on all episodes, repeat.

Start reading at `iterate`. Evolution exploits the errors of a memory that was trained on random play only. Each iteration adds
episodes of the new controller to the store, and the next memory is trained on them, too.

References:
    Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 5, iterative training procedure).
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from worldmodel import VAE, Memory, WorldModel, rollouts
from worldmodel.agents.agent import Agent
from worldmodel.agents.analysis.diagnostics import measure_card
from worldmodel.agents.analysis.html import rows_of
from worldmodel.agents.analysis.verdicts import verdicts_of_card
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.config.sections import build, read_sections, write_sections
from worldmodel.agents.config.validate import validate_combination
from worldmodel.agents.pipeline import stages
from worldmodel.agents.pipeline.horizon_returns import own_returns
from worldmodel.agents.pipeline.run_folder import Run
from worldmodel.agents.pipeline.start_states import RecentStartStates
from worldmodel.agents.progress import bar, console, print_verdict, quiet
from worldmodel.io import migration
from worldmodel.io.files import atomic, error_context, fingerprint, from_json, read_json, write_json
from worldmodel.messages import format_number
from worldmodel.rollouts.executors.workers import run_tasks
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.start_states import StartStates
from worldmodel.training import distributed
from worldmodel.training.progress import Progress

PER_ITERATION = ("iterate", "search", "dream")
"""Sections of settings that each iteration saves, because a resumed run can have other settings."""


@dataclass(frozen=True)
class Iteration:
    """Results of one iteration."""

    number: int
    dream: float
    """Mean return of the controller over ``horizon`` dreamed steps that start in states of its own real episodes."""
    real: float
    """Mean return of the same controller over ``horizon`` steps of these episodes, from the same start states."""
    gap: float
    """Model-exploitation gap: ``dream - real``."""
    disagreement: float
    """Standard deviation of its mean returns over the models of the ensemble; 0 with one model."""
    episode_mean: float
    """Mean return of its complete real episodes."""
    episode_std: float
    """Standard deviation of these returns."""
    n: int
    """Number of its complete real episodes, played without noise."""
    real_steps: int
    """Number of real steps in the store afterwards."""
    dream_steps: int
    """Number of dreamed steps of the search."""


def iterate(run: Run, settings: RunConfig) -> list[Iteration]:
    """Run ``settings.iterations`` iterations, and save the world model and the controller of the best one in the run.

    The best iteration has the highest mean return over complete real episodes. Real returns influence a controller in only one
    other way: with ``iterate.init_from`` "best" the next search starts at the best controller.

    Args:
        run: Run of the iterations.
        settings: Settings of the run.

    Returns:
        The results of all iterations.

    Raises:
        ValueError: The run holds a search in dreams that is not part of the iterations.
    """
    refuse_search(run)
    done: list[Iteration] = []
    for number in range(1, settings.iterations + 1):
        context = _start_iteration(run, settings, number)
        if not context.result_path.exists():
            _run_iteration(context)
        done.append(_read_result(run, number))
        with atomic(run.folder / "iterations" / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(asdict(one)) + "\n" for one in done), encoding="utf-8")
        console.print(summary(done[-1]), markup=False)
    best = best_iteration(done)
    chosen = iteration_run(run, best.number)
    world = WorldModel.load(chosen.world_folder)
    world.save(run.world_folder)
    latents = run.latents(world)
    StartStates.from_episodes(latents, seed=settings.seed).save(run.world_folder)
    run.search("dream").mkdir(parents=True, exist_ok=True)
    chosen.controller("dream").save(run.search("dream") / "controller.safetensors")
    write_json(run.folder / "iterations" / "summary.json", {"best": best.number, "rows": [asdict(one) for one in done]})
    return done


def iteration_run(run: Run, number: int) -> Run:
    """Return the folder of an iteration, which is a run folder without rollouts."""
    return Run(run.folder / "iterations" / f"{number:02d}")


@dataclass(frozen=True)
class IterationContext:
    """An iteration and the settings that it started with."""

    run: Run
    settings: RunConfig
    number: int

    @property
    def current(self) -> Run:
        """The folder of this iteration."""
        return iteration_run(self.run, self.number)

    @property
    def previous(self) -> Run | None:
        """The folder of the previous iteration; None: this is the first one."""
        return iteration_run(self.run, self.number - 1) if self.number > 1 else None

    @property
    def init_from(self) -> Run | None:
        """The folder of the iteration whose controller is the start of the search; None: the search starts at zeros."""
        start = self.settings.iterate.init_from
        if self.previous is None or start == "zeros":
            return None
        return (
            self.previous
            if start == "last"
            else iteration_run(self.run, best_iteration(_earlier_results(self.run, self.number)).number)
        )

    @property
    def untimed(self) -> Self:
        """The same iteration in a worker process, which measures no times."""
        return replace(self, run=_UntimedRun(self.run.folder))

    @property
    def copied_world(self) -> Run | None:
        """The folder whose world model this iteration's agent keeps unchanged; None: its memory is trained."""
        if self.previous is None:
            return self.run
        return self.init_from if self.settings.iterate.init_from == "best" else None

    @property
    def result_path(self) -> Path:
        """Path of the results."""
        return self.current.folder / "iteration.json"

    @property
    def num_episodes(self) -> int:
        """Number of episodes in the store at the start of the iteration."""
        with error_context(path := self.current.folder / "episodes.json"):
            return int(read_json(path)["episodes"])


def _start_iteration(run: Run, settings: RunConfig, number: int) -> IterationContext:
    """Return the context of an iteration with its saved settings; a new iteration saves the settings of the run."""
    context = IterationContext(run, settings, number)
    path = context.current.folder / "settings.json"
    if context.result_path.exists():
        return context
    if not path.exists():
        write_sections(settings, PER_ITERATION, path)
        return context
    with error_context(path, wrap_value_errors=True):
        saved = replace(settings, **read_sections(PER_ITERATION, path))
        validate_combination(saved)
    if saved != settings:
        console.print(
            f"iteration {number} resumes with its saved settings; remove {path.parent} to start it again",
            markup=False,
        )
    return replace(context, settings=saved)


def freeze_settings(run: Run) -> None:
    """Save the settings of the run for each iteration that an older version started and that has no saved settings."""
    for folder in (run.folder / "iterations").glob("[0-9]*"):
        if not any((folder / name).exists() for name in ("iteration.json", "settings.json")):
            with error_context(path := run.folder / "config.yaml", wrap_value_errors=True):
                settings = build(migration.run_config(read_yaml(path)))
                write_sections(settings, PER_ITERATION, folder / "settings.json")


def refuse_search(run: Run) -> None:
    """Raise an error if the best iteration would overwrite the controller of another search in dreams.

    Raises:
        ValueError: Another search exists; the message names its folder.
    """
    if (search := run.search("dream") / "state.npz").exists():
        raise ValueError(
            f"{search.parent} holds another evolution, which the best iteration would overwrite: use another --out, or phases"
        )


def _run_iteration(context: IterationContext) -> None:
    """Train the memory, evolve in dreams, play in the game, and save the results."""
    world, ensemble = _ensemble(context)
    numbers = range(context.settings.iterate.candidates)
    searches = [_CandidateSearch(context.untimed, number) for number in numbers]
    if _runs_in_workers(searches):
        _start_states(context)
        with (
            context.run.stage("evolve in dreams"),
            bar(f"evolve {len(searches)} candidates", "generations") as progress,
        ):
            _run_in_workers(searches, context.settings.executor["workers"], progress)
    candidates = [_evolve(context, world, ensemble, number) for number in numbers]
    with context.run.stage("play"):
        played = [_play(context, number, Agent(world, one)) for number, one in enumerate(candidates)]
        best = int(np.argmax([_returns(context, episodes).mean() for episodes in played]))
        _play(context, len(candidates), _explorer(context, Agent(world, candidates[best])))
    candidates[best].save(context.current.folder / "evolve-dream" / "controller.safetensors")
    _write_result(context, world, ensemble, candidates[best], played[best])


def summary(one: Iteration) -> str:
    """Format the results of an iteration as one line."""
    dream, real, gap, mean, std = (
        format_number(value, 0) for value in (one.dream, one.real, one.gap, one.episode_mean, one.episode_std)
    )
    return (
        f"iteration {one.number}: in dreams {dream}, in the game {real}, gap {gap}; "
        f"complete episodes {mean} +- {std} (n = {one.n}), {one.real_steps:,} real steps"
    )


def _ensemble(context: IterationContext) -> tuple[WorldModel, list[Memory] | None]:
    """Return the world model of the iteration and the memories of the ensemble; None: there is no ensemble."""
    count = context.settings.iterate.ensemble_size
    members = range(1, count + 1) if count > 1 else ()
    folders = [context.current, *(Run(context.current.folder / f"world-{member}") for member in members)]
    _train_memories(context, folders)
    world, *others = [_world_model(context, into, member) for member, into in enumerate(folders)]
    return world, [other.memory for other in others] or None


def _train_memories(context: IterationContext, folders: Sequence[Run]) -> None:
    """Train the missing memories of an iteration in worker processes, if there are several and no GPU."""
    run, settings = context.run, context.settings
    trainings = [
        _MemoryTraining(context.untimed, into, member)
        for member, into in enumerate(folders)
        if (member or context.copied_world is None) and not (into.world_folder / "config.json").exists()
    ]
    if not _runs_in_workers(trainings):
        return
    vae = _vae(context)
    with run.stage("encode"), bar("encode frames", "frames") as progress:  # once; the workers read the file
        run.store().latents(vae, progress, settings.memory.terminate_on_stall)
    with run.stage("train memory"), bar(f"train {len(trainings)} memories", "updates") as progress:
        _run_in_workers(trainings, settings.executor["workers"], progress)


class _Part(Protocol):
    """A part of an iteration that a worker process runs; its results are files."""

    def run(self) -> None:
        """Run it."""
        ...

    @property
    def progress(self) -> tuple[int, int]:
        """Numbers of finished and of all units, from its files."""
        ...


def _runs_in_workers(parts: Sequence[_Part]) -> bool:
    """Return whether parts run at the same time: several of them, and no GPU."""
    return len(parts) > 1 and distributed.device().type == "cpu"


def _run_in_workers(parts: Sequence[_Part], workers: int, progress: Progress) -> None:
    """Run parts of an iteration in worker processes.

    Each has one thread: a second one helps small networks little, and results do not depend on the number of workers.
    """

    def report() -> None:
        done, total = zip(*(part.progress for part in parts), strict=True)
        progress(sum(done), sum(total), "")

    for _ in run_tasks(_run_part, parts, min(workers, len(parts)), poll=report):
        report()


def _run_part(part: _Part) -> None:
    """Run a part without messages on the terminal."""
    with quiet():
        part.run()


@dataclass(frozen=True)
class _MemoryTraining:
    """The training of one memory of an iteration."""

    context: IterationContext
    into: Run
    member: int

    def run(self) -> None:
        """Train the memory, and save its world model."""
        _world_model(self.context, self.into, self.member)

    @property
    def progress(self) -> tuple[int, int]:
        """Number of gradient steps up to the last validation, and of all."""
        total = _num_updates(self.context, self.into)
        if (self.into.world_folder / "config.json").exists():
            return total, total
        rows = rows_of(self.into.folder / "memory" / "metrics.jsonl")
        return (int(rows[-1]["update"]) if rows else 0), total


@dataclass(frozen=True)
class _CandidateSearch:
    """The search of one candidate of an iteration."""

    context: IterationContext
    number: int

    def run(self) -> None:
        """Evolve the candidate."""
        _evolve(self.context, *_ensemble(self.context), self.number)

    @property
    def progress(self) -> tuple[int, int]:
        """Numbers of finished generations, and of all."""
        folder = _candidate_run(self.context, self.number).search("dream")
        return len(rows_of(folder / "metrics.jsonl")), self.context.settings.dream.generations


class _UntimedRun(Run):
    """A run folder whose timings another process measures."""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run a block."""
        yield


def _world_model(context: IterationContext, into: Run, member: int = 0) -> WorldModel:
    """Train a world model of an iteration on all episodes so far, from new weights or those of the previous iteration.

    The agent's own world model is copied unchanged in the first iteration, and with ``init_from`` "best".

    Args:
        context: Present iteration.
        into: Folder of the world model.
        member: Number of the memory in the ensemble, from 1 on; 0: the agent's own world model.
    """
    if (into.world_folder / "config.json").exists():
        return into.world()
    if not member and (source := context.copied_world) is not None:
        source.world().save(into.world_folder)
        return into.world()
    run, settings, loop = context.run, context.settings, context.settings.iterate
    weights = None
    if context.previous is not None:
        weights = partial(recent_episode_weights, recent_episodes=loop.recent_episodes)
    last = _last_world(context, into)
    further = replace(settings, memory=replace(settings.memory, num_updates=_num_updates(context, into)))
    seed, before = settings.seed + context.number + 1_000 * member, None if last is None else last.world().memory
    return stages.train_memory(run, further, seed, into, _vae(context), before, weights)


def _last_world(context: IterationContext, into: Run) -> Run | None:
    """Return the folder of the world model of the previous iteration whose memory learns on; None: a new memory is trained."""
    if context.previous is None or context.settings.iterate.memory_updates is None:
        return None
    own = into.folder == context.current.folder
    last = context.previous if own else Run(context.previous.folder / into.folder.name)
    return last if last.folder.exists() else None  # the ensemble may have been smaller


def _num_updates(context: IterationContext, into: Run) -> int:
    """Return the number of gradient steps of a memory's training."""
    further = context.settings.iterate.memory_updates
    return context.settings.memory.num_updates if further is None or _last_world(context, into) is None else further


def recent_episode_weights(
    lengths: Sequence[int], recent_episodes: int | None, recent_fraction: float = 0.5
) -> np.ndarray | None:
    """Return sampling weights that give the last ``recent_episodes`` episodes a probability of ``recent_fraction``.

    Args:
        lengths: Number of steps of each episode.
        recent_episodes: Number of recent episodes; None: all.
        recent_fraction: Probability of the recent episodes.

    Returns:
        A weight for each step of an episode, (episodes,); None: all steps have the same weight.
    """
    if recent_episodes is None or recent_episodes >= len(lengths):
        return None
    recent = np.arange(len(lengths)) >= len(lengths) - recent_episodes
    steps = np.asarray(lengths, np.float64)
    return np.where(recent, recent_fraction / steps[recent].sum(), (1 - recent_fraction) / steps[~recent].sum())


def _vae(context: IterationContext) -> VAE:
    """Return the VAE of the iteration: the previous one, or the previous one after more training on all frames so far.

    Raises:
        ValueError: The search starts at the best agent, whose VAE differs from the previous iteration's.
    """
    if context.previous is None:
        return context.run.vae()
    loop = context.settings.iterate
    previous = context.previous.world().vae
    if loop.init_from == "best" and context.init_from is not None:
        best = context.init_from.world().vae
        if fingerprint(best) != fingerprint(previous):
            raise ValueError(
                f"iterate.init_from best needs an agent with the VAE of the previous iteration, got "
                f"{context.init_from.folder}, whose VAE differs"
            )
        return best
    if not loop.vae_updates:
        return previous
    settings = context.settings
    further = replace(settings, vae=replace(settings.vae, num_updates=loop.vae_updates))
    return stages.train_vae(context.run, further, settings.seed + context.number, context.current, previous)


def _evolve(context: IterationContext, world: WorldModel, ensemble: list[Memory] | None, number: int) -> Controller:
    """Evolve candidate ``number`` in dreams; the only candidate is the search of the iteration."""
    settings = context.settings
    start_states: Any = _start_states(context)
    initial = context.init_from
    return stages.evolve_dream(
        context.run,
        settings,
        settings.seed + context.number + 10_000 * number,
        _candidate_run(context, number),
        world,
        start_states,
        initial.controller("dream") if initial is not None else None,
        ensemble=ensemble,
    )


def _candidate_run(context: IterationContext, number: int) -> Run:
    """Return the folder of a candidate's search; the only candidate's is that of the iteration."""
    several = context.settings.iterate.candidates > 1
    return Run(context.current.folder / f"candidate-{number + 1}") if several else context.current


def _start_states(context: IterationContext) -> RecentStartStates:
    """Return the start states of the dreams, from the most recent episodes at the start of the iteration."""
    path = context.current.folder / "episodes.json"
    if not path.exists():
        write_json(path, {"episodes": len(context.run.store())})
    count = context.num_episodes
    num_recent = min(context.settings.iterate.recent_episodes or count, count)
    return RecentStartStates(context.run.store().latents(context.current.world().vae), count, num_recent)


def _explorer(context: IterationContext, agent: Agent) -> Agent:
    """Return the agent with exploration noise."""
    loop = context.settings.iterate
    return replace(agent, action_noise=loop.action_noise, param_noise=loop.param_noise)


def _play(context: IterationContext, part: int, agent: Agent) -> range:
    """Add episodes of an agent to the store as part ``part`` of this iteration's; return their indices.

    The last part is collected even if all its episodes exist: this also repairs a Minari index that an interruption prevented.
    """
    run, settings, loop = context.run, context.settings, context.settings.iterate
    first = context.num_episodes + part * loop.episodes
    episodes = range(first, first + loop.episodes)
    if part < loop.candidates and len(run.store()) >= episodes.stop:
        return episodes
    with bar("play the new controller", "episodes") as progress:
        rollouts.collect(
            settings.rollout_env,
            agent,
            episodes.stop,
            seed=settings.seed,
            out=run.rollouts_folder,
            max_steps=settings.collect.max_steps,
            max_idle_steps=settings.collect.max_idle_steps,
            env_options=settings.env_options,
            allow_new_policy=True,
            progress=progress,
            **settings.executor,
        )
    return episodes


def _returns(context: IterationContext, episodes: range) -> np.ndarray:
    """Return the real returns of episodes, (episodes,)."""
    store = context.run.store()
    return np.array([store.episode_metadata(index).rewards.sum(dtype=np.float64) for index in episodes])


def _write_result(
    context: IterationContext, world: WorldModel, ensemble: list[Memory] | None, controller: Controller, played: range
) -> None:
    """Measure the returns of the controller in dreams and in the game over the same horizon, and save the results."""
    settings, store = context.settings, context.run.store()
    horizon = settings.dream.horizon
    max_idle_steps = settings.collect.max_idle_steps
    latents = store.latents(world.vae, terminate_on_stall=settings.memory.terminate_on_stall)
    dream_returns, real_returns = own_returns(
        world,
        controller,
        latents,
        played,
        horizon,
        settings.dream.temperature,
        settings.seed + 1_000_003,
        max_idle_steps,
        ensemble,
    )
    returns = _returns(context, played)
    dream, real = float(dream_returns.mean()), float(real_returns.mean())
    result = Iteration(
        context.number,
        dream,
        real,
        dream - real,
        0.0 if ensemble is None else float(rollouts.disagreement(dream_returns, len(ensemble))[0]),
        float(returns.mean()),
        float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        len(returns),
        store.steps,
        context.current.evolution_steps("dream"),
    )
    with context.run.stage("diagnose"):
        card = measure_card(context.run, context.current)
    write_json(context.result_path, asdict(result))
    for verdict in verdicts_of_card(card):
        print_verdict(verdict)


def _earlier_results(run: Run, number: int) -> list[Iteration]:
    """Return the results of the iterations before this one."""
    return [_read_result(run, earlier) for earlier in range(1, number)]


def _read_result(run: Run, number: int) -> Iteration:
    """Read the results of an iteration.

    Raises:
        ValueError: The file is missing, damaged, or of another iteration; the message names it.
    """
    path = iteration_run(run, number).folder / "iteration.json"
    with error_context(path, wrap_value_errors=True):
        one = from_json(Iteration, read_json(path), path)
        if one.number != number:
            raise ValueError(f"number must be {number}, got {one.number}")
    return one


def best_iteration(done: Sequence[Iteration]) -> Iteration:
    """Return the iteration with the highest mean return over complete real episodes; the first one of equals."""
    return max(done, key=lambda one: one.episode_mean)


def has_started(folder: Path) -> bool:
    """Return whether the first iteration of a run has started: its first rollouts and its first memory are complete."""
    return (folder / "iterations" / "01" / "world" / "config.json").exists()
