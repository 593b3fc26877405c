"""What pages take as given, and what a reader may expect of them.

A stage is opened around the blocks of one page. It gives names that are set before each block,
and looks at the names of the page when all blocks have run.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import anyio
import pytest
from starlette.types import ASGIApp

from cancelable import Cancelable, CancelationReason, CancelationToken, OperationRegistry
from cancelable.bus import InMemoryBus
from cancelable_starlette.testing import ScriptedConnection, ScriptedSocket, lifespan

Names: TypeAlias = dict[str, Any]
"""The namespace of a page."""

Stage: TypeAlias = Callable[[Names], AbstractAsyncContextManager[Names]]


async def make_report() -> str:
    await anyio.sleep(0.5)
    return "the report"


async def search(_query: str) -> AsyncIterator[str]:
    for number in range(1, 11):
        await anyio.sleep(1)
        yield f"hit {number}"


GIVEN: Names = {"anyio": anyio, "make_report": make_report, "search": search}


@asynccontextmanager
async def given(_names: Names) -> AsyncGenerator[Names]:
    """The stage of a page that needs no other."""
    yield GIVEN


async def ask(app: ASGIApp, path: str, method: str = "GET", **options: Any) -> ScriptedConnection:
    """Send a request and return it when the application has returned."""
    connection = ScriptedConnection(method, path, **options)
    async with lifespan(app):
        await connection.run(app)
    return connection


async def hang_up(app: ASGIApp, path: str, *, after: float = 1, method: str = "GET") -> float:
    """Send a request, leave after some seconds, and return how long the application took."""
    began = anyio.current_time()
    await ask(app, path, method, leave_after=after)
    return anyio.current_time() - began


@asynccontextmanager
async def hello(names: Names) -> AsyncGenerator[Names]:
    """A page with the first example."""
    yield GIVEN
    assert await hang_up(names["app"], "/report") < 2
    assert (await ask(names["app"], "/report")).status == 200


@asynccontextmanager
async def fastapi(names: Names) -> AsyncGenerator[Names]:
    yield GIVEN
    app = names["app"]
    for path in ("/slow", "/page", "/sum"):
        assert (await ask(app, path)).status == 200
    assert b"nothing today" in (await ask(app, "/page")).body
    assert await hang_up(app, "/slow", after=10) < 11


@asynccontextmanager
async def starlette(names: Names) -> AsyncGenerator[Names]:
    yield GIVEN
    app = names["app"]
    assert (await ask(app, "/slow")).status == 504
    assert await hang_up(app, "/slow") < 2
    assert await hang_up(app, "/pay", method="POST") > 2.9
    assert (await ask(app, "/page")).body == b"GET /page: nothing today"
    plain = await ask(names["RequestCancelationMiddleware"](names["plain"]), "/", leave_after=9)
    assert plain.body == b"hello"


@asynccontextmanager
async def timeouts(names: Names) -> AsyncGenerator[Names]:
    yield GIVEN
    header = b"request-timeout"
    assert names["headers"] == {"Request-Timeout": "20.000"}
    assert (await ask(names["app"], "/default")).status == 504
    assert (await ask(names["app"], "/own")).status == 200
    assert (await ask(names["app"], "/own", headers=[(header, b"5")])).status == 504
    assert (await ask(names["app"], "/own", headers=[(header, b"900")])).status == 200


@asynccontextmanager
async def sources(_names: Names) -> AsyncGenerator[Names]:
    began = anyio.current_time()

    async def price() -> float:
        return 98 + anyio.current_time() - began

    yield GIVEN | {"price": price}


@asynccontextmanager
async def requests(names: Names) -> AsyncGenerator[Names]:
    yield GIVEN
    app, counted = names["app"], names["counted"]
    assert (await ask(app, "/report")).body == b'"GET /report"'
    assert await hang_up(app, "/report") < 2
    assert counted == ["GET /report: disconnect"]
    counted.clear()
    assert await hang_up(app, "/pay", method="POST") > 2.9
    assert counted[0] == "paid"
    answer = await ask(app, "/friendly")
    assert (answer.status, answer.body) == (503, b"sorry: timeout")
    assert (await ask(app, "/sum")).body == b"3"
    counted.clear()
    await hang_up(app, "/wait", after=1.5)
    assert counted[0] == "2 pages"


@asynccontextmanager
async def responses(names: Names) -> AsyncGenerator[Names]:
    yield GIVEN
    assert await hang_up(names["app"], "/ticks", after=3.5) < 4
    assert names["closed"] == ["ticks"]
    counter = await ask(names["app"], "/counter", headers=[(b"last-event-id", b"1")])
    event = b'event: count\ndata: {"number":%d}\nid: %d\n\n'
    pings = b": ping\n\n" * 2
    assert counter.body == event % (2, 2) + pings + event % (3, 3) + pings
    first, again = (
        ScriptedConnection(path="/answer", leave_after=3),
        ScriptedConnection(path="/answer", headers=[(b"last-event-id", b"1")]),
    )
    async with lifespan(names["app"]), anyio.create_task_group() as tasks:
        tasks.start_soon(ScriptedConnection("POST", "/answer").run, names["app"])
        await first.run(names["app"])
        assert first.body == b"data: it\nid: 1\n\n"
        await anyio.sleep(5)
        await again.run(names["app"])
    assert again.body == b"data: goes\nid: 2\n\ndata: on\nid: 3\n\n"
    assert again.complete
    news = ScriptedConnection(path="/news")
    async with lifespan(names["app"]), anyio.create_task_group() as tasks:
        tasks.start_soon(news.run, names["app"])
        await news.wait_for_start()
        await anyio.sleep(25)
        (running,) = OperationRegistry.current().list_operations(name_pattern="GET /news")
        OperationRegistry.current().cancel(running.id, grace=1)
    assert news.body.count(b"data: news") == 3
    assert b"event: goodbye" in news.body


@asynccontextmanager
async def sockets(names: Names) -> AsyncGenerator[Names]:
    yield GIVEN
    app = names["app"]
    prices, talk, late = ScriptedSocket("/prices"), ScriptedSocket("/talk"), ScriptedSocket("/talk")
    async with lifespan(app), anyio.create_task_group() as tasks:
        for socket in (prices, talk, late):
            tasks.start_soon(socket.run, app)
        await prices.wait_for_messages(3)
        prices.leave()
        await talk.wait_for_accept()
        talk.say("hello")
        await talk.wait_for_messages(1)
        talk.leave()
    assert talk.received == ["HELLO"]
    assert late.close_code == 3008
    assert sorted(names["ended"]) == ["prices", "talk", "talk"]
    limited = ScriptedSocket("/prices")
    await limited.run(names["alone"])
    assert limited.close_code == 3008
    idle = ScriptedSocket("/talk")
    began = anyio.current_time()
    await idle.run(names["alone"])
    assert idle.close_code == 3008
    # The clock runs on from page to page, so that a sum may be rounded.
    assert anyio.current_time() - began == pytest.approx(60, abs=1e-6)


@asynccontextmanager
async def jobs(names: Names) -> AsyncGenerator[Names]:
    yield GIVEN
    app = names["app"]
    user = [(b"user", b"ann")]
    assert (await ask(app, "/render", "POST", query=b"title=a")).status == 202
    assert names["rendered"] == ["a"]
    assert (await ask(app, "/reports", "POST")).status == 401
    async with lifespan(app), anyio.create_task_group() as tasks:
        started = ScriptedConnection("POST", "/reports", headers=user)
        tasks.start_soon(started.run, app)
        await started.wait_for_chunks(1)
        path = started.headers["location"]
        await anyio.sleep(5)
        for who, method, status in ((b"bob", "DELETE", 404), (b"ann", "GET", 200)):
            asked = ScriptedConnection(method, path, headers=[(b"user", who)])
            await asked.run(app)
            assert asked.status == status
        stopped = ScriptedConnection("DELETE", path, query=b"wait=5", headers=user)
        await stopped.run(app)
        assert b'"cancelled"' in stopped.body
    assert (await ask(names["plain"], "/reports", "POST")).status == 401
    assert (await ask(names["plain"], "/reports", "POST", headers=user)).status == 202


@asynccontextmanager
async def shutdown(names: Names) -> AsyncGenerator[Names]:
    yield GIVEN
    app, began = names["app"], anyio.current_time()
    stream, late = ScriptedConnection(path="/ticks"), ScriptedConnection(path="/ticks")
    async with lifespan(app), anyio.create_task_group() as tasks:
        tasks.start_soon(stream.run, app)
        await anyio.sleep(5)
        names["stopping"].cancel_sync("signal")
        await anyio.sleep(0.1)
        await late.run(app)
    assert anyio.current_time() - began < 8
    assert stream.body.endswith(b'event: cancelled\ndata: {"reason":"signal"}\n\n')
    assert late.status == 503
    stopping = names["stopping"] = CancelationToken()
    async with names["lifespan"](app):
        job = Cancelable(name="job: report", register_globally=True)
        async with job.move_on():
            stopping.cancel_sync("signal")
            await anyio.sleep(60)
        assert job.cancel_reason == "signal"
    ended = [each.name for each in OperationRegistry.current().get_history()]
    assert ended[-2:] == ["job: report", "job: mirror"]


@asynccontextmanager
async def from_fastapi_disconnect(names: Names) -> AsyncGenerator[Names]:
    yield GIVEN
    assert await hang_up(names["app"], "/agent", after=1.5) < 2.1
    assert names["counted"] == [["look", "think"]]


@asynccontextmanager
async def from_polling(names: Names) -> AsyncGenerator[Names]:
    yield GIVEN
    app = names["app"]
    assert await hang_up(app, "/answer") < 1.1
    assert (await ask(app, "/answer")).body == b'"42"'
    await hang_up(app, "/steps", after=1.5)
    assert names["finished"] == [2]
    assert await hang_up(app, "/events", after=2.5) < 3


@asynccontextmanager
async def bus(_names: Names) -> AsyncGenerator[Names]:
    """One operation of one owner, on a bus of one process."""

    class User:
        id = "ann"

    async def work(task_status: anyio.abc.TaskStatus[None]) -> None:
        operation = Cancelable(uuid.uuid4().hex, metadata={"owner": "ann"}, register_globally=True)
        async with operation.move_on():
            begun.append(operation.operation_id)
            task_status.started()
            await anyio.sleep(3600)

    begun: list[str] = []
    async with InMemoryBus() as shared, anyio.create_task_group() as tasks:
        await tasks.start(work)
        yield GIVEN | {
            "asynccontextmanager": asynccontextmanager,
            "bus": shared,
            "job_id": begun[0],
            "user": User,
        }
        context = OperationRegistry.current().get(begun[0])
        assert context is not None
        assert context.cancel_reason is CancelationReason.MANUAL


STAGES: dict[str, Stage] = {
    "README.md": hello,
    "cancelable_fastapi/README.md": hello,
    "cancelable_starlette/README.md": hello,
    "docs/bus.md": bus,
    "docs/guide/jobs.md": jobs,
    "docs/guide/requests.md": requests,
    "docs/guide/responses.md": responses,
    "docs/guide/shutdown.md": shutdown,
    "docs/guide/sockets.md": sockets,
    "docs/guide/sources.md": sources,
    "docs/guide/timeouts.md": timeouts,
    "docs/migrating/fastapi-disconnect.md": from_fastapi_disconnect,
    "docs/migrating/polling.md": from_polling,
    "docs/start/fastapi.md": fastapi,
    "docs/start/starlette.md": starlette,
}
