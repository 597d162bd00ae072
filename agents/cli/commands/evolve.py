"""The command ``worldmodel evolve``: evolve a controller in dreams or in the real environment."""

from dataclasses import replace
from pathlib import Path

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import (
    add_preset,
    add_run,
    add_settings,
    add_where,
    env_and_options,
    env_of,
    env_words,
    preset_of,
    preset_words,
    settings_of,
)
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.config.sections import build
from worldmodel.agents.config.validate import validate_combination
from worldmodel.agents.progress import answers, next_hint


def build_evolve(parser: Parser) -> None:
    """Evolve a controller on a run folder's world model, in dreams or in the real environment."""
    add_run(parser)
    only = "None: game, or dream where the run has only a controller evolved in dreams."
    add_where(parser, f"Where to evolve: game (the real environment) or dream. {only}")
    add_preset(parser)
    parser.add_argument(
        "--env", type=str | None, default=None, help="Id of the environment. None: that of the rollouts."
    )
    add_settings(parser, "controller", "search", "game", "dream", "seed", "workers")


def evolve(options: Namespace) -> None:
    """Evolve a controller; after dreams, compare dreamed and real returns."""
    from worldmodel.agents.pipeline import stages
    from worldmodel.agents.runs.run_folder import Run
    from worldmodel.rollouts.executors.workers import validate_backend
    from worldmodel.rollouts.state_resets import validate_state_resets

    run = Run(Path(options.run))
    where = options.where or run.evolved
    settings = settings_of(options, "")
    validate_backend(**settings.executor)
    validate_combination(settings)
    if not getattr(settings, where).generations:  # a preset that evolves only in the other place
        raise ValueError(f"--{where}.generations must be at least 1 with --where {where}, got 0")
    other = "dream" if where == "game" else "game"
    defaults = build({"env": "", other: preset_of(env_of([options.run]), options.preset or "").get(other, {})})
    given = vars(getattr(settings, other))
    unused = [name for name, value in vars(getattr(defaults, other)).items() if given[name] != value]
    if unused and not options.config:
        raise ValueError(f"--{other}.{unused[0]} has no effect with --where {where}")
    with run.existing().locked():
        if where == "game" or options.env or not env_words(run):
            env, env_options = env_and_options(run, options.env)
            settings = replace(settings, env=env, env_options=env_options)
        if where == "dream":
            stages.evolve_dream(run, settings)
            if settings.env:
                stages.compare_dream(run, settings)
        else:
            if settings.game.state_resets:
                validate_state_resets(settings.rollout_env, settings.env_options)
            stages.evolve_game(run, settings)
    answers.print(f"Controller in {run.folder / ('evolve-' + where)}", markup=False)
    next_hint("worldmodel", "evaluate", run.folder, "--where", where, *env_words(run), *preset_words(options))
