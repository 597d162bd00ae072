"""Hostile clients of the viewer: other sessions continue and the server stays up."""

import json
import math
import os
import socket
import struct
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.agents.viewer.scenes import scene
from tests.agents.viewer.test_server import served, shots, until, visit
from tests.trust.properties import EXAMPLES, PLAIN
from worldmodel.agents.viewer.session import Session

KINDS = (
    "action",
    "controller",
    "pause",
    "reality",
    "record",
    "restart",
    "rewind",
    "speed",
    "step",
    "temperature",
    "exit",
)


@pytest.fixture(scope="module")
def session():
    found = Session(scene(), 1)
    yield found
    found.close()


@settings(deadline=None, max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    PLAIN | st.fixed_dictionaries({"type": st.sampled_from(KINDS), "value": PLAIN | st.lists(st.floats(), max_size=3)})
)
def test_any_message_is_taken_or_refused_and_the_dream_goes_on(session, message):
    try:
        session.receive(message)
    except ValueError as error:
        assert len(str(error)) < 400
    session.receive({"type": "pause", "value": False})
    shot = session.advance()
    assert shot is None or all(map(math.isfinite, shot.facts["action"]))
    assert shot is None or math.isfinite(shot.facts["total"])
    assert session.film is None or len(session.film) <= 1800


def handshake(port):
    """Open a WebSocket without a client library."""
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(
        f"GET /dream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert client.recv(4096).startswith(b"HTTP/1.1 101")
    return client


def frame(opcode, content, length=None, final=True, masked=True):
    """A WebSocket frame, which may declare a wrong length."""
    length = len(content) if length is None else length
    head = bytes([(0x80 if final else 0) | opcode])
    mask = 0x80 if masked else 0
    if length < 126:
        head += bytes([mask | length])
    else:
        head += bytes([mask | 127]) + struct.pack(">Q", length)
    return head + (bytes(4) if masked else b"") + content


HOSTILE = {
    "a frame of exabytes": frame(1, b"x" * 100, length=2**62),
    "a length beyond the standard": frame(1, b"x", length=2**64 - 1),
    "a frame larger than allowed": frame(1, b"x" * 5_000),
    "a message in endless pieces": frame(1, b"x", final=False) + frame(0, b"y" * 100, final=False) * 100,
    "text that is no text": frame(1, b"\xff\xfe\xfd"),
    "without a mask": frame(1, b'{"type": "restart"}', masked=False),
    "an unknown opcode": frame(11, b"x"),
    "a continuation of nothing": frame(0, b"x"),
    "a long ping": frame(9, b"x" * 200),
    "noise": bytes(np.random.default_rng(0).integers(0, 256, 4_000, dtype=np.uint8)),
    "bytes": frame(2, b"x"),
    "a flood": frame(1, b'{"type": "step"}') * 2_000,
    "a close in half": frame(8, b"\x03"),
}


@pytest.fixture(scope="module")
def server():
    with served(scene()) as found:
        yield found


SLOWLY_CLOSED = ("bytes", "a flood")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOWLY_CLOSED else case for case in HOSTILE]
)
def test_hostile_frames_close_only_their_own_connection(server, case):
    port, sessions = server
    until(lambda: not sessions)
    with visit(port) as other:
        other.recv(timeout=10)
        before = next(shots(other))[0]["step"]
        hostile = handshake(port)
        hostile.settimeout(3)  # a server that waits for the answer to its close frame sends nothing
        try:
            hostile.sendall(HOSTILE[case])
            while hostile.recv(65_536):
                pass
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            pass
        finally:
            hostile.close()
        until(lambda: len(sessions) == 1)
        received = shots(other)
        until(lambda: next(received)[0]["step"] > before + 2)


def test_a_client_that_never_reads_uses_no_memory_and_blocks_no_other(server):
    port, sessions = server
    until(lambda: not sessions)
    silent = handshake(port)
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    silent.sendall(frame(1, b'{"type": "speed", "value": 60}'))
    until(lambda: len(sessions) == 1 and next(iter(sessions.values())) is not None)
    (session_of_client,) = sessions.values()
    with visit(port) as other:
        other.recv(timeout=10)
        received = shots(other)
        for _ in range(5):
            next(received)
    silent.close()
    until(lambda: not sessions, 30)
    until(lambda: not session_of_client.past)


def test_half_open_connections_block_no_client(server):
    port, sessions = server
    until(lambda: not sessions)
    lingering = []
    for number in range(20):
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        client.sendall(b"GET /dream HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + bytes([65 + number]))
        lingering.append(client)
    with visit(port) as other:
        assert "title" in json.loads(other.recv(timeout=10))
    for client in lingering:
        client.close()


def test_closed_connections_leave_no_sessions_and_files(server):
    port, sessions = server
    until(lambda: not sessions)
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(12):
        handshake(port).close()
        time.sleep(0.01)
    until(lambda: not sessions, 30)
    until(lambda: len(os.listdir("/proc/self/fd")) <= files + 2, 30)
