"""What HTTP/2 adds: many streams in one connection, which end one by one or together (W1, W2)."""

from __future__ import annotations

import time

import pytest

from tests.servers.conftest import HTTP2_KINDS, running
from tests.servers.http2 import HTTP2Client

CUT = 3.0
"""Seconds after which Hypercorn cuts what has not ended by itself, on Trio (its default)."""


@pytest.mark.parametrize("work", ["sleep", "stream/ours"])
@pytest.mark.parametrize("kind", HTTP2_KINDS)
def test_resets_stop_their_streams_and_a_lost_connection_all(kind: str, work: str) -> None:
    """W1, W2: the streams beside those that were reset go on; a write after a reset is quiet."""
    with running(kind) as server, server.connect() as client:
        assert isinstance(client, HTTP2Client)
        paths = {}
        for index in range(10):
            path = f"/{work}/{index}"
            client.request("GET", path)
            server.wait_for(path, "entered")
            paths[client.stream] = path
        reset, kept = list(paths)[2:5], [*list(paths)[:2], *list(paths)[5:]]
        for client.stream in reset:
            client.hang_up("reset")
        for stream in reset:
            server.wait_for(paths[stream], "returned")
        client.request("POST", "/upload/now/1", "Content-Length: 3", body=b"abc")
        assert client.response()[0] == 200
        for stream in kept:
            assert server.events(paths[stream]) == ["entered"]

        client.reset_connection()
        for stream in kept:
            server.wait_for(paths[stream], "returned")

    assert {server.wait_for(path, "cancelled") for path in paths.values()} == {"disconnect"}


@pytest.mark.parametrize("kind", HTTP2_KINDS)
def test_a_client_that_leaves_during_a_shutdown_does_not_hold_it_up(kind: str) -> None:
    """W4, W10: nobody is answered; with an answer, this server would wait until it is cut."""
    with running(kind) as server, server.connect() as leaves, server.connect() as heeds:
        assert isinstance(leaves, HTTP2Client)
        leaves.request("GET", "/sleep/1")
        server.wait_for("/sleep/1", "entered")
        heeds.request("GET", "/farewell/heeds")
        server.wait_for("/farewell/heeds", "entered")
        server.terminate()
        heeds.body_until(b"data: signal\n\n")  # so the others have been told as well
        leaves.reset_connection()
        server.wait_for("/sleep/1", "returned")

    assert server.wait_for("/sleep/1", "cancelled") == "disconnect"


@pytest.mark.parametrize("path", ["/sleep/1", "/stream/ours/1"])
@pytest.mark.parametrize("kind", HTTP2_KINDS)
def test_a_connection_whose_last_stream_was_reset_does_not_hold_up_a_shutdown(
    kind: str, path: str
) -> None:
    """W10: without an end this server takes it for busy, with whatever application."""
    with running(kind) as server, server.connect() as client:
        client.request("GET", path)
        server.wait_for(path, "entered")
        client.hang_up("reset")
        server.wait_for(path, "returned")
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < CUT


@pytest.mark.parametrize("what", ["answer", "stream"])
@pytest.mark.parametrize("why", ["continues", "patient"])
@pytest.mark.parametrize("kind", HTTP2_KINDS)
def test_a_handler_that_ends_by_itself_for_nobody_does_not_hold_up_a_shutdown(
    kind: str, why: str, what: str
) -> None:
    """W5, W10: it was to go on without its client, or had time to; the server gets its end."""
    path = f"/{why}/{what}/1"
    with running(kind) as server, server.connect() as client:
        client.request("GET", path)
        server.wait_for(path, "entered")
        client.hang_up("reset")
        server.wait_for(path, "finished")
        server.wait_for(path, "returned")
        assert "cancelled" not in server.events(path)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < CUT


@pytest.mark.parametrize("what", ["answer", "stream"])
@pytest.mark.parametrize("kind", HTTP2_KINDS)
def test_a_handler_that_goes_on_for_a_lost_connection_ends(kind: str, what: str) -> None:
    """W5: nobody waits for ever in the end of a response that this server never takes."""
    path = f"/continues/{what}/1"
    with running(kind) as server, server.connect() as client:
        assert isinstance(client, HTTP2Client)
        client.request("GET", path)
        server.wait_for(path, "entered")
        client.reset_connection()
        server.wait_for(path, "finished")
        server.wait_for(path, "returned")


@pytest.mark.parametrize("kind", HTTP2_KINDS)
def test_a_body_that_goes_on_behind_its_answer_ends_what_the_server_runs(kind: str) -> None:
    """A fault of Hypercorn's; on asyncio it costs one connection, on Trio the whole server."""
    with running(kind, is_quiet=False) as server, server.connect() as client:
        client.request("POST", "/refuse/1", "Content-Length: 100000", body=b"x")
        assert client.response() == (413, b"too large")
        client.send(b"x" * 1000)
        assert not client.socket.recv(65536).strip(b"\0")
        if "trio" in kind:
            log = server.wait()
            assert server.returncode == 1
        else:
            with server.connect() as other:
                other.request("GET", "/background/1")
                assert other.response() == (200, b"accepted")
            log = server.stop()
        assert "KeyError: 1" in log
