"""Real servers that are told to stop while they have work (W10)."""

from __future__ import annotations

import contextlib
import signal
import struct

import pytest

from tests.servers.conftest import running
from tests.servers.support import RunningServer, broken_off_lines

CLOSE = 8


def denied_lines(server: RunningServer) -> list[str]:
    """Return what a server logs of a socket that is refused with a response.

    uvicorn sends the response and complains all the same. A bare close would be quiet, and tell
    the client that it is forbidden (403) where it should come back (503).
    """
    if server.kind.startswith("uvicorn"):
        return ["ERROR:    ASGI callable returned without completing handshake."]
    return []


def test_a_signal_ends_streams_and_sockets_and_lets_requests_finish(
    fresh_server: RunningServer,
) -> None:
    """W10: told first, cut after the grace; the process ends, once, without a traceback.

    None of the servers has been given a time limit of its own: without us, each of them waits for
    an open stream, for three seconds or for ever.
    """
    server = fresh_server
    with contextlib.ExitStack() as clients:
        heeds, ignores, broken_off, plain, socket = (
            clients.enter_context(server.connect()) for _ in range(5)
        )
        heeds.request("GET", "/farewell/heeds")
        ignores.request("GET", "/farewell/ignores")
        broken_off.request("GET", "/stream/plain/1")
        plain.request("GET", "/plain")
        socket.open_websocket("/socket/waits/1")
        paths = ["/farewell/heeds", "/farewell/ignores", "/stream/plain/1", "/plain"]
        for path in paths:
            server.wait_for(path, "entered")
        assert socket.wait_until_open() == 101
        socket.read_frame()

        server.terminate()

        if server.limit("a shutdown is told first"):
            server.wait()
            for path in [*paths, "/socket/waits/1"]:
                assert set(server.events(path)) <= {"entered", "waiting"}
            return
        may_lack_end = bool(
            server.limit("a stream that ends during a shutdown ends for its client")
        )
        body, complete = heeds.rest()
        assert body == b"data: hello\n\ndata: signal\n\n"
        assert complete or may_lack_end
        body, complete = ignores.rest()
        assert b'event: cancelled\ndata: {"reason":"signal"}\n\n' in body
        assert complete or may_lack_end
        assert not broken_off.rest()[1]
        assert plain.response(may_lack_end=may_lack_end) == (200, b"done")
        if server.limit("a shutdown closes sockets with a code"):
            assert socket.socket.recv(1) == b""
        else:
            opcode, payload = socket.read_frame()
            # uvicorn closes its sockets itself, within a tenth of a second: with 1012.
            assert (opcode, struct.unpack("!H", payload[:2])[0]) in {(CLOSE, 1001), (CLOSE, 1012)}
        server.wait()

    assert server.wait_for("/farewell/ignores", "cancelled") == "signal"
    assert server.wait_for("/stream/plain/1", "cancelled") == "signal"
    assert server.wait_for("/socket/waits/1", "cancelled") == "signal"
    for path in ("/farewell/heeds", "/plain"):
        assert "cancelled" not in server.events(path)
    # uvicorn ends by the signal that it was sent, once it has done all it had to do.
    assert server.returncode in (0, -signal.SIGTERM)
    server.expected += broken_off_lines(server)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_shutdown_is_seen_from_inside_an_application(backend: str) -> None:
    """W10: Hypercorn tells its connections alone, and Starlette is around its middlewares."""
    with running(f"hypercorn-worker-{backend}-inside") as server, server.connect() as client:
        client.request("GET", "/stream/plain/1")
        server.wait_for("/stream/plain/1", "entered")

        server.terminate()

        assert not client.rest()[1]
        server.wait()
    assert server.wait_for("/stream/plain/1", "cancelled") == "signal"
    assert server.returncode == 0


def test_an_explicit_trigger_refuses_what_is_new(fresh_server: RunningServer) -> None:
    """W10: with 503, on a server that goes on listening."""
    server = fresh_server
    with server.connect() as stream, server.connect() as client:
        stream.request("GET", "/farewell/heeds")
        server.wait_for("/farewell/heeds", "entered")
        client.request("GET", "/stop")
        assert client.response() == (200, b"stopping")
        stream.body_until(b"data: signal\n\n")
        server.wait_for("/farewell/heeds", "returned")
        for _ in range(2):
            client.request("GET", "/plain")
            status, body = client.response()
            assert (status, b'"reason":"signal"' in body) == (503, True)
    with server.connect() as client:
        client.open_websocket("/socket/echo/1")
        if server.limit("a socket is refused with a status"):
            assert client.wait_until_open() == 403
        else:
            assert client.response()[0] == 503
    server.expected += denied_lines(server)


def test_a_server_that_tells_of_no_shutdown_cancels_what_it_runs() -> None:
    """W11: daphne, as long as no socket is open; the handler unwinds and nothing is logged."""
    with running("daphne") as server, server.connect() as client:
        client.request("GET", "/stream/plain/1")
        server.wait_for("/stream/plain/1", "entered")
        server.terminate()
        assert server.wait_for("/stream/plain/1", "cancelled") == "external"
        server.wait_for("/stream/plain/1", "raised")
