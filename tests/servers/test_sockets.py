"""What clients do to WebSockets on real servers, over real sockets (W9, W11)."""

from __future__ import annotations

import struct

import pytest

from tests.servers.support import Client, RunningServer

TEXT, CLOSE = 1, 8

LEAVES = pytest.mark.parametrize("how", ["goodbye", "close", "reset"])


def leave(client: Client, how: str) -> None:
    """Have a client close its socket, or vanish."""
    if how == "goodbye":
        client.send_frame(CLOSE, struct.pack("!H", 1000))
    else:
        client.hang_up(how)


@LEAVES
@pytest.mark.parametrize("kind", ["waits", "ticks"])
def test_a_handler_that_only_sends_learns_of_the_close(
    server: RunningServer, number: int, kind: str, how: str
) -> None:
    """W9: while it waits for something else, and while it sends."""
    path = f"/socket/{kind}/{number}"
    with server.connect() as client:
        client.open_websocket(path)
        assert client.wait_until_open() == 101
        assert client.read_frame() == (TEXT, b"hello")
        leave(client, how)
        server.wait_for(path, "stopped")

    assert server.wait_for(path, "cancelled") == "disconnect"
    assert server.wait_for(path, "returned") is None


@LEAVES
def test_messages_pass_in_both_directions(server: RunningServer, number: int, how: str) -> None:
    """W2: all of them, in order, also those that came just before the close."""
    path = f"/socket/echo/{number}"
    with server.connect() as client:
        client.open_websocket(path)
        assert client.wait_until_open() == 101
        assert client.read_frame() == (TEXT, b"hello")
        for index in range(20):
            client.send_frame(TEXT, b"%d" % index)
            assert client.read_frame() == (TEXT, b"%d" % index)
        leave(client, how)
        server.wait_for(path, "stopped")
    server.wait_for(path, "returned")

    assert "cancelled" not in server.events(path)


def test_a_cancelled_socket_is_closed_with_the_code_of_its_reason(
    server: RunningServer, number: int
) -> None:
    """W7, W9: a timeout is 3008."""
    path = f"/socket/timeout/{number}"
    with server.connect() as client:
        client.open_websocket(path)
        assert client.wait_until_open() == 101
        assert client.read_frame() == (TEXT, b"hello")
        opcode, payload = client.read_frame()

    assert (opcode, struct.unpack("!H", payload[:2])) == (CLOSE, (3008,))
    assert server.wait_for(path, "cancelled") == "timeout"
    server.wait_for(path, "returned")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_is_gone_before_the_accept(
    server: RunningServer, number: int, how: str
) -> None:
    """W9: the handler is stopped."""
    path = f"/socket/unaccepted/{number}"
    with server.connect() as client:
        client.open_websocket(path)
        server.wait_for(path, "entered")
        if server.limit("a socket is stopped whose client is gone before the accept"):
            client.hang_up(how)
            assert server.events(path) == ["entered"]
            return
        client.hang_up(how)
        server.wait_for(path, "stopped")

    assert server.wait_for(path, "cancelled") == "disconnect"
    server.wait_for(path, "returned")


def test_a_handler_closes_its_socket_with_a_code_of_its_own(
    server: RunningServer, number: int
) -> None:
    """W2, W9: and its close does not wait for anything of the client's."""
    path = f"/socket/closes/{number}"
    with server.connect() as client:
        client.open_websocket(path)
        assert client.wait_until_open() == 101
        assert client.read_frame() == (TEXT, b"hello")
        opcode, payload = client.read_frame()
        assert (opcode, struct.unpack("!H", payload[:2])) == (CLOSE, (4002,))
        server.wait_for(path, "returned")

    assert "cancelled" not in server.events(path)


def test_a_handler_learns_the_close_code_of_its_client(server: RunningServer, number: int) -> None:
    """W9: where the server knows it."""
    path = f"/socket/code/{number}"
    with server.connect() as client:
        client.open_websocket(path)
        assert client.wait_until_open() == 101
        assert client.read_frame() == (TEXT, b"hello")
        client.send_frame(CLOSE, struct.pack("!H", 4001))
        code = server.wait_for(path, "code")
        assert code == (
            1006 if server.limit("a handler learns the close code of its client") else 4001
        )
        server.wait_for(path, "returned")
