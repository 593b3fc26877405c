"""What clients do to requests on real servers, over real sockets (W1, W2, W6, W8, W11, W13)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import time

import pytest

from tests.servers.conftest import running
from tests.servers.support import LIMIT, RunningServer, broken_off_lines

HOW = pytest.mark.parametrize("how", ["close", "reset"])
LAYERS = pytest.mark.parametrize("layers", ["", "/layers1", "/layers2"])


def hang_up_on(server: RunningServer, path: str, how: str, *told: str) -> None:
    """Leave a handler that runs, and wait until it has told of each of some events."""
    with server.connect() as client:
        client.request("GET", path)
        server.wait_for(path, "entered")
        client.hang_up(how)
        for event in told:
            server.wait_for(path, event)


def probe(server: RunningServer, number: int) -> None:
    """See another client come and go, so that what came before it has been dealt with."""
    path = f"/sleep/probe{number}"
    with server.connect() as client:
        client.request("GET", path)
        server.wait_for(path, "entered")
    server.wait_for(path, "stopped")


@HOW
@LAYERS
def test_a_client_that_hangs_up_stops_a_sleeping_handler(
    server: RunningServer, number: int, how: str, layers: str
) -> None:
    """W1: behind any number of layers."""
    path = f"{layers}/sleep/{number}"
    hang_up_on(server, path, how, "stopped")

    assert server.wait_for(path, "cancelled") == "disconnect"
    server.wait_for(path, "returned")


@HOW
def test_a_client_that_hangs_up_at_once_stops_its_handler(
    server: RunningServer, number: int, how: str
) -> None:
    """W13: also one that is gone before the request is old enough to be watched."""
    path = f"/sleep/{number}"
    with server.connect() as client:
        client.request("GET", path)
        client.hang_up(how)

    # A server may notice before it starts the application, and then there is nothing to stop.
    probe(server, number)
    if "entered" in server.events(path):
        server.wait_for(path, "stopped")


@LAYERS
@pytest.mark.parametrize("kind", ["plain", "plain-silent", "ours", "ours-silent"])
@HOW
def test_a_client_that_hangs_up_stops_a_stream(
    server: RunningServer, number: int, kind: str, layers: str, how: str
) -> None:
    """W1, W8: before its first byte and in the middle of it."""
    path = f"{layers}/stream/{kind}/{number}"
    with server.connect() as client:
        client.request("GET", path)
        server.wait_for(path, "entered")
        if "silent" not in kind:
            client.body_until(b".")
        if kind == "plain":
            server.wait_for(path, "waiting")
        client.hang_up(how)
        server.wait_for(path, "stopped")

    assert server.wait_for(path, "cancelled") == "disconnect"
    server.wait_for(path, "returned")


def test_a_client_that_does_not_read_and_hangs_up_stops_a_stream(
    server: RunningServer, number: int
) -> None:
    """W8: the send that waits for it is released, and the generator is closed."""
    path = f"/flood/{number}"
    with server.connect() as client:
        client.request("GET", path)
        server.wait_for(path, "entered")
        client.body_until(b"xxxx")
        client.hang_up("reset")
        server.wait_for(path, "stopped")

    server.wait_for(path, "returned")


@HOW
def test_a_client_that_hangs_up_in_the_middle_of_an_upload_stops_its_handler(
    server: RunningServer, number: int, how: str
) -> None:
    """No error, no answer, no 400."""
    path = f"/upload/now/{number}"
    ends_nothing_else = "a client that closes in the middle of an upload ends nothing else"
    if how == "close" and server.limit(ends_nothing_else):
        see_handler_or_server_end(server.kind, path)
        return
    with server.connect() as client:
        client.request("POST", path, "Content-Length: 100000", body=b"x" * 50000)
        if server.limit("an upload is handled while it arrives"):
            client.hang_up(how)
            probe(server, number)
            assert server.events(path) == []
            return
        server.wait_for(path, "entered")
        client.hang_up(how)
        server.wait_for(path, "stopped")

    assert server.wait_for(path, "cancelled") == "disconnect"
    server.wait_for(path, "returned")


def see_handler_or_server_end(kind: str, path: str) -> None:
    """Hang up on a server of its own, which lives or dies by chance; the handler never hangs."""
    with running(kind, is_quiet=False) as server:
        with server.connect() as client:
            client.request("POST", path, "Content-Length: 100000", body=b"x" * 50000)
            server.wait_for(path, "entered")
            client.hang_up("close")
        give_up = time.monotonic() + LIMIT
        while "returned" not in server.events(path) and not server.has_ended:
            assert time.monotonic() < give_up, server.log()
            time.sleep(0.01)
        if server.has_ended:
            assert "KeyError" in server.wait()
            assert server.returncode == 1
        else:
            assert "cancelled" in server.events(path)


# A look is only for those under no BaseHTTPMiddleware: that answers it itself.
BODIES = [(kind, layers) for kind in ("now", "late") for layers in ("", "/layers1", "/layers2")]


@pytest.mark.parametrize(("kind", "layers"), [*BODIES, ("peek", "")])
def test_a_body_in_slow_chunks_arrives_whole(
    server: RunningServer, number: int, kind: str, layers: str
) -> None:
    """W2: ten megabytes of JSON, read at once, late, and after looking for the client."""
    path = f"{layers}/upload/{kind}/{number}"
    # Hypercorn opens the window of a stream by 64 KiB at a time: ten megabytes take it seconds.
    size = 1_000_000 if server.kind.endswith("-h2") else 10_000_000
    body = json.dumps({"data": "x" * size}).encode()
    with server.connect() as client:
        client.request("POST", path, f"Content-Length: {len(body)}")
        for start in range(0, len(body), size // 20):
            client.send(body[start : start + size // 20])
            time.sleep(0.002)  # the chunks must not arrive as one; nothing waits for this
        status, answer = client.response()

    assert status == 200
    assert json.loads(answer) == {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_requests_on_one_connection_are_all_answered(server: RunningServer, number: int) -> None:
    """W2: no false disconnect behind a complete response."""
    with server.connect() as client:
        for index in range(50):
            path = f"/upload/now/{number}-{index}"
            client.request("POST", path, "Content-Length: 3", body=b"abc")
            status, answer = client.response()
            assert (status, json.loads(answer)["length"]) == (200, 3)
            server.wait_for(path, "returned")
            assert "cancelled" not in server.events(path)


@HOW
@LAYERS
def test_a_background_task_finishes_after_the_client_has_left(
    server: RunningServer, number: int, how: str, layers: str
) -> None:
    """What runs behind a complete response is not about the client."""
    path = f"{layers}/background/{number}"
    with server.connect() as client:
        client.request("GET", path)
        assert client.response() == (200, b"accepted")
        client.hang_up(how)
    server.wait_for(path, "finished")
    server.wait_for(path, "returned")

    assert "cancelled" not in server.events(path)


@LAYERS
def test_a_timeout_is_a_504(server: RunningServer, number: int, layers: str) -> None:
    """W6: and the connection can be used again."""
    path = f"{layers}/timeout/{number}"
    with server.connect() as client:
        for _ in range(2):
            client.request("GET", path)
            status, answer = client.response()
            assert (status, json.loads(answer)["reason"]) == (504, "timeout")

    assert server.wait_for(path, "cancelled") == "timeout"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/refuse", "/refuse/late", "/timeout"])
def test_an_answer_without_reading_a_big_body_does_not_deadlock(
    server: RunningServer, number: int, path: str, method: str
) -> None:
    """W3: one server waits in the last ``send()`` until somebody has read its queue.

    A body is no use to a GET, and may come all the same.
    """
    path = f"{path}/{number}"
    with server.connect() as client:
        client.socket.settimeout(5)
        client.request(method, path, "Content-Length: 5000000")
        parts = 0 if server.limit("a body goes on behind its answer") else 100
        try:
            for _ in range(parts):
                client.send(b"x" * 50_000)
        except OSError:
            pass  # the server may close while we send: it has said all that it had to say
        try:
            status, _ = client.response()
            assert status in (413, 504)
        except ConnectionResetError:
            pass
        server.wait_for(path, "returned")


def test_a_half_closed_connection_is_a_disconnect(server: RunningServer, number: int) -> None:
    """The protocol cannot tell it from one; documented."""
    path = f"/sleep/{number}"
    with server.connect() as client:
        client.request("GET", path)
        server.wait_for(path, "entered")
        client.socket.shutdown(socket.SHUT_WR)
        server.wait_for(path, "stopped")


def test_a_half_closed_connection_of_a_request_that_is_left_alone(
    server: RunningServer, number: int
) -> None:
    """W5: its client is answered or not as without us."""
    if server.limit("a request that is left alone ends"):
        return  # it would stay in this server, which has more tests to serve
    path = f"/unwatched/{number}"
    with server.connect() as client:
        client.request("GET", path)
        server.wait_for(path, "entered")
        client.socket.shutdown(socket.SHUT_WR)
        server.wait_for(path, "returned")
        if server.limit("a half-closed connection is answered where nobody watches"):
            assert client.socket.recv(65536) == b""
        else:
            assert client.response() == (200, b"there you are")

    assert "cancelled" not in server.events(path)


def test_no_reader_stays_in_the_server(server: RunningServer, number: int) -> None:
    """W13: one read of a watched request waits there, and none when it has been answered."""
    path = f"/outlasts/{number}"
    for asked in (path, path, path, f"/outlasts/{number}/afterwards"):
        with server.connect() as client:
            client.request("GET", asked)
            assert client.response() == (200, b"there you are")
        assert server.wait_for(asked, "reads") == 1

    with server.connect() as client:
        client.request("GET", f"/reads{path}")
        assert client.response() == (200, b"0")


@HOW
@pytest.mark.parametrize("kind", ["answer", "stream"])
def test_a_handler_that_is_to_go_on_sees_that_its_client_has_left(
    server: RunningServer, number: int, kind: str, how: str
) -> None:
    """W4, W5: however often it looks, and it ends by itself."""
    path = f"/continues/{kind}/{number}"
    hang_up_on(server, path, how, "finished", "returned")

    assert "cancelled" not in server.events(path)


@pytest.mark.parametrize(
    ("reason", "status"), [("manual", 499), ("signal", 503), ("condition", 500), ("timeout", 504)]
)
def test_a_cancelled_request_is_answered_by_its_reason(
    server: RunningServer, number: int, reason: str, status: int
) -> None:
    """W7: with a client that is there."""
    path = f"/ends/{reason}/{number}"
    with server.connect() as client:
        client.request("GET", path)
        answer = client.response()

    assert (answer[0], json.loads(answer[1])["reason"]) == (status, reason)
    assert server.wait_for(path, "cancelled") == reason


@HOW
def test_of_two_middlewares_one_watches(server: RunningServer, number: int, how: str) -> None:
    """W12: the request is cancelled once, and told once."""
    path = f"/doubled/sleep/{number}"
    hang_up_on(server, path, how, "stopped", "returned")

    assert server.wait_for(path, "cancelled") == "disconnect"
    assert server.events(path).count("cancelled") == 1


def test_of_two_timeouts_the_smaller_counts(server: RunningServer, number: int) -> None:
    """W12: the outer middleware has none."""
    path = f"/doubled/short/sleep/{number}"
    with server.connect() as client:
        client.request("GET", path)
        assert client.response()[0] == 504
    server.wait_for(path, "returned")

    assert server.events(path).count("cancelled") == 1


def test_many_clients_that_hang_up_at_once(server: RunningServer, number: int) -> None:
    """W11: nothing is logged, and the server is as before."""
    paths = [f"/sleep/{number}-{index}" for index in range(50)]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in paths]
        for client, path in zip(clients, paths, strict=True):
            client.request("GET", path)
        for path in paths:
            server.wait_for(path, "entered")
        for index, client in enumerate(clients):
            client.hang_up("reset" if index % 2 else "close")
        for path in paths:
            server.wait_for(path, "stopped")
            server.wait_for(path, "returned")
    with server.connect() as client:
        client.request("POST", f"/upload/now/{number}", "Content-Length: 3", body=b"abc")
        assert client.response()[0] == 200


@HOW
@pytest.mark.parametrize("behind", ["a second request", "stray bytes"])
def test_bytes_behind_a_request_do_not_hide_a_client_that_hangs_up(
    server: RunningServer, number: int, behind: str, how: str
) -> None:
    """W1; and where they do, a deadline is the second line of defence (W6)."""
    hidden = server.limit(f"a client that leaves is seen behind {behind}")
    path = f"/timeout/{number}" if hidden else f"/sleep/{number}"
    with server.connect() as client:
        client.request("GET", path)
        server.wait_for(path, "entered")
        if behind == "stray bytes":
            client.send_noise()
        else:
            client.send_second_request(f"/sleep/second{number}")
        client.hang_up(how)
        server.wait_for(path, "stopped")

    assert server.wait_for(path, "cancelled") == ("timeout" if hidden else "disconnect")
    server.wait_for(path, "returned")
    if hidden and server.limit("an answer to a client that left unseen is quiet"):
        server.expected += broken_off_lines(server)


def test_a_stream_whose_time_is_up_does_not_look_complete(
    server: RunningServer, number: int
) -> None:
    """W6: it is broken off, and ends for its client, unless the server leaves that waiting."""
    path = f"/timeout/stream/plain/{number}"
    with server.connect() as client:
        client.request("GET", path)
        server.wait_for(path, "returned")
        if server.limit("a stream that is broken off ends for its client"):
            client.body_until(b".")
            client.socket.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.rest()
        else:
            body, complete = client.rest()
            assert (body.strip(b"."), complete) == (b"", False)

    assert server.wait_for(path, "cancelled") == "timeout"
    server.expected += broken_off_lines(server)


def test_no_body_is_asked_for_before_somebody_reads(server: RunningServer, number: int) -> None:
    """W3: a client that waits for ``100 Continue`` is refused without sending its body."""
    path = f"/refuse/{number}"
    with server.connect() as client:
        client.request("POST", path, "Content-Length: 3", "Expect: 100-continue")
        if server.limit("no body is asked for before somebody reads"):
            client.wait_until_invited()
            client.send(b"abc")
        assert client.response() == (413, b"too large")
    server.wait_for(path, "returned")
