"""The service of a loop: when it wakes for requests, and that it keeps none that has ended."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from cancelable_starlette import RequestCancelationMiddleware
from cancelable_starlette._watchers import TICK
from cancelable_starlette.testing import ScriptedConnection, lifespan
from tests.starlette.support import LIMIT, application, respond


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


class Facts(dict[str, Any]):
    """A scope that can be watched to go."""


class Facing:
    """Face the middleware with a request whose second read ends, or fails, with the response."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails
        self.reads = 0
        self.complete = anyio.Event()

    async def receive(self) -> Message:
        self.reads += 1
        if self.reads == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.complete.wait()
        if self.fails:
            raise anyio.ClosedResourceError
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.complete.set()


@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_is_left_of_requests_that_have_ended(
    anyio_backend: object, fails: bool
) -> None:
    """Not in the service, which has nothing to do any more, and not to the collector."""
    alive: list[weakref.ref[Facts]] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(0.1)
        await respond(send)

    async def visit() -> None:
        facing = Facing(fails=fails)
        scope = Facts(ScriptedConnection().scope)
        alive.append(weakref.ref(scope))
        await app(scope, facing.receive, facing.send)
        assert facing.reads == 2

    app = RequestCancelationMiddleware(application(handle), warn_after=0.04)
    gc.disable()
    try:
        with anyio.fail_after(LIMIT):
            async with lifespan(app):
                async with anyio.create_task_group() as tasks:
                    for _ in range(5):
                        tasks.start_soon(visit)
                await anyio.sleep(1)
                assert [each() for each in alive] == [None] * 5
    finally:
        gc.enable()
