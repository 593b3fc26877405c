"""How a block ends: one outcome, for every cause and every way to leave it. (S1, S2, S4)"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationToken,
    DisconnectCancelation,
    ManualCancelation,
    OperationContext,
    OperationStatus,
    SignalCancelation,
    TimeoutCancelation,
)
from tests.support.clock import advance, in_virtual_time
from tests.support.native import in_thread, native_cancel

MANUAL, TIMEOUT = CancelationReason.MANUAL, CancelationReason.TIMEOUT
PARENT, EXTERNAL = CancelationReason.PARENT, CancelationReason.EXTERNAL
SIGNAL, DISCONNECT = CancelationReason.SIGNAL, CancelationReason.DISCONNECT
COMPLETED, CANCELLED, FAILED = (
    OperationStatus.COMPLETED,
    OperationStatus.CANCELLED,
    OperationStatus.FAILED,
)


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


@dataclass
class Block:
    """One block with a scope and, where the cause wants one, an operation around it."""

    around: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    enclosing: Cancelable | None = None
    token: CancelationToken = field(default_factory=CancelationToken)
    operation: Cancelable = field(default_factory=Cancelable)
    calls: list[str] = field(default_factory=list)
    left_by: BaseException | None = None
    went_on: bool = False

    def listen(self) -> None:
        def note(kind: str) -> Callable[[OperationContext], None]:
            return lambda _context: self.calls.append(kind)

        self.operation.on_complete(note("complete")).on_cancel(note("cancel"))
        self.operation.on_error(lambda _context, _error: self.calls.append("error"))


# -- causes ----------------------------------------------------------------------------------


async def nothing(block: Block) -> None:
    """Nobody asks."""


async def own_cancel(block: Block) -> None:
    await block.operation.cancel(message="stop")


async def cancel_from_a_thread(block: Block) -> None:
    in_thread(block.operation.cancel_sync)


async def cancel_as_signal(block: Block) -> None:
    block.operation.cancel_sync("signal")


async def cancel_as_disconnect(block: Block) -> None:
    block.operation.cancel_sync(CancelationReason.DISCONNECT)


async def its_token(block: Block) -> None:
    await block.token.cancel()


async def its_token_from_a_thread(block: Block) -> None:
    in_thread(block.token.cancel_sync)


async def its_deadline(block: Block) -> None:
    advance(2)


async def an_enclosing_operation(block: Block) -> None:
    assert block.enclosing is not None
    await block.enclosing.cancel()


async def a_scope_around(block: Block) -> None:
    block.around.cancel()


Cause = Callable[[Block], Awaitable[None]]
OWN: dict[Cause, tuple[CancelationReason, type[CancelationError]]] = {
    own_cancel: (MANUAL, ManualCancelation),
    cancel_from_a_thread: (MANUAL, ManualCancelation),
    cancel_as_signal: (SIGNAL, SignalCancelation),
    cancel_as_disconnect: (DISCONNECT, DisconnectCancelation),
    its_token: (MANUAL, ManualCancelation),
    its_token_from_a_thread: (MANUAL, ManualCancelation),
    its_deadline: (TIMEOUT, TimeoutCancelation),
}
REASONS: dict[Cause, CancelationReason | None] = {
    nothing: None,
    **{cause: reason for cause, (reason, _) in OWN.items()},
    an_enclosing_operation: PARENT,
    a_scope_around: None,
}
CAUSES = list(REASONS)


def name(func: Callable[..., object]) -> str:
    return func.__name__


async def run(cause: Cause, leave: Callable[[Block], Awaitable[None]]) -> Block:
    """Run a block that meets a cause and is then left in some way."""
    block = Block()
    if cause is its_deadline:
        block.operation = Cancelable.with_timeout(1)
    elif cause in (its_token, its_token_from_a_thread):
        block.operation = Cancelable.with_token(block.token)
    block.listen()

    async def body() -> None:
        try:
            async with block.operation:
                await cause(block)
                await leave(block)
            block.went_on = True
        except BaseException as error:
            block.left_by = error
            if not isinstance(error, Exception) and isinstance(error, native_cancel()):
                raise

    with anyio.fail_after(60), block.around:
        if cause is an_enclosing_operation:
            block.enclosing = Cancelable()
            with anyio.CancelScope():
                try:
                    async with block.enclosing:
                        await body()
                except ManualCancelation:
                    pass
        else:
            await body()
    assert not block.operation.is_running
    return block


def requested(block: Block, cause: Cause) -> None:
    reason = REASONS[cause]
    assert block.operation.cancel_requested is (reason is not None)
    assert block.operation.cancel_reason is reason
    assert block.operation.context.cancel_requested is (reason is not None)
    assert block.operation.context.cancel_reason is reason


# -- falling off -----------------------------------------------------------------------------


async def fall_off(block: Block) -> None:
    """Do nothing more."""


async def swallow_the_cancel_and_fall_off(block: Block) -> None:
    try:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
    except native_cancel():
        pass


@pytest.mark.parametrize("cause", CAUSES, ids=name)
@pytest.mark.parametrize("leave", [fall_off, swallow_the_cancel_and_fall_off], ids=name)
async def test_a_block_that_reaches_its_end_has_completed(cause: Cause, leave: Cause) -> None:
    """Whatever was asked, falling off the end is a completion that keeps the request."""
    block = await run(cause, leave)
    assert block.went_on or cause in (an_enclosing_operation, a_scope_around)
    assert block.left_by is None
    assert block.operation.status is COMPLETED
    assert block.operation.is_completed
    assert not block.operation.is_cancelled
    assert block.calls == ["complete"]
    requested(block, cause)


@pytest.mark.parametrize("cause", CAUSES, ids=name)
async def test_return_is_a_completion(cause: Cause) -> None:
    """`return` out of a block gives the value, whatever was asked."""
    block = Block(operation=Cancelable.with_timeout(1, parent=None))
    if cause in (an_enclosing_operation, its_token, its_token_from_a_thread):
        block.operation = block.enclosing = Cancelable.with_token(block.token)

    async def work() -> str:
        async with block.operation:
            await cause(block)
            return "value"

    with block.around:
        assert await work() == "value"
    assert block.operation.status is COMPLETED


async def test_break_is_a_completion() -> None:
    """`break` and `continue` out of a block are completions, also after a request."""
    ended: list[Cancelable] = []
    for turn in range(3):
        async with Cancelable() as operation:
            ended.append(operation)
            await operation.cancel()
            if turn == 1:
                break
            continue
    assert [each.status for each in ended] == [COMPLETED, COMPLETED]
    assert all(each.cancel_requested for each in ended)


# -- the native cancel -----------------------------------------------------------------------


async def wait_for_ever(block: Block) -> None:
    await anyio.sleep(3600)


@pytest.mark.parametrize("cause", OWN, ids=name)
async def test_an_own_cancelation_leaves_as_the_matching_error(cause: Cause) -> None:
    """The own scope takes the native cancel; the error names operation, reason and context."""
    block = await run(cause, wait_for_ever)
    reason, error = OWN[cause]
    assert type(block.left_by) is error
    assert isinstance(block.left_by, CancelationError)
    assert block.left_by.reason is reason
    assert block.left_by.operation_id == block.operation.operation_id
    assert block.left_by.context is block.operation.context
    assert isinstance(block.left_by.__cause__, native_cancel())
    assert block.operation.status is CANCELLED
    assert block.operation.is_cancelled
    assert block.calls == ["cancel"]
    requested(block, cause)


async def test_an_own_timeout_is_a_timeout_error() -> None:
    """Code that catches TimeoutError catches an own deadline, with the time that was allowed."""
    with pytest.raises(TimeoutError, match=r"1\.5 seconds") as caught:
        async with Cancelable.with_timeout(1.5):
            await anyio.sleep(3600)
    assert isinstance(caught.value, TimeoutCancelation)
    assert caught.value.timeout_seconds == 1.5
    assert not isinstance(caught.value, native_cancel())


async def test_inside_the_block_code_sees_the_native_cancel() -> None:
    """`finally` and `except <native cancel>: …; raise` work as everywhere."""
    seen: list[str] = []
    with pytest.raises(ManualCancelation):
        async with Cancelable() as operation:
            try:
                await operation.cancel()
                await anyio.sleep(3600)
            except CancelationError:
                seen.append("an error of ours")
            except Exception:
                seen.append("an ordinary exception")
            except native_cancel():
                seen.append("native")
                raise
            finally:
                seen.append("finally")
    assert seen == ["native", "finally"]


@pytest.mark.parametrize(
    ("cause", "reason"),
    [(an_enclosing_operation, PARENT), (a_scope_around, EXTERNAL)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_a_cancelation_from_outside_passes_as_the_native_cancel(
    cause: Cause, reason: CancelationReason
) -> None:
    """What the own scope does not take leaves as it is; the operation is cancelled."""
    block = await run(cause, wait_for_ever)
    assert isinstance(block.left_by, native_cancel())
    assert block.operation.status is CANCELLED
    assert block.operation.cancel_reason is reason
    assert block.operation.context.cancel_reason is reason
    assert block.calls == ["cancel"]


async def test_a_request_before_a_scope_around_keeps_its_reason() -> None:
    """Both are due: the native cancel leaves, and the reason is the first request's."""

    async def both(block: Block) -> None:
        await block.operation.cancel()
        block.around.cancel()

    block = await run(both, wait_for_ever)
    assert isinstance(block.left_by, native_cancel())
    assert block.operation.status is CANCELLED
    assert block.operation.cancel_reason is MANUAL


async def test_a_request_before_the_enclosing_operation_keeps_its_reason() -> None:
    """Both are due: the native cancel leaves, and the reason is the first request's."""
    inner = Cancelable()
    with pytest.raises(ManualCancelation) as caught:
        async with Cancelable() as outer:
            with pytest.raises(native_cancel()):
                async with inner:
                    await inner.cancel("disconnect")
                    await outer.cancel()
                    await anyio.sleep(3600)
            await anyio.lowlevel.checkpoint()
    assert caught.value.operation_id == outer.operation_id
    assert inner.cancel_reason is DISCONNECT


# -- GeneratorExit ---------------------------------------------------------------------------


async def end_as_a_closed_generator(block: Block) -> None:
    raise GeneratorExit


@pytest.mark.parametrize("cause", CAUSES, ids=name)
async def test_a_closed_generator_is_a_cancelation(cause: Cause) -> None:
    """`GeneratorExit` leaves as it is; the reason is the own one, else parent or external."""
    block = await run(cause, end_as_a_closed_generator)
    assert type(block.left_by) is GeneratorExit
    assert block.operation.status is CANCELLED
    assert block.operation.cancel_reason is (REASONS[cause] or EXTERNAL)
    assert block.calls == ["cancel"]


# -- errors ----------------------------------------------------------------------------------


async def its_own_check_raises(block: Block) -> None:
    block.operation.check_cancelation_sync()


@pytest.mark.parametrize("cause", OWN, ids=name)
async def test_the_error_of_an_own_check_is_a_cancelation(cause: Cause) -> None:
    """The `CancelationError` that a thread's check raised leaves as that very error."""
    block = await run(cause, its_own_check_raises)
    assert isinstance(block.left_by, OWN[cause][1])
    assert block.left_by.operation_id == block.operation.operation_id
    assert block.operation.status is CANCELLED
    assert block.operation.cancel_reason is OWN[cause][0]
    assert block.calls == ["cancel"]


async def raise_an_error(block: Block) -> None:
    raise ValueError("oops")


async def raise_an_error_out_of_the_cancel(block: Block) -> None:
    try:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
    except native_cancel():
        pass
    raise ValueError("oops")


async def be_interrupted(block: Block) -> None:
    raise KeyboardInterrupt


async def exit_the_program(block: Block) -> None:
    raise SystemExit(3)


async def raise_the_error_of_another_operation(block: Block) -> None:
    raise ManualCancelation("stop", OperationContext(id="another"))


ERRORS = [
    raise_an_error,
    raise_an_error_out_of_the_cancel,
    be_interrupted,
    exit_the_program,
    raise_the_error_of_another_operation,
]
LEFT_BY = [ValueError, ValueError, KeyboardInterrupt, SystemExit, ManualCancelation]


@pytest.mark.parametrize("cause", CAUSES, ids=name)
@pytest.mark.parametrize(("leave", "error"), list(zip(ERRORS, LEFT_BY, strict=True)), ids=name)
async def test_anything_else_is_a_failure(
    cause: Cause, leave: Cause, error: type[BaseException]
) -> None:
    """Errors leave as raised; the operation has failed and keeps the requested reason."""
    block = await run(cause, leave)
    assert type(block.left_by) is error
    assert block.operation.status is FAILED
    assert not block.operation.is_cancelled
    assert block.operation.context.error is not None
    assert error.__name__ in block.operation.context.error
    assert block.calls == ["error"]
    requested(block, cause)


async def test_the_very_error_leaves() -> None:
    """An exception is neither wrapped nor copied, and no context is put onto it."""
    error = ValueError("oops")
    with pytest.raises(ValueError, match="oops") as caught:
        async with Cancelable():
            raise error
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize("id_is_known", [False, True])
async def test_the_error_of_some_token_is_no_own_error(id_is_known: bool) -> None:
    """An error that names no operation is not taken for this one's, asked for its id or not."""
    token = CancelationToken()
    token.cancel_sync()
    operation = Cancelable()
    if id_is_known:
        assert operation.operation_id
    with pytest.raises(ManualCancelation):
        async with operation:
            await operation.cancel("disconnect")
            token.check()
    assert operation.status is FAILED


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("whose", ["given", "own", "followed", "nobody's"])
async def test_the_error_of_a_token_of_the_operation_is_its_own(whose: str, number: int) -> None:
    """S4: a thread that was given the token asks that, and is stopped as by a check."""
    source = CancelationToken()
    given = CancelationToken.any(source) if whose == "followed" else source
    told: list[str] = []
    operation = Cancelable() if whose == "nobody's" else Cancelable.with_token(given)
    operation.on_cancel(lambda _: told.append("cancel"))
    operation.on_error(lambda _, error: told.append("error"))
    token = source if whose in ("given", "followed") else operation.token
    with pytest.raises(ManualCancelation, match="enough") as caught:
        async with operation:
            (operation if whose == "nobody's" else source).cancel_sync(message="enough")
            with pytest.raises(ManualCancelation) as check:
                token.check()
            errors = [check.value] * number
            raise errors[0] if number == 1 else ExceptionGroup("all", errors)

    assert caught.value.operation_id == operation.operation_id
    assert operation.status is CANCELLED
    assert operation.cancel_reason is MANUAL
    assert told == ["cancel"]


async def test_the_error_of_a_given_token_is_its_own_behind_another_request() -> None:
    """S6: the first cause is what leaves the block."""
    token = CancelationToken()
    operation = Cancelable.with_token(token)
    with pytest.raises(DisconnectCancelation):
        async with operation:
            await operation.cancel("disconnect")
            token.cancel_sync()
            token.check()

    assert operation.status is CANCELLED


async def test_a_check_may_come_before_the_token_has_told_the_operation() -> None:
    """S9: the token is cancelled in a thread, which tells others first."""
    token = CancelationToken()
    asked, has_ended = threading.Event(), threading.Event()

    def hold_up(_: CancelationToken) -> None:
        asked.set()
        has_ended.wait(5)

    token.on_cancel(hold_up)
    operation = Cancelable.with_token(CancelationToken()).combine(Cancelable.with_token(token))
    thread = threading.Thread(target=token.cancel_sync)
    with pytest.raises(ManualCancelation) as caught:
        async with operation:
            thread.start()
            assert asked.wait(5)
            assert not operation.cancel_requested
            token.check()
    has_ended.set()
    thread.join(5)

    assert caught.value.operation_id == operation.operation_id
    assert operation.status is CANCELLED
    assert operation.cancel_reason is MANUAL


async def test_an_error_that_the_program_made_is_no_own_error() -> None:
    """S4: also if it is of a cancelation's class, in a block that was asked."""
    operation = Cancelable.with_token(CancelationToken())
    with pytest.raises(ManualCancelation):
        async with operation:
            operation.cancel_sync()
            raise ManualCancelation("made up")
    assert operation.status is FAILED


async def test_the_error_of_another_operation_of_the_same_token_is_no_own_error() -> None:
    """S4: it names that operation, and was not raised by a check of this one."""
    token = CancelationToken()
    operation = Cancelable.with_token(token)
    with pytest.raises(ManualCancelation) as other:
        async with Cancelable.with_token(token):
            token.cancel_sync()
            await anyio.sleep(1)
    with pytest.raises(ManualCancelation) as caught:
        async with operation:
            raise other.value

    assert caught.value is other.value
    assert operation.status is FAILED


# -- the states on the way -------------------------------------------------------------------


async def test_the_status_only_goes_forward() -> None:
    """Pending, running, cancelling, cancelled: never back, never skipping to the end."""
    operation = Cancelable()
    seen = [operation.status]
    with pytest.raises(ManualCancelation):
        async with operation:
            seen.append(operation.status)
            await operation.cancel()
            seen.append(operation.status)
            assert operation.is_cancelling
            assert operation.is_running
            assert not operation.is_cancelled
            try:
                await anyio.sleep(3600)
            finally:
                seen.append(operation.status)
    seen.append(operation.status)
    assert [status.value for status in seen] == [
        "pending",
        "running",
        "cancelling",
        "cancelling",
        "cancelled",
    ]
    assert not operation.is_running
    assert not operation.is_cancelling


@pytest.mark.parametrize("ending", ["completed", "cancelled", "failed"])
async def test_a_thread_that_watches_sees_the_status_go_forward_alone(ending: str) -> None:
    """No ending is shown while the block runs, and no status again after another."""
    order = ["pending", "running", "cancelling", ending]

    def watch(operation: Cancelable, watching: threading.Event) -> None:
        status = operation.status
        seen.append(status)
        watching.set()
        while not status.is_terminal:
            status = operation.status
            if status.is_terminal:
                shown_inside.append(is_inside)
            if status is not seen[-1]:
                seen.append(status)

    shown_inside: list[bool] = []
    for _ in range(20):
        is_inside = True
        seen: list[OperationStatus] = []
        operation, watching = Cancelable(), threading.Event()
        watcher = threading.Thread(target=watch, args=(operation, watching))
        watcher.start()
        assert watching.wait(5)
        with suppress(ManualCancelation, LookupError):
            async with operation:
                try:
                    await anyio.lowlevel.checkpoint()
                    if ending == "failed":
                        raise LookupError
                    in_thread(operation.cancel_sync)
                    if ending == "cancelled":
                        await anyio.sleep(3600)
                finally:
                    is_inside = False
        watcher.join(5)
        places = [order.index(status.value) for status in seen]
        assert places == sorted(set(places))
        assert places[-1] == 3
    assert shown_inside == [False] * 20


async def test_a_request_after_the_end_changes_nothing() -> None:
    """A finished operation stays as it is, and says so to whoever asks."""
    async with Cancelable() as operation:
        pass
    outcome = await operation.cancel()
    assert outcome.value == "finished"
    assert not outcome
    assert operation.cancel_sync().value == "finished"
    assert not operation.token.cancel_sync()
    assert operation.status is COMPLETED
    assert not operation.cancel_requested


async def test_cancel_is_no_checkpoint_for_the_block_that_it_cancels() -> None:
    """A block that cancels itself goes on until its next await."""
    went_on = False
    with pytest.raises(ManualCancelation):
        async with Cancelable() as operation:
            await operation.cancel()
            went_on = True
            await anyio.lowlevel.checkpoint()
            pytest.fail("the checkpoint let the block go on")
    assert went_on


async def test_a_swallowed_cancel_comes_again() -> None:
    """Code that swallows the native cancel meets it at its next checkpoint."""
    met = 0
    with pytest.raises(ManualCancelation):
        async with Cancelable() as operation:
            await operation.cancel()
            for _ in range(3):
                try:
                    await anyio.sleep(3600)
                except native_cancel():
                    met += 1
            await anyio.sleep(3600)
    assert met == 3


async def test_a_retry_that_catches_exceptions_does_not_swallow_the_cancel() -> None:
    """A loop of attempts with `except Exception` ends at the first attempt."""
    attempts = 0
    with pytest.raises(ManualCancelation):
        async with Cancelable() as operation:
            for _ in range(5):
                attempts += 1
                try:
                    await operation.cancel()
                    await operation.check_cancelation()
                except Exception:
                    continue
    assert attempts == 1


async def test_a_timeout_of_nested_blocks_never_leaks_a_native_cancel() -> None:
    """After a cancelled block the program goes on at once, as deep as it is nested."""
    for _ in range(3):
        async with Cancelable(), Cancelable():
            with pytest.raises(TimeoutCancelation):
                async with Cancelable.with_timeout(1):
                    await anyio.sleep(3600)
            await anyio.sleep(1)


async def test_groups_of_the_user_stay_as_they_are() -> None:
    """An exception group leaves the block as that group."""
    group = ExceptionGroup("several", [ValueError("a"), TypeError("b")])
    with pytest.raises(ExceptionGroup) as caught:
        async with Cancelable() as operation:
            raise group
    assert caught.value is group
    assert operation.status is FAILED


async def test_a_failing_child_task_leaves_as_the_group_that_its_task_group_made() -> None:
    """A task group inside a block reports its errors as without the block."""

    async def fail() -> None:
        raise ValueError("oops")

    with pytest.raises(ExceptionGroup) as caught:
        async with Cancelable() as operation, anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            tasks.start_soon(anyio.sleep, 3600)
    assert [type(each) for each in caught.value.exceptions] == [ValueError]
    assert operation.status is FAILED


async def test_an_error_beside_the_cancel_is_a_failure_and_is_kept() -> None:
    """A child that fails while it is cancelled loses nothing of its error."""
    started = anyio.Event()

    async def fail_when_cancelled() -> None:
        try:
            started.set()
            await anyio.sleep(3600)
        finally:
            raise ValueError("while cancelled")

    operation = Cancelable()
    with pytest.raises(ExceptionGroup) as caught:
        async with operation, anyio.create_task_group() as tasks:
            tasks.start_soon(fail_when_cancelled)
            tasks.start_soon(anyio.sleep, 3600)
            await started.wait()
            await operation.cancel()
    assert [str(each) for each in caught.value.exceptions] == ["while cancelled"]
    assert operation.status is FAILED
    assert operation.cancel_reason is MANUAL


async def test_cancelling_one_of_many_leaves_the_others_alone() -> None:
    """The cancel of one operation ends neither its task group nor its neighbours."""
    operations = [Cancelable(name=str(number)) for number in range(20)]
    finished: list[int] = []

    async def work(number: int) -> None:
        try:
            async with operations[number]:
                await anyio.sleep(10)
                finished.append(number)
        except ManualCancelation:
            pass

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(work, number)
        await anyio.sleep(1)
        operations[7].cancel_sync()
    assert sorted(finished) == [number for number in range(20) if number != 7]
    assert operations[7].is_cancelled
    assert sum(each.is_completed for each in operations) == 19


async def test_blocks_that_refuse_to_end_hold_up_nobody_else() -> None:
    """One behind a shield and one that swallows everything; a hundred others come and go."""
    release = anyio.Event()
    shielded, obstinate = Cancelable(name="shielded"), Cancelable(name="obstinate")

    async def stay_behind_a_shield() -> None:
        async with shielded.move_on():
            with anyio.CancelScope(shield=True):
                await release.wait()

    async def swallow_everything() -> None:
        async with obstinate:
            while not release.is_set():
                with suppress(native_cancel()):
                    await release.wait()

    async def work(operation: Cancelable) -> None:
        async with operation:
            for _ in range(5):
                await anyio.lowlevel.checkpoint()

    others = [Cancelable() for _ in range(100)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stay_behind_a_shield)
        tasks.start_soon(swallow_everything)
        await anyio.wait_all_tasks_blocked()
        for operation in (shielded, obstinate):
            operation.cancel_sync()
        async with anyio.create_task_group() as more:
            for operation in others:
                more.start_soon(work, operation)
        assert shielded.is_cancelling
        assert obstinate.is_cancelling
        release.set()
    assert {operation.status for operation in others} == {COMPLETED}
    assert obstinate.is_completed
    assert obstinate.cancel_requested


async def test_a_context_manager_cancelled_before_its_yield_raises_the_error() -> None:
    """Inside `@asynccontextmanager` a cancel before the yield is the error, not a lost yield."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def resource():  # type: ignore[no-untyped-def]
        async with Cancelable.with_timeout(1):
            await anyio.sleep(3600)
        yield "never"

    with pytest.raises(TimeoutCancelation):
        async with resource():
            pytest.fail("the resource was not made")
