"""The tasks that read for one request after another: W13, and nothing goes from one to the next."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from contextvars import ContextVar
from functools import partial

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cancelable_starlette import RequestCancelationMiddleware
from cancelable_starlette._watchers import TICK
from cancelable_starlette._workers import IDLE_LIMIT, SPARE_AFTER, Workers
from cancelable_starlette.testing import SILENT, ScriptedConnection, lifespan
from tests.starlette.support import LIMIT, Watch, application, respond

request_of: ContextVar[str] = ContextVar("request_of", default="nobody's")


def task() -> object:
    """Return the calling task itself, so that no later one can be taken for it."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return trio.lowlevel.current_task()


class Readers:
    """Stand around the middleware and note which tasks read from the server, and what they see."""

    def __init__(self, app: ASGIApp, *, leaves_a_mark: bool = False) -> None:
        self.app = app
        self.leaves_a_mark = leaves_a_mark
        self.tasks: list[object] = []
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = task()

        async def noted() -> Message:
            if scope["type"] == "http" and task() != own:
                self.tasks.append(task())
                self.seen.append(request_of.get())
                if self.leaves_a_mark:
                    request_of.set(scope["path"])
            return await receive()

        await self.app(scope, noted, send)


async def wait_until_watched(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond once the service has begun to read."""
    await anyio.sleep(3 * TICK)
    await anyio.wait_all_tasks_blocked()
    await respond(send)


async def send_requests(app: ASGIApp, count: int) -> None:
    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            for number in range(count):
                await ScriptedConnection(path=f"/{number}").run(app)


async def test_one_task_reads_for_one_request_after_another(anyio_backend: object) -> None:
    """Where its context has stayed what it was."""
    app = Readers(RequestCancelationMiddleware(application(wait_until_watched)))

    await send_requests(app, 3)

    assert len(app.tasks) >= 3
    assert len(set(app.tasks)) == 1


@pytest.mark.parametrize("is_known", [True, False])
async def test_what_a_receive_leaves_in_its_context_is_not_seen_by_the_next_request(
    anyio_backend: object, *, is_known: bool
) -> None:
    """A middleware around ours may set a variable and never set it back."""
    if is_known:  # to the lifespan, with a value of its own
        request_of.set("nobody's")
    inner = RequestCancelationMiddleware(application(wait_until_watched))
    app = Readers(inner, leaves_a_mark=True)

    await send_requests(app, 3)

    assert len(set(app.tasks)) == 3
    assert set(app.seen) <= {"nobody's", "/0", "/1", "/2"}
    firsts = [app.seen[app.tasks.index(each)] for each in dict.fromkeys(app.tasks)]
    assert firsts == ["nobody's"] * 3


async def note_task(seen: list[object]) -> None:
    seen.append(task())


async def test_a_task_that_a_request_has_started_is_not_used_again(anyio_backend: object) -> None:
    """It has the context of that request: its variables, and what its tracing goes by."""
    seen: list[object] = []
    async with anyio.create_task_group() as tasks:
        workers = Workers(tasks)
        request_of.set("/1")
        workers.start(partial(note_task, seen))
        await anyio.wait_all_tasks_blocked()
        workers.start(partial(note_task, seen))

    assert len(set(seen)) == 2


async def test_what_a_request_starts_has_the_context_of_the_request(
    anyio_backend: object,
) -> None:
    """Also when there is a task that waits, which has not: a ping goes through its middlewares."""
    seen: list[str] = []

    async def look() -> None:
        seen.append(request_of.get())

    async with anyio.create_task_group() as tasks:
        workers = Workers(tasks)
        workers.start(checkpoint)
        await anyio.wait_all_tasks_blocked()
        request_of.set("/1")
        workers.start(look)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert seen == ["/1"]


async def test_a_task_that_waits_keeps_nothing_of_what_it_did(anyio_backend: object) -> None:
    """The work is part of a request, with its body and its connection."""

    class Work:
        async def do(self) -> None:
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        work = Work()
        gone = weakref.ref(work)
        workers = Workers(tasks)
        workers.start(work.do)
        del work
        await anyio.wait_all_tasks_blocked()

        assert gone() is None
        tasks.cancel_scope.cancel()


class Reader:
    """Work that waits until it is cancelled, and says how it ended."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.ended = anyio.Event()

    async def read(self) -> None:
        self.told.append("began")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.told.append("cancelled")
            raise
        finally:
            self.ended.set()


async def test_work_that_is_cancelled_before_it_begins_begins_and_ends(
    anyio_backend: object,
) -> None:
    """Whoever gave it waits for its end; in a new task and in one that has waited."""
    seen: list[object] = []
    async with anyio.create_task_group() as tasks:
        workers = Workers(tasks)
        for waits in (False, True):
            if waits:
                workers.start(partial(note_task, seen))
                await anyio.wait_all_tasks_blocked()
            reader = Reader()
            workers.start(reader.read).cancel()
            with anyio.fail_after(LIMIT):
                await reader.ended.wait()
            assert reader.told == ["began", "cancelled"]

        await anyio.wait_all_tasks_blocked()
        workers.start(partial(note_task, seen))  # none that was cancelled
        await anyio.wait_all_tasks_blocked()
        assert len(set(seen)) == 2
        tasks.cancel_scope.cancel()


async def test_work_that_comes_as_the_group_ends_begins_and_ends(anyio_backend: object) -> None:
    """Given before or after the tasks that wait have heard of the end."""
    readers = early, between, late = Reader(), Reader(), Reader()
    async with anyio.create_task_group() as tasks:
        workers = Workers(tasks)
        for _ in range(3):
            workers.start(checkpoint)
        await anyio.wait_all_tasks_blocked()
        workers.start(early.read)
        tasks.cancel_scope.cancel()
        workers.start(between.read)
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            workers.start(late.read)

    assert [each.told for each in readers] == [["began", "cancelled"]] * 3


async def test_work_can_be_cancelled_in_a_task_that_is_used_again(anyio_backend: object) -> None:
    """By the scope of the task, and the others go on."""
    first, second = Reader(), Reader()
    async with anyio.create_task_group() as tasks:
        workers = Workers(tasks)
        workers.start(checkpoint)
        await anyio.wait_all_tasks_blocked()
        scope = workers.start(first.read)
        workers.start(second.read)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await first.ended.wait()
        await anyio.wait_all_tasks_blocked()

        assert second.told == ["began"]
        tasks.cancel_scope.cancel()


async def test_only_so_many_tasks_wait(anyio_backend: object) -> None:
    """A peak of requests must not cost memory for good."""
    many = IDLE_LIMIT + 20
    before: list[object] = []
    after: list[object] = []
    async with anyio.create_task_group() as tasks:
        workers = Workers(tasks)
        for seen in (before, after):
            gate = anyio.Event()

            async def note_and_wait(seen: list[object] = seen, gate: anyio.Event = gate) -> None:
                seen.append(task())
                await gate.wait()

            for _ in range(many):
                workers.start(note_and_wait)
            await anyio.wait_all_tasks_blocked()
            gate.set()
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert len(set(before)) == many
    assert len(set(before) & set(after)) == IDLE_LIMIT


async def test_those_that_nobody_has_needed_end(anyio_backend: object) -> None:
    """A task that worked since the last look stays, and so do as many as worked at once."""
    async with anyio.create_task_group() as tasks:
        workers = Workers(tasks)
        tasks.start_soon(workers.look_for_spare)
        others = await count_tasks()
        waiting: list[int] = []
        for needed in (3, 2, 1, 0, 0):
            for _ in range(needed):
                workers.start(checkpoint)
            await anyio.sleep(SPARE_AFTER)
            waiting.append(await count_tasks() - others)
        assert waiting == [3, 2, 1, 0, 0]

        seen: list[object] = []
        for _ in range(2):
            workers.start(partial(note_task, seen))
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert seen[0] is seen[1]


async def test_a_task_whose_scope_was_cancelled_does_nothing_else(anyio_backend: object) -> None:
    """Also if its work has ended without noticing."""
    seen: list[object] = []
    ended = anyio.Event()
    async with anyio.create_task_group() as tasks:
        workers = Workers(tasks)

        async def cancel_itself() -> None:
            seen.append(task())
            scope.cancel()
            ended.set()

        async def note_later() -> None:
            await checkpoint()
            seen.append(task())

        scope = workers.start(cancel_itself)
        await ended.wait()
        workers.start(note_later)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    first, second = seen
    assert first is not second


async def test_tasks_that_are_let_go_as_the_group_ends_end(anyio_backend: object) -> None:
    """In whatever order the two come."""
    for is_first in (True, False):
        async with anyio.create_task_group() as tasks:
            workers = Workers(tasks)
            for _ in range(2):
                workers.start(checkpoint)
            await anyio.wait_all_tasks_blocked()
            workers.end_spare()
            if is_first:
                workers.end_spare()
            tasks.cancel_scope.cancel()
            workers.end_spare()


async def test_a_quiet_service_has_no_task_that_waits(
    anyio_backend: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a peak is gone a moment after the last request."""
    seconds = 0.05
    monkeypatch.setattr("cancelable_starlette._workers.SPARE_AFTER", seconds)
    app = Readers(RequestCancelationMiddleware(application(wait_until_watched)))

    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            await anyio.wait_all_tasks_blocked()
            quiet = await count_tasks()
            for _ in range(2):
                await ScriptedConnection().run(app)
                assert await count_tasks() == quiet + 1
                await anyio.sleep(2 * seconds + 2 * TICK)
                assert await count_tasks() == quiet


async def count_tasks() -> int:
    """Return how many tasks there are when none has anything to do."""
    await anyio.wait_all_tasks_blocked()
    return len(anyio.get_running_tasks())


def cancel_natively(it: object) -> bool:
    """Call asyncio's own ``task.cancel()``, which no scope knows of; Trio has nothing like it."""
    return isinstance(it, asyncio.Task) and it.cancel()


async def test_work_that_comes_as_a_task_is_cancelled_natively_is_done(
    anyio_backend: object,
) -> None:
    """The cancel is not meant for it, and the group goes on; the task is not used again."""
    seen: list[object] = []

    async def wait_and_note() -> None:
        await checkpoint()
        seen.append(task())

    async with anyio.create_task_group() as tasks:
        workers = Workers(tasks)
        workers.start(wait_and_note)
        await anyio.wait_all_tasks_blocked()
        was_cancelled = cancel_natively(seen[0])
        for _ in range(2):
            workers.start(wait_and_note)
            await anyio.wait_all_tasks_blocked()

        assert not tasks.cancel_scope.cancel_called
        tasks.cancel_scope.cancel()

    first, second, third = seen
    assert second is first
    assert (third is first) is not was_cancelled


async def test_a_task_that_was_cancelled_natively_reads_for_nobody_else(
    anyio_backend: object,
) -> None:
    """asyncio goes on counting the cancel, which the next request would get to feel."""
    connections = [ScriptedConnection(path=f"/{number}", server=SILENT) for number in range(2)]
    inner = Readers(RequestCancelationMiddleware(application(wait_until_watched)))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def cancelled() -> Message:
            if scope["type"] == "http" and scope["path"] == "/0" and cancel_natively(task()):
                await checkpoint()
            return await receive()

        await inner(scope, cancelled, send)

    with anyio.fail_after(LIMIT):
        async with lifespan(app):
            for connection in connections:
                await connection.run(app)

    assert [connection.complete for connection in connections] == [True, True]
    assert len(set(inner.tasks)) == 2


async def test_a_reader_that_was_cancelled_natively_ends_alone(
    anyio_backend: object, watch: Watch
) -> None:
    """A middleware's ``receive()`` cancels its own task, and catches that; then the request ends.

    asyncio goes on counting such a cancel, so no scope in that task keeps its own to itself.
    """
    connection = ScriptedConnection(server=SILENT)
    ended: list[str] = []

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(3 * TICK)
        await connection.wait_for_reads(1)
        await respond(send)
        ended.append(scope["path"])

    inner = RequestCancelationMiddleware(application(handle))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        own = task()

        async def receive_and_cancel() -> Message:
            if scope["type"] == "http" and task() != own and cancel_natively(task()):
                with contextlib.suppress(anyio.get_cancelled_exc_class()):
                    await checkpoint()
            return await receive()

        await inner(scope, receive_and_cancel, send)

    with anyio.fail_after(LIMIT):
        async with lifespan(app) if watch == "service" else contextlib.nullcontext():
            await connection.run(app)
            assert connection.complete
            connection = ScriptedConnection(path="/next", server=SILENT)
            await connection.run(app)

    assert connection.complete
    assert ended == ["/", "/next"]
