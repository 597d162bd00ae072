"""The pipeline: all stages of a run in one folder, from collection to the report.

Start reading at `run_pipeline`. The modules `stages` and `iterative_training` have the stages and the iterations.
"""

import contextlib
import os
from dataclasses import asdict, fields
from typing import get_type_hints

from worldmodel.agents.config.io import flat, read_yaml
from worldmodel.agents.config.provenance import validate_changes, write_config
from worldmodel.agents.config.schema import AUTO_EPISODES, RunConfig, split_noise
from worldmodel.agents.config.sections import PER_ITERATION, build
from worldmodel.agents.config.validate import validate
from worldmodel.agents.evaluation import Report
from worldmodel.agents.pipeline import stages
from worldmodel.agents.pipeline.controller_evaluation import evaluate_controllers
from worldmodel.agents.pipeline.forecast import about, forecast
from worldmodel.agents.pipeline.iterative_training import (
    freeze_settings,
    has_started,
    iterate,
    refuse_search,
)
from worldmodel.agents.pipeline.phases import PREVIOUS, Phase, plan
from worldmodel.agents.progress import Stages, busy, console
from worldmodel.agents.runs.iteration import iteration_run, read_num_episodes
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io import migration
from worldmodel.io.files import error_context
from worldmodel.io.paths import folder_path
from worldmodel.rollouts.executors.workers import validate_backend
from worldmodel.rollouts.state_resets import validate_state_resets

LONG = 1_800.0
"""Estimated seconds of a run above which the output suggests a smaller preset."""
UNSEEN = ("workers",)
"""Settings that change no results."""
MAY_CHANGE = (*UNSEEN, "iterations", "dream.generations", "game.generations")
"""Settings that a continued run can change."""
MAY_GROW = ("collect.episodes", "vae.num_updates", "memory.num_updates")
"""Settings that a continued run can increase before its first iteration: collection and training go on."""
NEXT = tuple(f"{name}.{one.name}" for name in PER_ITERATION for one in fields(get_type_hints(RunConfig)[name]))
"""Settings that can change between iterations."""


def run_pipeline(settings: RunConfig, folder: str | os.PathLike[str]) -> dict[str, Report]:
    """Run all stages in a folder, or continue a stopped run.

    Args:
        settings: Settings of all stages, with the changes in each phase.
        folder: Path of the run folder.

    Returns:
        The reports of the final evaluation, by the name of the controller.

    Raises:
        ValueError: A setting is out of range or contradicts another one, or the folder has a run with other settings.
    """
    validate(settings)
    run = Run(folder_path(folder, "out"))
    phases = plan(settings, run)
    for phase in phases:
        validate_backend(**phase.settings.executor)
        if (game := phase.settings.game).generations and game.state_resets:
            validate_state_resets(phase.settings.rollout_env, phase.settings.env_options)
    run.validate_folder()
    for phase in phases:  # reports a wrong policy before the folder is created
        names = [name for name in phase.settings.collect.policy.split(",") if split_noise(name)[0] != PREVIOUS]
        if names and not phase.finished and not has_started(phase.run.folder):
            stages.make_policy(",".join(names), phase.settings.env_options)
    with run.locked(), run.session() as add_rest:
        _save_settings(run, settings, phases)
        for number, phase in enumerate(phases):
            phases[number] = phase = phase.after(phases[number - 1] if number else None)
            if settings.phases:
                console.print(f"phase {phase.number} of {len(phases)}", markup=False)
            if phase is phases[-1] or phase.finished:
                continue
            elsewhere = phase.run.folder != run.folder
            with run.stage(f"phase {phase.number}") if elsewhere else contextlib.nullcontext():
                if elsewhere:
                    write_config(phase.settings, phase.run.folder / "config.yaml")
                _run_stages(phase, Stages(*stage_names(phase.settings)[:-2]), last=False)
                phase.finish()
        last = phases[-1].settings
        stage = Stages(*stage_names(last))
        _run_stages(phases[-1], stage, last=True)
        stage("test")
        with run.stage("test"):
            reports = evaluate_controllers(run, last)
        stage("report")
        from worldmodel.agents.analysis.report import (
            write_report,  # imports matplotlib and video codecs, which are slow
        )

        write_report(run, last, add_rest)
    return reports


def _run_stages(phase: Phase, stage: Stages, last: bool) -> None:
    """Collect, train, and evolve controllers in dreams and in the environment; the last phase also compares their returns."""
    run, settings = phase.run, phase.settings
    if not run.rollouts_folder.exists():
        with busy("measuring the environment's speed"):
            seconds = forecast(settings)
        hint = "; --preset quick takes minutes" if seconds > LONG else ""
        what = "all stages" if last and phase.number == 1 else f"phase {phase.number}"
        console.print(f"{what}: up to about {about(seconds)}{hint}", markup=False)
    if not has_started(run.folder):
        stage("collect")
        stages.collect(run, settings)
        stage("train vae")
        stages.train_vae(run, settings)
        stage("train memory")
        stages.train_memory(run, settings)
    else:
        _validate_rollouts(run, settings)
    if settings.iterations:
        stage("iterate in dreams")
        iterate(run, settings)
    elif settings.dream.generations:
        stage("evolve in dreams")
        stages.evolve_dream(run, settings)
    if settings.dream.generations and last:
        stages.compare_dream(run, settings)
    if settings.game.generations:
        stage("evolve in the game")
        stages.evolve_game(run, settings)


def stage_names(settings: RunConfig) -> list[str]:
    """Return the names of a run's stages, in order."""
    dream = "iterate in dreams" if settings.iterations else "evolve in dreams" if settings.dream.generations else ""
    game = "evolve in the game" if settings.game.generations else ""
    return [name for name in ("collect", "train vae", "train memory", dream, game, "test", "report") if name]


def _save_settings(run: Run, settings: RunConfig, phases: list[Phase]) -> None:
    """Write ``config.yaml``; first check that a continued run changes only its last phase, and only what that can change.

    Raises:
        ValueError: A setting differs that this run cannot change.
    """
    path = run.folder / "config.yaml"
    saved = list[Phase]()
    if path.exists():
        with error_context(path, wrap_value_errors=True):
            saved = plan(build(migration.config_file(read_yaml(path))), run)
    if len(saved) > len(phases):
        raise ValueError(f"{path} has {len(saved)} phases, got {len(phases)}: use another --out or all of its phases")
    last = phases[len(saved) - 1].settings  # the last one of a new run
    frozen = _frozen_settings(run, last)
    for old, new in zip(saved, phases, strict=False):
        label = f"{path}, phase {old.number}," if len(phases) > 1 else str(path)
        may_change = (*MAY_CHANGE, *(NEXT if last.iterations else ())), frozen, MAY_GROW
        validate_changes(
            flat(asdict(old.settings)), new.settings, label, *(may_change if old is saved[-1] else (UNSEEN,))
        )
    if saved:
        saved[-1].move(phases[len(saved) - 1])
    write_config(settings, path)


def _frozen_settings(run: Run, settings: RunConfig) -> dict[str, str]:
    """Return the settings of a run's last phase that cannot change, with the reason.

    Raises:
        ValueError: The best iteration would overwrite the controller of another search.
    """
    frozen = {}
    if (run.folder / "evolve-game" / "state.npz").exists():
        frozen["iterations"] = "evolution in the environment has started with the current world model"
    elif not settings.iterations and (run.folder / "iterations").exists():
        frozen["iterations"] = "the run has iterations, and the controller of the best one would be lost"
    if settings.iterations:
        if not frozen:  # else the number of iterations cannot change, which `validate_changes` reports
            refuse_search(run)
        freeze_settings(run)
        if iteration_run(run, settings.iterations).folder.exists():
            reason = f"iteration {settings.iterations}, the last one, has started with it; it can change with more iterations"
            frozen |= dict.fromkeys(NEXT, reason)
    if has_started(run.folder):
        frozen |= dict.fromkeys(MAY_GROW, "the run's iterations have started with it")
    return frozen


def _validate_rollouts(run: Run, settings: RunConfig) -> None:
    """Check that no episode is missing that iterations were trained on: new episodes would get its index.

    Raises:
        ValueError: An episode is missing; the message names the store or the damaged shard.
    """
    store, num_episodes = run.store(), settings.collect.episodes or AUTO_EPISODES
    for path in (run.folder / "iterations").glob("*/episodes.json"):
        num_episodes = max(num_episodes, read_num_episodes(path.parent))
    cure = "the run's iterations were trained on it: restore the file, or use another --out"
    store.validate_episodes(num_episodes, cure)
