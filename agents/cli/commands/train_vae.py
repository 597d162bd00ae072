"""The command ``worldmodel train vae``: train the VAE on frames."""

from pathlib import Path

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import (
    add_device,
    add_preset,
    add_run,
    add_settings,
    preset_words,
    settings_of,
)
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers, next_hint, quiet_other_processes


def build_train_vae(parser: Parser) -> None:
    """Train the VAE on a run folder's frames.

    Without --preset, the settings are those of the run folder's training: a larger number of updates continues it.
    """
    add_run(parser)
    add_preset(parser)
    add_device(parser)
    add_settings(parser, "vae", "training", "seed")


def train_vae(options: Namespace) -> None:
    """Train the VAE."""
    from worldmodel.agents.pipeline import stages
    from worldmodel.agents.runs.run_folder import Run

    quiet_other_processes()
    settings, run = settings_of(options, ""), Run(Path(options.run)).existing()
    with run.locked():
        stages.train_vae(run, settings)
    answers.print(f"VAE in {run.folder / 'vae'}", markup=False)
    next_hint("worldmodel", "train", "memory", run.folder, *preset_words(options))
