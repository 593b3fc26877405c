"""Background tasks that can be cancelled by an id (W5, W11, W18)."""

from __future__ import annotations

import functools
import logging

import anyio
import pytest
from anyio import sleep_forever
from starlette.applications import Starlette
from starlette.background import BackgroundTasks
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cancelable import CancelOutcome, OperationRegistry
from cancelable_starlette import RequestCancelationMiddleware, cancelable_background
from cancelable_starlette.testing import ScriptedConnection
from tests.starlette.support import Watch, run

done: list[object] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


def serving(*jobs: object) -> ASGIApp:
    """Make an application whose answer has these tasks behind it."""

    async def endpoint(request: Request) -> Response:
        tasks = BackgroundTasks()
        for job in jobs:
            assert callable(job)
            tasks.add_task(job)
        return PlainTextResponse("accepted", background=tasks)

    return Starlette(routes=[Route("/", endpoint)])


async def test_a_task_that_only_gives_back_what_is_async_is_run(anyio_backend: object) -> None:
    """A lambda is called in a thread, and what it gives back is awaited in the loop."""

    async def work(text: str) -> None:
        await anyio.lowlevel.checkpoint()
        done.append(text)

    connection = ScriptedConnection()
    await connection.run(serving(cancelable_background(lambda: work("done"))))
    assert (connection.status, done) == (200, ["done"])


@pytest.mark.parametrize("middleware", [True, False])
async def test_a_cancelled_task_is_quiet_and_those_behind_it_run(
    anyio_backend: object, middleware: bool, caplog: pytest.LogCaptureFixture, watch: Watch
) -> None:
    """W11, W18: no traceback, also without the middleware."""

    async def work(first: str, *, second: str) -> None:
        done.extend([first, second])
        try:
            await sleep_forever()
        finally:
            done.append("cancelled")

    job = cancelable_background(functools.partial(work, second="b"), "a", name="work")
    identity = job.operation_id

    async def stop() -> None:
        while not done:
            await anyio.sleep(0.01)
        (context,) = OperationRegistry.current().list_operations(name_pattern="work")
        assert context.id == identity
        assert context.parent_id is None
        assert OperationRegistry.current().cancel(identity) is CancelOutcome.REQUESTED

    async def behind() -> None:
        done.append("next")

    app = serving(job, behind)
    connection = ScriptedConnection()
    with caplog.at_level(logging.WARNING):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            if middleware:
                await run(RequestCancelationMiddleware(app), connection, watch)
            else:
                await connection.run(app)

    assert connection.body == b"accepted"
    assert done == ["a", "b", "cancelled", "next"]
    assert caplog.records == []
    outcome = OperationRegistry.current().cancel(identity)
    assert outcome is CancelOutcome.FINISHED


async def test_one_that_waits_behind_another_is_cancelled_by_its_id(anyio_backend: object) -> None:
    """W18: it is known from the moment that it is made, and does not begin any more."""

    async def work(name: str) -> None:
        done.append(name)
        await anyio.sleep(1)

    first, second, third = (
        cancelable_background(work, name, name=name) for name in ("first", "second", "third")
    )

    async def stop() -> None:
        while not done:
            await anyio.sleep(0.01)
        registry = OperationRegistry.current()
        assert [each.name for each in registry.list_operations()] == ["first", "second", "third"]
        assert registry.cancel(second.operation_id) is CancelOutcome.REQUESTED

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop)
        await ScriptedConnection().run(serving(first, second, third))

    assert done == ["first", "third"]
    assert second.operation.is_cancelled


async def test_a_client_that_leaves_does_not_touch_it(anyio_backend: object, watch: Watch) -> None:
    """W2, W5, W18: what runs behind a complete response is not about the client."""

    async def work() -> None:
        await anyio.sleep(1)
        done.append("done")

    connection = ScriptedConnection(leave_after_messages=2)
    app = serving(cancelable_background(work))
    await run(RequestCancelationMiddleware(app, default_timeout=0.5), connection, watch)

    assert done == ["done"]


async def test_its_time_may_be_limited(anyio_backend: object) -> None:
    """W11, W18: that it was cut is no error."""

    async def work() -> None:
        await sleep_forever()

    connection = ScriptedConnection()
    job = cancelable_background(work, timeout=2, operation_id="mine")
    await run(serving(job), connection, "alone")

    context = OperationRegistry.current().get("mine")
    assert context is not None
    assert context.name == "work"
    assert str(context.cancel_reason) == "timeout"


async def test_what_it_raises_is_an_error(anyio_backend: object) -> None:
    """W2: as it is of any background task."""

    async def work() -> None:
        msg = "mine"
        raise LookupError(msg)

    with pytest.raises(LookupError, match="mine"):
        await run(serving(cancelable_background(work)), ScriptedConnection(), "alone")


def test_what_is_no_job_is_refused() -> None:
    """A mistake is an error where it is made."""
    with pytest.raises(TypeError, match="`func`"):
        cancelable_background(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`timeout`"):
        cancelable_background(print, timeout=0)
    with pytest.raises(TypeError, match="`name` must be a string or None"):
        cancelable_background(print, name=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`operation_id` must be a string"):
        cancelable_background(print, operation_id=5)  # type: ignore[arg-type]
