"""The command ``worldmodel play``: play a run's dream in the browser."""

import errno
from contextlib import suppress
from pathlib import Path

from jsonargparse import Namespace

from worldmodel.agents.cli.commands.common import add_run
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers


def build_play(parser: Parser) -> None:
    """Play a run's dream in the browser with keys, touch or a gamepad, beside the real environment.

    RUN is a run folder with a trained world model. Only this machine can open the page, unless --host allows others.
    """
    add_run(parser, agents=True)
    parser.add_argument("--env", type=str | None, default=None, help="Id of the environment. None: that of RUN.")
    parser.add_argument(
        "--host", type=str, default="127.0.0.1", help="Network address of the page. 0.0.0.0: any machine can open it."
    )
    parser.add_argument("--port", type=int, default=8000, help="Port of the page. 0: any free port.")
    parser.add_argument("--visitors", type=int, default=8, help="Largest number of dreams at the same time.")
    parser.add_argument(
        "--record",
        type=str | None,
        default=None,
        help="Path of a folder that records what people play as rollouts, in FOLDER/game and FOLDER/dream. None: no recording.",
    )
    parser.add_argument("--browser", type=bool, default=True, help="Whether to open a browser.")


def play(options: Namespace) -> None:
    """Serve the page."""
    from worldmodel.agents.pretrained import resolve_agent
    from worldmodel.agents.viewer import serve

    try:
        page = serve(
            resolve_agent(options.run, options.pretrained), options.env,
            host=options.host, port=options.port, visitors=options.visitors, record=options.record,
        )  # fmt: skip
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ValueError(
            f"port {options.port} is in use by another program: choose another port, or --port 0"
        ) from None
    name = Path(options.run).name if options.pretrained else options.run
    with page:
        answers.print(f"{name} ({page.title}): {page.url} (Ctrl-C stops it)", markup=False)
        if options.record is not None:
            answers.print(f"Recording: {options.record}/game and {options.record}/dream", markup=False)
        if options.browser:
            import webbrowser

            webbrowser.open(page.url)
        with suppress(KeyboardInterrupt):
            page.wait()
