"""The command ``worldmodel wandb``: send a run's metrics to Weights & Biases."""

from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers


def build_wandb(parser: Parser) -> None:
    """Send a run folder's metrics and scores to Weights & Biases.

    Each metrics.jsonl becomes a group of curves, each evaluation a score. The same command sends new rows, also while the
    run goes on. Folders of `worldmodel density` work, too.
    """
    parser.add_argument("run", type=str, help="Path of the run folder.")
    parser.add_argument("--project", type=str, default="worldmodel", help="Name of the project at Weights & Biases.")
    parser.add_argument(
        "--mode",
        type=Literal["online", "offline"],
        default="online",
        help="online: send now; offline: save files for a later `wandb sync`.",
    )


def wandb(options: Namespace) -> None:
    """Send the metrics and print their number."""
    from worldmodel.agents.analysis.wandb_log import send

    sent = send(Path(options.run), options.project, options.mode)
    answers.print(
        f"{sent.rows} rows of {sent.groups} metrics files, {sent.tests} evaluations: {sent.where}", markup=False
    )
