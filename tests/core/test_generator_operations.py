"""The operation of a decorated generator: one, from its first step to its end.

Holds to: S1, S7, S12, S14, S15, S16, S18.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, suppress

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationToken,
    CancelOutcome,
    ConditionCancelation,
    ManualCancelation,
    OperationContext,
    OperationRegistry,
    OperationStatus,
    ParentCancelation,
    TimeoutCancelation,
    cancelable,
    cancelable_with_condition,
    cancelable_with_token,
    current_operation,
)
from tests.support.clock import advance, in_virtual_time


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


class Told:
    """What the callbacks of one operation were told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str | None]] = []

    def listen(self, operation: Cancelable) -> None:
        operation.on_complete(self.complete).on_cancel(self.cancel).on_error(self.error)

    async def complete(self, context: OperationContext) -> None:
        await anyio.lowlevel.checkpoint()
        self.note("complete", context)

    async def cancel(self, context: OperationContext) -> None:
        await anyio.lowlevel.checkpoint()
        self.note("cancel", context)

    def error(self, context: OperationContext, error: BaseException) -> None:
        self.note(repr(error), context)

    def note(self, event: str, context: OperationContext) -> None:
        reason = context.cancel_reason
        self.events.append((event, context.status.value, reason and reason.value))


# -- time ------------------------------------------------------------------------------------


async def test_the_time_of_a_generator_runs_from_its_first_step() -> None:
    """It is the same in each step and between them, in the operation that was injected."""
    seen: list[float] = []
    known: list[Cancelable] = []

    @cancelable(timeout=60)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        known.append(cancelable)
        for number in range(2):
            await anyio.sleep(10)
            assert current_operation() is cancelable
            seen.append(cancelable.remaining)
            yield number

    items = rows()
    await anyio.sleep(100)
    began = anyio.current_time()
    async for _ in items:
        await anyio.sleep(5)
        assert current_operation() is None
        seen.append(known[0].remaining)
        assert known[0].deadline == pytest.approx(began + 60)
    assert seen == pytest.approx([50, 45, 35, 30])
    assert known[0].is_completed


async def test_a_step_may_put_off_the_deadline_for_those_that_follow() -> None:
    """An idle timeout that starts anew at each item."""

    @cancelable(timeout=10)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        for number in range(5):
            await anyio.sleep(6)
            assert cancelable.extend(10)
            yield number
        await anyio.sleep_forever()

    received: list[int] = []
    began = anyio.current_time()
    with pytest.raises(TimeoutCancelation):
        async for number in rows():
            received.append(number)
    assert received == [0, 1, 2, 3, 4]
    assert anyio.current_time() - began == pytest.approx(40)


@pytest.mark.parametrize("cause", ["timeout", "token", "deadline"])
async def test_who_waits_for_a_request_hears_of_it_between_two_steps(cause: str) -> None:
    """A task beside the consumer: the deadline, also one that was moved, and the token."""
    token = CancelationToken()
    heard: list[tuple[str, float]] = []
    known: list[Cancelable] = []

    @cancelable_with_token(token)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        known.append(cancelable)
        cancelable.extend(20 if cause == "timeout" else 500)
        yield 1

    async def wait() -> None:
        heard.append((await known[0].wait_cancelling(), anyio.current_time() - began))

    began = anyio.current_time()
    async with aclosing(rows()) as items, anyio.create_task_group() as tasks:
        await anext(items)
        tasks.start_soon(wait)
        await anyio.sleep(10)
        if cause == "token":
            token.cancel_sync()
        elif cause == "deadline":
            known[0].extend(10)
        await anyio.sleep(100)
    ((reason, after),) = heard
    assert reason == ("manual" if cause == "token" else "timeout")
    assert after == pytest.approx(10 if cause == "token" else 20)


async def test_a_step_learns_of_its_timeout_while_it_is_shielded() -> None:
    """What waits for the request wakes at the deadline of the generator."""
    heard: list[str] = []

    @cancelable(timeout=20)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        with anyio.CancelScope(shield=True):
            heard.append(await cancelable.wait_cancelling())
        yield 1

    with anyio.fail_after(100), pytest.raises(TimeoutCancelation):
        async for _ in rows():
            await anyio.lowlevel.checkpoint()
    assert heard == ["timeout"]


async def check_in_threads(operation: Cancelable, group: int) -> None:
    """Check in as many threads of a task group, or for 0 in a lone one, whatever is cancelled."""
    check = operation.check_cancelation_sync
    with anyio.CancelScope(shield=True):
        if group == 0:
            await operation.run_in_thread(check)
            return
        async with anyio.create_task_group() as tasks:
            for _ in range(group):
                tasks.start_soon(operation.run_in_thread, check)


@pytest.mark.parametrize("group", [0, 2])
@pytest.mark.parametrize("cause", ["timeout", "token"])
async def test_a_thread_of_a_step_notices_a_request_to_the_generator(
    cause: str, group: int
) -> None:
    """The check raises the error of the generator, which leaves as its own and as one."""
    token = CancelationToken()
    told = Told()

    @cancelable_with_token(token)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[str]:
        assert cancelable is not None
        told.listen(cancelable)
        cancelable.extend(10)
        if cause == "token":
            token.cancel_sync()
        else:
            advance(11)
        await check_in_threads(cancelable, group)
        yield "never noticed"

    expected = TimeoutCancelation if cause == "timeout" else ManualCancelation
    with pytest.raises(expected):
        async for _ in rows():
            pass
    reason = "timeout" if cause == "timeout" else "manual"
    assert told.events == [("cancel", "cancelled", reason)]


@pytest.mark.parametrize("group", [1, 2])
async def test_threads_that_check_while_the_generator_is_closed_end_it_as_cancelled(
    group: int,
) -> None:
    """However many of them: what leaves is the one error of the generator."""
    token = CancelationToken()
    told = Told()

    @cancelable_with_token(token)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[str]:
        assert cancelable is not None
        told.listen(cancelable)
        try:
            yield "first"
        finally:
            await check_in_threads(cancelable, group)

    iteration = rows()
    assert await anext(iteration) == "first"
    token.cancel_sync()
    with pytest.raises(ManualCancelation):
        await iteration.aclose()
    assert told.events == [("cancel", "cancelled", "manual")]


# -- callbacks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "event"),
    [
        ("end", ("complete", "completed", None)),
        ("timeout", ("cancel", "cancelled", "timeout")),
        ("timeout between", ("cancel", "cancelled", "timeout")),
        ("error", ("LookupError('row')", "failed", None)),
        ("thrown", ("LookupError('consumer')", "failed", None)),
        ("thrown and taken", ("complete", "completed", None)),
        ("closed", ("cancel", "cancelled", "external")),
        ("closed when asked", ("cancel", "cancelled", "manual")),
        ("scope left open", ("RuntimeError", "failed", None)),
    ],
)
async def test_the_callbacks_of_a_generator_run_once_at_its_end(
    way: str, event: tuple[str, str, str | None]
) -> None:
    """Whatever ends it: when its cleanup has run, and before the error goes on."""
    told = Told()
    known: list[Cancelable] = []

    @cancelable(timeout=10)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        known.append(cancelable)
        told.listen(cancelable)
        try:
            yield 0
            if way == "error":
                raise LookupError("row")
            if way == "timeout":
                await anyio.sleep_forever()
            if way == "scope left open":
                with anyio.CancelScope():
                    yield 1
        except KeyError:
            await anyio.lowlevel.checkpoint()
        finally:
            assert told.events == []
            assert cancelable.is_running

    items = rows()
    try:
        assert await anext(items) == 0
        assert told.events == []
        if way == "timeout between":
            await anyio.sleep(20)
        if way == "closed when asked":
            await known[0].cancel()
        if way.startswith("closed"):
            await items.aclose()
        elif way == "thrown":
            await items.athrow(LookupError("consumer"))
        elif way == "thrown and taken":
            with pytest.raises(StopAsyncIteration):
                await items.athrow(KeyError())
        else:
            assert [number async for number in items] == []
    except Exception as error:
        assert told.events != []
        left: Exception | None = error
    else:
        left = None
    ((name, status, reason),) = told.events
    assert (name.partition("(")[0], status, reason) == (event[0].partition("(")[0], *event[1:])
    if status == "failed":
        assert repr(left) == name
    elif "timeout" in way:
        assert isinstance(left, TimeoutCancelation)
    else:
        assert left is None
    await items.aclose()
    assert len(told.events) == 1


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # Trio says it as well
async def test_an_abandoned_generator_ends_when_it_is_collected() -> None:
    """Its callbacks run, and the token that it listened to has forgotten it."""
    token, told = CancelationToken(), Told()

    @cancelable_with_token(token)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        told.listen(cancelable)
        yield 0

    async for _ in rows():
        break
    gc.collect()
    with anyio.fail_after(5):
        while not told.events:
            await anyio.sleep(1)
    assert told.events == [("cancel", "cancelled", "external")]
    assert token._listeners == {}


async def test_the_cleanup_of_a_generator_that_is_cut_between_two_steps_may_wait() -> None:
    """It is closed outside of the scope that is cut; what goes wrong there is noted."""

    @cancelable(timeout=10)
    async def rows() -> AsyncGenerator[int]:
        try:
            yield 0
        finally:
            await anyio.sleep(5)
            done.append(anyio.current_time() - began)
            raise LookupError("cleanup")

    done: list[float] = []
    began = anyio.current_time()
    with pytest.raises(TimeoutCancelation) as caught:
        async for _ in rows():
            await anyio.sleep(20)
    assert done == pytest.approx([25])
    assert "cleanup" in caught.value.__notes__[0]


async def test_a_cancel_around_goes_before_that_of_a_generator() -> None:
    """Where both are due at a step, also if the loop has noticed neither."""
    known: list[Cancelable] = []

    @cancelable(timeout=10)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        known.append(cancelable)
        yield 0

    with anyio.move_on_after(15) as around:
        async for _ in rows():
            advance(20)
    assert around.cancelled_caught
    assert (known[0].status, known[0].cancel_reason) == (OperationStatus.CANCELLED, "timeout")


@pytest.mark.parametrize("way", ["end", "timeout", "timeout between", "thrown", "closed"])
async def test_nothing_keeps_the_operation_of_a_generator_that_has_ended(way: str) -> None:
    """No circle of an error and the frames that it went through: it is gone at once."""
    known: list[weakref.ref[Cancelable]] = []

    @cancelable(timeout=10)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        known.append(weakref.ref(cancelable))
        yield 0
        if way == "timeout":
            await anyio.sleep_forever()

    async def iterate() -> None:
        items = rows()
        with suppress(TimeoutCancelation, LookupError):
            await anext(items)
            if way == "timeout between":
                await anyio.sleep(20)
            if way == "thrown":
                await items.athrow(LookupError())
            if way != "closed":
                assert [number async for number in items] == []
        await items.aclose()

    gc.collect()
    gc.disable()
    try:
        await iterate()
        await anyio.lowlevel.checkpoint()
        assert known[0]() is None
    finally:
        gc.enable()


# -- the registry and the tree ---------------------------------------------------------------


async def test_a_generator_is_given_its_grace() -> None:
    """As a function is: it may come to its end in that time, over more than one step."""
    registry = OperationRegistry()

    @cancelable(register_globally=True)
    async def rows() -> AsyncGenerator[int]:
        for number in range(100):
            await anyio.sleep(6)
            yield number

    received: list[int] = []
    began = anyio.current_time()
    with registry.as_default(), pytest.raises(ManualCancelation):
        async for number in rows():
            received.append(number)
            if number == 0:
                (listed,) = registry.list_operations()
                assert registry.cancel(listed.id, grace=20) is CancelOutcome.REQUESTED
                (listed,) = registry.list_operations()
                assert listed.status is OperationStatus.CANCELLING
    assert received == [0, 1, 2, 3]
    assert anyio.current_time() - began == pytest.approx(26)


async def test_what_a_step_says_of_its_operation_is_said_of_the_generator() -> None:
    """Progress, partial result, metadata: in the registry, and for all steps."""
    registry = OperationRegistry()
    heard: list[object] = []

    @cancelable(register_globally=True)
    async def rows() -> AsyncGenerator[int]:
        for number in range(2):
            current = current_operation()
            assert current is not None
            if number == 0:
                current.on_progress(lambda _id, message, _data: heard.append(message))
            await current.report_progress(f"row {number}")
            current.set_partial_result(number)
            current.metadata[f"row {number}"] = "done"
            yield number
        await anyio.lowlevel.checkpoint()
        raise LookupError

    with registry.as_default(), pytest.raises(LookupError):
        async for number in rows():
            (listed,) = registry.list_operations(metadata={f"row {number}": "done"})
            assert listed.progress is not None
            assert listed.progress.message == f"row {number}"
            assert listed.partial_result == number
    (ended,) = registry.get_history()
    assert ended.metadata == {"row 0": "done", "row 1": "done"}
    assert ended.partial_result == 1
    assert heard == ["row 0", "row 1"]


async def test_what_runs_in_a_step_stands_under_the_generator() -> None:
    """In the tree, and the generator under the operation around its consumer."""
    registry = OperationRegistry()

    @cancelable(operation_id="rows", register_globally=True)
    async def rows() -> AsyncGenerator[int]:
        async with Cancelable("inside", register_globally=True) as inside:
            assert [child.operation_id for child in around.children] == ["rows"]
            (top,) = registry.tree()
            (under,) = top.children
            assert [node.context.id for node in under.children] == ["inside"]
            assert inside.parent is not None
            assert inside.parent.children == [inside]
        yield 1

    with registry.as_default():
        async with Cancelable("around", register_globally=True) as around:
            async for _ in rows():
                (top,) = registry.tree()
                assert [node.context.id for node in top.children] == ["rows"]


async def test_a_cancelation_between_two_steps_is_in_the_log_if_no_step_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One record, whoever closes the generator."""
    caplog.set_level(logging.INFO, "cancelable")
    registry = OperationRegistry()

    @cancelable(operation_id="rows", register_globally=True)
    async def rows() -> AsyncGenerator[int]:
        yield 1
        yield 2

    with registry.as_default():
        items = rows()
        await anext(items)
        registry.cancel("rows", message="stop")
        await items.aclose()
    (record,) = caplog.records
    assert "rows" in record.getMessage()
    assert "manual: stop" in record.getMessage()


# -- the operations around -------------------------------------------------------------------


async def test_a_block_for_each_item_does_not_end_the_generator() -> None:
    """Neither its timeout between two steps nor its end: it was not the generator's time."""

    @cancelable(timeout=1000)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        known.append(cancelable)
        for number in range(4):
            await anyio.lowlevel.checkpoint()
            yield number

    known: list[Cancelable] = []
    received: list[int] = []
    items = rows()
    for number in range(4):
        async with Cancelable.with_timeout(10).move_on() as one:
            received.append(await anext(items))
            assert known[0].parent is one
            assert one.children == [known[0]]
            try:
                if number % 2:
                    await anyio.sleep_forever()
            finally:
                assert one.cancel_requested == bool(number % 2)
                assert not known[0].cancel_requested
        assert one.is_cancelled == bool(number % 2)
        assert not known[0].cancel_requested
    assert received == [0, 1, 2, 3]
    await items.aclose()


async def test_a_generator_stands_under_the_block_of_its_last_step() -> None:
    """Under one alone, also between the steps."""

    @cancelable(timeout=1000)
    async def rows() -> AsyncGenerator[int]:
        for number in range(3):
            yield number

    async with Cancelable() as around, aclosing(rows()) as items:
        await anext(items)
        (known,) = around.children
        async with Cancelable() as one:
            await anext(items)
            assert around.children == [one]
            assert one.children == [known]
        await anext(items)
        assert around.children == [known]
    assert known.is_cancelled


async def test_the_end_of_a_block_for_one_item_does_not_cost_a_generator_its_grace() -> None:
    """It has been asked itself, and may run on for that time."""

    @cancelable(timeout=1000)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        yield 0
        await cancelable.cancel(grace=50)
        yield 1
        await anyio.sleep(20)
        yield 2
        await anyio.sleep_forever()

    items = rows()
    began = anyio.current_time()
    for number in range(3):
        async with Cancelable.with_timeout(10).move_on() as one:
            if number == 2:
                one.deadline += 20
            assert await anext(items) == number
            await anyio.sleep_forever()
        assert one.is_cancelled
    with pytest.raises(ManualCancelation):
        await anext(items)
    assert anyio.current_time() - began == pytest.approx(60)


@pytest.mark.parametrize("cause", ["deadline", "request", "request between"])
async def test_a_step_follows_the_operation_around_it(cause: str) -> None:
    """One in another task, too, whose scope is not around the step."""

    @cancelable(timeout=1000)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        told.listen(cancelable)
        yield 0
        while cause == "request between":
            yield 1
        await anyio.sleep_forever()

    async def consume() -> None:
        with pytest.raises(ParentCancelation) as caught:
            async for _ in items:
                if cause == "request between":
                    around.cancel_sync()
        assert caught.value.origin_id == around.operation_id
        consumed.set()

    async def parent() -> None:
        async with around:
            tasks.start_soon(consume)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(10)
                if cause == "request":
                    await around.cancel()
                await consumed.wait()

    told, consumed = Told(), anyio.Event()
    around = Cancelable.with_timeout(20 if cause == "deadline" else 500)
    items = rows()
    assert await anext(items) == 0
    with anyio.fail_after(100):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_quietly, parent)
    assert told.events == [("cancel", "cancelled", "parent")]


async def _quietly(work: object) -> None:
    assert callable(work)
    try:
        await work()
    except CancelationError:
        pass


async def test_a_task_of_a_step_may_take_the_next_step_itself() -> None:
    """The operation around the step is then underneath the generator's, and not above it."""
    received: list[int] = []

    @cancelable(timeout=60)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        known.append(cancelable)
        tasks.start_soon(take)
        for number in range(3):
            yield number
        await anyio.sleep_forever()

    async def take() -> None:
        async with Cancelable(parent=None):
            await may_take.wait()
            received.append(await anext(items))
            async with Cancelable(parent=known[0]):
                received.append(await anext(items))
            with pytest.raises(TimeoutCancelation):
                await anext(items)

    known: list[Cancelable] = []
    may_take = anyio.Event()
    items = rows()
    with anyio.fail_after(100):
        async with anyio.create_task_group() as tasks:
            received.append(await anext(items))
            may_take.set()
    assert received == [0, 1, 2]
    assert known[0].parent is None


# -- the block -------------------------------------------------------------------------------


async def test_the_operation_of_a_generator_is_entered_already() -> None:
    """As that of a function is: entering it inside is a clear error."""

    @cancelable(timeout=10)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        with pytest.raises(RuntimeError, match="entered once"):
            await cancelable.__aenter__()
        yield 1

    assert [number async for number in rows()] == [1]


async def test_a_token_that_is_added_between_two_steps_counts() -> None:
    """At the next step."""
    known: list[Cancelable] = []
    token = CancelationToken()

    @cancelable(timeout=10)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        known.append(cancelable)
        for number in range(3):
            yield number

    received: list[int] = []
    with pytest.raises(ManualCancelation):
        async for number in rows():
            received.append(number)
            if number == 0:
                known[0].add_token(token)
            if number == 1:
                await to_thread.run_sync(token.cancel_sync)
    assert received == [0, 1]
    assert token._listeners == {}


async def test_a_condition_stops_a_generator_that_never_waits() -> None:
    """It is asked at each step, and the generator is closed before the callbacks run."""
    holds, told, closed = False, Told(), list[bool]()

    @cancelable_with_condition(lambda: holds, 1)
    async def rows(cancelable: Cancelable | None = None) -> AsyncGenerator[int]:
        assert cancelable is not None
        told.listen(cancelable)
        try:
            for number in range(5):
                yield number
        finally:
            closed.append(told.events == [])

    received: list[int] = []
    with pytest.raises(ConditionCancelation):
        async for number in rows():
            received.append(number)
            holds = number == 2
    assert received == [0, 1, 2]
    assert closed == [True]
    assert told.events == [("cancel", "cancelled", "condition")]


@pytest.mark.parametrize("holds", ["scope", "task group", "operation", "deadline"])
async def test_the_task_is_as_before_when_a_decorated_generator_was_refused(holds: str) -> None:
    """One that holds a scope across its `yield`: nothing is mixed up for what comes after."""
    closed: list[bool] = []

    @cancelable(timeout=20)
    async def rows() -> AsyncGenerator[int]:
        async with AsyncExitStack() as stack:
            if holds == "scope":
                stack.enter_context(anyio.CancelScope())
            elif holds == "deadline":
                stack.enter_context(anyio.move_on_after(1000))
            elif holds == "operation":
                await stack.enter_async_context(Cancelable())
            else:
                await stack.enter_async_context(anyio.create_task_group())
            stack.callback(closed.append, True)
            yield 1
            yield 2

    with anyio.fail_after(500), anyio.CancelScope() as around:
        with pytest.raises(RuntimeError, match="holds a cancel scope or a task group"):
            async for _ in rows():
                pass
        assert closed == [True]
        assert current_operation() is None
        await anyio.sleep(40)
        async with Cancelable():
            await anyio.lowlevel.checkpoint()
        around.cancel()
        await anyio.lowlevel.checkpoint()
    assert around.cancelled_caught
