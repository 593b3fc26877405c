"""Streams of server-sent events: their text, their pings, where a client goes on (W8, W14)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
import pytest
from anyio import sleep_forever
from hypothesis import given, strategies as st
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cancelable import Cancelable
from cancelable_starlette import (
    CancelableStreamingResponse,
    RequestCancelationMiddleware,
    ServerSentEvent,
    cancelable_streaming_response,
    get_last_event_id,
    get_request_token,
)
from cancelable_starlette.testing import (
    HYPERCORN,
    UVICORN,
    ScriptedConnection,
    ServerBehaviour,
    lifespan,
)
from tests.starlette.support import Watch, run


@dataclass
class Browser:
    """Read a stream as the standard says a browser does (WHATWG HTML, section 9.2.6)."""

    events: list[tuple[str, str, str]] = field(default_factory=list)
    """Type, data and last event id of each event that was dispatched."""
    retry: int | None = None
    last_id: str = ""
    ignored: list[str] = field(default_factory=list)

    def read(self, stream: bytes) -> Browser:
        text = stream.decode()
        data, kind = "", ""
        for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if line == "":
                if data:
                    self.events.append((kind or "message", data.removesuffix("\n"), self.last_id))
                data, kind = "", ""
            elif name == "data":
                data += value + "\n"
            elif name == "event":
                kind = value
            elif name == "id" and "\0" not in value:
                self.last_id = value
            elif name == "retry" and value.isascii() and value.isdecimal():
                self.retry = int(value)
            else:
                self.ignored.append(line)
        return self


def seen(*events: ServerSentEvent) -> Browser:
    return Browser().read(b"".join(event.encode() for event in events))


# --- The text --------------------------------------------------------------------------------

LINES = st.text(st.characters(exclude_categories=["Cs"]))


@given(LINES, LINES, LINES.map(lambda text: "".join(text.split("\0"))))
def test_every_text_arrives(data: str, event: str, event_id: str) -> None:
    """W14: line ends of all three kinds are the one that JavaScript gets, and nothing else is."""
    event, event_id = (text.replace("\r", "").replace("\n", "") for text in (event, event_id))
    browser = seen(
        ServerSentEvent(comment=data, data=data, event=event, id=event_id),
        ServerSentEvent(data="next"),
    )

    lines = data.replace("\r\n", "\n").replace("\r", "\n")
    assert browser.events == [(event or "message", lines, event_id), ("message", "next", event_id)]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (ServerSentEvent(data="one"), "data: one\n\n"),
        (ServerSentEvent(data="a\r\nb\rc\nd"), "data: a\ndata: b\ndata: c\ndata: d\n\n"),
        (ServerSentEvent(data="a\u2028b\x0bc"), "data: a\u2028b\x0bc\n\n"),
        (ServerSentEvent(data=""), "data: \n\n"),
        (ServerSentEvent(data=" x\n"), "data:  x\ndata: \n\n"),
        (ServerSentEvent(data={"n": [1, "ä", None]}), 'data: {"n":[1,"ä",null]}\n\n'),
        (ServerSentEvent(data=False), "data: false\n\n"),
        (ServerSentEvent(data=0, event="n", id="7"), "event: n\ndata: 0\nid: 7\n\n"),
        (ServerSentEvent(id="", retry=1500), "id: \nretry: 1500\n\n"),
        (ServerSentEvent(retry=timedelta(seconds=2)), "retry: 2000\n\n"),
        (ServerSentEvent(comment="a\nb"), ": a\n: b\n\n"),
    ],
)
def test_an_event_is_written_as_the_standard_says(event: ServerSentEvent, text: str) -> None:
    """Each field on lines of its own, a blank line behind them."""
    assert event.encode() == text.encode()


def test_a_browser_takes_what_has_no_data() -> None:
    """Id and time of the next connection count also where there is no event."""
    browser = seen(ServerSentEvent(id="7", retry=10), ServerSentEvent(comment="hello"))

    assert browser.events == []
    assert (browser.last_id, browser.retry) == ("7", 10)
    assert browser.ignored == [": hello"]


@pytest.mark.parametrize(
    "parts",
    [
        {"event": "a\nb"},
        {"event": "a\r"},
        {"id": "1\n"},
        {"id": "1\0"},
        {"retry": -1},
        {"retry": timedelta(seconds=-1)},
    ],
)
def test_what_cannot_be_said_in_an_event_is_refused(parts: dict[str, object]) -> None:
    """W14: a client's text must not write fields of its own."""
    with pytest.raises(ValueError, match=f"`{next(iter(parts))}`"):
        ServerSentEvent(**parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "parts", [{"event": 1}, {"id": 7}, {"comment": b"x"}, {"retry": 1.5}, {"retry": True}]
)
def test_a_part_of_the_wrong_kind_is_refused(parts: dict[str, object]) -> None:
    """Where the event is made, not where it is sent."""
    with pytest.raises(TypeError, match=f"`{next(iter(parts))}`"):
        ServerSentEvent(**parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [object(), math.nan])
def test_data_that_json_does_not_know_is_refused(data: object) -> None:
    """No browser could read it."""
    with pytest.raises((TypeError, ValueError), match="JSON"):
        ServerSentEvent(data=data).encode()


# --- In a stream -----------------------------------------------------------------------------


class Pass(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def serving(make: Callable[[Request], Response], form: str = "middleware") -> ASGIApp:
    """Make an application that answers with what *make* returns, in one of several stacks."""

    async def endpoint(request: Request) -> Response:
        return make(request)

    layers = [Middleware(Pass)] if form == "layers" else []
    app = Starlette(routes=[Route("/", endpoint)], middleware=layers)
    return app if form == "bare" else RequestCancelationMiddleware(app)


@pytest.fixture(params=["middleware", "bare", "layers"])
def form(request: pytest.FixtureRequest) -> str:
    """Under the middleware, without it, and with another layer in between."""
    return str(request.param)


async def test_a_generator_may_yield_events(anyio_backend: object, form: str) -> None:
    """Among texts and bytes."""

    async def events() -> AsyncIterator[ServerSentEvent | str | bytes]:
        yield ServerSentEvent(data={"n": 1}, id="1")
        yield "data: 2\n\n"
        yield b"data: 3\n\n"

    connection = ScriptedConnection()
    await run(serving(lambda request: cancelable_streaming_response(events()), form), connection)

    events_seen = Browser().read(connection.body).events
    assert [data for _, data, _ in events_seen] == ['{"n":1}', "2", "3"]
    assert connection.headers["content-type"].startswith("text/event-stream")


async def test_data_that_cannot_be_written_breaks_the_stream_off(anyio_backend: object) -> None:
    """The generator is closed, and the error is its own."""
    closed: list[bool] = []

    async def events() -> AsyncIterator[ServerSentEvent]:
        try:
            yield ServerSentEvent(data=1)
            yield ServerSentEvent(data=object())
        finally:
            closed.append(True)

    connection = ScriptedConnection()
    with pytest.raises(TypeError, match="JSON"):
        await run(serving(lambda request: cancelable_streaming_response(events())), connection)

    assert closed == [True]
    assert connection.body == b"data: 1\n\n"
    assert not connection.complete


class QuickConnection(ScriptedConnection):
    """Take what is sent without a turn of the loop, as uvicorn does."""

    async def send(self, message: Message) -> None:
        self.sent.append(message)


CONNECTIONS = pytest.mark.parametrize("kind", [ScriptedConnection, QuickConnection])


@CONNECTIONS
@pytest.mark.parametrize("more", [0, 1, 2, 9, 200])
async def test_a_source_that_stops_its_own_stream_is_heard_at_once(
    anyio_backend: object, form: str, more: int, kind: type[ScriptedConnection]
) -> None:
    """W6, W8: whatever it yields then without waiting, and also if it ends."""

    async def events(request: Request) -> AsyncIterator[str]:
        yield "data: 1\n\n"
        await get_request_token(request).cancel("manual")
        for _ in range(more):
            yield "data: too late\n\n"

    connection = kind()
    make = serving(lambda request: cancelable_streaming_response(events(request)), form)
    await run(make, connection)

    assert b"too late" not in connection.body
    if form != "layers":  # which was cancelled as well, and takes no last event
        said = Browser().read(connection.body).events
        assert [event for event, _, _ in said] == ["message", "cancelled"]
        assert not connection.sent[-1].get("more_body", False)


@CONNECTIONS
async def test_a_cancel_meets_the_next_chunk_however_quick_the_last_ones_were(
    anyio_backend: object, form: str, kind: type[ScriptedConnection]
) -> None:
    """S12: it is not the clock that a stream looks at now and then that tells."""
    ended: list[float] = []

    async def events(request: Request) -> AsyncIterator[str]:
        for number in range(20):
            yield f"data: {number}\n\n"
        try:
            while True:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(10)
                await get_request_token(request).cancel("manual")
                yield "data: too late\n\n"
        finally:
            ended.append(anyio.current_time())

    connection = kind()
    began = anyio.current_time()
    make = serving(lambda request: cancelable_streaming_response(events(request)), form)
    await run(make, connection, "alone", HOURS)

    assert b"too late" not in connection.body
    assert ended[0] - began <= 20.5


async def test_a_layer_that_was_cancelled_as_well_holds_no_stream_up(
    anyio_backend: object, caplog: pytest.LogCaptureFixture
) -> None:
    """W11: it takes the event no more that says why, and so the stream ends without it."""
    took: list[float] = []

    def answer(request: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            await anyio.sleep(1)
            await get_request_token(request).cancel("timeout")
            took.append(anyio.current_time())
            await sleep_forever()

        return cancelable_streaming_response(events())

    connection = ScriptedConnection()
    with caplog.at_level(logging.WARNING):
        await run(serving(answer, "layers"), connection, "alone", HOURS)
        took.append(anyio.current_time())

    assert connection.body == b"data: 1\n\n"
    assert not connection.complete
    assert took[1] - took[0] == pytest.approx(1, abs=0.1)
    assert caplog.records == []


@pytest.mark.parametrize("header", [None, b"7", "ä→".encode(), b"\xff", b""])
async def test_a_client_that_comes_back_goes_on_where_it_was(
    anyio_backend: object, header: bytes | None
) -> None:
    """W14: ``Last-Event-ID`` reaches the generator as the text that was once sent."""

    async def events(since: str | None) -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(data=[since])

    headers = [] if header is None else [(b"last-event-id", header)]
    connection = ScriptedConnection(headers=headers)
    app = serving(lambda request: cancelable_streaming_response(events(get_last_event_id(request))))
    await run(app, connection)

    (_, data, _), *_ = Browser().read(connection.body).events
    assert json.loads(data) == [None if header is None else header.decode(errors="replace")]


# --- Pings -----------------------------------------------------------------------------------

HOURS = 7200.0
"""Seconds that a test may take in its virtual time."""


async def test_a_silent_stream_is_kept_alive(
    anyio_backend: object, watch: Watch, form: str
) -> None:
    """W14: a ping for each interval in which nothing was sent, and none after the end."""

    async def events() -> AsyncIterator[str]:
        await anyio.sleep(25)
        for number in range(4):
            yield f"data: {number}\n\n"
            await anyio.sleep(9)
        await anyio.sleep(6)

    connection = ScriptedConnection()
    app = serving(lambda request: cancelable_streaming_response(events(), ping=10), form)
    await run(app, connection, watch, HOURS)

    expected = ": ping\n\n" * 2 + "".join(f"data: {n}\n\n" for n in range(4)) + ": ping\n\n"
    assert connection.body == expected.encode()
    assert connection.complete


async def test_a_complete_stream_is_not_pinged(
    anyio_backend: object, watch: Watch, form: str
) -> None:
    """W14: however long the request goes on after it."""
    waits = BackgroundTask(anyio.sleep, 100)

    async def events() -> AsyncIterator[str]:
        yield "data: 1\n\n"

    connection = ScriptedConnection()
    app = serving(
        lambda request: cancelable_streaming_response(events(), ping=10, background=waits), form
    )
    await run(app, connection, watch, HOURS)

    assert connection.body == b"data: 1\n\n"
    assert connection.discarded == []


async def test_a_ping_never_stands_in_the_middle_of_an_event(
    anyio_backend: object, watch: Watch
) -> None:
    """W14: not even if the parts of an event come slowly, however its lines end."""
    parts = ["data: 1\n", "data: 2", "\n\nd", "ata: 3\r", "\r", "data: 4\r\n", "\n", "data: 5\n\r"]

    async def events() -> AsyncIterator[str]:
        for part in parts:
            yield part
            await anyio.sleep(25)

    connection = ScriptedConnection()
    app = serving(lambda request: cancelable_streaming_response(events(), ping=10))
    await run(app, connection, watch, HOURS)

    browser = Browser().read(connection.body)
    assert [data for _, data, _ in browser.events] == ["1\n2", "3", "4", "5"]
    assert browser.ignored == [": ping"] * 6


async def test_a_ping_and_an_event_do_not_mix(anyio_backend: object, watch: Watch) -> None:
    """While one of them is being sent the other waits, and an event in parts stays whole."""
    connection = ScriptedConnection()
    sending: list[int] = []
    most: list[int] = []

    async def events() -> AsyncIterator[str]:
        for number in range(20):
            await anyio.sleep(0.55 * (number % 4))  # a ping is due before, during and after
            yield f"data: {number}"
            yield "\n\n"

    app = serving(lambda request: cancelable_streaming_response(events(), ping=1))

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_slowly(message: Message) -> None:
            sending.append(1)
            most.append(len(sending))
            await anyio.sleep(0.7)
            await connection.send(message)
            sending.pop()

        await app(scope, receive, send if scope["type"] == "lifespan" else send_slowly)

    await run(slow, connection, watch, HOURS)

    browser = Browser().read(connection.body)
    assert [data for _, data, _ in browser.events] == [str(number) for number in range(20)]
    assert browser.ignored
    assert set(most) == {1}


@pytest.mark.parametrize(
    "server",
    [
        UVICORN,
        HYPERCORN,
        ServerBehaviour(send_after_leave="os_error"),
        ServerBehaviour(send_after_leave="runtime_error"),
    ],
    ids=["uvicorn", "hypercorn", "os_error", "runtime_error"],
)
async def test_pings_stop_when_the_client_leaves(
    anyio_backend: object, watch: Watch, form: str, server: ServerBehaviour
) -> None:
    """W8, W14: and the generator is stopped, which waits for something that never comes."""
    closed: list[str] = []

    async def events() -> AsyncIterator[str]:
        try:
            yield "data: 1\n\n"
            await sleep_forever()
        finally:
            closed.append("closed")

    connection = ScriptedConnection(leave_after=35, server=server)
    app = serving(lambda request: cancelable_streaming_response(events(), ping=10), form)
    await run(app, connection, watch, HOURS)

    assert closed == ["closed"]
    assert connection.body == b"data: 1\n\n" + b": ping\n\n" * 3
    assert [
        m for m in connection.discarded if m["type"] == "http.response.body" and m["body"]
    ] == []


async def test_a_client_that_is_met_by_a_ping_stops_the_generator(
    anyio_backend: object, watch: Watch
) -> None:
    """A server that says it only when something is sent says it to the ping."""
    closed: list[float] = []

    async def events() -> AsyncIterator[str]:
        try:
            await sleep_forever()
            yield "never"
        finally:
            closed.append(anyio.current_time())

    server = ServerBehaviour(disconnect="never", send_after_leave="os_error")
    connection = ScriptedConnection(leave_after=15, server=server)
    app = serving(lambda request: cancelable_streaming_response(events(), ping=10))
    began = anyio.current_time()
    await run(app, connection, watch, HOURS)

    assert [when - began for when in closed] == [pytest.approx(20, abs=1)]


async def test_a_ping_that_nobody_takes_ends_with_the_request(
    anyio_backend: object, watch: Watch
) -> None:
    """The client does not read; when the time is up, the ping is cut and no event follows it."""

    async def events() -> AsyncIterator[str]:
        async with Cancelable.with_timeout(25):
            yield "data: 1\n\n"
            await sleep_forever()

    connection = ScriptedConnection(stop_reading_after_messages=3)
    app = serving(lambda request: cancelable_streaming_response(events(), ping=10))
    await run(app, connection, watch, HOURS)

    assert connection.body == b"data: 1\n\n: ping\n\n"
    assert not connection.complete


async def test_an_error_in_a_ping_is_told_by_the_stream(
    anyio_backend: object, watch: Watch
) -> None:
    """It ends the pings and nothing else; the next send of the stream meets what is wrong."""

    async def events() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        await anyio.sleep(35)
        yield "data: 2\n\n"

    errors = [None, None, RuntimeError("the ping"), LookupError("the stream")]
    connection = ScriptedConnection(send_errors=errors)
    app = serving(lambda request: cancelable_streaming_response(events(), ping=10))
    with pytest.raises(LookupError, match="the stream"):
        await run(app, connection, watch, HOURS)

    assert connection.body == b"data: 1\n\n"


async def test_a_start_that_fails_waits_for_no_ping(anyio_backend: object, watch: Watch) -> None:
    """There were none to be stopped."""

    async def events() -> AsyncIterator[str]:
        yield "never"

    connection = ScriptedConnection(send_errors=[LookupError("the start")])
    app = serving(lambda request: cancelable_streaming_response(events(), ping=10))
    with pytest.raises(LookupError, match="the start"):
        await run(app, connection, watch)


async def test_a_stream_that_outlives_the_service_is_not_pinged(
    anyio_backend: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A server may end the lifespan before the last request; nobody waits for pings then."""
    ended = anyio.Event()
    connection = ScriptedConnection()

    async def events() -> AsyncIterator[str]:
        await anyio.sleep(25)
        yield "data: 1\n\n"

    async def endpoint(request: Request) -> Response:
        await ended.wait()
        return cancelable_streaming_response(events(), ping=10)

    app = RequestCancelationMiddleware(Starlette(routes=[Route("/", endpoint)]))
    with anyio.fail_after(HOURS):
        async with anyio.create_task_group() as tasks:
            async with lifespan(app):
                tasks.start_soon(connection.run, app)
                await anyio.sleep(1)
            ended.set()

    assert connection.body == b"data: 1\n\n"
    assert connection.complete
    assert [each for each in caplog.records if each.levelno > logging.INFO] == []


@pytest.mark.parametrize(
    ("headers", "media_type"),
    [
        ({}, "text/plain"),
        ({"content-encoding": "br"}, "text/event-stream"),
        ({"content-type": "application/json"}, "text/event-stream"),
    ],
)
def test_only_an_event_stream_is_pinged(headers: dict[str, str], media_type: str) -> None:
    """In anything else a ping would be part of the content."""

    def events() -> Iterator[str]:
        yield "never"

    for make in (CancelableStreamingResponse, cancelable_streaming_response):
        with pytest.raises(ValueError, match="`ping`"):
            make(events(), headers=headers, media_type=media_type, ping=15)
        with pytest.raises(ValueError, match="`ping`"):
            make(events(), ping=0)
