"""The command ``worldmodel collect``: collect episodes of an environment."""

from typing import Any

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import (
    ENV_ALIASES,
    Common,
    add_preset,
    env_of,
    preset_of,
    preset_words,
    scan_argv,
    settings_of,
    slug,
    validate_env,
)
from worldmodel.agents.config.io import flat
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.config.schema import FAST, CollectConfig
from worldmodel.agents.progress import answers, next_hint
from worldmodel.io.paths import folder_path


def build_collect(parser: Parser) -> None:
    """Collect episodes of an environment into a run folder."""
    parser.add_argument("env", type=str, help="Id of an environment: CarRacing, SuperMarioBros-1-1, ...")
    parser.add_argument("--out", type=str | None, default=None, help="Path of the run folder. None: runs/ENV.")
    parser.add_argument("--env_options", type=dict[str, Any], default={}, help="Arguments of envs.make, as JSON.")
    parser.add_argument(
        "--official",
        type=bool,
        default=False,
        help="Whether to use the official CarRacing instead of FastCarRacing, which has the same physics.",
    )
    add_preset(parser)
    parser.add_argument("--config", action="config", help="Path of a YAML file with these settings.")
    parser.add_class_arguments(CollectConfig, "collect")
    parser.add_class_arguments(Common)


def collect_preset(parser: Parser, words: list[str]) -> None:
    """Set the defaults to those of ``--preset``, if it is given."""
    positional, found = scan_argv(words, {"--preset": "", "--collect.episodes": ""})
    values = preset_of(env_of(positional), found["--preset"])
    if values:
        parser.set_defaults(
            {**flat({"collect": values.get("collect", {})}), "env_options": values.get("env_options", {})}
        )
    if found["--collect.episodes"]:  # an explicit number of episodes overrides the preset's minimum number of steps
        parser.set_defaults({"collect.min_steps": None})


def collect(options: Namespace) -> None:
    """Collect episodes."""
    from worldmodel.agents.pipeline import stages
    from worldmodel.agents.pipeline.run_folder import Run
    from worldmodel.rollouts.executors.workers import validate_backend

    settings = settings_of(CollectConfig, options.collect, "collect.")
    env = ENV_ALIASES.get(options.env, options.env)
    run = Run(folder_path(options.out or f"runs/{slug(env)}", "out"))
    env = env if options.official else FAST.get(env, env)
    validate_backend(options.backend, options.workers)
    validate_env(env, options.env_options)
    run.validate_folder()
    # reports a wrong policy before the run folder is created
    stages.make_policy(settings.policy, settings.action_noise, options.env_options)
    common = (options.seed, options.workers, options.env_options, options.backend)
    with run.locked():
        store = stages.collect(run, env, settings, *common)
    answers.print(f"{len(store)} episodes, {store.steps:,} steps in {run.rollouts_folder}", markup=False)
    next_hint("worldmodel", "train", "vae", run.folder, *preset_words(options))
