"""The first cause wins, whichever it is, and is the same wherever it is read. (S6)"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC

import anyio
import pytest

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationSource,
    CancelationToken,
    OperationContext,
    TimeoutCancelation,
)
from tests.support.clock import advance, in_virtual_time
from tests.support.native import in_thread, native_cancel

R = CancelationReason


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


class Nest:
    """Three nested operations, of which the middle one is looked at."""

    def __init__(self) -> None:
        self.token = CancelationToken()
        self.outer = Cancelable(name="outer")
        self.source = CancelationSource(CancelationReason.CONDITION, "gauge")
        self.middle = Cancelable.with_token(self.token, name="middle").add_source(self.source)
        self.inner = Cancelable(name="inner")


# Each cause with the reason that it gives to the middle operation and to the outer one.


async def manual(nest: Nest) -> None:
    await nest.middle.cancel(message="manual")


async def thread(nest: Nest) -> None:
    in_thread(lambda: nest.middle.cancel_sync("signal", "thread"))


async def token(nest: Nest) -> None:
    await nest.token.cancel("disconnect", "token")


async def own_token(nest: Nest) -> None:
    nest.middle.token.cancel_sync("condition", "own token")


async def source(nest: Nest) -> None:
    nest.source.trigger("the gauge is full")


async def deadline(nest: Nest) -> None:
    nest.middle.deadline = anyio.current_time() + 1
    advance(2)


async def above(nest: Nest) -> None:
    await nest.outer.cancel(message="above")


async def above_from_a_thread(nest: Nest) -> None:
    in_thread(lambda: nest.outer.cancel_sync(message="above"))


async def deadline_above(nest: Nest) -> None:
    nest.outer.deadline = anyio.current_time() + 1
    advance(2)


Cause = Callable[[Nest], Awaitable[None]]
GIVES: dict[Cause, R] = {
    manual: R.MANUAL,
    thread: R.SIGNAL,
    token: R.DISCONNECT,
    own_token: R.CONDITION,
    source: R.CONDITION,
    deadline: R.TIMEOUT,
    above: R.PARENT,
    above_from_a_thread: R.PARENT,
    deadline_above: R.PARENT,
}
ABOVE = {above: R.MANUAL, above_from_a_thread: R.MANUAL, deadline_above: R.TIMEOUT}
PAIRS = [
    pytest.param(first, second, id=f"{first.__name__}-{second.__name__}")
    for first, second in itertools.permutations(GIVES, 2)
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("looked_at", [False, True], ids=["unseen", "seen"])
async def test_of_two_causes_the_first_counts(first: Cause, second: Cause, looked_at: bool) -> None:
    """Every pair of causes, in both orders, whether or not anybody looked in between."""
    nest = Nest()
    left: CancelationError | None = None
    try:
        async with nest.outer:
            try:
                async with nest.middle, nest.inner:
                    await first(nest)
                    if looked_at:
                        assert nest.middle.cancel_reason is GIVES[first]
                        assert nest.inner.cancel_reason is R.PARENT
                    await second(nest)
                    await anyio.sleep(3600)
            except CancelationError as error:
                left = error
    except CancelationError as error:
        assert left is None
        left = error
    assert left is not None
    assert nest.middle.is_cancelled
    assert nest.middle.cancel_reason is GIVES[first]
    assert nest.inner.cancel_reason is R.PARENT
    # Where the outer one was asked as well its error leaves, else the middle one's.
    asked_above = [ABOVE[cause] for cause in (first, second) if cause in ABOVE]
    assert left.reason is (asked_above[0] if asked_above else GIVES[first])
    assert left.operation_id == (nest.outer if asked_above else nest.middle).operation_id


@pytest.mark.parametrize("cause", GIVES, ids=lambda cause: cause.__name__)
async def test_the_cause_is_the_same_wherever_it_is_read(cause: Cause) -> None:
    """In `except`, in `finally`, after the block, in children, in threads and in callbacks."""
    nest = Nest()
    seen: list[tuple[object, ...]] = []

    def note(where: str) -> None:
        context = nest.middle.context
        facts = (context.cancel_reason, context.cancel_message, context.cancelled_at)
        seen.append((where, *facts, context.cancel_source, context.origin_id))
        assert nest.middle.cancel_reason is context.cancel_reason
        assert nest.middle.cancel_message == context.cancel_message
        assert nest.middle.token.reason is context.cancel_reason
        assert nest.middle.token.message == context.cancel_message

    async def child() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            note("child")

    def in_callback(context: OperationContext) -> None:
        assert context.cancel_reason is nest.middle.cancel_reason
        note("callback")

    nest.middle.on_cancel(in_callback)
    with pytest.raises(CancelationError):
        async with nest.outer, nest.middle, anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            await anyio.wait_all_tasks_blocked()
            try:
                await cause(nest)
                note("after the request")
                await anyio.sleep(3600)
            except native_cancel():
                note("except")
                raise
            finally:
                note("finally")
                in_thread(lambda: note("thread"))
    nest.token.cancel_sync("signal", "too late")
    note("after the block")
    assert {where for where, *_ in seen} == {
        "after the request",
        "except",
        "finally",
        "thread",
        "child",
        "callback",
        "after the block",
    }
    assert len({facts[1:] for facts in seen}) == 1
    assert seen[0][1] is GIVES[cause]
    assert nest.middle.context.cancel_source == ("gauge" if cause is source else None)
    at = nest.middle.context.cancelled_at
    assert at is not None
    assert at.tzinfo is UTC


async def test_a_message_and_the_id_of_the_ancestor_reach_all_levels() -> None:
    """Who was asked, why and with which words is known in operations below, at any depth."""
    operations = [Cancelable(name=str(level)) for level in range(4)]
    with pytest.raises(CancelationError):
        async with operations[0], operations[1], operations[2], operations[3]:
            await operations[0].cancel("signal", "going down")
            await anyio.sleep(3600)
    for operation in operations[1:]:
        context = operation.context
        assert context.cancel_reason is R.PARENT
        assert context.cancel_message == "going down"
        assert context.origin_id == operations[0].operation_id
        assert context.cancelled_at == operations[0].context.cancelled_at
    assert operations[0].context.origin_id is None


@pytest.mark.parametrize("outer", [1, 2, 3, None])
@pytest.mark.parametrize("middle", [1, 2, 3, None])
@pytest.mark.parametrize("inner", [1, 2, 3])
@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
async def test_of_several_deadlines_the_earliest_wins(
    outer: int | None, middle: int | None, inner: int, late: bool
) -> None:
    """The operation with the earliest deadline reports the timeout; of equal ones the outermost.

    A deadline counts from the moment that it passes, also when the loop notices all of them
    together.
    """
    operations = [Cancelable.with_timeout(limit) for limit in (outer, middle, inner)]
    limits = [limit or 99 for limit in (outer, middle, inner)]
    winner = limits.index(min(limits))
    reported: list[CancelationError] = []
    try:
        async with operations[0]:
            try:
                async with operations[1]:
                    try:
                        async with operations[2]:
                            if late:
                                advance(50)
                            await anyio.sleep(3600)
                    except CancelationError as error:
                        reported.append(error)
            except CancelationError as error:
                reported.append(error)
    except CancelationError as error:
        reported.append(error)
    # Late, an enclosing deadline is due as well, and the native cancel goes up to it.
    due = [level for level, limit in enumerate(limits) if limit != 99]
    leaves_at = due[0] if late else winner
    assert len(reported) == 1
    assert reported[0].operation_id == operations[leaves_at].operation_id
    assert isinstance(reported[0], TimeoutCancelation) is (leaves_at == winner or late)
    assert operations[winner].cancel_reason is R.TIMEOUT
    for level in range(winner + 1, 3):
        assert operations[level].cancel_reason is R.PARENT


async def test_a_deadline_below_that_passed_before_a_request_above_is_first() -> None:
    """A deadline counts from when it passes: a later request above does not replace it."""
    inner = Cancelable.with_timeout(1)
    outer = Cancelable()
    with pytest.raises(CancelationError):
        async with outer, inner:
            advance(2)
            outer.cancel_sync()
            await anyio.sleep(3600)
    assert inner.cancel_reason is R.TIMEOUT
    assert outer.cancel_reason is R.MANUAL


async def test_threads_that_cancel_at_once_agree_on_one_cause() -> None:
    """Of many requests from threads exactly one is the first, and everybody names it."""
    import threading

    operation = Cancelable()
    ready = threading.Barrier(20)
    outcomes: list[tuple[str, int]] = []

    def cancel(number: int) -> None:
        ready.wait(5)
        outcome = operation.cancel_sync(message=str(number))
        outcomes.append((outcome.value, number))

    with pytest.raises(CancelationError) as caught:
        async with operation:
            threads = [threading.Thread(target=cancel, args=(n,)) for n in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(5)
            await anyio.sleep(3600)
    winners = [number for outcome, number in outcomes if outcome == "requested"]
    assert len(winners) == 1
    assert len(outcomes) == 20
    assert caught.value.message == str(winners[0])
