"""The whole story on one folder: collect, encode, remember, dream, evolve, test, report.

Start reading at `tell`. Its chapters are `agents.story`'s, and `agents.iterations`' where dreams are iterated.
"""

import os
from typing import Any

from agents import story
from agents.checks import check, check_together
from agents.config import remember
from agents.display import Stages, busy, console
from agents.evaluation import Report
from agents.forecast import about, forecast
from agents.iterations import OWN, begun, home, iterate, refuse_search, settle
from agents.run import Run
from agents.settings import RunSettings
from rollouts.fitness import validate_state_resets
from rollouts.workers import validate_backend
from worldmodel.io import error_context, read_json
from worldmodel.paths import folder_path

LONG = 1_800.0
"""Seconds from which on a smaller preset is named."""
MAY_CHANGE = ("workers", "backend", "iterations", "dream.generations", "game.generations", "game.target")
"""Settings that a run may be continued with other values of."""
MAY_GROW = ("collect.episodes", "collect.min_steps", "vae.updates", "memory.updates")
"""Those that it may be continued with more of, before it iterates: its stages go further, or learn on."""
NEXT = tuple(f"{section}.{name}" for section, kind in OWN.items() for name in kind.__dataclass_fields__)
"""Those that its next iteration may have other values of."""


def tell(settings: RunSettings, folder: str | os.PathLike[str]) -> dict[str, Report]:
    """Tell the whole story into ``folder``; continue it where it stopped.

    Raises:
        ValueError: a setting is out of range or does not fit another one, or the folder belongs to another configuration.
    """
    check(settings)
    check_together(settings)
    validate_backend(settings.backend, settings.workers)
    if settings.game.generations:
        validate_state_resets(settings.plays_in, settings.env_options, settings.game.moments)
    run = Run(folder_path(folder, "out"))
    run.check_own()
    if not begun(run.folder):  # a wrong policy is told before there is a folder
        story.named_policy(settings.collect.policy, settings.collect.exploration, settings.env_options)
    with run.locked(), run.sitting() as add_rest:
        held = {}
        if (run.folder / "evolve-game" / "state.npz").exists():
            held["iterations"] = "evolution in the game has begun, and its world would change"
        elif not settings.iterations and (run.folder / "iterations").exists():
            held["iterations"] = "the run has iterations, and the best one's controller would be lost"
        if settings.iterations:
            if not held:  # else iterations may not change at all, and that is said first
                refuse_search(run)
            settle(run)
            held |= _begun_with(run, settings.iterations)
        if begun(run.folder):
            held |= dict.fromkeys(MAY_GROW, "the run's iterations have begun with it")
        changing = (*MAY_CHANGE, *(NEXT if settings.iterations else ()))
        remember(settings, run.folder / "config.yaml", changing, held, MAY_GROW)
        common: Any = (settings.seed, settings.workers, settings.env_options, settings.backend)
        stage = Stages(*stages(settings))
        if not run.rollouts_folder.exists():
            with busy("measuring the environment's speed"):
                seconds = forecast(settings)
            shorter = "; --preset quick takes minutes" if seconds > LONG else ""
            console.print(f"all stages: up to about {about(seconds)}{shorter}", markup=False)
        if not begun(run.folder):
            stage("collect")
            story.collect(run, settings.plays_in, settings.collect, *common)
            stage("train vae")
            story.train_vae(run, settings.vae, settings.seed)
            stage("train memory")
            story.train_memory(run, settings.memory, settings.seed)
        else:
            _check_complete(run, settings)
        if settings.iterations:
            stage("iterate in dreams")
            iterate(run, settings.plays_in, settings, settings.workers, settings.backend)
        elif settings.dream.generations:
            stage("evolve in dreams")
            story.evolve_dream(run, settings.dream, settings.seed, settings.controller)
        if settings.dream.generations:
            dreams = (settings.dream, settings.seed, settings.workers, settings.env_options, settings.backend)
            story.compare_dream(run, settings.plays_in, *dreams)
        if settings.game.generations:
            stage("evolve in the game")
            story.evolve_game(run, settings.plays_in, settings.game, settings.controller, *common)
        stage("test")
        with run.chapter("test"):
            reports = story.test(run, settings)
        stage("report")
        from agents.report import write_report  # films and plots: slow to import

        write_report(run, settings, add_rest)
    return reports


def stages(settings: RunSettings) -> list[str]:
    """The stages of a run, in their order."""
    dream = "iterate in dreams" if settings.iterations else "evolve in dreams" if settings.dream.generations else ""
    game = "evolve in the game" if settings.game.generations else ""
    return [name for name in ("collect", "train vae", "train memory", dream, game, "test", "report") if name]


def _begun_with(run: Run, last: int) -> dict[str, str]:
    """Settings that no iteration would begin with any more, and why they may not change."""
    folder = home(run, last).folder
    why = f"iteration {last}, the last one, has begun with it; more --iterations may have it otherwise"
    return dict.fromkeys(NEXT, why) if folder.exists() else {}


def _check_complete(run: Run, settings: RunSettings) -> None:
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
