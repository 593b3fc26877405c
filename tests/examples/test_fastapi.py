"""The FastAPI examples do what they say, for real clients of real servers."""

from __future__ import annotations

import json
import uuid

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.examples.support import LIMIT, ExampleServer

DATA = {"paper": "A4"}
JSON = "Content-Type: application/json"


def hang_up_in(server: ExampleServer, path: str, begun: str, method: str = "GET") -> None:
    """Send a request, and leave when the example has written that its work has begun."""
    body = b"{}" if method == "POST" else b""
    with server.client() as client:
        client.request(method, path, JSON, f"Content-Length: {len(body)}", body=body)
        server.wait_for(begun)
        client.hang_up("fin")


# --- fastapi_basic.py and fastapi_timeout.py -------------------------------------------------


def test_the_dependency_lets_the_work_finish(server: ExampleServer) -> None:
    """F1: an endpoint that nobody cancels answers as without us."""
    answer = server.get("/quick/fastapi_basic/long-operation")
    assert (answer.status_code, answer.json()) == (200, {"result": "processed"})
    answer = server.get("/quick/fastapi_timeout/timeout-operation")
    assert (answer.status_code, answer.json()) == (200, {"answer": 42})
    server.assert_quiet()


def test_the_dependency_stops_the_work_when_the_client_leaves(server: ExampleServer) -> None:
    """F1: with and without the middleware."""
    path = "/as_it_is/fastapi_basic/long-operation"
    hang_up_in(server, path, "process_data has begun")
    server.wait_for("process_data is cancelled")
    server.wait_for(r"operation \w+ \(long_operation\) cancelled .*: (parent|disconnect)")
    server.assert_quiet_but_for("DisconnectCancelation")


def test_the_timeout_of_the_dependency_stops_the_work(server: ExampleServer) -> None:
    """F1, W7: a 504 under the middleware, and an error like any other without it."""
    answer = server.get("/hurried/fastapi_timeout/timeout-operation")
    server.wait_for("long_computation is cancelled")
    server.wait_for(r"operation \w+ .*cancelled .*: timeout")
    server.assert_quiet_but_for("TimeoutCancelation")
    if server.has_middleware:
        assert (answer.status_code, answer.json()["reason"]) == (504, "timeout")
    else:
        assert answer.status_code == 500


def test_the_work_of_the_timeout_example_stops_when_the_client_leaves(
    server: ExampleServer,
) -> None:
    """W1: a dependency that is called by hand knows its request under the middleware only."""
    if not server.has_middleware:
        pytest.skip("needs the middleware: the dependency is not given the request")
    path = "/as_it_is/fastapi_timeout/timeout-operation"
    hang_up_in(server, path, "long_computation has begun")
    server.wait_for("long_computation is cancelled")
    server.assert_quiet()


@pytest.mark.parametrize("name", ["fastapi_basic/long", "fastapi_timeout/timeout"])
def test_a_client_cannot_set_the_timeout(server: ExampleServer, name: str) -> None:
    """F1: it is no parameter."""
    answer = server.get(f"/quick/{name}-operation?timeout=0&request=1")
    assert answer.status_code == 200
    schema = server.get(f"/quick/{name.partition('/')[0]}/openapi.json").json()
    operation = schema["paths"][f"/{name.partition('/')[2]}-operation"]["get"]
    assert "parameters" not in operation
    server.assert_quiet()


# --- fastapi_background.py -------------------------------------------------------------------


def test_a_background_task_is_cancelled_by_its_id(server: ExampleServer) -> None:
    """F3: quietly under the middleware; without it the server logs it, as documented."""
    example = "/as_it_is/fastapi_background"
    task_id = server.post(f"{example}/start-background-task").json()["task_id"]
    server.wait_for("process_large_dataset has begun")

    answer = server.post(f"{example}/cancel-task/{task_id}").json()
    assert answer == {"status": "cancelled"}
    server.wait_for("process_large_dataset is cancelled")
    server.wait_for(r"operation \w+ cancelled .*: manual")

    assert server.post(f"{example}/cancel-task/{task_id}").json() == {"status": "not_found"}
    server.assert_quiet_but_for("ManualCancelation")


def test_a_background_task_that_nobody_cancels_ends_by_itself(server: ExampleServer) -> None:
    """W2: and its token is forgotten then."""
    example = "/quick/fastapi_background"
    task_id = server.post(f"{example}/start-background-task").json()["task_id"]
    server.wait_for("process_large_dataset is done")
    server.wait_for(r"operation \w+ completed")
    assert server.post(f"{example}/cancel-task/{task_id}").json() == {"status": "not_found"}
    server.assert_quiet()


def test_a_background_task_outlives_its_client(server: ExampleServer) -> None:
    """W5: the client that started it may leave."""
    example = "/as_it_is/fastapi_background"
    with server.client() as client:
        client.request("POST", f"{example}/start-background-task", "Content-Length: 0")
        task_id = json.loads(client.response()[1])["task_id"]
        server.wait_for("process_large_dataset has begun")
        client.hang_up("reset")
    assert server.post(f"{example}/cancel-task/{task_id}").json() == {"status": "cancelled"}
    server.wait_for("process_large_dataset is cancelled")
    server.wait_for(r"operation \w+ cancelled .*: manual")
    server.assert_quiet_but_for("ManualCancelation")


# --- fastapi_streaming.py and fastapi_sse.py -------------------------------------------------

STREAMS = pytest.mark.parametrize(
    ("path", "name"),
    [
        ("fastapi_streaming/streaming-response", "streaming_response"),
        ("fastapi_streaming/on-any-loop", "on_any_loop"),
        ("fastapi_sse/stream/progress/7", "stream_7"),
    ],
    ids=["asyncio", "any loop", "sse"],
)


def skip_asyncio_on_trio(server: ExampleServer, path: str) -> None:
    if path.endswith("streaming-response") and server.kind.endswith("trio"):
        pytest.skip("the example sleeps as asyncio programs do")


@STREAMS
def test_a_stream_comes_whole(server: ExampleServer, path: str, name: str) -> None:
    """W2, F3: the block in the generator lasts as long as the stream."""
    skip_asyncio_on_trio(server, path)
    answer = server.get(f"/quick/{path}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert len(events) == 101
    assert events[99] in ("data: Item 99", "data: Processing 99/100")
    server.wait_for(rf"operation \w+ \({name}\) completed")
    server.assert_quiet()


@STREAMS
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_stream_ends_with_its_client(
    server: ExampleServer, path: str, name: str, how: str
) -> None:
    """W1, W8: the generator's block is left when the client is."""
    skip_asyncio_on_trio(server, path)
    with server.client() as client:
        client.request("GET", f"/as_it_is/{path}")
        client.read_until(b"0")
        server.wait_for(rf"operation \w+ \({name}\) entered")
        client.hang_up(how)
    # Whichever comes first ends it: the cancel, or the question of the example's own.
    server.wait_for(rf"operation \w+ \({name}\) (cancelled|completed)")
    server.assert_quiet()


# --- fastapi_upload.py -----------------------------------------------------------------------


def test_an_upload_reports_its_progress_and_is_stored(server: ExampleServer) -> None:
    """F3: for each MiB that was written."""
    name, data = f"{uuid.uuid4()}.bin", bytes(range(256)) * 4096 * 3  # 3 MiB
    answer = httpx.post(
        f"{server.url}/as_it_is/fastapi_upload/upload", files={"file": (name, data)}, timeout=LIMIT
    )
    assert answer.json() == {"filename": name, "size": len(data), "status": "completed"}
    assert (server.folder / "uploads" / name).read_bytes() == data
    for count in (1, 2, 3):
        server.wait_for(f"INFO Upload progress: Uploaded {count * 1024 * 1024} bytes")
    server.assert_quiet()


def test_a_client_that_leaves_in_the_middle_of_an_upload_stores_nothing(
    server: ExampleServer,
) -> None:
    """W11: the endpoint is not called for half a file, and nothing is logged."""
    name = f"{uuid.uuid4()}.bin"
    with server.client() as client:
        client.request(
            "POST",
            "/as_it_is/fastapi_upload/upload",
            "Content-Type: multipart/form-data; boundary=x",
            "Content-Length: 5000000",
            body=(
                f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
            ).encode()
            + bytes(100_000),
        )
        client.hang_up("fin")
    # The server is done with it when it has served the next client.
    assert server.get("/quick/fastapi_basic/long-operation").status_code == 200
    assert not (server.folder / "uploads" / name).exists()
    server.assert_quiet()


# --- fastapi_errors.py -----------------------------------------------------------------------


def test_an_endpoint_answers_its_timeout_itself(server: ExampleServer) -> None:
    """S2: with the status of its choice, not with ours."""
    path = "fastapi_errors/with-error-handling"
    answer = server.get(f"/quick/{path}")
    assert (answer.status_code, answer.json()) == (200, {"result": "done"})
    answer = server.get(f"/hurried/{path}")
    assert (answer.status_code, answer.json()) == (408, {"error": "Operation timed out"})
    answer = server.get(f"/stopping/{path}")
    assert (answer.status_code, answer.json()) == (500, {"error": "out of paper"})
    server.assert_quiet()


def test_an_endpoint_that_catches_errors_stops_when_the_client_leaves(
    server: ExampleServer,
) -> None:
    """S2, W11: the cancelation passes through, and nothing is logged."""
    path = "/as_it_is/fastapi_errors/with-error-handling"
    hang_up_in(server, path, "some_operation has begun")
    server.wait_for("some_operation is cancelled")
    server.wait_for(r"\(with_error_handling\) cancelled .*: (parent|disconnect)")
    server.assert_quiet()


# --- fastapi_middleware.py and fastapi_decorator.py ------------------------------------------

PROCESSES = pytest.mark.parametrize("example", ["fastapi_middleware", "fastapi_decorator"])


@PROCESSES
def test_a_request_is_processed(server: ExampleServer, example: str) -> None:
    """W2, F2: an endpoint that nobody cancels answers as without us."""
    answer = server.post(f"/quick/{example}/process", DATA)
    assert (answer.status_code, answer.json()) == (200, {"result": DATA})
    answer = server.post(f"/quick/{example}/process")
    assert answer.status_code == 422
    server.assert_quiet()


@PROCESSES
def test_the_work_stops_when_the_client_leaves(server: ExampleServer, example: str) -> None:
    """W1, W12: the first has its own middleware, the second its decorator; both may be doubled."""
    path = f"/as_it_is/{example}/process"
    hang_up_in(server, path, "long_operation has begun", "POST")
    server.wait_for("long_operation is cancelled")
    server.wait_for(r"operation \w+ (\(process\) )?cancelled .*: parent")
    server.assert_quiet()


@PROCESSES
@pytest.mark.parametrize(
    ("reason", "status"),
    [("timeout", 504), ("manual", 499), ("signal", 503), ("condition", 500), ("error", 500)],
)
def test_a_reason_becomes_its_status(
    server: ExampleServer, example: str, reason: str, status: int
) -> None:
    """W7: with and without the middleware around."""
    answer = server.post(f"/stopping/{example}/process", {"reason": reason})
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    server.assert_quiet()


def test_a_timeout_becomes_a_504(server: ExampleServer) -> None:
    """W7: the time of the block, not that of the request."""
    answer = server.post("/hurried/fastapi_decorator/process", DATA)
    assert (answer.status_code, answer.json()["reason"]) == (504, "timeout")
    server.wait_for("long_operation is cancelled")
    server.assert_quiet()


def test_the_decorator_leaves_the_openapi_document_as_it_is(server: ExampleServer) -> None:
    """F2: but for the decorator the two endpoints are the same."""
    shown = [
        server.get(f"/quick/{example}/openapi.json").json()["paths"]
        for example in ("fastapi_decorator", "fastapi_middleware")
    ]
    assert shown[0] == shown[1]


# --- fastapi_websocket.py --------------------------------------------------------------------


def open_websocket(server: ExampleServer, copy: str) -> ClientConnection:
    url = f"ws://127.0.0.1:{server.port}/{copy}/fastapi_websocket/ws/ann"
    return connect(url, open_timeout=LIMIT, close_timeout=LIMIT)


def test_a_websocket_answers_and_ends_with_its_client(server: ExampleServer) -> None:
    """W9, W11: the block is left when the client closes, and the server says nothing of it."""
    with open_websocket(server, "as_it_is") as socket:
        assert json.loads(socket.recv(LIMIT)) == {"status": "connected"}
        for number in (1, 2):
            socket.send(json.dumps({"number": number}))
            assert json.loads(socket.recv(LIMIT)) == {"processed": {"number": number}}
    server.wait_for(r"operation \w+ (cancelled|failed)")
    server.assert_quiet()


def test_a_websocket_is_closed_when_its_time_is_up(server: ExampleServer) -> None:
    """W7, W9: with the code of the reason."""
    with open_websocket(server, "hurried") as socket:
        assert json.loads(socket.recv(LIMIT)) == {"status": "connected"}
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(LIMIT)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 3008
    server.wait_for(r"operation \w+ cancelled .*: timeout")
    server.assert_quiet()
