"""Mistakes are told where they are made, and harm nobody else. (S8)"""

from __future__ import annotations

import copy
import functools
import gc
import math
import pickle
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import cast

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    AllOfSource,
    AnyOfSource,
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationSource,
    CancelationToken,
    CancelOutcome,
    ConditionCancelation,
    ConditionSource,
    DisconnectCancelation,
    LatentOperation,
    ManualCancelation,
    OperationContext,
    OperationRegistry,
    OperationStatus,
    ParentCancelation,
    SignalCancelation,
    SignalSource,
    TimeoutCancelation,
    TimeoutSource,
    cancelable,
    cancelable_combine,
    cancelable_method,
    cancelable_stream,
    cancelable_with_condition,
    cancelable_with_signal,
    cancelable_with_token,
    current_operation,
    ensure_cancelable,
    with_cancelable,
    with_current_operation,
    with_timeout,
)
from tests.support.native import on_asyncio

# -- entering --------------------------------------------------------------------------------


async def test_an_instance_is_entered_once() -> None:
    """A second entry, inside the first or after it, is a clear error and changes nothing."""
    async with Cancelable() as operation:
        with pytest.raises(RuntimeError, match="entered once"):
            await operation.__aenter__()
        assert operation.is_running
    with pytest.raises(RuntimeError, match="entered once"):
        async with operation:
            pytest.fail("entered again")
    assert operation.is_completed


async def test_an_instance_is_entered_by_one_of_two_tasks() -> None:
    """Two tasks that enter one instance: the second is refused, the first unharmed."""
    operation = Cancelable()
    refused: list[str] = []

    async def enter() -> None:
        try:
            async with operation:
                await anyio.lowlevel.checkpoint()
        except RuntimeError as error:
            refused.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        tasks.start_soon(enter)
    assert len(refused) == 1
    assert operation.is_completed


async def test_leaving_without_entering_is_an_error() -> None:
    """`__aexit__` by hand before `__aenter__` says so; twice as well."""
    with pytest.raises(RuntimeError, match="before it was entered"):
        await Cancelable().__aexit__(None, None, None)
    operation = Cancelable()
    await operation.__aenter__()
    await operation.__aexit__(None, None, None)
    with pytest.raises(RuntimeError):
        await operation.__aexit__(None, None, None)
    assert operation.is_completed


def test_entering_without_a_loop_is_an_error() -> None:
    """Without an event loop there is nothing to cancel."""
    step = Cancelable().__aenter__()
    with pytest.raises(RuntimeError):
        step.send(None)


@pytest.mark.parametrize("operation_id", ["", "x" * 257])
def test_an_id_is_neither_empty_nor_endless(operation_id: str) -> None:
    """A chosen id has 1 to 256 characters, and is a string."""
    with pytest.raises(ValueError, match="`operation_id` must have 1 to 256"):
        Cancelable(operation_id)
    with pytest.raises(TypeError, match="`operation_id` must be a string"):
        Cancelable(7)  # type: ignore[arg-type]


async def test_arguments_of_the_wrong_kind_are_refused() -> None:
    """Each with the name of the parameter or the call."""
    with pytest.raises(TypeError, match="only Cancelables can be combined"):
        Cancelable().combine("other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`reason` must be"):
        await Cancelable().cancel("because")
    with pytest.raises(ValueError, match="NaN"):
        async with Cancelable() as operation:
            operation.extend(math.nan)


NO_TEXTS = [5, b"job", ["job"], ValueError("job")]


@pytest.mark.parametrize("given", NO_TEXTS, ids=repr)
def test_a_name_that_is_no_text_is_refused_where_it_is_given(given: object) -> None:
    """S8: not at the first call of a function, and not by whoever lists the operations later."""
    value, token = cast("str", given), CancelationToken()
    makers: list[Callable[[], object]] = [
        lambda: Cancelable(name=value),
        lambda: Cancelable.with_timeout(1, name=value),
        lambda: Cancelable.with_token(token, name=value),
        lambda: Cancelable.with_signal(name=value),
        lambda: Cancelable.with_condition(bool, name=value),
        lambda: cancelable(name=value),
        lambda: cancelable_method(name=value),
        lambda: cancelable_with_token(token, name=value),
        lambda: cancelable_with_signal(name=value),
        lambda: cancelable_with_condition(bool, name=value),
        lambda: cancelable_combine(Cancelable(), name=value),
        lambda: cancelable_stream(nothing(), name=value),
        lambda: TimeoutSource(1, name=value),
        lambda: SignalSource(name=value),
        lambda: ConditionSource(bool, name=value),
        lambda: AnyOfSource([TimeoutSource(1)], name=value),
    ]
    for make in makers:
        with pytest.raises(TypeError, match="`name` must be a string or None, not "):
            make()
    with pytest.raises(TypeError, match="`condition_name` must be a string or None"):
        Cancelable.with_condition(bool, condition_name=value)
    for decorator in (cancelable, with_current_operation):
        with pytest.raises(TypeError, match="`inject_param` must be a string or None"):
            decorator(inject_param=value)
    with pytest.raises(TypeError, match="`inject_param` must be a string or None"):
        with_cancelable(Cancelable(), inject_param=value)


async def nothing() -> AsyncIterator[int]:
    return
    yield 0


@pytest.mark.parametrize(
    ("given", "error"), [("", ValueError), ("x" * 257, ValueError), (5, TypeError)]
)
def test_an_id_is_refused_where_it_is_given(given: object, error: type[Exception]) -> None:
    """S8: a decorator does not wait for the first call, nor a stream for its first item."""
    value, token = cast("str", given), CancelationToken()
    makers: list[Callable[[], object]] = [
        lambda: cancelable(operation_id=value),
        lambda: cancelable_with_token(token, value),
        lambda: cancelable_with_signal(operation_id=value),
        lambda: cancelable_with_condition(bool, operation_id=value),
        lambda: cancelable_combine(operation_id=value),
        lambda: cancelable_stream(nothing(), operation_id=value),
    ]
    for make in makers:
        with pytest.raises(error, match="`operation_id` must"):
            make()


@pytest.mark.parametrize("given", NO_TEXTS, ids=repr)
async def test_a_message_that_is_no_text_is_refused(given: object) -> None:
    """S8: nothing is asked, and logs, errors and other processes find texts only."""
    value, token, registry = cast("str", given), CancelationToken(), OperationRegistry()
    source = CancelationSource("manual")
    async with registry.register(Cancelable("live")).add_source(source) as operation:
        calls: list[Callable[[], object]] = [
            lambda: operation.cancel_sync(message=value),
            lambda: registry.cancel("live", message=value),
            lambda: registry.cancel("nobody", message=value),
            lambda: registry.cancel_all(message=value),
            lambda: token.cancel_sync(message=value),
            lambda: source.trigger(value),
        ]
        for call in calls:
            with pytest.raises(TypeError, match="`message` must be a string or None, not "):
                call()
        for cancel in (operation.cancel(message=value), token.cancel(message=value)):
            with pytest.raises(TypeError, match="`message` must be a string or None, not "):
                await cancel
    assert not operation.cancel_requested
    assert not token.is_cancelled
    assert not source.triggered


@pytest.mark.parametrize("given", ["abc", "", 5, [("owner", "ann")]], ids=repr)
def test_metadata_that_is_no_mapping_is_refused(given: object) -> None:
    """S8: the error names the argument, not what Python tried to make of it."""
    with pytest.raises(TypeError, match="`metadata` must be a mapping such as"):
        Cancelable(metadata=cast("dict[str, object]", given))


class Caller:
    """Something to call that is async, which only its class tells."""

    async def __call__(self) -> None:
        pytest.fail("called")


async def pages() -> AsyncIterator[int]:
    yield pytest.fail("called")


async def test_an_async_function_is_not_run_in_a_thread() -> None:
    """S8: nobody would await what it makes; the error says where it belongs."""

    async def work() -> None:
        pytest.fail("called")

    async with Cancelable() as operation:
        for func in (work, functools.partial(work), Caller(), pages, cancelable(work)):
            with pytest.raises(TypeError, match=r"`func` must be a plain function, .* await it"):
                await operation.run_in_thread(func)
        with pytest.raises(TypeError, match="`func` must be a plain function, not 5"):
            await operation.run_in_thread(5)  # type: ignore[arg-type]
        assert await operation.run_in_thread(functools.partial(int, "7")) == 7
        assert await operation.run_in_thread(int, "7") == 7


async def test_what_is_no_function_is_refused_before_it_is_called() -> None:
    """S8: the error names the argument."""
    async with Cancelable() as operation:
        with pytest.raises(TypeError, match="`operation` must be a function"):
            operation.wrap(5)  # type: ignore[arg-type]
        async with operation.wrapping() as wrap:
            with pytest.raises(TypeError, match="`operation` must be a function"):
                wrap(None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"`coro` must be something to await, as `work\(\)` is"):
            await with_timeout(5, anyio.sleep_forever)  # type: ignore[arg-type]


def test_what_is_no_operation_is_refused_where_one_is_wanted() -> None:
    """S8: it does not come back as if it were one."""
    with pytest.raises(TypeError, match="`cancelable` must be a Cancelable or None, not 'x'"):
        ensure_cancelable("x")  # type: ignore[arg-type]
    operation = Cancelable()
    assert ensure_cancelable(operation) is operation
    assert isinstance(ensure_cancelable(None), Cancelable)


@pytest.mark.parametrize("kind", [AnyOfSource, AllOfSource])
def test_sources_are_composed_as_one_list(kind: type[AnyOfSource | AllOfSource]) -> None:
    """S10: given one by one, they are refused with the way to write it, and are free."""
    first, second = TimeoutSource(1), TimeoutSource(2)
    with pytest.raises(TypeError, match=rf"one list of sources, as in {kind.__name__}\(\[first"):
        kind(first, second)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="one list of sources"):
        kind(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`name` must be a string"):
        kind([first], second)  # type: ignore[arg-type]
    assert kind([first, second]).sources == [first, second]


async def test_what_comes_after_the_end_is_refused() -> None:
    """S8: it would have no effect; the one that ended keeps what it had."""
    called: list[str] = []
    async with Cancelable().on_complete(lambda _context: called.append("in time")) as operation:
        pass
    calls: list[Callable[[], object]] = [
        lambda: operation.on_start(lambda _context: None),
        lambda: operation.on_complete(lambda _context: called.append("late")),
        lambda: operation.on_cancel(lambda _context: None),
        lambda: operation.on_error(lambda _context, _error: None),
        lambda: operation.on_progress(lambda _id, _message, _metadata: None),
        lambda: operation.set_callback_limit(1),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="has ended; add callbacks before its block is left"):
            call()
    assert called == ["in time"]


async def test_a_cancel_cannot_be_kept_from_the_operations_underneath() -> None:
    """S20: what asks for that is told so, and how to start one that goes on; nobody is asked."""
    async with Cancelable() as above, Cancelable() as below:
        with pytest.raises(ValueError, match=r"`propagate_to_children` .*`parent=None` in a task"):
            await above.cancel(propagate_to_children=False)
        assert not above.cancel_requested
        assert not below.cancel_requested
        assert await above.cancel(propagate_to_children=True) is CancelOutcome.REQUESTED
        assert below.cancel_requested


NO_DURATIONS = ["5", b"5", True, [1], anyio.Event]


@pytest.mark.parametrize("given", NO_DURATIONS, ids=repr)
async def test_what_is_no_duration_is_refused_by_its_name(given: object) -> None:
    """S7: each call says which argument must be seconds or a `timedelta`, and does nothing."""
    registry, value = OperationRegistry(), cast("float", given)
    async with registry.register(Cancelable("live")) as operation:
        calls: list[tuple[str, Callable[[], object]]] = [
            ("grace", lambda: operation.cancel_sync(grace=value)),
            ("grace", lambda: registry.cancel("live", grace=value)),
            ("grace", lambda: registry.cancel("nobody", grace=value)),
            ("seconds", lambda: operation.extend(value)),
            ("older_than", lambda: registry.cleanup_completed(value)),
            ("timeout", lambda: Latent(timeout=value)),
            ("grace", lambda: Latent(grace=value)),
        ]
        for name, call in calls:
            with pytest.raises(TypeError, match=f"`{name}` must be a number of seconds"):
                call()
        with pytest.raises(TypeError, match="`grace` must be a number of seconds"):
            await operation.cancel(grace=value)
        for wait in (operation.wait_stopped(value), registry.wait_stopped("nobody", value)):
            with pytest.raises(TypeError, match="`timeout` must be a number of seconds"):
                await wait
        assert not operation.cancel_requested
        assert operation.remaining == math.inf


class Latent(LatentOperation):
    def make_operation(self) -> Cancelable:
        return Cancelable()


async def test_a_duration_that_makes_no_sense_is_refused() -> None:
    """S7: NaN anywhere, a grace below zero also of an operation that nobody knows."""
    registry = OperationRegistry()
    for grace in (-1, math.nan, timedelta(seconds=-1)):
        with pytest.raises(ValueError, match="`grace` must be"):
            registry.cancel("nobody", grace=grace)
        with pytest.raises(ValueError, match="`grace` must be"):
            await Cancelable().cancel(grace=grace)
    for wait in (Cancelable().wait_stopped(math.nan), registry.wait_stopped("nobody", math.nan)):
        with pytest.raises(ValueError, match="`timeout` must be"):
            await wait
    with pytest.raises(ValueError, match="`timeout` must be"):
        Latent(timeout=math.nan)
    with pytest.raises(ValueError, match="`grace` must be"):
        Latent(grace=-1)


async def test_a_timedelta_is_taken_wherever_seconds_are() -> None:
    """S7: what the constructors take, the calls take."""
    hour = timedelta(hours=1)
    registry = OperationRegistry()
    async with registry.register(Cancelable("live")) as operation:
        assert operation.extend(hour)
        assert operation.remaining == pytest.approx(3600, abs=10)
        assert operation.extend(None)
        assert operation.remaining == math.inf
        assert await operation.wait_stopped(timedelta(0)) is None
        assert await registry.wait_stopped("live", timedelta(0)) is None
        assert registry.cancel("live", grace=hour) is CancelOutcome.REQUESTED
        assert operation.cancel_sync(grace=hour) is CancelOutcome.ALREADY_REQUESTED
        assert await operation.cancel(grace=hour) is CancelOutcome.ALREADY_REQUESTED
        await anyio.lowlevel.checkpoint()
    assert operation.is_completed
    assert registry.cleanup_completed(3600) == 0
    assert registry.cleanup_completed(math.inf) == 0
    assert registry.cleanup_completed(timedelta(0)) == 1


@pytest.mark.parametrize(
    "given",
    ["5000000000", "abc", None, True, timedelta(seconds=3), datetime(2026, 1, 1, tzinfo=UTC)],
    ids=repr,
)
async def test_a_deadline_that_is_no_time_on_the_clock_is_refused(given: object) -> None:
    """S7: a text is not read as a number, and a duration or a date is not a time on this clock."""
    value = cast("float", given)
    for operation in (Cancelable(), Latent()):
        with pytest.raises(TypeError, match=r"`deadline` must be a time on anyio's clock"):
            operation.deadline = value
        with pytest.raises(ValueError, match="`deadline` is too large"):
            operation.deadline = 10**400
        operation.deadline = cast("float", Decimal(2**60))
        assert operation.deadline == 2.0**60


# -- leaving in another task -----------------------------------------------------------------


async def numbers(operation: Cancelable) -> AsyncIterator[int]:
    async with operation:
        yield 1
        yield 2


async def test_a_block_left_in_another_task_says_so_and_harms_nobody() -> None:
    """A generator with a block across its `yield`, closed by another task: a clear error.

    The task that entered the block is not cancelled by it afterwards.
    """
    operation = Cancelable.with_timeout(0.02)
    source = numbers(operation)
    errors: list[str] = []
    entered, left = anyio.Event(), anyio.Event()

    async def first() -> None:
        try:
            assert await anext(source) == 1
            entered.set()
            await left.wait()
            await anyio.sleep(0.05)
            errors.append("went on")
        except RuntimeError:
            errors.append("scopes of the first task")

    async def second() -> None:
        await entered.wait()
        try:
            await source.aclose()  # type: ignore[attr-defined]
        except RuntimeError as error:
            errors.append(str(error))
        left.set()

    with anyio.fail_after(5):
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(first)
                tasks.start_soon(second)
        except* RuntimeError:
            pass  # a loop may say that the scopes of the first task are mixed up
    assert "left in another task" in errors[0]
    assert "Cancelable.stream()" in errors[0]
    assert errors[1:] == ["went on"]
    assert operation.status is OperationStatus.CANCELLED
    assert not operation.is_running


class Watched(CancelationSource):
    """A source that watches in a task, and tells whether it does."""

    def __init__(self) -> None:
        super().__init__(CancelationReason.CONDITION)
        self.is_watching = False

    async def watch(self) -> None:
        self.is_watching = True
        try:
            await anyio.sleep_forever()
        finally:
            self.is_watching = False


async def test_a_block_left_in_another_task_leaves_no_source_behind() -> None:
    """The signal is the program's again, and nothing watches for an operation that has ended.

    The task that entered the block is not cancelled with the tasks of the sources.
    """
    watched = [Watched(), Watched()]
    bell = ConditionSource(lambda: False, 0.001)
    operation = Cancelable.with_signal(signal.SIGUSR1)
    for own in (watched[0], AnyOfSource([watched[1], bell])):
        operation.add_source(own)
    before = signal.getsignal(signal.SIGUSR1)
    source = numbers(operation)
    entered, left = anyio.Event(), anyio.Event()
    seen: list[object] = []

    async def first() -> None:
        assert await anext(source) == 1
        await anyio.wait_all_tasks_blocked()
        seen.append(signal.getsignal(signal.SIGUSR1) == before)
        seen.extend(each.is_watching for each in watched)
        entered.set()
        await left.wait()
        await anyio.wait_all_tasks_blocked()
        seen.append(signal.getsignal(signal.SIGUSR1) == before)
        seen.extend(each.is_watching for each in watched)
        await anyio.lowlevel.checkpoint()
        seen.append("went on")

    async def second() -> None:
        await entered.wait()
        with pytest.raises(RuntimeError, match="left in another task"):
            await source.aclose()  # type: ignore[attr-defined]
        left.set()

    with anyio.fail_after(5):
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(first)
                tasks.start_soon(second)
        except* RuntimeError:
            pass  # a loop may say that the scopes of the first task are mixed up
    assert seen == [False, True, True, True, False, False, "went on"]
    assert operation.is_cancelled
    watched[0].trigger()
    assert operation.cancel_reason is CancelationReason.EXTERNAL


@on_asyncio
async def test_a_block_whose_task_is_gone_leaves_no_source_behind() -> None:
    """The generator that held it is closed by another task."""
    import asyncio

    watched, before = Watched(), signal.getsignal(signal.SIGUSR1)
    source = numbers(Cancelable.with_signal(signal.SIGUSR1).add_source(watched))
    assert await asyncio.create_task(bare_step(source)) == 1
    await anyio.wait_all_tasks_blocked()
    assert watched.is_watching
    await source.aclose()  # type: ignore[attr-defined]
    assert signal.getsignal(signal.SIGUSR1) == before
    await anyio.wait_all_tasks_blocked()
    assert not watched.is_watching


@on_asyncio
async def test_a_generator_whose_task_is_gone_is_closed_quietly() -> None:
    """Its block was entered by a task that has ended: the collector may close it in peace."""
    import asyncio

    operation = Cancelable()

    async def take_one() -> None:
        async for number in numbers(operation):
            assert number == 1
            break

    gc.collect()
    await asyncio.get_running_loop().create_task(take_one())
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    assert operation.status is OperationStatus.CANCELLED
    assert operation.cancel_reason is CancelationReason.EXTERNAL
    assert current_operation() is None


@on_asyncio
async def test_a_block_whose_steps_run_in_tasks_of_their_own_says_so_and_harms_nobody() -> None:
    """It goes from task to task in a generator; the last one is told, and what is around lives."""
    import asyncio

    async def step(source: AsyncIterator[int]) -> int:
        async with Cancelable() as mine:
            number = await anext(source)
            assert not mine.cancel_requested
            return number

    operation = Cancelable.with_timeout(60)
    async with Cancelable() as around:
        source = numbers(operation)
        # A loop would refuse to leave `mine` in the task that enters the block of the source.
        assert await asyncio.create_task(bare_step(source)) == 1
        assert await asyncio.create_task(step(source)) == 2
        with pytest.raises(RuntimeError, match="left in another task"):
            await asyncio.create_task(step(source))
        await anyio.lowlevel.checkpoint()
    assert around.is_completed
    assert operation.status is OperationStatus.FAILED
    assert current_operation() is None


async def bare_step(source: AsyncIterator[int]) -> int:
    return await anext(source)


@on_asyncio
async def test_a_generator_that_is_dropped_while_its_task_lives_ends_its_block() -> None:
    """The collector closes it in a task of its own: the mistake is reported, the task goes on."""
    import asyncio

    operation = Cancelable.with_timeout(60)
    reported: list[str] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, facts: reported.append(str(facts.get("exception"))))

    async def take_one() -> str:
        async for number in numbers(operation):
            assert number == 1
            break
        with anyio.fail_after(5):
            while operation.is_running:
                await asyncio.sleep(0)
        assert operation.cancel_sync() is CancelOutcome.FINISHED
        for _ in range(3):
            await asyncio.sleep(0)
        return "went on"

    try:
        assert await asyncio.create_task(take_one()) == "went on"
        gc.collect()
    finally:
        loop.set_exception_handler(before)
    assert ["left in another task" in each for each in reported] == [True]
    assert operation.is_cancelled
    assert operation.cancel_reason is CancelationReason.EXTERNAL
    assert current_operation() is None


@pytest.fixture
async def block(anyio_backend: object) -> AsyncIterator[Cancelable]:
    """A block around a whole test, as users may make it."""
    async with Cancelable.with_timeout(60, name="fixture") as operation:
        yield operation
    assert operation.is_completed


async def test_a_block_may_be_a_fixture(block: Cancelable) -> None:
    """It is entered and left in one task, and what the test does below it ends alone."""
    assert block.is_running
    with pytest.raises(TimeoutError):
        async with Cancelable.with_timeout(0, parent=block):
            await anyio.sleep_forever()
    await anyio.lowlevel.checkpoint()
    assert not block.cancel_requested


async def test_blocks_left_in_the_wrong_order_leave_no_operation_behind() -> None:
    """The loop's own error goes out; the operation has failed and is not listed any more."""
    registry = OperationRegistry()
    first, second = Cancelable(), Cancelable()
    registry.register(first)
    await first.__aenter__()
    await second.__aenter__()
    with pytest.raises(RuntimeError):
        await first.__aexit__(None, None, None)
    await second.__aexit__(None, None, None)
    assert first.status is OperationStatus.FAILED
    assert second.is_completed
    assert registry.list_operations() == []


# -- errors that travel ----------------------------------------------------------------------

CONTEXT = OperationContext(
    id="mine",
    name="report",
    status=OperationStatus.CANCELLED,
    cancel_reason=CancelationReason.MANUAL,
    origin_id="above",
    partial_result=[1, 2],
    metadata={"owner": "me"},
)
ERRORS = [
    CancelationError(CancelationReason.EXTERNAL, "stop", CONTEXT),
    TimeoutCancelation(1.5, None, CONTEXT),
    ManualCancelation("stop", CONTEXT),
    SignalCancelation(15, "stop", CONTEXT),
    ConditionCancelation("disk is full", "stop", CONTEXT),
    ParentCancelation("above", CancelationReason.TIMEOUT, "stop", CONTEXT),
    DisconnectCancelation("stop", CONTEXT),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("how", ["pickle", "copy", "deepcopy"])
def test_an_error_survives_its_way_to_another_process(error: CancelationError, how: str) -> None:
    """Class, reason, message, context and what the class adds come out as they went in."""
    if how == "pickle":
        again = pickle.loads(pickle.dumps(error))
    else:
        again = getattr(copy, how)(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.operation_id == "mine"
    assert again.origin_id == "above"
    assert again.partial_result == [1, 2]


@dataclass
class Job:
    """What a program may keep together, and copy."""

    stop: CancelationToken
    operation: Cancelable


async def test_a_copy_of_a_token_is_the_same_one_and_is_heard() -> None:
    """Alone, in a deep copy of what holds it, and with listeners."""
    token = CancelationToken()
    registration = token.on_cancel(lambda _token: None)
    async with Cancelable.with_token(token).move_on() as operation:
        assert copy.copy(token) is token
        assert copy.copy(operation.token) is operation.token
        assert copy.deepcopy(registration) is registration
        held = asdict(Job(token, operation))
        assert held == {"stop": token, "operation": operation}
        held["stop"].cancel_sync()
        await anyio.sleep_forever()
    assert operation.is_cancelled


class Visit(LatentOperation):
    """A latent operation."""

    def make_operation(self) -> Cancelable:
        return Cancelable()


async def test_what_is_one_of_its_kind_is_neither_copied_nor_pickled() -> None:
    """The error says what to do instead; before, in and after the block."""
    operation, visit, token = Cancelable.with_timeout(60), Visit(), CancelationToken()

    def refused() -> None:
        singles = [operation, visit, visit.token, token, operation.token, token.on_cancel(print)]
        for single in singles:
            with pytest.raises(TypeError, match="hand on the object itself"):
                pickle.dumps(single)
        for single in (operation, visit):
            assert copy.deepcopy(single) is single
            with pytest.raises(TypeError, match=f"a {type(single).__name__} can be neither"):
                copy.copy(single)

    refused()
    async with operation, visit:
        refused()
    refused()


async def test_the_facts_of_an_operation_may_be_copied() -> None:
    """Also where its metadata name a token or an operation."""
    async with Cancelable(name="work") as operation:
        operation.metadata.update(on=operation, by=operation.token)
        facts = operation.context
        for again in (copy.copy(facts), copy.deepcopy(facts), replace(facts)):
            assert again == facts
            assert again is not facts
        operation.metadata.clear()
        assert pickle.loads(pickle.dumps(operation.context)) == operation.context


def test_a_timeout_is_an_os_error_without_a_number() -> None:
    """Being a TimeoutError gives no errno that anybody could mistake for a lost connection."""
    error = TimeoutCancelation(2)
    assert isinstance(error, OSError)
    assert error.errno is None
    assert str(error) == "the operation timed out after 2 seconds"
    assert error.reason is CancelationReason.TIMEOUT
    assert error.operation_id is None


async def test_our_errors_are_ordinary_exceptions() -> None:
    """Outside the block the cancelation is over: what leaves is no native cancel."""
    native = anyio.get_cancelled_exc_class()
    assert not any(isinstance(error, native) for error in ERRORS)
    assert all(isinstance(error, Exception) for error in ERRORS)
