"""The command ``worldmodel run``: run all stages on one environment."""

import importlib.util
from typing import get_type_hints

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from worldmodel.agents.cli.commands.common import (
    ENV_ALIASES,
    env_of,
    env_words,
    preset_of,
    scan_argv,
    slug,
    validate_env,
)
from worldmodel.agents.config.io import flat
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.config.schema import Preset, RunConfig, rare_settings
from worldmodel.agents.config.validate import validate, validate_combination
from worldmodel.agents.progress import answers, next_hint, print_verdict
from worldmodel.io.paths import folder_path


def build_run(parser: Parser) -> None:
    """Run all stages on one environment: collect, train, evolve in dreams and in the environment, evaluate, report.

    ENV is car-racing, mario, or the id of any Gymnasium environment that renders pixels. The same command continues a
    stopped run.
    """
    parser.add_argument("env_id", metavar="ENV", type=str, help="car-racing, mario, or an environment id")
    parser.add_argument(
        "--preset",
        type=Preset,
        default="standard",
        help="Sizes of all stages: quick takes minutes, standard hours, paper days.",
    )
    parser.add_argument("--out", type=str | None, default=None, help="Path of the run folder. None: runs/ENV-PRESET.")
    parser.add_argument(
        "--config", action="config", help="Path of a YAML file with settings, such as a run's config.yaml."
    )
    parser.add_argument(
        "--env", type=str | None, default=None, help="Environment in a run's config.yaml; must be equal to ENV."
    )
    parser.add_class_arguments(RunConfig, skip={"env"})
    parser.hidden = rare_settings(RunConfig)
    parser.epilog = "--help all shows all settings."


def run(options: Namespace) -> None:
    """Run all stages; print the times, the scores and the path of the report."""
    from worldmodel.agents.analysis.verdicts import verdicts
    from worldmodel.agents.config.sections import validate_sections
    from worldmodel.agents.pipeline import pipeline, stages
    from worldmodel.agents.pipeline.run_folder import Run

    parser = Parser()
    parser.add_class_arguments(RunConfig)
    names = RunConfig.__dataclass_fields__
    given = {name: options[name] for name in names if name != "env"}
    validate_sections(given, get_type_hints(RunConfig))
    built = parser.instantiate(Namespace(env=ENV_ALIASES.get(options.env_id, options.env_id), **given))
    settings = RunConfig(**{name: built[name] for name in names})
    if options.env not in (None, settings.env):
        raise ValueError(f"--config has env {options.env}, got ENV {settings.env}")
    validate(settings)
    validate_combination(settings)
    folder = folder_path(options.out or f"runs/{slug(options.env_id)}-{options.preset}", "out")
    validate_env(settings.evaluation_env, settings.env_options | settings.eval_env_options)
    if settings.rollout_env != settings.evaluation_env:
        validate_env(settings.rollout_env, settings.env_options)
    pipeline.run_pipeline(settings, folder)
    finished = Run(folder)
    table = Table("stage", "result", title=f"{settings.env}: {folder}", title_justify="left")
    for row in stages.summary(finished):
        table.add_row(*map(Text, row))
    answers.print(table)
    for verdict in verdicts(finished):
        print_verdict(verdict, answers)
    page = folder / "report.html"
    answers.print(f"Report: {page} (in a browser: {page.absolute().as_uri()})", markup=False)
    playable = importlib.util.find_spec("starlette") and importlib.util.find_spec("uvicorn")
    next_hint("worldmodel", "play" if playable else "dream", folder, *(env_words(finished) if playable else ()))


def preset(parser: Parser, words: list[str]) -> None:
    """Set the defaults to those of ``--preset``."""
    if "all" in words:  # --help all
        parser.hidden, parser.epilog = frozenset(), None
    positional, found = scan_argv(words, {"--preset": "standard", "--collect.episodes": ""})
    parser.set_defaults(flat(preset_of(env_of(positional), found["--preset"])))
    if found["--collect.episodes"]:  # an explicit number of episodes overrides the preset's minimum number of steps
        parser.set_defaults({"collect.min_steps": None})
