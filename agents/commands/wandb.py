"""The command that sends what a run has written down to where others look at it."""

from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from agents.parser import Parser
from agents.progress import answers


def build_wandb(parser: Parser) -> None:
    """Send a run folder's curves and scores to Weights & Biases.

    Everything that is in its files: each metrics.jsonl becomes a group of curves, each test a score. The same command
    sends what came since. Also while a run goes on, and for runs of densities.
    """
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument("--project", type=str, default="worldmodel", help="of Weights & Biases")
    parser.add_argument(
        "--mode", type=Literal["online", "offline"], default="online", help="offline: `wandb sync` sends it later"
    )


def wandb(options: Namespace) -> None:
    """Send."""
    from agents.wandb_log import send

    sent = send(Path(options.run), options.project, options.mode)
    answers.print(f"{sent.rows} rows of {sent.groups} curves, {sent.tests} tests: {sent.where}", markup=False)
