"""The whole story on one folder: collect, encode, remember, dream, evolve, test, report.

Start reading at `run_pipeline`. Its chapters are `agents.stages`'s, and `agents.iterative_training`' where dreams are iterated.
"""

import os
from typing import Any

from agents import stages
from agents.config.provenance import save_config
from agents.config.schema import RunConfig
from agents.config.validate import validate, validate_combination
from agents.evaluation import Report
from agents.forecast import about, forecast
from agents.iterative_training import PER_ITERATION, freeze_settings, has_started, iterate, iteration_run, refuse_search
from agents.progress import Stages, busy, console
from agents.run import Run
from rollouts.fitness import validate_state_resets
from rollouts.workers import validate_backend
from worldmodel.io import error_context, read_json
from worldmodel.paths import folder_path

LONG = 1_800.0
"""Seconds from which on a smaller preset is named."""
MAY_CHANGE = ("workers", "backend", "iterations", "dream.generations", "game.generations", "game.target_return")
"""Settings that a run may be continued with other values of."""
MAY_GROW = ("collect.episodes", "collect.min_steps", "vae.num_updates", "memory.num_updates")
"""Those that it may be continued with more of, before it iterates: its stages go further, or learn on."""
NEXT = tuple(f"{section}.{name}" for section, kind in PER_ITERATION.items() for name in kind.__dataclass_fields__)
"""Those that its next iteration may have other values of."""


def run_pipeline(settings: RunConfig, folder: str | os.PathLike[str]) -> dict[str, Report]:
    """Tell the whole story into ``folder``; continue it where it stopped.

    Raises:
        ValueError: a setting is out of range or does not fit another one, or the folder belongs to another configuration.
    """
    validate(settings)
    validate_combination(settings)
    validate_backend(settings.backend, settings.workers)
    if settings.game.generations:
        validate_state_resets(settings.rollout_env, settings.env_options, settings.game.num_state_resets)
    run = Run(folder_path(folder, "out"))
    run.validate_folder()
    if not has_started(run.folder):  # a wrong policy is told before there is a folder
        stages.make_policy(settings.collect.policy, settings.collect.action_noise, settings.env_options)
    with run.locked(), run.session() as add_rest:
        frozen = {}
        if (run.folder / "evolve-game" / "state.npz").exists():
            frozen["iterations"] = "evolution in the game has begun, and its world would change"
        elif not settings.iterations and (run.folder / "iterations").exists():
            frozen["iterations"] = "the run has iterations, and the best one's controller would be lost"
        if settings.iterations:
            if not frozen:  # else iterations may not change at all, and that is said first
                refuse_search(run)
            freeze_settings(run)
            frozen |= _frozen_settings(run, settings.iterations)
        if has_started(run.folder):
            frozen |= dict.fromkeys(MAY_GROW, "the run's iterations have begun with it")
        changing = (*MAY_CHANGE, *(NEXT if settings.iterations else ()))
        save_config(settings, run.folder / "config.yaml", changing, frozen, MAY_GROW)
        common: Any = (settings.seed, settings.workers, settings.env_options, settings.backend)
        stage = Stages(*stage_names(settings))
        if not run.rollouts_folder.exists():
            with busy("measuring the environment's speed"):
                seconds = forecast(settings)
            shorter = "; --preset quick takes minutes" if seconds > LONG else ""
            console.print(f"all stages: up to about {about(seconds)}{shorter}", markup=False)
        if not has_started(run.folder):
            stage("collect")
            stages.collect(run, settings.rollout_env, settings.collect, *common)
            stage("train vae")
            stages.train_vae(run, settings.vae, settings.seed)
            stage("train memory")
            stages.train_memory(run, settings.memory, settings.seed)
        else:
            _validate_rollouts(run, settings)
        if settings.iterations:
            stage("iterate in dreams")
            iterate(run, settings.rollout_env, settings, settings.workers, settings.backend)
        elif settings.dream.generations:
            stage("evolve in dreams")
            stages.evolve_dream(run, settings.dream, settings.seed, settings.controller)
        if settings.dream.generations:
            dreams = (settings.dream, settings.seed, settings.workers, settings.env_options, settings.backend)
            stages.compare_dream(run, settings.rollout_env, *dreams)
        if settings.game.generations:
            stage("evolve in the game")
            stages.evolve_game(run, settings.rollout_env, settings.game, settings.controller, *common)
        stage("test")
        with run.stage("test"):
            reports = stages.evaluate_controllers(run, settings)
        stage("report")
        from agents.report import write_report  # films and plots: slow to import

        write_report(run, settings, add_rest)
    return reports


def stage_names(settings: RunConfig) -> list[str]:
    """The stages of a run, in their order."""
    dream = "iterate in dreams" if settings.iterations else "evolve in dreams" if settings.dream.generations else ""
    game = "evolve in the game" if settings.game.generations else ""
    return [name for name in ("collect", "train vae", "train memory", dream, game, "test", "report") if name]


def _frozen_settings(run: Run, last: int) -> dict[str, str]:
    """Settings that no iteration would begin with any more, and why they may not change."""
    folder = iteration_run(run, last).folder
    why = f"iteration {last}, the last one, has begun with it; more --iterations may have it otherwise"
    return dict.fromkeys(NEXT, why) if folder.exists() else {}


def _validate_rollouts(run: Run, settings: RunConfig) -> None:
    """Refuse rollouts that lost episodes which iterations have seen: later ones would take their numbers.

    Raises:
        ValueError: names the store, or the damaged shard.
    """
    store, known = run.store(), settings.collect.episodes
    for path in (run.folder / "iterations").glob("*/episodes.json"):
        with error_context(path):
            known = max(known, int(read_json(path)["episodes"]))
    there = {shard.first + number for shard in store.shards for number in range(len(shard.lengths))}
    if lost := sorted(set(range(known)) - there):
        reason = next(iter(store.damaged.values()), f"{store.path} lost episode {lost[0]}")
        raise ValueError(f"{reason}; the run's iterations have learned from it: restore the file, or use another --out")
