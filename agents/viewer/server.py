"""The local server of the page: static files, and a WebSocket that carries one dream for each visitor.

Start reading at `build_app`; `Page` serves it. A message to the page is: four bytes with the length of a JSON
text, that text, the dream's
64 x 64 x 3 bytes, and reality's where it is shown. Messages from the page are small JSON texts (`session._VALUES`).
"""

import asyncio
import html
import json
import secrets
import socket
import struct
import threading
import time
from typing import Any, Self
from urllib.parse import urlsplit

import uvicorn
import websockets  # noqa: F401  uvicorn imports it only after the page's address was told
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from agents.viewer.session import PAGE, Frame, Scene, Session

LARGEST_MESSAGE = 4096
"""Bytes; a visitor who sends more is sent away."""
MESSAGES_A_SECOND, BURST = 120.0, 240.0
LAST_WORDS_S = 3
"""How long a page that is stopped waits for its visitors' connections."""
VISITORS = 8
"""So many at a time; each costs a processor's time."""
ANYWHERE = ("0.0.0.0", "::")
POLICY, TRY_LATER = 1008, 1013
"""WebSocket codes for closing."""


def build_app(scene: Scene, hosts: list[str], visitors: int = VISITORS) -> Starlette:
    """The page as an ASGI application.

    Args:
        scene: what is dreamed.
        hosts: names that the server answers to ("*": any), which keeps other pages' tricks with names out.
        visitors: how many may dream at a time.
    """
    sessions: dict[str, Session | None] = {}

    async def dream(visitor: WebSocket) -> None:
        if not same_origin(visitor):
            await visitor.close(POLICY)  # before it is accepted: the browser sees a refusal
            return
        await visitor.accept()
        if len(sessions) >= visitors:
            await visitor.send_json({"error": f"{visitors} visitors are dreaming here: come back later"})
            await visitor.close(TRY_LATER)
            return
        token = secrets.token_urlsafe(16)
        sessions[token] = session = None  # the place is taken before the dream is ready
        try:
            sessions[token] = session = await asyncio.to_thread(Session, scene, secrets.randbits(60))
            await visitor.send_json(hello(scene, token))
            await _live(visitor, session)
        finally:
            del sessions[token]
            if session is not None:
                await asyncio.to_thread(session.close)

    async def recording(request: Request) -> Response:
        session = sessions.get(request.path_params["token"])
        if session is None:
            return PlainTextResponse("there is no such recording", 404)
        try:
            film = await asyncio.to_thread(session.recording)
        except ValueError as error:
            return PlainTextResponse(str(error), 404)
        return Response(
            film, media_type="video/mp4", headers={"content-disposition": 'attachment; filename="dream.mp4"'}
        )

    app = Starlette(
        routes=[
            WebSocketRoute("/dream", dream),
            Route("/recording/{token}.mp4", recording),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )
    app.state.sessions = sessions
    return app


def hello(scene: Scene, token: str) -> dict[str, Any]:
    """What the page needs to know at first."""
    return {
        "title": scene.title,
        "controls": scene.controls,
        "controllers": list(scene.controllers),
        "reality": scene.make_env is not None,
        "recording": f"recording/{token}.mp4",
        "speed": scene.speed,
        "notes": scene.notes,
    }


def same_origin(visitor: WebSocket) -> bool:
    """Whether a browser's page of this very server asks; programs that are no browsers send no origin."""
    origin = visitor.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == visitor.headers.get("host")
    except ValueError:  # an origin that is no address
        return False


def pack(shot: Frame) -> bytes:
    """A message to the page."""
    facts = json.dumps(shot.facts).encode()
    real = b"" if shot.reality is None else shot.reality.tobytes()
    return struct.pack("<I", len(facts)) + facts + shot.dream.tobytes() + real


async def _live(visitor: WebSocket, session: Session) -> None:
    """Listen and dream until the visitor leaves."""
    tasks = [asyncio.create_task(_listen(visitor, session)), asyncio.create_task(_dream(visitor, session))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            gone = isinstance(result, WebSocketDisconnect) or visitor.application_state != WebSocketState.CONNECTED
            if isinstance(result, Exception) and not gone and visitor.client_state == WebSocketState.CONNECTED:
                raise result


async def _listen(visitor: WebSocket, session: Session) -> None:
    allowed, last = BURST, time.monotonic()
    while True:
        try:
            text = await visitor.receive_text()
        except KeyError:  # bytes, where a text was expected
            await visitor.close(POLICY)
            return
        now = time.monotonic()
        allowed, last = min(BURST, allowed + (now - last) * MESSAGES_A_SECOND) - 1, now
        if allowed < 0 or len(text) > LARGEST_MESSAGE:
            await visitor.close(POLICY)
            return
        try:
            session.receive(json.loads(text))
        except (ValueError, RecursionError) as error:
            await visitor.send_json({"error": str(error)[:300]})


async def _dream(visitor: WebSocket, session: Session) -> None:
    due = time.monotonic()
    while True:
        shot = await asyncio.to_thread(session.advance)
        if shot is not None:
            await visitor.send_bytes(pack(shot))
        due = max(due + 1 / session.speed, time.monotonic() - 0.1)  # what was missed is not made up for
        await asyncio.sleep(max(0.0, due - time.monotonic()))


class Page:
    """A page that a thread of its own serves, so that it works in notebooks, too: until `stop`, or the end of a ``with``.

    Args:
        scene: what is dreamed.
        host: "127.0.0.1": only this machine may visit.
        port: 0: any free one.
        visitors: how many may dream at a time.

    Raises:
        OSError: the port is taken, or there is no such host.
    """

    def __init__(self, scene: Scene, host: str = "127.0.0.1", port: int = 0, visitors: int = VISITORS) -> None:
        local = ["127.0.0.1", "localhost", "[::1]"]
        self.app = build_app(scene, ["*"] if host in ANYWHERE else [*local, host], visitors)
        settings = uvicorn.Config(
            self.app, log_level="warning", ws="websockets-sansio", ws_max_size=LARGEST_MESSAGE, lifespan="off",
            timeout_graceful_shutdown=LAST_WORDS_S,
        )  # fmt: skip
        self.title = scene.title
        self._listening = socket_at(host, port)
        self.url = f"http://{_address(host)}:{self._listening.getsockname()[1]}/"
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._listening],), name="dream page", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when the page is stopped."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # so that Ctrl-C is heard everywhere

    def stop(self) -> None:
        """Send all visitors away and free the port."""
        self._server.should_exit = True
        self._thread.join()
        self._listening.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        """Address, and whether it is served."""
        return f"Page({self.title!r}, {self.url}{'' if self._thread.is_alive() else ', stopped'})"

    def _repr_html_(self) -> str:
        """The page itself, in a notebook."""
        if not self._thread.is_alive():
            return html.escape(repr(self))
        return (
            f'<p><a href="{self.url}" target="_blank">{html.escape(self.title)}: steer the dream</a></p>'
            f'<iframe src="{self.url}" width="100%" height="640" style="border:0" title="A dream to steer"></iframe>'
        )


def _address(host: str) -> str:
    """A host as an address to visit has it."""
    if host in ANYWHERE:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def socket_at(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        OSError: the port is taken, or there is no such host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise OSError(error.errno, error.strerror or str(error), f"{host}:{port}") from None
    listening.listen()  # who comes before the server is ready waits
    return listening
