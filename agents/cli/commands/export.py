"""The command ``worldmodel export``: write a run's dream as a static web page."""

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import add_run
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers, busy, next_hint


def build_export(parser: Parser) -> None:
    """Write a run's dream as a static web page that any file server can host, without Python.

    The folder has the page, the world model and its controllers as ONNX, and onnxruntime-web, which npm downloads the
    first time. To view it: python -m http.server --directory FOLDER
    """
    add_run(parser, agents=True)
    parser.add_argument("--web", type=str, required=True, help="Path of the output folder.")
    parser.add_argument(
        "--runtime",
        type=str | None,
        default=None,
        help="Path of a folder with the files of onnxruntime-web. None: download them with npm.",
    )


def export(options: Namespace) -> None:
    """Write the page."""
    from worldmodel.agents.pretrained import resolve_agent
    from worldmodel.agents.viewer import scene_of
    from worldmodel.agents.viewer.export import about
    from worldmodel.agents.viewer.export import export as write

    with busy(f"writing {options.web}"):
        folder = write(scene_of(resolve_agent(options.run, options.pretrained)), options.web, options.runtime)
    answers.print(f"{folder} ({about(folder)})", markup=False)
    next_hint("python", "-m", "http.server", "--directory", folder)
