"""Dream, play, learn, again: controllers evolved in dreams alone, of a memory that has seen what they do in the game.

Start reading at `iterate`. A memory that only saw random play is exploited: evolution finds what it does not know. Each
iteration plays the new controller in the real game, adds those episodes to the store, and learns a new memory from all.

References:
    Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 5, iterative training procedure).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rollouts
from agents import stages
from agents.agent import Agent
from agents.config.io import read_yaml
from agents.config.schema import DreamConfig, LoopConfig, RunConfig
from agents.config.sections import from_dict, read_sections, write_sections
from agents.config.validate import validate_combination
from agents.controller import Controller
from agents.horizon_returns import own_returns
from agents.progress import bar, console
from agents.run import Run
from agents.start_states import RecentStartStates
from worldmodel import VAE, Memory, WorldModel, migration
from worldmodel.formatting import format_number
from worldmodel.io import atomic, error_context, fingerprint, from_json, read_json, write_json
from worldmodel.start_states import StartStates

PER_ITERATION: dict[str, type[LoopConfig] | type[DreamConfig]] = {"iterate": LoopConfig, "dream": DreamConfig}
"""Sections of settings that each iteration has of its own: a run may go on with others."""


@dataclass(frozen=True)
class Iteration:
    """What one iteration came to."""

    number: int
    dream: float
    """Mean return of the controller over ``horizon`` dreamed steps that begin within its own real episodes."""
    real: float
    """Mean return of the same controller over ``horizon`` steps of these episodes, from the same moments on."""
    gap: float
    """Dream minus real: how far evolution exploited the memory."""
    disagreement: float
    """Standard deviation between its mean returns in several worlds; 0 with a single one."""
    episode_mean: float
    """Mean return of its whole real episodes."""
    episode_std: float
    n: int
    """Whole real episodes, played without exploration."""
    real_steps: int
    """Real steps in the store afterwards."""
    dream_steps: int


def iterate(run: Run, env: str, settings: RunConfig, workers: int, backend: str) -> list[Iteration]:
    """Tell ``settings.iterations`` iterations, and leave the best one's world model and controller in the run.

    The best has the highest mean return over whole episodes of the real game; no return of the game reaches a controller in
    any other way (with ``iterate.init_from`` "best" the search of the next one begins there, too).

    Raises:
        ValueError: the run's controller of the dream comes from a search beside the iterations.
    """
    refuse_search(run)
    done: list[Iteration] = []
    for number in range(1, settings.iterations + 1):
        context = _start_iteration(run, settings, number)
        if not context.result_path.exists():
            _run_iteration(context, env, workers, backend)
        done.append(_read_result(run, number))
        with atomic(run.folder / "iterations" / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(asdict(one)) + "\n" for one in done), encoding="utf-8")
        console.print(summary(done[-1]), markup=False)
    best = best_iteration(done)
    chosen = iteration_run(run, best.number)
    world = WorldModel.load(chosen.world_folder)
    world.save(run.world_folder)
    latents = run.latents(world)  # as this eye sees them
    StartStates.from_episodes(latents, seed=settings.seed).save(run.world_folder)
    (run.folder / "evolve-dream").mkdir(exist_ok=True)
    chosen.controller("dream").save(run.folder / "evolve-dream" / "controller.safetensors")
    write_json(run.folder / "iterations" / "summary.json", {"best": best.number, "rows": [asdict(one) for one in done]})
    return done


def iteration_run(run: Run, number: int) -> Run:
    """The folder of an iteration: a run's, without rollouts of its own."""
    return Run(run.folder / "iterations" / f"{number:02d}")


@dataclass(frozen=True)
class IterationContext:
    """An iteration that is under way, and the settings that it began with."""

    run: Run
    settings: RunConfig
    number: int

    @property
    def current(self) -> Run:
        """Its own folder."""
        return iteration_run(self.run, self.number)

    @property
    def previous(self) -> Run | None:
        """The folder of the iteration before; None: this is the first one."""
        return iteration_run(self.run, self.number - 1) if self.number > 1 else None

    @property
    def init_from(self) -> Run | None:
        """The folder of the iteration whose controller its search starts at; None: at zeros."""
        start = self.settings.iterate.init_from
        if self.previous is None or start == "zeros":
            return None
        return (
            self.previous
            if start == "last"
            else iteration_run(self.run, best_iteration(_earlier_results(self.run, self.number)).number)
        )

    @property
    def result_path(self) -> Path:
        """What it came to, once it is over."""
        return self.current.folder / "iteration.json"

    @property
    def num_episodes(self) -> int:
        """How many there were when it began, once it has dreamed: what it plays itself must not change that."""
        with error_context(path := self.current.folder / "episodes.json"):
            return int(read_json(path)["episodes"])


def _start_iteration(run: Run, settings: RunConfig, number: int) -> IterationContext:
    """An iteration with the settings of its own: those that it began with, or the run's, if it begins now."""
    context = IterationContext(run, settings, number)
    path = context.current.folder / "settings.json"
    if context.result_path.exists():
        return context
    if not path.exists():
        write_sections({name: getattr(settings, name) for name in PER_ITERATION}, path)
        return context
    with error_context(path, wrap_value_errors=True):
        own = replace(settings, **read_sections(PER_ITERATION, path))
        validate_combination(own)
    if own != settings:
        console.print(
            f"iteration {number} goes on with the settings that it began with; remove {path.parent} to begin it anew",
            markup=False,
        )
    return replace(context, settings=own)


def freeze_settings(run: Run) -> None:
    """Give an iteration that an older version began the settings of its own: the run's, before these may change."""
    for folder in (run.folder / "iterations").glob("[0-9]*"):
        if not any((folder / name).exists() for name in ("iteration.json", "settings.json")):
            with error_context(path := run.folder / "config.yaml", wrap_value_errors=True):
                content = migration.run_config(read_yaml(path))
                write_sections(
                    from_dict({name: content.get(name, {}) for name in PER_ITERATION}, PER_ITERATION),
                    folder / "settings.json",
                )


def refuse_search(run: Run) -> None:
    """Refuse to iterate where the best iteration would replace a controller from a search beside the iterations.

    Raises:
        ValueError: names the search.
    """
    if (search := run.folder / "evolve-dream" / "state.npz").exists():
        raise ValueError(
            f"{search.parent} holds an evolution of its own, which the best iteration would replace: remove it"
        )


def _run_iteration(context: IterationContext, env: str, workers: int, backend: str) -> None:
    """Learn, dream, play, and write down what came of it."""
    world, ensemble = _ensemble(context)
    controller = _dream(context, world, ensemble)
    with context.run.stage("play"):
        _play(context, env, Agent(world, controller), workers, backend)
    _write_result(context, world, ensemble, controller)


def summary(one: Iteration) -> str:
    """One line for people."""
    dream, real, gap, mean, std = (
        format_number(value, 0) for value in (one.dream, one.real, one.gap, one.episode_mean, one.episode_std)
    )
    return (
        f"iteration {one.number}: in dreams {dream}, in the game {real}, gap {gap}; "
        f"whole episodes {mean} +- {std} (n = {one.n}), {one.real_steps:,} real steps"
    )


def _ensemble(context: IterationContext) -> tuple[WorldModel, list[Memory] | None]:
    """The iteration's world model, and the memories that dreams happen in; None: its own."""
    count = context.settings.iterate.ensemble_size
    world = _world_model(context, context.current)
    if count == 1:
        return world, None
    others = [Run(context.current.folder / f"world-{which}") for which in range(1, count + 1)]
    return world, [_world_model(context, one, which + 1).memory for which, one in enumerate(others)]


def _world_model(context: IterationContext, into: Run, which: int = 0) -> WorldModel:
    """A world model of an iteration; its memory learned from all that was played before, or goes on from the last one's.

    Where the search starts at the best agent so far, the agent's own stays as it is.
    """
    run, settings = context.run, context.settings
    if (into.world_folder / "config.json").exists():
        return into.world()
    if context.previous is None and which == 0:
        run.world().save(into.world_folder)
        return into.world()
    seed = settings.seed + context.number + 1_000 * which
    vae, wanted = _vae(context), settings.iterate
    if which == 0 and wanted.init_from == "best" and context.init_from is not None:
        context.init_from.world().save(into.world_folder)
        return into.world()
    weights = None
    if context.previous is not None:
        weights = partial(
            recent_episode_weights, recent_episodes=wanted.recent_episodes, recent_fraction=wanted.recent_fraction
        )
    last = context.previous and (Run(context.previous.folder / into.folder.name) if which else context.previous)
    if wanted.memory_updates is None or last is None or not last.folder.exists():  # it may have had fewer worlds
        return stages.train_memory(run, settings.memory, seed, into, vae, weights=weights, split_seed=settings.seed)
    further = replace(settings.memory, num_updates=wanted.memory_updates)
    return stages.train_memory(run, further, seed, into, vae, last.world().memory, weights, split_seed=settings.seed)


def recent_episode_weights(
    lengths: Sequence[int], recent_episodes: int | None, recent_fraction: float
) -> np.ndarray | None:
    """Episode weights that give the newest ones a share of ``recent_fraction``; None: all steps count alike."""
    if not recent_fraction or recent_episodes is None or recent_episodes >= len(lengths):
        return None
    recent = np.arange(len(lengths)) >= len(lengths) - recent_episodes
    steps = np.asarray(lengths, np.float64)
    return np.where(recent, recent_fraction / steps[recent].sum(), (1 - recent_fraction) / steps[~recent].sum())


def _vae(context: IterationContext) -> VAE:
    """The iteration's VAE: that of the one before, or one whose training went on with all frames so far.

    Raises:
        ValueError: the search starts at the best agent, whose eye is another one than that of the newest memories.
    """
    if context.previous is None:
        return context.run.vae()
    wanted = context.settings.iterate
    before = context.previous.world().vae
    if wanted.init_from == "best" and context.init_from is not None:
        best = context.init_from.world().vae
        if fingerprint(best) != fingerprint(before):
            raise ValueError(
                f"iterate.init_from best needs an agent with the eye of the newest memories, got {context.init_from.folder}, "
                "whose eye has learned on since"
            )
        return best
    if not wanted.vae_updates or (context.number - 1) % wanted.vae_every:
        return before
    further = replace(context.settings.vae, num_updates=wanted.vae_updates)
    seed = context.settings.seed
    return stages.train_vae(context.run, further, seed + context.number, context.current, before, split_seed=seed)


def _dream(context: IterationContext, world: WorldModel, ensemble: list[Memory] | None) -> Controller:
    settings = context.settings
    starts: Any = _start_states(context)
    before = context.init_from
    return stages.evolve_dream(
        context.run,
        settings.dream,
        settings.seed + context.number,
        settings.controller,
        context.current,
        world,
        starts,
        before.controller("dream") if before is not None else None,
        ensemble=ensemble,
        disagreement_penalty=settings.iterate.disagreement_penalty if ensemble else 0.0,
    )


def _start_states(context: IterationContext) -> RecentStartStates:
    """Where its dreams begin: in the newest of the episodes that were there when it began."""
    path, wanted = context.current.folder / "episodes.json", context.settings.iterate
    if not path.exists():
        write_json(path, {"episodes": len(context.run.store())})
    count = context.num_episodes
    num_recent = min(wanted.recent_episodes or count, count)
    return RecentStartStates(
        context.run.store().latents(context.current.world().vae), count, num_recent, wanted.initial_state_fraction
    )


def _play(context: IterationContext, env: str, agent: Agent, workers: int, backend: str) -> None:
    """Add episodes of the controller to the store: as it is, and with exploration.

    The last collection is met again where all episodes are there: a kill may have come before its index for Minari.
    """
    run, settings = context.run, context.settings
    total = context.num_episodes
    exploring = replace(agent, action_noise=settings.iterate.action_noise, param_noise=settings.iterate.param_noise)
    for player in (agent, exploring):
        total += settings.iterate.episodes
        if player is agent and len(run.store()) >= total:
            continue
        with bar("play the new controller", "episodes") as progress:
            rollouts.collect(
                env,
                player,
                total,
                seed=settings.seed,
                workers=workers,
                out=run.rollouts_folder,
                max_steps=settings.collect.max_steps,
                max_idle_steps=settings.collect.max_idle_steps,
                env_options=settings.env_options,
                backend=backend,
                allow_new_policy=True,
                progress=progress,
            )


def _write_result(
    context: IterationContext, world: WorldModel, ensemble: list[Memory] | None, controller: Controller
) -> None:
    """Measure the controller in dreams and in the game over equally long stretches from the same moments; write it down."""
    settings, first = context.settings, context.num_episodes
    horizon, store = settings.dream.horizon, context.run.store()
    played = range(first, first + settings.iterate.episodes)
    max_idle_steps = settings.collect.max_idle_steps
    latents = store.latents(world.vae, terminate_on_stall=settings.memory.terminate_on_stall)
    dreamed, stretches = own_returns(
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
    returns = np.array([store.episode_metadata(index).rewards.sum(dtype=np.float64) for index in played])
    dream, real = float(dreamed.mean()), float(stretches.mean())
    one = Iteration(
        context.number,
        dream,
        real,
        dream - real,
        0.0 if ensemble is None else float(rollouts.disagreement(dreamed, len(ensemble))[0]),
        float(returns.mean()),
        float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        len(returns),
        store.steps,
        context.current.evolution_steps("dream"),
    )
    write_json(context.result_path, asdict(one))


def _earlier_results(run: Run, number: int) -> list[Iteration]:
    """What the iterations before this one came to."""
    return [_read_result(run, earlier) for earlier in range(1, number)]


def _read_result(run: Run, number: int) -> Iteration:
    """What an iteration wrote down.

    Raises:
        ValueError: names the file, if it is missing, damaged, or another iteration's.
    """
    path = iteration_run(run, number).folder / "iteration.json"
    with error_context(path, wrap_value_errors=True):
        one = from_json(Iteration, read_json(path), path)
        if one.number != number:
            raise ValueError(f"number must be {number}, got {one.number}")
    return one


def best_iteration(done: Sequence[Iteration]) -> Iteration:
    """The iteration whose controller had the highest mean return over whole episodes of the real game; the first of equals."""
    return max(done, key=lambda one: one.episode_mean)


def has_started(folder: Path) -> bool:
    """Whether a run has begun to iterate: its first rollouts and its first memory are done."""
    return (folder / "iterations" / "01" / "world" / "config.json").exists()
