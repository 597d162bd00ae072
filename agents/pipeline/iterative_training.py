"""Iterative training: evolve a controller in dreams, play it in the game, train a new memory on all episodes, repeat.

Start reading at `iterate`. Evolution exploits the errors of a memory that was trained on random play only. Each iteration adds
episodes of the new controller to the store, and the next memory is trained on them, too.

References:
    Ha and Schmidhuber, World Models, 2018, https://arxiv.org/abs/1803.10122 (section 5, iterative training procedure).
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel import Memory, WorldModel, rollouts
from worldmodel.agents.agent import Agent
from worldmodel.agents.analysis.diagnostics import measure_card
from worldmodel.agents.analysis.verdicts import search_verdict, verdicts_of_card
from worldmodel.agents.config.io import read_yaml
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.config.sections import PER_ITERATION, build, read_sections, write_sections
from worldmodel.agents.config.validate import validate_combination
from worldmodel.agents.pipeline import stages
from worldmodel.agents.pipeline.iteration_models import ensemble_of
from worldmodel.agents.pipeline.worker_parts import run_in_workers, runs_in_workers
from worldmodel.agents.progress import bar, console, print_verdict
from worldmodel.agents.runs.horizon_returns import common_horizon, own_returns
from worldmodel.agents.runs.iteration import (
    Iteration,
    IterationContext,
    best_iteration,
    candidate_run,
    iteration_run,
    read_result,
)
from worldmodel.agents.runs.run_folder import Run, rows_of
from worldmodel.agents.runs.start_states import RecentStartStates
from worldmodel.io import migration
from worldmodel.io.files import atomic, error_context, write_json
from worldmodel.messages import format_number
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.start_states import StartStates


def iterate(run: Run, settings: RunConfig) -> list[Iteration]:
    """Run ``settings.iterations`` iterations, and save the world model and the controller of the best one in the run.

    The best iteration has the highest mean return over complete real episodes. Real returns influence a controller in two other
    ways: they choose among candidates, and with ``iterate.init_from`` "best" (or "last" and several candidates) searches
    start at the best controller.

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
        done.append(read_result(run, number))
        with atomic(run.folder / "iterations" / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(asdict(one)) + "\n" for one in done), encoding="utf-8")
        console.print(summary(done[-1], context.settings.iterate.candidates), markup=False)
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
    world, ensemble = ensemble_of(context)
    candidates = _evolve_candidates(context, world, ensemble)
    with context.run.stage("play"):
        played = [_play(context, number, Agent(world, one)) for number, one in enumerate(candidates)]
        best = int(np.argmax([_returns(context, episodes).mean() for episodes in played]))
        _play(context, len(candidates), _explorer(context, Agent(world, candidates[best])))
    candidates[best].save(context.current.folder / "evolve-dream" / "controller.safetensors")
    _write_result(context, world, ensemble, candidates[best], played[best])


def _evolve_candidates(context: IterationContext, world: WorldModel, ensemble: list[Memory] | None) -> list[Controller]:
    """Run the searches of an iteration, several at the same time; a finished search is not repeated."""
    numbers = range(context.settings.iterate.candidates)
    searches = [_CandidateSearch(context.untimed, number) for number in numbers]
    if not runs_in_workers(searches):
        return [_evolve(context, world, ensemble, number) for number in numbers]
    _start_states(context)  # writes the number of episodes that all searches use
    title = f"evolve {len(searches)} candidates"
    with context.run.stage("evolve in dreams"), bar(title, "generations") as progress:
        run_in_workers(searches, context.settings.executor["workers"], progress)
    for number in numbers:
        if (verdict := search_verdict(candidate_run(context, number).folder, "dream")) is not None:
            print_verdict(verdict)
    return [candidate_run(context, number).controller("dream") for number in numbers]


def summary(one: Iteration, candidates: int = 1) -> str:
    """Format the results of an iteration as one line."""
    dream, real, gap, mean, std = (
        format_number(value, 0) for value in (one.dream, one.real, one.gap, one.episode_mean, one.episode_std)
    )
    return (
        f"iteration {one.number}: in dreams {dream}, in the game {real}, gap {gap}; "
        f"complete episodes {mean} +- {std} (n = {one.n}{f', best of {candidates}' if candidates > 1 else ''}), "
        f"{one.real_steps:,} real steps"
    )


@dataclass(frozen=True)
class _CandidateSearch:
    """The search of one candidate of an iteration."""

    context: IterationContext
    number: int

    def run(self) -> None:
        """Evolve the candidate."""
        _evolve(self.context, *ensemble_of(self.context), self.number)

    @property
    def progress(self) -> tuple[int, int]:
        """Numbers of finished generations, and of all."""
        folder = candidate_run(self.context, self.number).search("dream")
        return len(rows_of(folder / "metrics.jsonl")), self.context.settings.dream.generations


def _evolve(context: IterationContext, world: WorldModel, ensemble: list[Memory] | None, number: int) -> Controller:
    """Evolve candidate ``number`` in dreams; the only candidate is the search of the iteration."""
    settings = context.settings
    start_states: Any = _start_states(context)
    initial = context.init_from(number)
    return stages.evolve_dream(
        context.run,
        settings,
        settings.seed + context.number + 10_000 * number,
        candidate_run(context, number),
        world,
        start_states,
        initial.controller("dream") if initial is not None else None,
        ensemble=ensemble,
    )


def _start_states(context: IterationContext) -> RecentStartStates:
    """Return the start states of the dreams, from the most recent episodes at the start of the iteration."""
    path = context.current.folder / "episodes.json"
    if not path.exists():
        store = context.run.store()
        store.validate_episodes(len(store), _cure(context))
        write_json(path, {"episodes": len(store)})
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

    Raises:
        ValueError: An earlier episode is missing, or one of this part while later parts exist: the controllers that played them
            would be compared by the wrong episodes.
    """
    run, settings, loop = context.run, context.settings, context.settings.iterate
    first = context.num_episodes + part * loop.episodes
    episodes = range(first, first + loop.episodes)
    store = run.store()
    missing = store.missing(episodes.stop)
    if missing and (missing[0] < first or len(store) + len(missing) > episodes.stop):
        store.validate_episodes(episodes.stop, _cure(context))
    if part < loop.candidates and not missing:
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


def _cure(context: IterationContext) -> str:
    """Return what to do about a lost episode."""
    return f"restore the file, or remove the later shards and {context.current.folder}"


def _returns(context: IterationContext, episodes: range) -> np.ndarray:
    """Return the real returns of episodes, (episodes,)."""
    store = context.run.store()
    return np.array([store.episode_metadata(index).rewards.sum(dtype=np.float64) for index in episodes])


def _write_result(
    context: IterationContext, world: WorldModel, ensemble: list[Memory] | None, controller: Controller, played: range
) -> None:
    """Measure the returns of the controller in dreams and in the game over the same horizon, and save the results."""
    settings, store = context.settings, context.run.store()
    max_idle_steps = settings.collect.max_idle_steps
    latents = store.latents(world.vae, stall_delay=settings.memory.stall_delay)
    horizon = common_horizon(latents, played, settings.dream.horizon, max_idle_steps)
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


def has_started(folder: Path) -> bool:
    """Return whether the first iteration of a run has started: its first rollouts and its first memory are complete."""
    return (folder / "iterations" / "01" / "world" / "config.json").exists()
