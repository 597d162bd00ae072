"""The command ``worldmodel train vae``: train the VAE on frames."""

from pathlib import Path

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import (
    add_preset,
    add_run,
    preset_words,
    settings_of,
)
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.config.schema import VAEConfig
from worldmodel.agents.progress import answers, next_hint, quiet_other_processes


def build_train_vae(parser: Parser) -> None:
    """Train the VAE on a run folder's frames.

    Without --preset, the settings are those of the run folder's training: a larger number of updates continues it.
    """
    add_run(parser)
    add_preset(parser)
    parser.add_class_arguments(VAEConfig, "vae")
    parser.add_argument("--seed", type=int, default=1, help="Random seed.")


def train_vae(options: Namespace) -> None:
    """Train the VAE."""
    from worldmodel.agents.pipeline import stages
    from worldmodel.agents.pipeline.run_folder import Run

    quiet_other_processes()
    run = Run(Path(options.run)).existing()
    with run.locked():
        stages.train_vae(run, settings_of(VAEConfig, options.vae, "vae."), options.seed)
    answers.print(f"VAE in {run.folder / 'vae'}", markup=False)
    next_hint("worldmodel", "train", "memory", run.folder, *preset_words(options))
