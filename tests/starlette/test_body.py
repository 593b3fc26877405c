"""The body of a healthy request arrives as it was sent (W2, W3, W13)."""

from __future__ import annotations

import asyncio
import contextlib
import math

import anyio
import pytest
from anyio import sleep_forever
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from cancelable_starlette import RequestCancelationMiddleware
from cancelable_starlette._policy import Policy
from cancelable_starlette._read_ahead import PER_MESSAGE, ReadAhead
from cancelable_starlette._serving import Serving
from cancelable_starlette.testing import (
    GRANIAN,
    HYPERCORN,
    SILENT,
    UVICORN,
    ScriptedConnection,
    ServerBehaviour as Server,
    lifespan,
)
from tests.starlette.support import (
    Watch,
    application,
    read_body,
    respond,
    run,
    until_left,
    until_watched,
)
from tests.support.native import on_asyncio

SERVERS = pytest.mark.parametrize(
    "server",
    [
        pytest.param(UVICORN, id="uvicorn"),
        pytest.param(HYPERCORN, id="hypercorn"),
        pytest.param(GRANIAN, id="granian"),
    ],
)


@SERVERS
@pytest.mark.parametrize("watched_first", [False, True])
async def test_every_byte_arrives_once_and_in_order(
    anyio_backend: object, watch: Watch, server: Server, watched_first: bool
) -> None:
    """W2: with the boundaries and flags of the chunks, read at once or after being watched."""
    chunks = [b"%d" % number * 100 for number in range(20)]
    messages: list[Message] = []
    connection = ScriptedConnection("POST", body=chunks, pause=0.0005, server=server)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if watched_first:
            await until_watched(receive)
        messages.extend(await read_body(receive))
        await respond(send)

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert [message["body"] for message in messages] == chunks
    assert [message["more_body"] for message in messages] == [True] * 19 + [False]
    assert connection.overlapping_reads == 0
    assert connection.status == 200


async def test_a_look_does_not_eat_the_body(anyio_backend: object, watch: Watch) -> None:
    """W2: ``is_disconnected()`` before the body is read is harmless, on a server that loses it."""
    connection = ScriptedConnection("POST", body=[b"a", b"b"], pause=0.002, server=GRANIAN)
    bodies: list[bytes] = []

    async def endpoint(request: Request) -> Response:
        for _ in range(10):
            assert not await request.is_disconnected()
            await anyio.sleep(0.001)
        bodies.append(await request.body())
        assert not await request.is_disconnected()
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    await run(RequestCancelationMiddleware(app), connection, watch)

    assert bodies == [b"ab"]
    assert connection.status == 200


async def test_reads_that_are_cancelled_lose_nothing(anyio_backend: object, watch: Watch) -> None:
    """W13: once a request is watched, the server's own read is never cancelled."""
    connection = ScriptedConnection("POST", body=[b"a"] * 10, pause=0.003, server=GRANIAN)
    messages: list[Message] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        while not messages or messages[-1]["more_body"]:
            with anyio.move_on_after(0.001):
                messages.append(await receive())
        assert connection.cancelled_reads == 0
        await respond(send)

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert b"".join(message["body"] for message in messages) == b"a" * 10


async def test_a_short_request_has_no_reader_of_ours(anyio_backend: object, watch: Watch) -> None:
    """W13: until it is older, the application's own read is the one reader."""
    connection = ScriptedConnection("POST", body=b"abc")

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await respond(send)

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert [message["type"] for message in connection.delivered] == ["http.request"]


async def test_a_request_is_watched_when_it_is_older(anyio_backend: object, watch: Watch) -> None:
    """W13: nobody reads, nobody looks, and still the messages are read after a few ms."""
    connection = ScriptedConnection("POST", body=b"abc")

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        assert connection.delivered == []
        await connection.wait_for_reads(1)
        await respond(send)

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert connection.status == 200


async def test_the_watcher_starts_when_a_read_of_the_application_ends(
    anyio_backend: object, watch: Watch
) -> None:
    """W13: a request that came of age while its application waited is watched afterwards."""
    connection = ScriptedConnection("POST", body=[b"a", b"b"], pause=0.03, leave_after=0.1)
    seen: list[str] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(message["type"] for message in await read_body(receive))
        await sleep_forever()

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert seen == ["http.request", "http.request"]
    assert connection.overlapping_reads == 0


async def test_the_watcher_takes_over_when_the_application_cancels_its_read(
    anyio_backend: object, watch: Watch
) -> None:
    """W13: the same when that read is given up."""
    connection = ScriptedConnection("POST", body=[b"a", b"b"], pause=0.05, leave_after=0.15)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.move_on_after(0.02):
            await receive()
        await sleep_forever()

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert connection.starts == 1
    assert connection.sent == []


async def test_two_readers_take_turns(anyio_backend: object, watch: Watch) -> None:
    """Only one call is in the server's ``receive()``, however many the application makes."""
    connection = ScriptedConnection("POST", body=[b"a", b"b", b"c"], pause=0.002, server=GRANIAN)
    bodies: list[bytes] = []

    async def read(receive: Receive) -> None:
        bodies.append((await receive())["body"])

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(read, receive)
        await respond(send)

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert sorted(bodies) == [b"a", b"b", b"c"]
    assert connection.overlapping_reads == 0


async def test_body_that_was_read_ahead_comes_before_the_disconnect(
    anyio_backend: object, watch: Watch
) -> None:
    """W2: a server may throw it away; what we hold we deliver."""
    connection = ScriptedConnection("POST", body=[b"a", b"b"], server=UVICORN)
    messages: list[Message] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await connection.wait_for_reads(2)
        connection.leave()
        with anyio.CancelScope(shield=True):
            await until_left(receive)
            messages.extend([await receive() for _ in range(3)])

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    kinds = [(message["type"], message.get("body")) for message in messages]
    assert kinds == [("http.request", b"a"), ("http.request", b"b"), ("http.disconnect", None)]


async def test_reading_ahead_stops_at_a_bound_and_goes_on(
    anyio_backend: object, watch: Watch
) -> None:
    """W3: memory is bounded, and nothing is lost or hangs on it."""
    chunks = [bytes([number]) * 1024 for number in range(50)]
    held: list[int] = []
    connection = ScriptedConnection("POST", body=chunks)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        await connection.wait_for_reads(5)
        await anyio.wait_all_tasks_blocked()
        held.append(sum(len(message["body"]) for message in connection.delivered))
        body = b"".join([message["body"] for message in await read_body(receive)])
        await respond(send, body)

    app = RequestCancelationMiddleware(application(handle), read_ahead_per_request=8 * 1024)
    await run(app, connection, watch)

    assert held[0] <= 9 * 1024
    assert connection.body == b"".join(chunks)


async def test_the_bound_in_total_holds_back_reading_ahead(
    anyio_backend: object, watch: Watch
) -> None:
    """W3: what one request holds, another may not."""
    release = anyio.Event()
    first = ScriptedConnection("POST", body=[b"a" * 1024] * 5)
    second = ScriptedConnection("POST", body=[b"b" * 1024] * 5)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        await release.wait()
        await respond(send)

    app = RequestCancelationMiddleware(application(handle), read_ahead_in_total=1024)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, app, first, watch)
        await first.wait_for_reads(1)
        tasks.start_soon(run, app, second, "alone")
        await anyio.sleep(1)
        assert (len(first.delivered), len(second.delivered)) == (1, 0)
        release.set()


async def test_the_bound_in_total_holds_back_all_and_lets_each_reader_go_on(
    anyio_backend: object, watch: Watch
) -> None:
    """W3: a request whose application reads makes progress though others hold everything."""
    release = anyio.Event()
    greedy = ScriptedConnection("POST", "/greedy", body=[b"g" * 1024] * 10)
    reading = ScriptedConnection("POST", "/reading", body=[b"r" * 1024] * 10)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        if scope["path"] == "/greedy":
            await release.wait()
        body = b"".join([message["body"] for message in await read_body(receive)])
        await respond(send, body)
        release.set()

    app = RequestCancelationMiddleware(application(handle), read_ahead_in_total=1024)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, app, greedy, watch)
        await greedy.wait_for_reads(1)
        await run(app, reading, "alone")

    assert len(greedy.body) == len(reading.body) == 10 * 1024


async def test_tiny_chunks_count_for_more_than_their_bytes(
    anyio_backend: object, watch: Watch
) -> None:
    """W3: a body in pieces of one byte must not hold a quarter of a million messages."""
    connection = ScriptedConnection("POST", body=[b"x"] * 1000)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        await connection.wait_for_reads(1)
        await anyio.wait_all_tasks_blocked()
        assert len(connection.delivered) < 50
        assert len(await read_body(receive)) == 1000
        await respond(send)

    app = RequestCancelationMiddleware(application(handle), read_ahead_per_request=8 * 1024)
    await run(app, connection, watch)

    assert connection.status == 200


async def test_what_was_held_is_given_back_at_the_end(anyio_backend: object, watch: Watch) -> None:
    """W3: the bound in total counts requests that run, not those that ran."""
    app = RequestCancelationMiddleware(
        application(lambda scope, receive, send: look_and_respond(connection, receive, send)),
        read_ahead_in_total=2048,
    )
    for _ in range(5):
        connection = ScriptedConnection("POST", body=[b"x" * 1024] * 2)
        await run(app, connection, watch)

        assert connection.status == 200


async def test_what_is_read_after_the_end_of_its_request_is_given_back_once(
    anyio_backend: object, watch: Watch
) -> None:
    """W2, W3: a task that outlives its request gets the body, and widens no bound with it."""
    late: list[Message] = []
    read_ahead: list[int] = []
    ended = anyio.Event()

    async def read_late(receive: Receive) -> None:
        await ended.wait()
        late.extend(await read_body(receive))

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        await anyio.wait_all_tasks_blocked()
        if scope["path"] == "/late":
            tasks.start_soon(read_late, receive)
        read_ahead.append(len(connection.delivered))
        await respond(send)

    app = RequestCancelationMiddleware(application(handle), read_ahead_in_total=3072)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            body = [b"1" * 1024, b"2" * 1024]
            connection = ScriptedConnection("POST", "/late", body=body, server=SILENT)
            await run(app, connection, watch)
        ended.set()
        await anyio.wait_all_tasks_blocked()
    assert b"".join(message["body"] for message in late) == (b"1" * 1024 + b"2" * 1024) * 5

    connection = ScriptedConnection("POST", body=[b"x" * 1024] * 20)
    await run(app, connection, watch)
    assert read_ahead == [2] * 6


@on_asyncio
@pytest.mark.parametrize("answers", [True, False])
async def test_what_was_held_is_given_back_by_a_request_whose_task_is_cancelled(
    answers: bool,
) -> None:
    """W3: asyncio's own cancel cuts through each shield, also at the end of a request."""
    tasks: list[asyncio.Task[None]] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        await connection.wait_for_reads(1)
        if answers or not tasks:
            await respond(send)
        if tasks:
            tasks.pop().cancel()  # heard where the end of the request waits for its reader

    app = RequestCancelationMiddleware(application(handle), read_ahead_in_total=2048)
    async with lifespan(app):
        for _ in range(5):
            connection = ScriptedConnection("POST", body=[b"x" * 1024] * 2, server=SILENT)
            task = asyncio.create_task(connection.run(app))
            tasks.append(task)
            with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
                await task
        connection = ScriptedConnection("POST", body=[b"x" * 1024] * 2)
        with anyio.fail_after(5):
            await connection.run(app)
        assert connection.status == 200


async def look_and_respond(connection: ScriptedConnection, receive: Receive, send: Send) -> None:
    """Have the body read ahead, and answer without reading it."""
    await until_watched(receive)
    await connection.wait_for_reads(1)
    await respond(send)


async def test_the_body_is_not_invited_before_the_application_reads(
    anyio_backend: object, watch: Watch
) -> None:
    """W3: with ``Expect: 100-continue`` a read makes the server ask for the body."""
    headers = [(b"expect", b"100-continue"), (b"content-length", b"3")]
    connection = ScriptedConnection("POST", headers=headers, body=b"abc")

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        await anyio.sleep(0.02)
        assert connection.delivered == []
        if scope["path"] == "/read":
            assert len(await read_body(receive)) == 1
        await respond(send, status=413)

    app = RequestCancelationMiddleware(application(handle))
    await run(app, connection, watch)
    assert connection.status == 413

    connection = ScriptedConnection("POST", "/read", headers=headers, body=b"abc")
    await run(app, connection, watch)
    assert connection.status == 413


async def test_an_invited_request_is_watched_when_its_response_has_begun(
    anyio_backend: object, watch: Watch
) -> None:
    """W3: from then on a read invites nobody."""
    headers = [(b"expect", b"100-continue"), (b"content-length", b"3")]
    connection = ScriptedConnection("POST", headers=headers, leave_after_messages=1)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await sleep_forever()

    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert not connection.complete


async def test_an_early_answer_to_a_big_body_does_not_deadlock(
    anyio_backend: object, watch: Watch
) -> None:
    """One server waits in the last ``send()`` until its queue of body has been read."""
    connection = ScriptedConnection("POST", body=[b"x" * 1024] * 50, server=HYPERCORN)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, status=413)

    began = anyio.current_time()
    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert connection.complete
    assert connection.status == 413
    # Time is virtual: had the body waited for the request to come of age, some had passed.
    assert anyio.current_time() == began


async def test_the_answer_to_a_timeout_does_not_deadlock_either(
    anyio_backend: object, watch: Watch
) -> None:
    """The same for a response of ours, with reading ahead at its bound."""
    connection = ScriptedConnection("POST", body=[b"x" * 1024] * 50, server=HYPERCORN)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await sleep_forever()

    app = RequestCancelationMiddleware(
        application(handle), default_timeout=0.05, read_ahead_per_request=2048
    )
    await run(app, connection, watch)

    assert connection.status == 504
    assert connection.complete


async def test_what_receive_raises_reaches_the_application(
    anyio_backend: object, watch: Watch
) -> None:
    """W2: an error of the server's ``receive()`` is the application's, also when we met it."""
    seen: list[str] = []
    connection = ScriptedConnection()

    async def broken() -> Message:
        raise LookupError("broken")

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        for prepare in (anyio.lowlevel.checkpoint, lambda: until_watched(receive)):
            await prepare()
            try:
                await receive()
            except LookupError as exc:
                seen.append(str(exc))
        await respond(send)

    connection.receive = broken  # type: ignore[method-assign]
    await run(RequestCancelationMiddleware(application(handle)), connection, watch)

    assert seen == ["broken", "broken"]
    assert connection.status == 200


async def test_the_watcher_is_gone_before_the_request_ends(
    anyio_backend: object, watch: Watch
) -> None:
    """W13: on a server that never says anything, nobody waits for it."""
    connection = ScriptedConnection(server=SILENT)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        await connection.wait_for_reads(1)
        await respond(send)
        await anyio.wait_all_tasks_blocked()

    app = RequestCancelationMiddleware(application(handle))
    async with lifespan(app) if watch == "service" else contextlib.nullcontext():
        began = anyio.current_time()
        await connection.run(app)

        assert connection.cancelled_reads == 1
        assert anyio.current_time() - began < 1


@pytest.mark.parametrize("way", ["raises", "returns"])
async def test_what_comes_as_the_reader_ends_is_not_lost(
    anyio_backend: object, watch: Watch, way: str
) -> None:
    """A cancel from around, while a request waits for its reader, ends it; an error goes first."""
    connection = ScriptedConnection(server=SILENT)
    around: list[anyio.CancelScope] = []
    errors: list[ValueError] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        await respond(send)
        around[0].cancel()
        if way == "raises":
            raise ValueError("raised by the handler")

    app = RequestCancelationMiddleware(application(handle))
    async with lifespan(app) if watch == "service" else contextlib.nullcontext():
        with anyio.CancelScope() as scope:
            around.append(scope)
            try:
                await connection.run(app)
            except ValueError as exc:
                errors.append(exc)
        await anyio.wait_all_tasks_blocked()

    assert len(errors) == (way == "raises")
    assert connection.cancelled_reads == 1


async def test_a_server_that_repeats_the_end_of_a_body_is_read_up_to_the_bound(
    anyio_backend: object, watch: Watch
) -> None:
    """As simple adapters and tests have it: each read is answered at once, with the same.

    What comes behind the response is thrown away, and must not keep others from their turns.
    """
    connection = ScriptedConnection()
    reads: list[Message] = []

    async def repeat() -> Message:
        assert len(reads) < 10_000, "the reader never waits"
        reads.append({"type": "http.request", "body": b"", "more_body": False})
        return reads[-1]

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)
        await respond(send)
        await anyio.sleep(0.1)  # background work

    connection.receive = repeat  # type: ignore[method-assign]
    app = RequestCancelationMiddleware(application(handle), read_ahead_per_request=50 * PER_MESSAGE)
    await run(app, connection, watch)

    assert connection.status == 200
    assert len(reads) == 51


async def test_a_look_is_recognised_by_its_deadline(anyio_backend: object) -> None:
    """The means by which a look is known, in case anyio should ever change it."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert anyio.current_effective_deadline() == -math.inf
    with anyio.CancelScope():
        assert anyio.current_effective_deadline() == math.inf


async def test_what_a_server_gives_too_late_is_held_by_nobody(anyio_backend: object) -> None:
    """W3: where its ``receive()`` takes no cancel, the message comes behind the request."""
    bound = ReadAhead()

    async def receive() -> Message:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(10)
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    async def send(message: Message) -> None:
        pass

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await until_watched(receive)

    scope = ScriptedConnection("POST", headers=[(b"content-length", b"9000")]).scope
    policy = Policy(read_ahead=bound)
    await Serving(handle, policy)(scope, receive, send)
    await anyio.sleep(20)
    assert bound.held == 0
