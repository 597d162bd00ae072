"""The server of the page: messages, refused requests and the end of sessions."""

import contextlib
import json
import socket
import struct
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.agents.viewer.scenes import scene
from tests.command_line import refused
from worldmodel.agents.viewer import server as server_module
from worldmodel.agents.viewer.server import LARGEST_MESSAGE, Page, socket_at
from worldmodel.agents.viewer.session import Session

FRAME = 64 * 64 * 3


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


@contextlib.contextmanager
def served(shown_scene, visitors=3):
    """A running server: its port and its sessions."""
    with Page(shown_scene, visitors=visitors) as page:
        until(lambda: page._server.started)
        yield int(page.url.rstrip("/").rpartition(":")[2]), page.app.state.sessions


@pytest.fixture(scope="module")
def server():
    with served(scene()) as running:
        yield running


@contextlib.contextmanager
def visit(port, started=True, **options):
    """A visitor with a running dream."""
    with connect(f"ws://127.0.0.1:{port}/dream", **options) as visitor:
        if started:
            visitor.send('{"type": "pause", "value": false}')
        yield visitor


def shots(visitor):
    """The facts, the dream and the real frame of each message."""
    while True:
        message = visitor.recv(timeout=60)
        if isinstance(message, bytes):
            (length,) = struct.unpack("<I", message[:4])
            images = message[4 + length :]
            yield json.loads(message[4 : 4 + length]), images[:FRAME], images[FRAME:]


def test_a_visitor_gets_a_greeting_and_consecutive_frames(server):
    with visit(server[0]) as visitor:
        hello = json.loads(visitor.recv(timeout=60))
        assert (hello["title"], hello["controllers"], hello["reality"]) == ("Counter", ["evolved"], True)
        frames = shots(visitor)
        facts, dream, real = next(frames)
        assert (len(dream), len(real)) == (FRAME, 0)
        steps = [facts["step"], *(next(frames)[0]["step"] for _ in range(5))]
        assert steps == list(range(steps[0], steps[0] + 6))


def test_actions_real_frames_and_recordings_are_sent(server):
    port, _ = server
    with visit(port) as visitor:
        hello = json.loads(visitor.recv(timeout=60))
        for message in (
            {"type": "record", "value": True},
            {"type": "reality", "value": True},
            {"type": "action", "value": [0.25, -1]},
        ):
            visitor.send(json.dumps(message))
        frames = shots(visitor)
        facts, _, real = next(frame for frame in frames if frame[0]["action"] == [0.25, -1] and frame[2])
        assert set(np.frombuffer(real, np.uint8)) == {int(facts["real"]["reward"])}
        until(lambda: next(frames)[0]["film"] > 3)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{hello['recording']}") as answer:
            assert answer.headers["content-type"] == "video/mp4"
            assert b"ftyp" in answer.read(32)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/{hello['recording']}")


def test_bad_messages_are_answered_and_the_dream_continues(server):
    with visit(server[0]) as visitor:
        visitor.recv(timeout=60)
        for text in ("no json", '{"type": "shutdown"}', "[" * 3000, '{"type":"temperature","value":1e999}'):
            visitor.send(text)
        answers = [m for m in (visitor.recv(timeout=60) for _ in range(40)) if isinstance(m, str)]
        assert len(answers) == 4
        assert all("error" in json.loads(answer) for answer in answers)


@pytest.mark.parametrize("hostile", ["x" * (LARGEST_MESSAGE + 1), b"bytes", "flood"])
def test_hostile_visitors_are_disconnected(server, hostile):
    port, sessions = server
    until(lambda: not sessions)
    with visit(port) as visitor, pytest.raises(ConnectionClosed):
        for _ in range(600 if hostile == "flood" else 1):
            visitor.send('{"type": "restart"}' if hostile == "flood" else hostile)
        while True:
            visitor.recv(timeout=60)
    until(lambda: not sessions)


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", "http://[bad"])
def test_pages_of_other_origins_are_refused(server, origin):
    with pytest.raises(InvalidStatus, match="403"), visit(server[0], origin=origin):
        pass


def test_other_host_names_and_paths_are_refused(server):
    request = urllib.request.Request(f"http://127.0.0.1:{server[0]}/", headers={"host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
    for path in ("../session.py", "%2e%2e/session.py", "recording/none.mp4"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{server[0]}/{path}")


def test_every_visitor_has_a_dream_until_the_connection_closes(server):
    port, sessions = server
    until(lambda: not sessions)
    with contextlib.ExitStack() as stack:
        visitors = [stack.enter_context(visit(port)) for _ in range(3)]
        hellos = [json.loads(visitor.recv(timeout=60)) for visitor in visitors]
        assert len({hello["recording"] for hello in hellos}) == 3
        # frames after a step: two visitors may begin in the same one of the nine start states
        frames = [next(dream for facts, dream, _ in shots(visitor) if facts["step"]) for visitor in visitors]
        assert len(set(frames)) == 3
        open_sessions = list(sessions.values())
        with visit(port, started=False) as fourth:
            fourth.recv(timeout=60)  # the reason
            with pytest.raises(ConnectionClosed) as closed:
                fourth.recv(timeout=60)
            assert closed.value.rcvd.code == 1013
    until(lambda: not sessions)
    until(lambda: all(session.film is None and not session.past for session in open_sessions))
    assert all(session.advance() is None for session in open_sessions)


def test_a_visitor_may_leave_before_the_dream_is_ready(server, monkeypatch, caplog):
    port, sessions = server
    until(lambda: not sessions)

    def slow(*args):
        time.sleep(0.3)
        return Session(*args)

    monkeypatch.setattr(server_module, "Session", slow)
    with connect(f"ws://127.0.0.1:{port}/dream") as visitor:
        visitor.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        visitor.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: sessions)
    until(lambda: not sessions)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_bad_arguments_of_play_are_named(tmp_path, capsys):
    assert str(tmp_path) in refused(capsys, "play", str(tmp_path))
    assert "port" in refused(capsys, "play", str(tmp_path), "--port", "70000")


def test_a_taken_port_is_named(capsys):
    first = socket_at("127.0.0.1", 0)
    first.listen()
    port = first.getsockname()[1]
    words = ["play", "car-racing-dream", "--pretrained", "--port", str(port), "--browser", "false"]
    assert str(port) in refused(capsys, *words)
    with pytest.raises(OSError) as error:
        socket_at("127.0.0.1", first.getsockname()[1])
    assert error.value.filename == f"127.0.0.1:{first.getsockname()[1]}"
    first.close()
