"""The command ``worldmodel import``: import episodes that other programs recorded."""

from typing import Any

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import ENV_ALIASES
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers, bar, next_hint
from worldmodel.io.paths import folder_path


def build_import(parser: Parser) -> None:
    """Import episodes that other programs recorded into a run folder.

    SOURCE is a folder of .npz, .npy or video files (a .csv or .jsonl file beside each video has the actions), one such file,
    or the id of a local Minari dataset; docs/files.md has the layouts.
    """
    parser.add_argument("source", type=str, help="Path of a file or folder, or id of a local Minari dataset.")
    parser.add_argument("--out", type=str, required=True, help="Path of the run folder.")
    parser.add_argument(
        "--env",
        type=str | None,
        default=None,
        help="Id of the environment of the episodes, in whose units their actions are. None: that of a Minari dataset, else "
        "unknown, with actions in [-1, 1] or counted from 0.",
    )
    parser.add_argument("--env_options", type=dict[str, Any], default={}, help="Arguments of envs.make, as JSON.")
    parser.add_argument(
        "--num_actions",
        type=int | None,
        default=None,
        help="Number of discrete actions. None: that of the environment, else the largest action plus one.",
    )
    parser.add_argument("--reward", type=float, default=0.0, help="Reward of each step of an episode without rewards.")
    parser.add_argument(
        "--terminated", type=bool, default=False, help="Whether episodes that do not say so terminated."
    )


def import_rollouts(options: Namespace) -> None:
    """Import the episodes and draw a contact sheet."""
    from worldmodel import rollouts
    from worldmodel.agents.analysis.inspect import contact_sheet
    from worldmodel.agents.runs.run_folder import Run

    run = Run(folder_path(options.out, "out"))
    run.validate_folder()
    names = ("env_options", "num_actions", "reward", "terminated")
    with run.locked(), run.stage("import"), bar(f"import {options.source}", "episodes") as progress:
        store = rollouts.import_from(
            options.source,
            run.rollouts_folder,
            ENV_ALIASES.get(options.env, options.env),
            **{name: options[name] for name in names},
            progress=progress,
        )
    answers.print(f"{len(store)} episodes, {store.steps:,} steps of {store.env} in {store.path}", markup=False)
    if contact_sheet(run.folder, picture := run.folder / "contact-sheet.png"):
        answers.print(f"{picture} (one row an episode, from the first frame to the last)", markup=False)
    next_hint("worldmodel", "train", "vae", run.folder, "--preset", "quick")
