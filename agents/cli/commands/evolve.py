"""The command ``worldmodel evolve``: evolve a controller in dreams or in the real environment."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import (
    Common,
    add_preset,
    add_run,
    add_where,
    env_and_options,
    env_of,
    env_words,
    preset_of,
    preset_words,
    settings_of,
)
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.config.schema import FAST, ControllerConfig, DreamConfig, GameConfig
from worldmodel.agents.config.validate import validate_search
from worldmodel.agents.progress import answers, next_hint


def build_evolve(parser: Parser) -> None:
    """Evolve a controller on a run folder's world model, in dreams or in the real environment."""
    add_run(parser)
    add_where(parser, "Where to evolve: game (the real environment) or dream.")
    add_preset(parser)
    parser.add_argument(
        "--env", type=str | None, default=None, help="Id of the environment. None: that of the rollouts."
    )
    parser.add_class_arguments(ControllerConfig, "controller")
    parser.add_class_arguments(GameConfig, "game")
    parser.add_class_arguments(DreamConfig, "dream")
    parser.add_class_arguments(Common)


def evolve(options: Namespace) -> None:
    """Evolve a controller; after dreams, compare dreamed and real returns."""
    from worldmodel.agents.pipeline import stages
    from worldmodel.agents.pipeline.run_folder import Run
    from worldmodel.rollouts.executors.workers import validate_backend
    from worldmodel.rollouts.state_resets import validate_state_resets

    run = Run(Path(options.run))
    validate_backend(options.backend, options.workers)
    kinds: dict[str, type] = {"game": GameConfig, "dream": DreamConfig}
    where = options.where or run.evolved
    settings: Any = settings_of(kinds[where], options[where])
    other = "dream" if where == "game" else "game"
    defaults = vars(kinds[other]()) | preset_of(env_of([options.run]), options.preset or "").get(other, {})
    unused = [name for name, value in defaults.items() if options[other][name] != value]
    if unused and not options.config:
        raise ValueError(f"--{other}.{unused[0]} has no effect with --where {where}")
    controller = settings_of(ControllerConfig, options.controller)
    validate_search(vars(settings), f"{where}.")
    with run.existing().locked():
        if where == "dream":
            stages.evolve_dream(run, settings, options.seed, controller)
            if options.env or not env_words(run):
                env, env_options = env_and_options(run, options.env)
                common = (options.seed, options.workers, env_options, options.backend)
                stages.compare_dream(run, FAST.get(env, env), settings, *common)
        else:
            env, env_options = env_and_options(run, options.env)
            env = FAST.get(env, env)
            validate_state_resets(env, env_options, settings.num_state_resets)
            common = (options.seed, options.workers, env_options, options.backend)
            stages.evolve_game(run, env, settings, controller, *common)
    answers.print(f"Controller in {run.folder / ('evolve-' + where)}", markup=False)
    next_hint("worldmodel", "evaluate", run.folder, "--where", where, *env_words(run), *preset_words(options))
