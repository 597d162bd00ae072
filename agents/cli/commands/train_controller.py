"""The command ``worldmodel train controller``: fit a controller to stored actions."""

from pathlib import Path

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import add_preset, add_run, add_settings, env_words, settings_of
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers, next_hint


def build_train_controller(parser: Parser) -> None:
    """Train a controller on the actions of stored episodes, by behavior cloning.

    The run folder must have a trained world model. Evolution can start from the controller (--game.init_from).
    """
    add_run(parser)
    parser.add_argument(
        "--from",
        type=str | None,
        default=None,
        help="Path of the run folder or the store with the episodes, such as FOLDER/game of `worldmodel play --record`. "
        "None: RUN.",
    )
    add_preset(parser)
    add_settings(parser, "controller", "seed")


def train_controller(options: Namespace) -> None:
    """Fit the controller and print its error on held-out episodes."""
    from worldmodel.agents.pipeline.cloning import clone_controller, open_recording
    from worldmodel.agents.runs.run_folder import Run

    run, settings = Run(Path(options.run)).existing(), settings_of(options, "")
    store = run.store() if options["from"] is None else open_recording(options["from"])
    with run.locked():
        clone = clone_controller(run, settings, store)
    path = run.search("clone") / "controller.safetensors"
    answers.print(f"{path}: {clone}", markup=False)
    words = ["--where", "game", "--game.init_from", path, "--controller.inputs", settings.controller.inputs]
    words += ["--game.generations", "20", *env_words(run), "--preset", options.preset or "quick"]
    next_hint("worldmodel", "evolve", run.folder, *words)
