"""What HTTP/2 adds: many streams in one connection, which end one by one or together (W1, W2)."""

from __future__ import annotations

import pytest

from tests.servers.conftest import HTTP2_KINDS, running
from tests.servers.http2 import HTTP2Client


@pytest.mark.parametrize("kind", HTTP2_KINDS)
def test_a_reset_stops_one_stream_and_a_lost_connection_all(kind: str) -> None:
    """W1, W2: the streams beside the one that was reset go on."""
    with running(kind) as server, server.connect() as client:
        assert isinstance(client, HTTP2Client)
        paths = [f"/sleep/{index}" for index in range(3)]
        streams = []
        for path in paths:
            client.request("GET", path)
            server.wait_for(path, "entered")
            streams.append(client.stream)
        client.stream = streams[1]
        client.hang_up("reset")
        server.wait_for(paths[1], "returned")
        client.request("POST", "/upload/now/1", "Content-Length: 3", body=b"abc")
        assert client.response()[0] == 200
        for path in (paths[0], paths[2]):
            assert server.events(path) == ["entered"]

        client.reset_connection()
        for path in (paths[0], paths[2]):
            server.wait_for(path, "returned")

    assert [server.wait_for(path, "cancelled") for path in paths] == ["disconnect"] * 3


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
