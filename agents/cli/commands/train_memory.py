"""The command ``worldmodel train memory``: train the memory on encoded frames."""

from pathlib import Path

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import (
    add_device,
    add_preset,
    add_run,
    add_settings,
    env_words,
    preset_words,
    settings_of,
)
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers, next_hint, quiet_other_processes


def build_train_memory(parser: Parser) -> None:
    """Train the memory on a run folder's encoded frames.

    Without --preset, the settings are those of the run folder's training: a larger number of updates continues it.
    """
    add_run(parser)
    add_preset(parser)
    add_device(parser)
    add_settings(parser, "memory", "training", "seed")


def train_memory(options: Namespace) -> None:
    """Encode the frames, train the memory and save the world model."""
    from worldmodel.agents.pipeline import stages
    from worldmodel.agents.runs.run_folder import Run

    quiet_other_processes()
    settings, run = settings_of(options, ""), Run(Path(options.run)).existing()
    with run.locked():
        stages.train_memory(run, settings)
    answers.print(f"World model in {run.world_folder}", markup=False)
    next_hint("worldmodel", "evolve", run.folder, "--where", "dream", *env_words(run), *preset_words(options))
