"""The command ``worldmodel run``: run all stages on one environment."""

import importlib.util
from typing import Any

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from worldmodel.agents.cli.commands.common import (
    ENV_ALIASES,
    RunPreset,
    add_device,
    add_settings,
    env_words,
    set_preset,
    settings_of,
    slug,
    validate_env,
)
from worldmodel.agents.config.fields import rare_settings
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.progress import answers, next_hint, print_verdict
from worldmodel.io.paths import folder_path


def build_run(parser: Parser) -> None:
    """Run all stages on one environment: collect, train, evolve in dreams and in the environment, evaluate, report.

    ENV is car-racing, mario, doom-take-cover, or the id of any Gymnasium environment. It learns from frames, or from the
    numbers that the environment observes with --env_options.observation vector. The same command continues a stopped run.
    """
    parser.add_argument(
        "env_id", metavar="ENV", type=str, help="car-racing, mario, doom-take-cover, or an environment id"
    )
    parser.add_argument(
        "--preset",
        type=RunPreset,
        default="standard",
        help="Sizes of all stages: quick takes minutes, standard hours, paper days; the others repeat records.",
    )
    parser.add_argument("--out", type=str | None, default=None, help="Path of the run folder. None: runs/ENV-PRESET.")
    parser.add_argument(
        "--config", action="config", help="Path of a YAML file with settings, such as a run's config.yaml."
    )
    parser.add_argument(
        "--env", type=str | None, default=None, help="Environment in a run's config.yaml; must be equal to ENV."
    )
    add_device(parser)
    add_settings(parser, *(name for name in RunConfig.__dataclass_fields__ if name != "env"))
    parser.hidden = rare_settings(RunConfig)
    parser.epilog = "--help all shows all settings."


def run(options: Namespace) -> None:
    """Run all stages; print the times, the scores and the path of the report."""
    from worldmodel.agents.analysis.verdicts import verdicts
    from worldmodel.agents.pipeline import pipeline
    from worldmodel.agents.pipeline.controller_evaluation import summary
    from worldmodel.agents.pipeline.phases import plan
    from worldmodel.agents.runs.run_folder import Run

    settings = settings_of(options, ENV_ALIASES.get(options.env_id, options.env_id))
    if options.env not in (None, settings.env):
        raise ValueError(f"--config has env {options.env}, got ENV {settings.env}")
    folder = folder_path(options.out or f"runs/{slug(options.env_id)}-{options.preset}", "out")
    games = list[tuple[str, dict[str, Any]]]()
    for one in (phase.settings for phase in plan(settings, Run(folder))):
        games += (one.evaluation_env, one.env_options), (one.rollout_env, one.env_options)
    for number, game in enumerate(games):
        if game not in games[:number]:
            validate_env(*game)
    pipeline.run_pipeline(settings, folder)
    finished = Run(folder)
    table = Table("stage", "result", title=f"{settings.env}: {folder}", title_justify="left")
    for row in summary(finished):
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
    set_preset(parser, words)
