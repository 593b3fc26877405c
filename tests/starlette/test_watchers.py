"""The service of a loop: when it wakes for a request, and what it sees to when one has ended."""

from __future__ import annotations

from collections.abc import Iterable

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from cancelable_starlette import RequestCancelationMiddleware
from cancelable_starlette._watchers import TICK
from cancelable_starlette.testing import SILENT, ScriptedConnection, lifespan
from tests.starlette.support import LIMIT, application, respond, until_watched

REST = 0.5


@pytest.fixture(autouse=True)
def _rests_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cancelable_starlette._watchers.REST", REST)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times at which the service went to sleep for a tick."""
    began: list[float] = []
    sleep = anyio.sleep

    async def noted(delay: float) -> None:
        if delay == TICK:
            began.append(anyio.current_time())
        await sleep(delay)

    monkeypatch.setattr(anyio, "sleep", noted)
    return began


async def test_a_lone_request_is_watched_after_one_tick(
    anyio_backend: object, ticks: list[float]
) -> None:
    """W13: at its age; and the loop has woken once for it, although the request goes on."""
    connection = ScriptedConnection()
    age: list[float] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        began = anyio.current_time()
        await connection.wait_for_reads(1)
        age.append(anyio.current_time() - began)
        await anyio.sleep(10 * TICK)
        await respond(send)

    app = RequestCancelationMiddleware(application(handle))
    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            for _ in range(2):
                await connection.run(app)
                await anyio.sleep(2 * TICK)
                connection = ScriptedConnection()

    assert age == pytest.approx([TICK, TICK])
    assert len(ticks) == 2


async def test_one_that_begins_within_a_tick_is_watched_after_two(
    anyio_backend: object, ticks: list[float]
) -> None:
    """W13: never before its age, and one tick later at most."""
    connections = [ScriptedConnection(path=f"/{number}") for number in range(5)]
    ages: dict[int, float] = {}

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        began, number = anyio.current_time(), int(scope["path"][1:])
        await connections[number].wait_for_reads(1)
        ages[number] = (anyio.current_time() - began) / TICK
        await anyio.sleep(10 * TICK)
        await respond(send)

    app = RequestCancelationMiddleware(application(handle))
    with anyio.fail_after(LIMIT):
        async with lifespan(app), anyio.create_task_group() as tasks:
            for connection in connections:
                tasks.start_soon(connection.run, app)
                await anyio.sleep(0.3 * TICK)

    # They begin at 0, 0.3, 0.6, 0.9 and 1.2 ticks; of age, they are seen at 1, 2, 2, 2 and 3.
    assert ages == pytest.approx({0: 1, 1: 1.7, 2: 1.4, 3: 1.1, 4: 1.8})
    assert len(ticks) == 3


@pytest.mark.parametrize(
    ("pauses", "expected"), [([10, 10, 10], 0), ([0.5], 1), ([0.5, 0.4, 0.3], 2), ([0.5, 10], 1)]
)
async def test_the_loop_need_not_wake_for_one_that_ends_at_once(
    anyio_backend: object, ticks: list[float], pauses: list[float], expected: int
) -> None:
    """A tick is for those that come one upon another, of which each would wake the service."""

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    async def send(message: Message) -> None:
        pass

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)

    app = RequestCancelationMiddleware(application(handle))
    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            await anyio.wait_all_tasks_blocked()
            for pause in (0, *pauses):
                await anyio.sleep(pause * TICK)
                await app(ScriptedConnection().scope, receive, send)
                await anyio.wait_all_tasks_blocked()
            await anyio.sleep(10 * TICK)

    assert len(ticks) == expected


class LateConnection(ScriptedConnection):
    """Be told of the end of the response, by a middleware around ours, when that says so."""

    def __init__(self, *, ends_reads: bool) -> None:
        super().__init__(server=SILENT)
        self.ends_reads = ends_reads
        self.reading = False
        self.ended = anyio.Event()

    async def receive(self) -> Message:
        if not self.delivered:
            return await super().receive()
        self.reading = True
        try:
            await self.ended.wait()
        finally:
            self.reading = False
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await super().send(message)
        if self.complete and self.ends_reads:
            self.ended.set()


async def watched(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond when somebody reads for the request."""
    await until_watched(receive)
    await respond(send)


async def send_all(
    app: RequestCancelationMiddleware, connections: Iterable[LateConnection]
) -> list[bool]:
    """Return, for each, whether a read was left behind when the application returned."""
    left: list[bool] = []
    for connection in connections:
        await connection.run(app)
        left.append(connection.reading)
    return left


async def test_a_request_does_not_wait_for_a_reader_that_its_server_ends(
    anyio_backend: object,
) -> None:
    """It did so before; the read ends when the server says so, in a task that goes on."""
    first, second = LateConnection(ends_reads=True), LateConnection(ends_reads=False)
    app = RequestCancelationMiddleware(application(watched))

    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            assert await send_all(app, [first, second]) == [False, True]
            second.ended.set()
            await anyio.wait_all_tasks_blocked()
            assert not second.reading
            third = LateConnection(ends_reads=False)
            assert await send_all(app, [third]) == [True]
            third.ended.set()
            await anyio.sleep(4 * REST)


async def test_a_reader_that_its_server_does_not_end_is_stopped(anyio_backend: object) -> None:
    """Soon after, and from then on each request waits for the end of its reader again."""
    connections = [LateConnection(ends_reads=number == 0) for number in range(4)]
    app = RequestCancelationMiddleware(application(watched))

    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            assert await send_all(app, connections[:2]) == [False, True]
            await anyio.sleep(2.5 * REST)
            assert not connections[1].reading
            assert await send_all(app, connections[2:]) == [False, False]


async def test_a_server_that_never_ended_a_reader_is_waited_for(anyio_backend: object) -> None:
    """No task of ours is in its ``receive()`` when the request ends."""
    app = RequestCancelationMiddleware(application(watched))

    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            connections = [LateConnection(ends_reads=False) for _ in range(3)]
            assert await send_all(app, connections) == [False, False, False]


async def test_a_reader_that_is_left_behind_ends_with_the_service(anyio_backend: object) -> None:
    """A shutdown waits for no server."""
    first, second = LateConnection(ends_reads=True), LateConnection(ends_reads=False)
    app = RequestCancelationMiddleware(application(watched))

    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            assert await send_all(app, [first, second]) == [False, True]
        assert not second.reading


async def test_a_reader_that_fails_when_its_request_is_over_is_forgotten(
    anyio_backend: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A middleware around ours may close what it reads from; nobody asks any more."""
    first, second = LateConnection(ends_reads=True), LateConnection(ends_reads=False)
    app = RequestCancelationMiddleware(application(watched))

    async def fail() -> Message:
        await second.ended.wait()
        raise anyio.ClosedResourceError

    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            await send_all(app, [first])
            second.receive = fail  # type: ignore[method-assign]
            await send_all(app, [second])
            second.ended.set()
            await anyio.sleep(4 * REST)
            third = LateConnection(ends_reads=False)
            assert await send_all(app, [third]) == [True]

    assert caplog.records == []
