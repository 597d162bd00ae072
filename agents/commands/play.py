"""The command ``worldmodel play``."""

import errno
from contextlib import suppress
from pathlib import Path

from jsonargparse import Namespace

from agents.commands.common import add_run
from agents.parser import Parser
from agents.progress import answers


def build_play(parser: Parser) -> None:
    """Steer a run's dream in the browser: a local page with keys, touch and gamepad, and reality beside it.

    RUN is a run folder with a trained world model. Only this machine can reach the page, unless --host says otherwise.
    """
    add_run(parser, agents=True)
    parser.add_argument("--env", type=str | None, default=None, help="the game beside the dream (default: of RUN)")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="0.0.0.0: every machine may visit")
    parser.add_argument("--port", type=int, default=8000, help="of the page; 0: any free one")
    parser.add_argument("--visitors", type=int, default=8, help="dreams at a time")
    parser.add_argument("--browser", type=bool, default=True, help="whether to open a browser")


def play(options: Namespace) -> None:
    """Serve the page."""
    from agents.pretrained import resolve_agent
    from agents.viewer import serve

    try:
        page = serve(
            resolve_agent(options.run, options.pretrained), options.env,
            host=options.host, port=options.port, visitors=options.visitors,
        )  # fmt: skip
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ValueError(f"port {options.port} is taken by another program: choose another, or --port 0") from None
    name = Path(options.run).name if options.pretrained else options.run
    with page:
        answers.print(f"{name} ({page.title}): {page.url} (Ctrl-C ends it)", markup=False)
        if options.browser:
            import webbrowser

            webbrowser.open(page.url)
        with suppress(KeyboardInterrupt):
            page.wait()
