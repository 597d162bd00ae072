"""Local web server of the page: static files, and one WebSocket with one dream per visitor.

Start reading at `build_app`; `Page` serves the application. A frame is sent to the page as one binary message: the length of
a JSON text (uint32, little-endian), the text, the dream's frame (size x size x 3 bytes), and the real frame if it is shown. The
page sends short JSON texts (`messages.validated`).
"""

import asyncio
import html
import json
import secrets
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, Self
from urllib.parse import urlsplit

import uvicorn
import websockets  # noqa: F401  uvicorn imports it late; a missing package must raise here
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from worldmodel.agents.viewer.session import PAGE, Frame, Scene, Session

LARGEST_MESSAGE = 4096
"""Maximum size of a message from the page, in bytes; a larger one closes the connection."""
MESSAGE_RATE, MESSAGE_BURST = 120.0, 240.0
"""Limits of a visitor's messages: messages per second on average, and messages at once; more close the connection."""
SHUTDOWN_TIMEOUT = 3
"""Seconds that a stopped page waits for open connections to close."""
VISITORS = 8
"""Default largest number of dreams at the same time; each of them needs processor time."""
ANY_ADDRESS = ("0.0.0.0", "::")
POLICY, TRY_LATER = 1008, 1013
"""WebSocket close codes: policy violation, and try again later."""


def build_app(scene: Scene, hosts: list[str], visitors: int = VISITORS) -> Starlette:
    """Build the ASGI application of the page.

    Args:
        scene: Scene.
        hosts: Accepted host names ("*": any), as a protection against DNS rebinding.
        visitors: Largest number of dreams at the same time.
    """
    sessions: dict[str, Session | None] = {}

    async def dream(visitor: WebSocket) -> None:
        if not same_origin(visitor):
            await visitor.close(POLICY)  # without accepting it first, so that the handshake fails
            return
        await visitor.accept()
        with suppress(WebSocketDisconnect):  # a visitor may leave before the first message
            await serve(visitor)

    async def serve(visitor: WebSocket) -> None:
        if len(sessions) >= visitors:
            await visitor.send_json({"error": f"the limit of {visitors} visitors is reached: try again later"})
            await visitor.close(TRY_LATER)
            return
        token = secrets.token_urlsafe(16)
        sessions[token] = session = None  # counts as a visitor while its session is being built
        try:
            sessions[token] = session = await asyncio.to_thread(Session, scene, secrets.randbits(60))
            await visitor.send_json(hello(scene, token))
            await _run_session(visitor, session)
        finally:
            del sessions[token]
            if session is not None:
                try:
                    await asyncio.to_thread(session.close)
                except (RuntimeError, asyncio.CancelledError):  # the server ends and starts no more threads
                    session.close()  # writes what is recorded

    async def recording(request: Request) -> Response:
        session = sessions.get(request.path_params["token"])
        if session is None:
            return PlainTextResponse("recording not found", 404)
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
        lifespan=lambda app: _enough_threads(visitors),
    )
    app.state.sessions = sessions
    return app


@asynccontextmanager
async def _enough_threads(visitors: int) -> AsyncIterator[None]:
    """Give each visitor a thread of its own, and some for recordings."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(visitors + 4))
    yield


def hello(scene: Scene, token: str) -> dict[str, Any]:
    """Return the first message to the page: title, controls, controllers, speed and notes."""
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
    """Whether a request comes from a page of this server, or has no origin, as those of programs other than browsers."""
    origin = visitor.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == visitor.headers.get("host")
    except ValueError:  # the origin is not a URL
        return False


def pack(frame: Frame) -> bytes:
    """Return a frame as a binary message to the page."""
    facts = json.dumps(frame.facts | {"size": len(frame.dream)}).encode()
    real = b"" if frame.reality is None else frame.reality.tobytes()
    return struct.pack("<I", len(facts)) + facts + frame.dream.tobytes() + real


async def _run_session(visitor: WebSocket, session: Session) -> None:
    """Receive messages and send frames until the visitor disconnects."""
    tasks = [
        asyncio.create_task(_receive_messages(visitor, session)),
        asyncio.create_task(_send_frames(visitor, session)),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            disconnected = (
                isinstance(result, WebSocketDisconnect) or visitor.application_state != WebSocketState.CONNECTED
            )
            if isinstance(result, Exception) and not disconnected and visitor.client_state == WebSocketState.CONNECTED:
                raise result


async def _receive_messages(visitor: WebSocket, session: Session) -> None:
    """Pass the visitor's messages to its session; close the connection at a violation of the limits."""
    allowed, last = MESSAGE_BURST, time.monotonic()
    while True:
        try:
            text = await visitor.receive_text()
        except KeyError:  # a binary message
            await visitor.close(POLICY)
            return
        now = time.monotonic()
        allowed, last = min(MESSAGE_BURST, allowed + (now - last) * MESSAGE_RATE) - 1, now
        if allowed < 0 or len(text) > LARGEST_MESSAGE:
            await visitor.close(POLICY)
            return
        try:
            session.receive(json.loads(text))
        except (ValueError, RecursionError) as error:
            await visitor.send_json({"error": str(error)[:300]})


async def _send_frames(visitor: WebSocket, session: Session) -> None:
    """Advance the session at its speed, and send each new frame."""
    due = time.monotonic()
    while True:
        frame = await asyncio.to_thread(session.advance)
        if frame is not None:
            await visitor.send_bytes(pack(frame))
        due = max(due + 1 / session.speed, time.monotonic() - 0.1)  # late steps are not made up
        await asyncio.sleep(max(0.0, due - time.monotonic()))


class Page:
    """The page, served until `stop` or the end of a ``with`` block.

    The server runs in its own thread, so that it also works in notebooks.

    Args:
        scene: Scene.
        host: Network address. "127.0.0.1": only this machine can open the page.
        port: Port. 0: any free port.
        visitors: Largest number of dreams at the same time.

    Raises:
        OSError: The port is in use, or the host does not exist.
    """

    def __init__(self, scene: Scene, host: str = "127.0.0.1", port: int = 0, visitors: int = VISITORS) -> None:
        local = ["127.0.0.1", "localhost", "[::1]"]
        self.app = build_app(scene, ["*"] if host in ANY_ADDRESS else [*local, host], visitors)
        settings = uvicorn.Config(
            self.app, log_level="warning", ws="websockets-sansio", ws_max_size=LARGEST_MESSAGE, lifespan="off",
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
        )  # fmt: skip
        self.title = scene.title
        self._listening = socket_at(host, port)
        self.url = f"http://{_address(host)}:{self._listening.getsockname()[1]}/"
        self._server = uvicorn.Server(settings)
        self._stopped = threading.Event()  # not Thread.join: Ctrl-C in it marks a running thread as stopped
        threading.Thread(target=self._run, name="dream page", daemon=True).start()

    def _run(self) -> None:
        try:
            self._server.run([self._listening])
        finally:
            self._stopped.set()

    def wait(self) -> None:
        """Block until the page is stopped."""
        while not self._stopped.wait(0.5):  # without a timeout it blocks Ctrl-C on some systems
            pass

    def stop(self) -> None:
        """Close all connections and free the port."""
        self._server.should_exit = True
        self._stopped.wait()
        self._listening.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        """Title, address, and whether the page is stopped."""
        return f"Page({self.title!r}, {self.url}{', stopped' if self._stopped.is_set() else ''})"

    def _repr_html_(self) -> str:
        """Return the page as HTML for a notebook."""
        if self._stopped.is_set():
            return html.escape(repr(self))
        return (
            f'<p><a href="{self.url}" target="_blank">{html.escape(self.title)}: play the dream</a></p>'
            f'<iframe src="{self.url}" width="100%" height="640" style="border:0" title="Play the dream"></iframe>'
        )


def _address(host: str) -> str:
    """Return a host as it appears in a URL."""
    if host in ANY_ADDRESS:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def socket_at(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: Network address.
        port: Port. 0: any free port.

    Raises:
        OSError: The port is in use, or the host does not exist.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise OSError(error.errno, error.strerror or str(error), f"{host}:{port}") from None
    listening.listen()  # connections wait here until the server is ready
    return listening
