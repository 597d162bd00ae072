"""The command ``worldmodel collect``: collect episodes of an environment."""

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import (
    ENV_ALIASES,
    add_preset,
    add_settings,
    preset_words,
    settings_of,
    slug,
    validate_env,
)
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers, next_hint
from worldmodel.io.paths import folder_path


def build_collect(parser: Parser) -> None:
    """Collect episodes of an environment into a run folder."""
    parser.add_argument("env", type=str, help="Id of an environment: CarRacing, SuperMarioBros-1-1, ...")
    parser.add_argument("--out", type=str | None, default=None, help="Path of the run folder. None: runs/ENV.")
    parser.add_argument(
        "--official",
        type=bool,
        default=False,
        help="Whether to use the official CarRacing instead of FastCarRacing, which has the same physics.",
    )
    add_preset(parser)
    parser.add_argument("--config", action="config", help="Path of a YAML file with these settings.")
    add_settings(parser, "collect", "env_options", "seed", "workers")


def collect(options: Namespace) -> None:
    """Collect episodes."""
    from worldmodel.agents.pipeline import stages
    from worldmodel.agents.runs.run_folder import Run
    from worldmodel.rollouts.executors.workers import validate_backend

    env = ENV_ALIASES.get(options.env, options.env)
    settings = settings_of(options, env)
    played = env if options.official else settings.rollout_env
    run = Run(folder_path(options.out or f"runs/{slug(env)}", "out"))
    validate_backend(**settings.executor)
    validate_env(played, settings.env_options)
    run.validate_folder()
    # reports a wrong policy before the run folder is created
    stages.make_policy(settings.collect.policy, settings.env_options)
    with run.locked():
        store = stages.collect(run, settings, played)
    answers.print(f"{len(store)} episodes, {store.steps:,} steps in {run.rollouts_folder}", markup=False)
    next_hint("worldmodel", "train", "vae", run.folder, *preset_words(options))
