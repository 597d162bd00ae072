"""The command that tells the whole story."""

import importlib.util
from typing import get_type_hints

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from agents.commands.common import ENV_ALIASES, env_of, env_words, preset_of, scan_argv, slug, validate_env
from agents.config.io import flat
from agents.config.schema import Preset, RunConfig
from agents.config.validate import validate, validate_combination
from agents.parser import Parser
from agents.progress import answers, next_hint, print_verdict
from worldmodel.paths import folder_path


def build_run(parser: Parser) -> None:
    """Tell the whole story on one environment: collect, train, evolve in dreams and in the game, test, report.

    ENV is car-racing, mario, or any Gymnasium id whose environment shows pixels. The same command continues a run
    that was stopped.
    """
    parser.add_argument("env_id", metavar="ENV", type=str, help="car-racing, mario, or an environment id")
    parser.add_argument(
        "--preset", type=Preset, default="standard", help="quick: minutes; standard: hours; paper: days"
    )
    parser.add_argument("--out", type=str | None, default=None, help="run folder (default: runs/ENV-PRESET)")
    parser.add_argument("--config", action="config", help="a YAML file with settings, such as a run's config.yaml")
    parser.add_argument(
        "--env", type=str | None, default=None, help="stands in a run's config.yaml; must be that of ENV"
    )
    parser.add_class_arguments(RunConfig, skip={"env"})


def run(options: Namespace) -> None:
    """Tell the story."""
    from agents import pipeline, stages
    from agents.config.sections import validate_sections
    from agents.run import Run
    from agents.verdicts import verdicts

    parser = Parser()
    parser.add_class_arguments(RunConfig)
    names = RunConfig.__dataclass_fields__
    given = {name: options[name] for name in names if name != "env"}
    validate_sections(given, get_type_hints(RunConfig))
    built = parser.instantiate(Namespace(env=ENV_ALIASES.get(options.env_id, options.env_id), **given))
    settings = RunConfig(**{name: built[name] for name in names})
    if options.env not in (None, settings.env):
        raise ValueError(f"--config is of {options.env}, asked for {settings.env}")
    validate(settings)
    validate_combination(settings)
    folder = folder_path(options.out or f"runs/{slug(options.env_id)}-{options.preset}", "out")
    validate_env(settings.env, settings.env_options | settings.eval_env_options)
    if settings.rollout_env != settings.env:
        validate_env(settings.rollout_env, settings.env_options)
    pipeline.run_pipeline(settings, folder)
    finished = Run(folder)
    table = Table("chapter", "figures", title=f"{settings.env}: {folder}", title_justify="left")
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
    """Presets of the environment, or the general ones."""
    positional, found = scan_argv(words, {"--preset": "standard", "--collect.episodes": ""})
    parser.set_defaults(flat(preset_of(env_of(positional), found["--preset"])))
    if found["--collect.episodes"]:  # a number of episodes that is given is the number that is collected
        parser.set_defaults({"collect.min_steps": None})
