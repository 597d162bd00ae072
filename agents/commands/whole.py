"""The command that tells the whole story."""

import importlib.util
from typing import get_type_hints

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from agents.checks import check, check_together
from agents.commands.common import WORLDS, check_env, env_of, env_words, glance, preset_of, slug
from agents.display import answers, say_next, say_verdict
from agents.parser import Parser
from agents.settings import Preset, RunSettings
from agents.yaml_files import flat
from worldmodel.paths import folder_path


def build_run(parser: Parser) -> None:
    """Tell the whole story on one environment: collect, train, evolve in dreams and in the game, test, report.

    WORLD is car-racing, mario, or any Gymnasium id whose environment shows pixels. The same command continues a run
    that was stopped.
    """
    parser.add_argument("world", type=str, help="car-racing, mario, or an environment id")
    parser.add_argument(
        "--preset", type=Preset, default="standard", help="quick: minutes; standard: hours; paper: days"
    )
    parser.add_argument("--out", type=str | None, default=None, help="run folder (default: runs/WORLD-PRESET)")
    parser.add_argument("--config", action="config", help="a YAML file with settings, such as a run's config.yaml")
    parser.add_argument(
        "--env", type=str | None, default=None, help="stands in a run's config.yaml; must be that of WORLD"
    )
    parser.add_class_arguments(RunSettings, skip={"env"})


def run(options: Namespace) -> None:
    """Tell the story."""
    from agents import story, whole
    from agents.run import Run
    from agents.sections import check_sections
    from agents.verdicts import verdicts

    parser = Parser()
    parser.add_class_arguments(RunSettings)
    names = RunSettings.__dataclass_fields__
    given = {name: options[name] for name in names if name != "env"}
    check_sections(given, get_type_hints(RunSettings))
    built = parser.instantiate(Namespace(env=WORLDS.get(options.world, options.world), **given))
    settings = RunSettings(**{name: built[name] for name in names})
    if options.env not in (None, settings.env):
        raise ValueError(f"--config is of {options.env}, asked for {settings.env}")
    check(settings)
    check_together(settings)
    folder = folder_path(options.out or f"runs/{slug(options.world)}-{options.preset}", "out")
    check_env(settings.env, settings.env_options | settings.test_options)
    if settings.plays_in != settings.env:
        check_env(settings.plays_in, settings.env_options)
    whole.tell(settings, folder)
    told = Run(folder)
    table = Table("chapter", "figures", title=f"{settings.env}: {folder}", title_justify="left")
    for row in story.summary(told):
        table.add_row(*map(Text, row))
    answers.print(table)
    for verdict in verdicts(told):
        say_verdict(verdict, answers)
    page = folder / "report.html"
    answers.print(f"Report: {page} (in a browser: {page.absolute().as_uri()})", markup=False)
    playable = importlib.util.find_spec("starlette") and importlib.util.find_spec("uvicorn")
    say_next("worldmodel", "play" if playable else "dream", folder, *(env_words(told) if playable else ()))


def preset(parser: Parser, words: list[str]) -> None:
    """Presets of the environment, or the general ones."""
    positional, found = glance(words, {"--preset": "standard", "--collect.episodes": ""})
    parser.set_defaults(flat(preset_of(env_of(positional), found["--preset"])))
    if found["--collect.episodes"]:  # a number of episodes that is given is the number that is collected
        parser.set_defaults({"collect.min_steps": None})
