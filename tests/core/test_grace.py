"""Told first, cut later: a request with a grace time. (S19)"""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelationReason,
    CancelationToken,
    ManualCancelation,
    OperationRegistry,
    OperationStatus,
    ParentCancelation,
    TimeoutCancelation,
)
from tests.support.clock import in_virtual_time
from tests.support.native import native_cancel, on_asyncio


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


class Watch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.started = anyio.current_time()

    @property
    def seconds(self) -> float:
        return round(anyio.current_time() - self.started, 6)


async def later(seconds: float, operation: Cancelable, grace: float | None = None) -> None:
    await anyio.sleep(seconds)
    await operation.cancel(grace=grace)


async def test_a_block_that_finishes_within_its_grace_completes() -> None:
    """The request is visible at once; the body goes on and may come to its end."""
    async with Cancelable(grace=5) as operation:
        await operation.cancel(message="please")
        assert operation.status is OperationStatus.CANCELLING
        assert operation.is_cancelling
        await operation.check_cancelation()
        operation.check_cancelation_sync()
        await anyio.sleep(3)
    assert operation.is_completed
    assert operation.cancel_requested
    assert operation.cancel_message == "please"


async def test_a_block_that_ignores_the_request_is_cut_at_the_end_of_its_grace() -> None:
    """The hard cut comes exactly when the grace is over."""
    watch = Watch()
    with pytest.raises(ManualCancelation):
        async with Cancelable(grace=5) as operation:
            await operation.cancel()
            try:
                await anyio.sleep(3600)
            except native_cancel():
                assert watch.seconds == 5
                raise
    assert operation.cancel_reason is CancelationReason.MANUAL


async def test_wait_cancelling_wakes_at_the_request() -> None:
    """A part of the body that waits for the request learns of it before the cut."""
    watch = Watch()
    told: list[tuple[float, CancelationReason]] = []

    async def listen() -> None:
        reason = await operation.wait_cancelling()
        told.append((watch.seconds, reason))

    async with Cancelable(grace=5) as operation, anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        tasks.start_soon(later, 1, operation)
        await anyio.sleep(3)
    assert told == [(1, CancelationReason.MANUAL)]
    assert operation.is_completed


async def test_wait_cancelling_returns_at_once_after_a_request() -> None:
    """A request that came before is not waited for."""
    async with Cancelable(grace=5) as operation:
        operation.cancel_sync("signal")
        with anyio.fail_after(1):
            assert await operation.wait_cancelling() is CancelationReason.SIGNAL


@pytest.mark.parametrize("moved", [False, True])
async def test_wait_cancelling_wakes_at_the_deadline(moved: bool) -> None:
    """The own deadline is a request as well, and its grace begins there."""
    watch = Watch()
    told: list[tuple[float, CancelationReason]] = []

    async def listen() -> None:
        reason = await operation.wait_cancelling()
        told.append((watch.seconds, reason))

    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(9 if moved else 2, grace=5) as operation:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen)
                await anyio.wait_all_tasks_blocked()
                if moved:
                    operation.deadline = anyio.current_time() + 2
                await anyio.sleep(3600)
    assert told == [(2, CancelationReason.TIMEOUT)]
    assert watch.seconds == 7


# -- those who listen hear of a deadline as it passes -----------------------------------------


class Told:
    """What the token of an operation told, and after how many seconds."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.times: list[float] = []

    def listen(self, operation: Cancelable) -> None:
        operation.token.on_cancel(self.hear)

    def hear(self, token: CancelationToken) -> None:
        assert token.reason in (CancelationReason.TIMEOUT, CancelationReason.PARENT)
        self.times.append(self.watch.seconds)


@pytest.mark.parametrize("when", ["before the entry", "in the block", "in its grace"])
async def test_a_listener_hears_of_a_deadline_as_it_passes(when: str) -> None:
    """Once, and not only when the block is cut, although nobody else asks. (S6, S19)"""
    told = Told()
    operation = Cancelable.with_timeout(2, grace=5)
    if when == "before the entry":
        told.listen(operation)
    with pytest.raises(TimeoutCancelation):
        async with operation:
            if when == "in the block":
                told.listen(operation)
            await anyio.sleep(3)
            if when == "in its grace":
                told.listen(operation)
            await anyio.sleep(3600)
    assert told.times == [3 if when == "in its grace" else 2]
    assert told.watch.seconds == 7


@pytest.mark.parametrize(
    ("steps", "heard_at"),
    [
        ([(0, 1)], [1]),
        ([(0, 4)], [4]),
        ([(1, 3), (1, 3), (1, 6)], [9]),
        ([(0, 9), (0, 3)], [3]),
        ([(1, float("inf"))], []),
        ([(1, float("inf")), (10, 3)], [14]),
    ],
)
async def test_a_listener_hears_of_a_deadline_that_moves(
    steps: list[tuple[float, float]], heard_at: list[float]
) -> None:
    """At the time to which it was moved last."""
    told = Told()
    async with Cancelable.with_timeout(2, grace=100) as operation:
        told.listen(operation)
        for pause, seconds in steps:
            await anyio.sleep(pause)
            operation.deadline = anyio.current_time() + seconds
        await anyio.sleep(50)
    assert told.times == heard_at


@pytest.mark.parametrize("again", [False, True])
async def test_a_listener_that_comes_when_the_others_have_gone_hears_in_time(again: bool) -> None:
    """Although the deadline was moved while nobody listened."""
    told = Told()
    async with Cancelable.with_timeout(9, grace=100) as operation:
        gone = operation.token.on_cancel(told.hear)
        await anyio.sleep(1)
        gone.unregister()
        operation.deadline = anyio.current_time() + 2
        if again:
            told.listen(operation)
        await anyio.sleep(50)
    assert told.times == ([3] if again else [])


@pytest.mark.parametrize("own_task", [False, True])
async def test_a_listener_below_hears_of_a_deadline_above(own_task: bool) -> None:
    """The deadline of a parent is one of the child's too, and it may move."""
    told = Told()

    async def child() -> None:
        async with Cancelable() as operation:
            told.listen(operation)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(20)
            await anyio.lowlevel.checkpoint()

    async def move(parent: Cancelable) -> None:
        await anyio.sleep(1)
        parent.deadline = anyio.current_time() + 2

    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(9) as parent, anyio.create_task_group() as tasks:
            tasks.start_soon(move, parent)
            if own_task:
                tasks.start_soon(child)
            else:
                await child()
            await anyio.sleep(3600)
    assert told.times == [3]


async def test_what_follows_a_token_stops_at_the_deadline_of_its_operation() -> None:
    """Although the block of that one goes on, held in a shield."""
    watch = Watch()
    stopped: list[float] = []
    leader = Cancelable.with_timeout(2)

    async def follow() -> None:
        with pytest.raises(TimeoutCancelation):
            async with Cancelable.with_token(leader.token, parent=None):
                await anyio.sleep(3600)
        stopped.append(watch.seconds)

    async with anyio.create_task_group() as tasks:
        with pytest.raises(TimeoutCancelation):
            async with leader:
                tasks.start_soon(follow)
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(10)
                await anyio.lowlevel.checkpoint()
    assert stopped == [2]


async def test_who_watches_an_operation_sees_that_its_deadline_has_passed() -> None:
    """As with a cancel: running, cancelling, cancelled."""
    registry = OperationRegistry()
    watch = Watch()
    seen: list[tuple[OperationStatus, float]] = []

    async def follow() -> None:
        async with registry.watch("watched") as records:
            async for record in records:
                seen.append((record.status, watch.seconds))

    operation = Cancelable.with_timeout(2, operation_id="watched", grace=5)
    registry.register(operation)
    async with anyio.create_task_group() as tasks:
        async with operation.move_on():
            tasks.start_soon(follow)
            await anyio.sleep(3600)
    assert seen == [
        (OperationStatus.RUNNING, 0),
        (OperationStatus.CANCELLING, 2),
        (OperationStatus.CANCELLED, 7),
    ]


async def test_nothing_is_left_of_an_alarm_when_the_block_ends() -> None:
    """No timer, no task, and nobody is told."""
    told = Told()
    async with Cancelable.with_timeout(2) as operation:
        told.listen(operation)
        await anyio.wait_all_tasks_blocked()
        assert "alarm" in operation.__dict__
    assert "alarm" not in operation.__dict__
    await anyio.sleep(10)
    assert told.times == []


async def test_an_operation_that_nobody_listens_to_has_no_alarm() -> None:
    """Nor has one without a deadline, nor one whose token is only waited for."""
    async with Cancelable.with_timeout(2, grace=9) as operation:
        assert operation.token.reason is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(operation.wait_cancelling)
            await anyio.wait_all_tasks_blocked()
            assert "alarm" not in operation.__dict__
    async with Cancelable() as operation:
        operation.token.on_cancel(lambda _: None)
        await anyio.wait_all_tasks_blocked()
        assert "alarm" not in operation.__dict__


@pytest.mark.parametrize(("second", "cut_at"), [(1, 3), (0, 2), (30, 10), (None, 10)])
async def test_a_second_request_can_only_shorten_the_grace(
    second: float | None, cut_at: float
) -> None:
    """At 2 s a second request gives a grace of its own; the earlier cut counts."""
    watch = Watch()
    with pytest.raises(ManualCancelation) as caught:
        async with Cancelable(grace=10) as operation, anyio.create_task_group() as tasks:
            first = operation.cancel_sync(message="first")
            assert first.value == "requested"
            tasks.start_soon(later, 2, operation, second)
            await anyio.sleep(3600)
    assert watch.seconds == cut_at
    assert caught.value.message == "first"


async def test_a_request_brings_a_grace_of_its_own() -> None:
    """`cancel(grace=…)` gives time also to an operation that was made without."""
    watch = Watch()
    with pytest.raises(ManualCancelation):
        async with Cancelable() as operation:
            operation.cancel_sync(grace=2)
            await anyio.sleep(3600)
    assert watch.seconds == 2
    with pytest.raises(ValueError, match="grace"):
        await Cancelable().cancel(grace=-1)
    with pytest.raises(ValueError, match="grace"):
        Cancelable().cancel_sync(grace=float("nan"))


async def test_a_token_and_a_grace() -> None:
    """A cancelled token is a request like any other; one from before the entry cuts at once."""
    watch = Watch()
    token = CancelationToken()
    with pytest.raises(ManualCancelation):
        async with Cancelable.with_token(token, grace=3):
            await token.cancel()
            await anyio.sleep(3600)
    assert watch.seconds == 3
    with pytest.raises(ManualCancelation):
        async with Cancelable.with_token(token, grace=3):
            await anyio.lowlevel.checkpoint()
    assert watch.seconds == 3


async def test_a_deadline_within_the_grace_does_not_cut_earlier_than_its_own_grace() -> None:
    """After a request at 0 s with 5 s of grace, a deadline at 1 s changes nothing."""
    watch = Watch()
    with pytest.raises(ManualCancelation):
        async with Cancelable.with_timeout(1, grace=5) as operation:
            await operation.cancel()
            await anyio.sleep(3600)
    assert watch.seconds == 5


async def test_an_enclosing_cancel_cuts_at_once() -> None:
    """Neither a scope around nor an enclosing operation waits for the grace inside."""
    watch = Watch()
    with anyio.move_on_after(2):
        async with Cancelable(grace=50) as operation:
            await operation.cancel()
            await anyio.sleep(3600)
    assert watch.seconds == 2
    with pytest.raises(ManualCancelation):
        async with Cancelable() as outer, Cancelable(grace=50) as inner:
            await inner.cancel("signal")
            await outer.cancel()
            await anyio.sleep(3600)
    assert watch.seconds == 2
    assert inner.cancel_reason is CancelationReason.SIGNAL


async def test_a_grace_above_lets_operations_below_run_on() -> None:
    """A request above with a grace tells those below at once and cuts them with the cut."""
    watch = Watch()
    with pytest.raises(ManualCancelation):
        async with Cancelable(grace=4) as outer, Cancelable() as inner:
            await outer.cancel()
            assert inner.is_cancelling
            assert inner.cancel_reason is CancelationReason.PARENT
            await inner.check_cancelation()
            await anyio.sleep(3600)
    assert watch.seconds == 4


async def test_an_operation_entered_during_the_grace_above_runs_until_the_cut() -> None:
    """Work that starts within the grace is told, and cut with the rest."""
    watch = Watch()
    with pytest.raises(ManualCancelation):
        async with Cancelable(grace=4) as outer:
            await outer.cancel()
            async with Cancelable() as inner:
                assert inner.is_cancelling
                await anyio.sleep(1)
            assert inner.is_completed
            async with Cancelable():
                await anyio.sleep(3600)
    assert watch.seconds == 4


@on_asyncio
async def test_a_child_in_another_task_has_the_grace_of_its_parent() -> None:
    """The child is told at once and cut when the grace of its parent is over."""
    import asyncio

    watch = Watch()
    entered = anyio.Event()
    child = Cancelable()

    async def work() -> None:
        async with child:
            entered.set()
            await anyio.sleep(3600)

    with pytest.raises(ManualCancelation):
        async with Cancelable(grace=4) as parent:
            task = asyncio.get_running_loop().create_task(work())
            await entered.wait()
            await parent.cancel()
            assert child.is_cancelling
            await anyio.sleep(3600)
    with anyio.fail_after(5), pytest.raises(ParentCancelation):
        await task
    assert watch.seconds == 4


async def test_what_a_listener_raises_as_a_deadline_passes_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody has called, to whom it could be raised; the others are told."""
    heard: list[bool] = []

    def leave(token: CancelationToken) -> None:
        raise SystemExit(3)

    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(1, grace=1) as operation:
            operation.token.on_cancel(leave)
            operation.token.on_cancel(lambda token: heard.append(token.is_cancelled))
            await anyio.sleep_forever()
    assert heard == [True]
    levels = [record.levelname for record in caplog.records if record.levelname != "INFO"]
    assert levels == ["ERROR"]
