"""A token asks from anywhere: tasks, threads, other loops, signal handlers, before any loop.

Holds to: S8, S9.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from functools import partial
from pathlib import Path
from types import FrameType

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import cancelable
from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationToken,
    DisconnectCancelation,
    ManualCancelation,
    SignalCancelation,
)
from tests.support.native import in_thread

OURS = str(Path(cancelable.__file__).parent)


@pytest.fixture
def threads_take_quick_turns() -> Iterator[None]:
    """Let threads interrupt one another in the middle of what they do, as often as it goes."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


# -- one token -------------------------------------------------------------------------------


async def test_the_first_request_wins() -> None:
    """Reason, message and time are the first request's; later ones say that they came late."""
    token = CancelationToken()
    assert not token.is_cancelled
    assert (token.reason, token.message, token.cancelled_at) == (None, None, None)
    assert await token.cancel("disconnect", "gone")
    at = token.cancelled_at
    assert not await token.cancel("signal", "too late")
    assert not token.cancel_sync()
    assert token.is_cancelled
    assert token.is_cancelation_requested()
    assert token.reason is CancelationReason.DISCONNECT
    assert token.message == "gone"
    assert at is not None
    assert at.tzinfo is UTC
    assert token.cancelled_at == at


def test_an_unknown_reason_is_refused() -> None:
    """A reason that does not exist cancels nothing."""
    token = CancelationToken()
    with pytest.raises(ValueError, match="`reason` must be"):
        token.cancel_sync("because")
    assert not token.is_cancelled


def test_tokens_are_compared_by_identity() -> None:
    """Two tokens are two, whatever they hold; each has an id of its own that stays."""
    first, second = CancelationToken(), CancelationToken()
    assert first != second
    assert len({first, second}) == 2
    assert first.id == first.id != second.id


async def test_a_check_raises_the_error_of_the_request() -> None:
    """Code in threads asks the token; the error is the matching one."""
    token = CancelationToken()
    token.check()
    await token.check_async()
    token.cancel_sync("signal", "stop")
    with pytest.raises(SignalCancelation, match="stop"):
        token.check()
    with pytest.raises(SignalCancelation, match="stop"):
        await token.check_async()


async def test_one_token_stops_any_number_of_operations() -> None:
    """All operations of a token stop, those of other tokens do not."""
    token = CancelationToken()
    left: list[str] = []

    async def work(name: str, operation: Cancelable) -> None:
        try:
            async with operation:
                await go_on.wait()
            left.append(name)
        except DisconnectCancelation:
            left.append("cancelled")

    go_on = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(work, "linked", Cancelable.with_token(token))
            tasks.start_soon(work, "other", Cancelable.with_token(CancelationToken()))
            tasks.start_soon(work, "none", Cancelable())
            await anyio.wait_all_tasks_blocked()
            await token.cancel("disconnect")
            await anyio.wait_all_tasks_blocked()
            assert left == ["cancelled"] * 10
            go_on.set()
    assert sorted(left[10:]) == ["none", "other"]


async def test_a_cancelled_token_stops_a_later_operation_at_its_first_checkpoint() -> None:
    """A token serves operations one after another, also after its request."""
    token = CancelationToken()
    async with Cancelable.with_token(token):
        await anyio.lowlevel.checkpoint()
    token.cancel_sync("disconnect")
    for _ in range(3):
        went_on = False
        with pytest.raises(DisconnectCancelation):
            async with Cancelable.with_token(token) as operation:
                assert operation.is_cancelling
                went_on = True
                await anyio.lowlevel.checkpoint()
                pytest.fail("the checkpoint let the block go on")
        assert went_on


async def test_a_token_may_be_added_inside_the_block() -> None:
    """Also one that is cancelled already; after the end it is refused."""
    with anyio.fail_after(5), pytest.raises(DisconnectCancelation):
        async with Cancelable() as operation:
            token = CancelationToken()
            operation.add_token(token)
            token.cancel_sync("disconnect")
            await anyio.sleep_forever()
    with anyio.fail_after(5), pytest.raises(DisconnectCancelation):
        async with Cancelable() as operation:
            operation.add_token(token)
            await anyio.sleep_forever()
    with pytest.raises(RuntimeError, match="has ended"):
        operation.add_token(token)
    with pytest.raises(TypeError, match="must be a CancelationToken"):
        Cancelable.with_token("token")  # type: ignore[arg-type]


async def test_waiting_for_a_token_ends_with_its_request() -> None:
    """`wait()` gives the reason, at once if the request has come, from task or thread."""
    token = CancelationToken()
    reasons: list[CancelationReason] = []

    async def listen() -> None:
        reasons.append(await token.wait())

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            tasks.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            in_thread(lambda: token.cancel_sync("signal"))
        await listen()
        await token.wait_for_cancel()
    assert reasons == [CancelationReason.SIGNAL] * 3


async def test_a_waiter_that_is_cancelled_leaves_nothing() -> None:
    """Giving up on a wait takes the waiter out of the token."""
    token = CancelationToken()
    for _ in range(3):
        with anyio.move_on_after(0.001):
            await token.wait()
    assert not token._listeners


@pytest.mark.parametrize("ends", [False, True])
async def test_the_token_of_an_operation_that_is_gone(ends: bool) -> None:
    """Dropped before it began: the request stands. Ended before: nothing is left to ask."""
    operation = Cancelable()
    tokens = [operation.token]
    calls: list[CancelationToken] = []
    tokens[0].on_cancel(calls.append)
    if ends:
        async with operation:
            pass
        tokens.append(operation.token)
    del operation
    gc.collect()
    for token in tokens:
        assert token.cancel_sync("signal") is not ends
        assert not token.cancel_sync()
        assert token.reason == (None if ends else "signal")
    assert calls == tokens * (not ends)


# -- callbacks -------------------------------------------------------------------------------


def test_callbacks_run_once_and_can_be_taken_back() -> None:
    """Each callback runs once, at once if the request has come; a handle takes it away."""
    token = CancelationToken()
    calls: list[str] = []
    token.on_cancel(lambda _token: calls.append("kept"))
    handle = token.on_cancel(lambda _token: calls.append("taken back"))
    handle.unregister()
    handle.unregister()
    token.cancel_sync()
    token.cancel_sync()
    token.on_cancel(lambda given: calls.append(f"late {given is token}")).unregister()
    assert calls == ["kept", "late True"]


def test_a_callback_that_raises_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What a callback raises is logged; the others run and the request stands."""
    token = CancelationToken()
    calls: list[str] = []

    def fail(_token: CancelationToken) -> None:
        raise ValueError("oops")

    token.on_cancel(fail)
    token.on_cancel(lambda _token: calls.append("ran"))
    assert token.cancel_sync()
    assert calls == ["ran"]
    assert [record.name for record in caplog.records] == ["cancelable"]


def test_a_cancel_that_a_callback_raises_is_an_error_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It may have asked a task that was cancelled for its result."""
    token = CancelationToken()
    gone: asyncio.Future[None] = asyncio.Future(loop=asyncio.new_event_loop())
    gone.cancel()
    calls: list[CancelationToken] = []
    token.on_cancel(lambda _token: gone.result())
    token.on_cancel(calls.append)
    assert token.cancel_sync()
    assert calls == [token]
    assert [record.message for record in caplog.records] == [
        "a callback of a cancelation token raised"
    ]
    gone.get_loop().close()


def test_a_callback_that_nobody_could_await_is_refused() -> None:
    """A coroutine function and what is no function are refused where they are given."""

    async def later(_token: CancelationToken) -> None: ...

    class Later:
        async def __call__(self, _token: CancelationToken) -> None: ...

    for callback in (later, Later()):
        with pytest.raises(TypeError, match="plain function"):
            CancelationToken().on_cancel(callback)
    with pytest.raises(TypeError, match="must be a function"):
        CancelationToken().on_cancel("function")  # type: ignore[arg-type]


# -- linked tokens ---------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1, 2])
def test_any_of_several_tokens(which: int) -> None:
    """A linked token follows the first, with its reason, message and time."""
    tokens = [CancelationToken() for _ in range(3)]
    linked = CancelationToken.any(*tokens)
    tokens[which].cancel_sync("signal", "stop")
    tokens[which - 1].cancel_sync("disconnect", "too late")
    assert linked.reason is CancelationReason.SIGNAL
    assert linked.message == "stop"
    assert linked.cancelled_at == tokens[which].cancelled_at
    assert CancelationToken.any(*tokens[which:]).reason is CancelationReason.SIGNAL


def test_a_linked_token_does_not_cancel_back() -> None:
    """Cancelling the linked token leaves those that it follows alone."""
    token = CancelationToken()
    linked = CancelationToken.any(token, CancelationToken.any(token))
    linked.cancel_sync()
    assert not token.is_cancelled
    with pytest.raises(TypeError, match="`tokens` must be"):
        CancelationToken.any(token, None)  # type: ignore[arg-type]


def test_linked_tokens_leave_nothing_on_a_long_lived_one() -> None:
    """A dropped link is gone from the token that it followed, without a collection."""
    token = CancelationToken()
    for _ in range(100):
        CancelationToken.any(token, CancelationToken())
    assert not token._listeners


@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_a_token_cancelled_while_it_is_linked_is_never_lost(
    count: int, threads_take_quick_turns: None
) -> None:
    """Threads cancel at random moments of the linking; the linked token hears of it, once."""
    chance = random.Random(count)
    for _ in range(100):
        tokens = [CancelationToken() for _ in range(count)]
        chosen = chance.sample(tokens, 2)
        ready = threading.Barrier(3)

        def cancel(token: CancelationToken, ready: threading.Barrier, steps: int) -> None:
            ready.wait(5)
            for _ in range(steps):
                pass
            token.cancel_sync("signal", token.id)

        threads = [
            threading.Thread(target=cancel, args=(each, ready, chance.randrange(30 * count)))
            for each in chosen
        ]
        for thread in threads:
            thread.start()
        ready.wait(5)
        linked = CancelationToken.any(*tokens)
        calls: list[CancelationToken] = []
        linked.on_cancel(calls.append)
        for thread in threads:
            thread.join(5)
        assert linked.reason is CancelationReason.SIGNAL
        assert linked.message in {token.id for token in chosen}
        assert calls == [linked]


# -- threads and loops -----------------------------------------------------------------------


async def test_a_thread_wakes_a_sleeping_loop() -> None:
    """A cancel from a plain thread ends a block that waits for ever."""
    token = CancelationToken()
    thread = threading.Timer(0.01, token.cancel_sync)
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable.with_token(token):
            thread.start()
            await anyio.sleep_forever()
    thread.join(5)


async def test_an_operation_is_cancelled_from_a_worker_thread() -> None:
    """`cancel_sync` works in anyio's worker threads, without a way back to the loop."""
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable() as operation:
            outcome = await anyio.to_thread.run_sync(operation.cancel_sync)
            assert outcome.value == "requested"
            await anyio.sleep_forever()


async def test_a_thousand_threads_make_one_cause() -> None:
    """Whoever is first wins; callbacks run once, operations stop once."""
    token = CancelationToken()
    calls: list[str | None] = []
    token.on_cancel(lambda token: calls.append(token.message))
    ready = threading.Event()
    wins: list[int] = []

    def cancel(number: int) -> None:
        ready.wait(10)
        if token.cancel_sync(message=str(number)):
            wins.append(number)

    threads = [threading.Thread(target=cancel, args=(number,)) for number in range(1000)]
    with anyio.fail_after(20), pytest.raises(ManualCancelation) as caught:
        async with Cancelable.with_token(token):
            for thread in threads:
                thread.start()
            ready.set()
            await anyio.sleep_forever()
    for thread in threads:
        thread.join(5)
    assert len(wins) == 1
    assert calls == [str(wins[0])]
    assert caught.value.message == str(wins[0])


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_a_token_is_cancelled_from_another_loop(other: str) -> None:
    """`await token.cancel()` in one loop ends a block in another one of any kind."""
    token = CancelationToken()

    async def cancel() -> None:
        await token.cancel("signal")

    thread = threading.Thread(target=lambda: anyio.run(cancel, backend=other))
    with anyio.fail_after(5), pytest.raises(SignalCancelation):
        async with Cancelable.with_token(token):
            thread.start()
            await anyio.sleep_forever()
    thread.join(5)


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_a_child_in_another_loop_ends_with_its_parent(other: str) -> None:
    """Parent and child may live in loops of different kinds, whose clocks differ."""
    left: list[BaseException] = []
    entered = threading.Event()

    async def work() -> None:
        try:
            with anyio.fail_after(5):
                async with Cancelable(parent=parent) as child:
                    assert 0 < child.remaining <= 30
                    entered.set()
                    await anyio.sleep_forever()
        except CancelationError as error:
            left.append(error)

    with pytest.raises(ManualCancelation):
        async with Cancelable.with_timeout(30) as parent:
            thread = threading.Thread(target=lambda: anyio.run(work, backend=other))
            thread.start()
            assert await anyio.to_thread.run_sync(entered.wait, 5)
            await parent.cancel()
            await anyio.lowlevel.checkpoint()
    thread.join(5)
    assert [getattr(error, "reason", error) for error in left] == [CancelationReason.PARENT]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_token_made_before_any_loop_works_in_one_after_another(backend: str) -> None:
    """A token may be made, and cancelled, where no loop runs."""
    token = CancelationToken()

    async def work() -> str:
        try:
            async with Cancelable.with_token(token):
                await anyio.lowlevel.checkpoint()
                return "completed"
        except ManualCancelation:
            return "cancelled"

    assert anyio.run(work, backend=backend) == "completed"
    token.cancel_sync()
    assert anyio.run(work, backend=backend) == "cancelled"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_waiter_whose_loop_is_closed_is_ignored(backend: str) -> None:
    """Whoever waited in a loop that is gone hinders nobody's cancel."""
    token = CancelationToken()
    waiter = token.wait()

    async def wait_and_go() -> None:
        waiter.send(None)

    anyio.run(wait_and_go, backend=backend)
    assert len(token._listeners) == 1
    assert token.cancel_sync()
    waiter.close()


def test_an_operation_whose_loop_is_closed_is_ignored() -> None:
    """A block that was never left, in a loop that is gone, hinders nobody's cancel."""
    token = CancelationToken()
    operation = Cancelable.with_token(token)

    async def enter_and_go() -> None:
        await operation.__aenter__()

    asyncio.run(enter_and_go())
    assert operation.cancel_sync().value == "requested"
    assert token.cancel_sync()
    assert operation.cancel_requested


async def test_short_operations_leave_nothing_on_a_long_lived_token() -> None:
    """Tens of thousands of operations on one token: it holds what it held before."""
    token = CancelationToken()
    first: list[weakref.ref[Cancelable]] = []
    for number in range(20_000):
        async with Cancelable.with_token(token) as operation:
            if number % 1000 == 0:
                first.append(weakref.ref(operation))
    del operation
    assert not token._listeners
    assert len(token._causes) == 0
    gc.disable()
    try:
        assert [ref() for ref in first] == [None] * len(first)
    finally:
        gc.enable()


# -- signal handlers -------------------------------------------------------------------------


@contextmanager
def handling(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_a_signal_handler_cancels_a_sleeping_block() -> None:
    """`cancel_sync` in a handler wakes the loop that the signal interrupted."""
    token = CancelationToken()
    killer = threading.Timer(0.01, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with handling(lambda *_: token.cancel_sync("signal")):
        with anyio.fail_after(5), pytest.raises(SignalCancelation):
            async with Cancelable.with_token(token):
                killer.start()
                while True:
                    await anyio.sleep(0.05)
        killer.join(5)


class Interruption:
    """Run a function, and another one in the middle of its n-th line in our files."""

    def __init__(self, interrupt: Callable[[], object], line: int) -> None:
        self.interrupt = interrupt
        self.line = line
        self.seen = 0

    def trace(self, frame: FrameType, event: str, _arg: object) -> object:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.line:
                sys.settrace(None)
                self.interrupt()
        return self.trace

    def run(self, func: Callable[[], bool]) -> bool:
        before = sys.gettrace()
        sys.settrace(self.trace)  # type: ignore[arg-type]
        try:
            return func()
        finally:
            sys.settrace(before)


def cancel_the_token(token: CancelationToken, _operation: Cancelable, message: str) -> bool:
    return token.cancel_sync("signal", message)


def cancel_the_operation(_token: CancelationToken, operation: Cancelable, message: str) -> bool:
    return operation.cancel_sync("signal", message).value == "requested"


Request = Callable[[CancelationToken, Cancelable, str], bool]


@pytest.mark.parametrize("outer", [cancel_the_token, cancel_the_operation])
@pytest.mark.parametrize("inner", [cancel_the_token, cancel_the_operation])
@pytest.mark.parametrize("by_signal", [False, True], ids=["called", "signalled"])
async def test_a_signal_at_every_line_of_a_cancel(
    outer: Request, inner: Request, by_signal: bool
) -> None:
    """Another cancel at any line of a cancel: one first cause, each listener once, no hang."""
    winners = set[str | None]()
    line, seen = 0, 1
    while line <= seen:
        line += 1
        token = CancelationToken()
        linked = CancelationToken.any(token)
        operation, child = Cancelable.with_token(token), Cancelable()
        calls: list[tuple[CancelationToken, str | None]] = []
        wins: list[bool] = []
        followed = [operation.token, child.token, token, linked]
        for each in followed:
            each.on_cancel(partial(note_message, calls))
        ask = partial(ask_and_note, inner, token, operation, wins)
        with handling(ask), anyio.fail_after(5), pytest.raises(CancelationError):
            async with operation, child:
                interruption = Interruption(raise_signal if by_signal else ask, line)
                wins.append(interruption.run(partial(outer, token, operation, "outer")))
                await anyio.sleep_forever()
        seen = interruption.seen
        # Every listener has heard once, and of what has come first to its token.
        heard = [each for each in followed if each.is_cancelled]
        assert sorted(map(id, heard)) == sorted(id(each) for each, _ in calls)
        assert len(heard) >= 2
        assert all(each.message == message for each, message in calls)
        assert operation.is_cancelled
        assert child.cancel_message == operation.cancel_message
        assert child.cancel_reason is CancelationReason.PARENT
        if outer is inner:
            assert wins.count(True) == 1
        winners.add(operation.cancel_message)
    assert line > 10
    assert winners == {"outer", "inner"}


def note_message(calls: list[tuple[CancelationToken, str | None]], token: CancelationToken) -> None:
    calls.append((token, token.message))


def ask_and_note(
    ask: Request, token: CancelationToken, operation: Cancelable, wins: list[bool], *_: object
) -> None:
    wins.append(ask(token, operation, "inner"))


def raise_signal() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_cancel_takes_no_lock_that_an_interrupted_cancel_holds() -> None:
    """A handler that cancels again and again within a cancel comes to its end."""
    depth = 0
    token = CancelationToken()
    finished = threading.Event()

    def again(_token: CancelationToken) -> None:
        nonlocal depth
        depth += 1
        for _ in range(10):
            assert not token.cancel_sync()

    def run() -> None:
        token.on_cancel(again)
        token.cancel_sync()
        finished.set()

    threading.Thread(target=run).start()
    assert finished.wait(5)
    assert depth == 1


def test_no_loop_is_needed_to_ask_for_nothing() -> None:
    """Making, linking and cancelling tokens imports and starts no loop."""
    assert CancelationToken.any(CancelationToken()).cancel_sync()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


async def test_who_waits_for_a_token_whose_operation_has_ended_sleeps() -> None:
    """The deadline that is past can do nothing any more; nobody looks at it again and again."""
    async with Cancelable.with_timeout(0.0005) as cancel:
        token = cancel.token
    assert cancel.is_completed
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(token.wait)
        await anyio.wait_all_tasks_blocked()
        waiting = list(token._waiters)  # type: ignore[attr-defined]
        await anyio.sleep(0.01)
        assert list(token._waiters) == waiting  # type: ignore[attr-defined]
        tasks.cancel_scope.cancel()
