"""What can stop an operation: sources alone, composed, and written by users. (S10)"""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
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
    ManualCancelation,
    OperationStatus,
    ResourceConditionSource,
    TimeoutCancelation,
    TimeoutSource,
)
from cancelable.testing import check_source_contract
from tests.support.native import on_asyncio, on_trio, wait_for_what_was_cancelled


class Knock(CancelationSource):
    """A user's source that waits for an event in a task."""

    def __init__(self) -> None:
        super().__init__(CancelationReason.CONDITION, "knock")
        self.knocked = anyio.Event()

    async def watch(self) -> None:
        await self.knocked.wait()


class Bell(CancelationSource):
    """A user's source that is rung from outside, without a task."""

    def __init__(self) -> None:
        super().__init__(CancelationReason.DISCONNECT, "bell")
        self.listening: list[str] = []

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        self.listening.append("start")

    async def stop_monitoring(self) -> None:
        self.listening.append("stop")


async def stopped_by(operation: Cancelable) -> CancelationError:
    with anyio.fail_after(5), pytest.raises(CancelationError) as caught:
        async with operation:
            await anyio.sleep_forever()
    assert operation.status is OperationStatus.CANCELLED
    return caught.value


# -- the contract ----------------------------------------------------------------------------


async def knock(source: CancelationSource) -> None:
    assert isinstance(source, Knock)
    source.knocked.set()


async def ring(source: CancelationSource) -> None:
    thread = threading.Thread(target=source.trigger)
    thread.start()
    thread.join()


async def set_event(source: CancelationSource) -> None:
    assert isinstance(source, ConditionSource)
    assert isinstance(source.condition, anyio.Event)
    source.condition.set()


async def let_parts_fire(source: CancelationSource) -> None:
    assert isinstance(source, (AnyOfSource, AllOfSource))
    for part in source.sources:
        await knock(part)


async def test_each_kind_of_source_keeps_the_contract() -> None:
    """Event, user's own with and without a task, any-of and all-of behave alike."""
    condition, disconnect = CancelationReason.CONDITION, CancelationReason.DISCONNECT
    await check_source_contract(lambda: ConditionSource(anyio.Event()), set_event, reason=condition)
    await check_source_contract(Knock, knock, reason=condition)
    await check_source_contract(Bell, ring, reason=disconnect)
    await check_source_contract(
        lambda: AnyOfSource([Knock(), Knock()]), let_parts_fire, reason=condition
    )
    await check_source_contract(
        lambda: AllOfSource([Knock(), Knock()]), let_parts_fire, reason=condition
    )


class Deaf(Knock):
    async def watch(self) -> None:
        await anyio.sleep_forever()


class Hasty(Knock):
    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        self.trigger("at once")


class Mistaken(Knock):
    def __init__(self) -> None:
        super().__init__()
        self.reason = CancelationReason.MANUAL


@pytest.mark.parametrize("broken", [Deaf, Hasty, Mistaken])
async def test_the_contract_goes_red_for_a_broken_source(
    broken: type[Knock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that never fires, fires early or for another reason is found."""
    monkeypatch.setattr("cancelable.testing._contract.LONGEST", 0.05)
    with pytest.raises((AssertionError, TimeoutError)):
        await check_source_contract(broken, knock, reason=CancelationReason.CONDITION)


# -- conditions ------------------------------------------------------------------------------


async def test_a_condition_is_asked_until_it_holds() -> None:
    """Plain, async and blocking conditions end the block with their name."""
    asked: list[int] = []

    def third_time() -> bool:
        asked.append(threading.get_ident())
        return len(asked) == 3

    async def at_once() -> bool:
        return True

    error = await stopped_by(Cancelable.with_condition(third_time, 0.001))
    assert isinstance(error, ConditionCancelation)
    assert error.condition_name == "third_time"
    assert asked == [threading.get_ident()] * 3

    error = await stopped_by(Cancelable.with_condition(at_once, 0.001, "the moon is full"))
    assert "the moon is full" in str(error)

    asked.clear()
    await stopped_by(Cancelable.with_condition(third_time, 0.001, in_thread=True))
    assert threading.get_ident() not in asked


async def test_a_condition_that_raises_is_the_cause() -> None:
    """The reason is `error`, and the exception is the cause of ours."""

    def broken() -> bool:
        raise LookupError("no such gauge")

    error = await stopped_by(Cancelable.with_condition(broken))
    assert error.reason is CancelationReason.ERROR
    assert isinstance(error.__cause__, LookupError)
    assert "no such gauge" in str(error)


@on_asyncio
@pytest.mark.parametrize("kind", ["alone", "any of", "all of"])
async def test_a_cancel_that_is_nobodys_is_an_error_of_the_condition(kind: str) -> None:
    """What it awaits was cancelled, neither the operation nor its task."""
    source: CancelationSource = ConditionSource(wait_for_what_was_cancelled)
    if kind != "alone":
        source = (AnyOfSource if kind == "any of" else AllOfSource)([source, Knock()])
    error = await stopped_by(Cancelable().add_source(source))
    assert error.reason is CancelationReason.ERROR
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert "wait_for_what_was_cancelled" in str(error)


async def test_a_condition_that_raises_is_the_cause_in_a_thread_and_for_a_token() -> None:
    """Also an operation underneath tells its thread of the exception."""

    def broken() -> bool:
        raise LookupError("no such gauge")

    errors: list[CancelationError] = []
    with anyio.fail_after(5), pytest.raises(CancelationError):
        async with Cancelable.with_condition(broken) as operation, Cancelable() as child:
            followed = CancelationToken.any(operation.token)
            with anyio.CancelScope(shield=True):
                await operation.wait_cancelling()
                for check in (
                    operation.check_cancelation_sync,
                    child.check_cancelation_sync,
                    operation.token.check,
                    child.token.check,
                    followed.check,
                ):
                    with pytest.raises(CancelationError) as caught:
                        await anyio.to_thread.run_sync(check)
                    errors.append(caught.value)
                with pytest.raises(CancelationError) as caught:
                    await followed.check_async()
                errors.append(caught.value)
            await anyio.lowlevel.checkpoint()
    assert [type(error.__cause__) for error in errors] == [LookupError] * 6


@pytest.mark.parametrize("interval", [0, -1, float("nan"), "soon", True])
def test_a_bad_interval_is_refused_where_it_is_given(interval: float) -> None:
    """An interval is a number of seconds above zero."""
    with pytest.raises((TypeError, ValueError), match="check_interval"):
        ConditionSource(lambda: True, interval)


def test_what_cannot_be_asked_is_no_condition() -> None:
    """The error says what a condition may be."""
    with pytest.raises(TypeError, match="must be a function or have an async wait"):
        ConditionSource("full moon")  # type: ignore[arg-type]


# -- resources -------------------------------------------------------------------------------


async def test_resources_beyond_a_threshold_stop_the_block() -> None:
    """The message names the resource, the figure and the threshold."""
    error = await stopped_by(Cancelable().add_source(ResourceConditionSource(0.0)))
    assert "memory in use" in str(error)
    assert "threshold 0 %" in str(error)


def test_resources_need_a_threshold_between_0_and_100() -> None:
    """None at all, a text, and 101 percent are refused."""
    for arguments in ((), (101,), (-1,), ("half",), (True,)):
        with pytest.raises((TypeError, ValueError)):
            ResourceConditionSource(*arguments)


def test_resources_without_psutil_say_what_to_install() -> None:
    """Only this source needs psutil; the error names the extra."""
    program = (
        "import sys; sys.modules['psutil'] = None\n"
        "from cancelable import ResourceConditionSource\n"
        "try: ResourceConditionSource(50)\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "cancelable-core[resources]" in out.stdout, out.stderr


# -- composition -----------------------------------------------------------------------------


async def test_any_of_keeps_the_cause_of_the_first() -> None:
    """Reason and source are those of the part that fired."""
    bell, door = Bell(), Knock()
    either = AnyOfSource([door, bell])
    operation = Cancelable().add_source(either)
    with anyio.fail_after(5), pytest.raises(DisconnectCancelation, match="ding"):
        async with operation:
            bell.trigger("ding")
            door.trigger("too late")
            await anyio.sleep_forever()
    assert either.triggered_source is bell
    assert operation.context.cancel_source == "bell"
    assert bell.listening == ["start", "stop"]


async def test_all_of_waits_for_the_last() -> None:
    """One of two is not enough; the last one is the cause."""
    first, last = Knock(), Bell()
    both = AllOfSource([first, last])
    operation = Cancelable().add_source(both)
    with anyio.fail_after(5), pytest.raises(DisconnectCancelation):
        async with operation:
            first.knocked.set()
            await anyio.wait_all_tasks_blocked()
            assert both.triggered_sources == {first}
            assert not operation.cancel_requested
            last.trigger()
            await anyio.sleep_forever()
    assert both.triggered_sources == {first, last}


async def test_timeouts_take_part_in_compositions() -> None:
    """Alone as the deadline, in any-of and in all-of as a part."""
    error = await stopped_by(Cancelable().add_source(TimeoutSource(0.01, "patience")))
    assert isinstance(error, TimeoutCancelation)
    assert error.timeout_seconds == 0.01
    error = await stopped_by(Cancelable().add_source(AnyOfSource([TimeoutSource(0.01), Knock()])))
    assert isinstance(error, TimeoutCancelation)
    error = await stopped_by(
        Cancelable().add_source(AllOfSource([TimeoutSource(0.01), TimeoutSource(0.02)]))
    )
    assert isinstance(error, TimeoutCancelation)


@pytest.mark.parametrize("cause", ["deadline", "token", "source", "own token", "other"])
async def test_a_combined_operation_stops_for_whatever_the_others_stop_for(cause: str) -> None:
    """Deadline, token, source, and asking the other one, each with its own reason."""
    token, bell = CancelationToken(), Bell()
    other = Cancelable.with_token(token)
    operation = (
        Cancelable(name="whole")
        .combine(Cancelable.with_timeout(0.01 if cause == "deadline" else 60))
        .combine(other, Cancelable().add_source(bell))
    )
    expected = {
        "deadline": CancelationReason.TIMEOUT,
        "token": CancelationReason.SIGNAL,
        "source": CancelationReason.DISCONNECT,
        "own token": CancelationReason.MANUAL,
        "other": CancelationReason.EXTERNAL,
    }
    with anyio.fail_after(5), pytest.raises(CancelationError) as caught:
        async with operation:
            match cause:
                case "token":
                    await token.cancel("signal")
                case "source":
                    bell.trigger()
                case "own token":
                    await operation.token.cancel()
                case "other":
                    await other.cancel("external")
            await anyio.sleep_forever()
    assert caught.value.reason is expected[cause]


async def test_a_combined_operation_is_asked_by_the_token_of_one_that_nobody_keeps() -> None:
    """Who gave the other operation away keeps its token only; also through two of them."""

    def make() -> tuple[Cancelable, CancelationToken]:
        other = Cancelable()
        return Cancelable().combine(Cancelable().combine(other)), other.token

    operation, stop = make()
    gc.collect()
    with anyio.fail_after(5):
        async with operation.move_on():
            assert stop.cancel_sync("signal")
            await anyio.sleep_forever()
    assert operation.cancel_reason is CancelationReason.SIGNAL


async def test_an_operation_that_has_completed_is_combined_without_its_limits() -> None:
    """Neither its deadline, which has passed since, nor its timeout; nor can it be asked."""
    other = Cancelable.with_timeout(0.01)
    async with other:
        pass
    assert other.is_completed
    await anyio.sleep(0.02)
    async with Cancelable().combine(other) as operation:
        assert not other.token.cancel_sync()
        await anyio.sleep(0.02)
    assert not operation.cancel_requested


async def test_an_operation_that_was_cancelled_stops_what_it_is_combined_with() -> None:
    """What it was asked stands."""
    other = Cancelable()
    async with other.move_on():
        await other.cancel("signal")
        await anyio.sleep_forever()
    error = await stopped_by(Cancelable().combine(other))
    assert error.reason is CancelationReason.SIGNAL


async def test_the_grace_of_a_combined_operation_is_its_own() -> None:
    """Whatever grace the other one is asked with."""
    patient, other = Cancelable(grace=60), Cancelable()
    async with patient.combine(other):
        await other.cancel(grace=0)
        await anyio.sleep(0.01)
    assert patient.cancel_requested
    hasty, other = Cancelable(), Cancelable(grace=60)
    async with hasty.combine(other).move_on():
        await other.cancel(grace=60)
        await anyio.sleep(60)
    assert hasty.is_cancelled


def test_only_operations_are_combined_and_only_sources_added() -> None:
    """Anything else is refused by name."""
    with pytest.raises(TypeError, match="only Cancelables can be combined"):
        Cancelable().combine(CancelationToken())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a CancelationSource"):
        Cancelable().add_source(CancelationToken())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one source"):
        AnyOfSource([])


async def test_a_source_that_comes_late_is_refused_and_a_token_or_timeout_is_not() -> None:
    """What needs no task may be added in the block."""
    token = CancelationToken()
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable() as operation:
            with pytest.raises(RuntimeError, match="before the block is entered"):
                operation.add_source(Knock())
            operation.add_source(TimeoutSource(60)).add_token(token)
            assert 59 < operation.remaining <= 60
            await token.cancel()
            await anyio.sleep_forever()


def test_a_source_belongs_to_one_operation() -> None:
    """A second one is refused with advice."""
    bell = Bell()
    Cancelable().add_source(bell)
    with pytest.raises(RuntimeError, match="belongs to an operation already"):
        Cancelable().add_source(bell)


async def test_a_source_that_fails_to_start_leaves_nothing() -> None:
    """The error leaves as it is; sources that had started are stopped."""

    class Stuck(Bell):
        async def start_monitoring(self, scope: anyio.CancelScope) -> None:
            raise OSError("no bell")

    good = Bell()
    operation = Cancelable().add_source(good).add_source(Stuck())
    with pytest.raises(OSError, match="no bell"):
        async with operation:
            pass
    assert good.listening == ["start", "stop"]
    assert operation.status is OperationStatus.FAILED


@pytest.mark.parametrize("by", [0, 1, 2])
async def test_operations_that_are_combined_in_a_ring_stop_together(by: int) -> None:
    """Whichever is asked, once; nobody goes round and round."""
    ring = [Cancelable(name=str(number)) for number in range(3)]
    for number in range(3):
        ring[number].combine(ring[number - 1])
    ended: list[int] = []

    async def work(number: int) -> None:
        ring[number].on_cancel(lambda _context: ended.append(number))
        async with ring[number].move_on():
            await anyio.sleep_forever()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(work, number)
            await anyio.wait_all_tasks_blocked()
            assert await ring[by].cancel("signal", "stop") is CancelOutcome.REQUESTED
    assert sorted(ended) == [0, 1, 2]
    assert {(each.cancel_reason, each.cancel_message) for each in ring} == {
        (CancelationReason.SIGNAL, "stop")
    }


def cancel_in_threads(tokens: list[CancelationToken]) -> list[threading.Thread]:
    """Start threads that cancel the tokens, some at once with the others."""
    together = threading.Barrier(min(4, len(tokens)))

    def cancel(some: list[CancelationToken]) -> None:
        together.wait(5)
        for token in some:
            token.cancel_sync()

    parts = [tokens[start :: together.parties] for start in range(together.parties)]
    threads = [threading.Thread(target=cancel, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("count", [2, 3, 10, 50])
@pytest.mark.parametrize("kind", [AnyOfSource, AllOfSource])
async def test_tokens_that_threads_cancel_during_the_entry_are_neither_lost_nor_told_twice(
    kind: type[AnyOfSource | AllOfSource], count: int
) -> None:
    """Any of up to fifty stops the block, and all of them do, whenever each of them comes."""
    chance = random.Random(count)
    for _ in range(5):
        tokens = [CancelationToken() for _ in range(count)]
        *early, last = chance.sample(tokens, count)
        if kind is AnyOfSource:
            early = early[: chance.randint(1, len(early))]
        sources = [ConditionSource(token, name=token.id) for token in tokens]
        whole = kind(sources)
        told: list[str | None] = []
        operation = Cancelable().add_source(whole)
        operation.on_cancel(lambda context, told=told: told.append(context.cancel_source))  # type: ignore[misc]
        threads = cancel_in_threads(early)
        with anyio.fail_after(10), pytest.raises(ConditionCancelation):
            async with operation:
                if kind is AllOfSource:
                    for thread in threads:
                        await anyio.to_thread.run_sync(thread.join)
                    await anyio.wait_all_tasks_blocked()
                    assert not operation.cancel_requested
                    last.cancel_sync()
                await anyio.sleep_forever()
        for thread in threads:
            thread.join(5)
        if isinstance(whole, AllOfSource):
            assert told == [last.id]
            assert whole.triggered_sources == set(sources)
        else:
            assert whole.triggered_source is not None
            assert told == [whole.triggered_source.name]
            assert told[0] in {token.id for token in early}
        assert not any(token._listeners for token in tokens)


# -- sources that are hard to start, to stop, or to please -----------------------------------


class Stubborn(Bell):
    """A bell whose end takes for ever."""

    async def stop_monitoring(self) -> None:
        self.listening.append("stopping")
        await anyio.sleep_forever()


async def test_a_source_that_cannot_be_stopped_holds_up_neither_the_block_nor_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gets its time, the rest are stopped, and the block ends as it would have."""
    monkeypatch.setattr("cancelable.sources._base.STOP_LIMIT", 0.02)
    before, stubborn, behind = Bell(), Stubborn(), Bell()
    operation = Cancelable().add_source(before).add_source(stubborn).add_source(behind)
    with anyio.fail_after(5):
        async with operation:
            pass
    assert operation.is_completed
    assert stubborn.listening == ["start", "stopping"]
    assert before.listening == behind.listening == ["start", "stop"]


async def test_a_source_that_fails_to_stop_is_logged_and_the_others_are_stopped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Alone, and as a part of another source."""

    class Broken(Bell):
        async def stop_monitoring(self) -> None:
            raise LookupError("no bell")

    before, inside, behind = Bell(), Bell(), Bell()
    operation = Cancelable().add_source(before).add_source(Broken())
    operation.add_source(AnyOfSource([inside, Broken()])).add_source(behind)
    async with operation:
        pass
    assert operation.is_completed
    for bell in (before, inside, behind):
        assert bell.listening == ["start", "stop"]
    assert [record.getMessage()[:23] for record in caplog.records] == [
        "a source failed to stop"
    ] * 2


@on_asyncio
async def test_a_cancel_that_is_nobodys_is_an_error_of_a_source_that_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Logged as well; the block completes."""

    class Broken(Bell):
        async def stop_monitoring(self) -> None:
            await wait_for_what_was_cancelled()

    bell = Bell()
    operation = Cancelable().add_source(bell).add_source(Broken())
    async with operation:
        pass
    assert operation.is_completed
    assert bell.listening == ["start", "stop"]
    assert [record.getMessage()[:23] for record in caplog.records] == ["a source failed to stop"]


async def test_a_part_that_fails_to_start_has_the_parts_before_it_stopped() -> None:
    """Also when the start is cut by a cancelation, which must not cut the stopping."""

    class Slow(Bell):
        async def start_monitoring(self, scope: anyio.CancelScope) -> None:
            around.cancel()
            await anyio.sleep_forever()

    class Careful(Bell):
        async def stop_monitoring(self) -> None:
            await anyio.lowlevel.checkpoint()
            await super().stop_monitoring()

    careful = Careful()
    with anyio.fail_after(5), anyio.CancelScope() as around:
        async with Cancelable().add_source(AllOfSource([careful, Slow()])):
            pass
    assert around.cancelled_caught
    assert careful.listening == ["start", "stop"]


async def test_all_of_does_not_wait_for_a_part_that_has_failed() -> None:
    """The failure is the cause at once, since the part will never fire."""

    def broken() -> bool:
        raise LookupError("no such gauge")

    both = AllOfSource([Knock(), ConditionSource(broken)])
    error = await stopped_by(Cancelable().add_source(both))
    assert error.reason is CancelationReason.ERROR
    assert isinstance(error.__cause__, LookupError)


@pytest.mark.parametrize("kind", [AnyOfSource, AllOfSource])
async def test_a_used_up_timeout_in_a_composition_stops_at_the_first_checkpoint(
    kind: type[AnyOfSource | AllOfSource],
) -> None:
    """As it does alone."""
    steps = 0
    with anyio.fail_after(5), pytest.raises(TimeoutCancelation):
        async with Cancelable().add_source(kind([TimeoutSource(0), TimeoutSource(-1)])):
            steps += 1
            await anyio.lowlevel.checkpoint()
            steps += 1
    assert steps == 1


async def test_a_blocking_condition_in_a_thread_leaves_the_loop_alone() -> None:
    """The block goes on while the condition is asked, and ends without waiting for it."""
    asked, answer, answers = threading.Event(), threading.Event(), list[bool]()

    def slow() -> bool:
        asked.set()
        answers.append(answer.wait(1))
        return True

    steps = 0
    try:
        with anyio.fail_after(5):
            async with Cancelable.with_condition(slow, 0.001, in_thread=True) as cancel:
                while not asked.is_set():
                    await anyio.sleep(0.001)
                    steps += 1
        assert cancel.is_completed
        assert steps
        assert answers == []
    finally:
        answer.set()


def test_an_event_of_threads_is_no_condition() -> None:
    """Waiting for it would block the loop; the error says what to give."""
    with pytest.raises(TypeError, match="is_set"):
        ConditionSource(threading.Event())  # type: ignore[arg-type]


def test_what_blocks_while_it_waits_is_no_condition() -> None:
    """A process, a barrier: whatever has a plain `wait()`."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        with pytest.raises(TypeError, match="a Popen, whose wait"):
            ConditionSource(process)  # type: ignore[arg-type]


async def test_something_of_a_users_own_to_wait_on_is_a_condition() -> None:
    """Anything with an async `wait()`, such as another token."""
    token = CancelationToken()
    token.cancel_sync()
    error = await stopped_by(Cancelable.with_condition(token, condition_name="the other side"))
    assert isinstance(error, ConditionCancelation)
    assert error.condition_name == "the other side"


async def test_a_source_fires_once_whoever_else_fires_it() -> None:
    """The first cause stays; the source says what it was."""
    bell = Bell()
    operation = Cancelable().add_source(bell)
    bell.trigger("first")
    bell.trigger("second", error=LookupError("late"))
    await bell.trigger_cancelation("third")
    error = await stopped_by(operation)
    assert error.message == "first"
    assert bell.reason is CancelationReason.DISCONNECT
    assert repr(bell) == "<Bell 'bell' triggered>"


async def test_a_source_of_a_combined_operation_serves_the_next_one_too() -> None:
    """It goes on telling the operation that has it, which may be combined again and again."""
    bell = Bell()
    shared = Cancelable().add_source(bell)
    async with Cancelable().combine(shared):
        pass
    with anyio.fail_after(5), pytest.raises(DisconnectCancelation):
        async with Cancelable().combine(shared):
            bell.trigger()
            await anyio.sleep_forever()
    assert bell.listening == ["start", "stop"] * 2
    assert shared.cancel_reason is CancelationReason.DISCONNECT


async def test_sources_are_combined_before_the_block_is_entered() -> None:
    """Later ones would never be started; deadlines and tokens may come late."""
    token = CancelationToken()
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with Cancelable() as operation:
            with pytest.raises(RuntimeError, match="combine before the block is entered"):
                operation.combine(Cancelable().add_source(Bell()))
            operation.combine(Cancelable.with_timeout(60), Cancelable.with_token(token), operation)
            assert 59 < operation.remaining <= 60
            await token.cancel()
            await anyio.sleep_forever()


async def test_the_earliest_of_combined_timeouts_counts_and_an_operation_knows_its_allowance() -> (
    None
):
    """Whatever the order in which they are combined."""
    for first, second in ((0.01, 60), (60, 0.01)):
        combined = Cancelable.with_timeout(first).combine(Cancelable.with_timeout(second))
        error = await stopped_by(combined.add_source(TimeoutSource(30)))
        assert isinstance(error, TimeoutCancelation)
        assert error.timeout_seconds == 0.01


async def test_an_operation_that_has_ended_takes_no_source() -> None:
    """The error says so, and the source is free for another one."""
    bell = Bell()
    async with Cancelable() as cancel:
        pass
    for source in (bell, TimeoutSource(1)):
        with pytest.raises(RuntimeError, match="has ended"):
            cancel.add_source(source)
    Cancelable().add_source(bell)


async def test_a_source_that_comes_on_two_ways_is_started_once() -> None:
    """Operations may be combined that were combined before."""
    bell = Bell()
    first = Cancelable().add_source(bell)
    second = Cancelable().combine(first)
    both = Cancelable().combine(first, second, first)
    async with both:
        assert bell.listening == ["start"]
    assert bell.listening == ["start", "stop"]


def test_a_composition_that_is_refused_gives_its_parts_back() -> None:
    """One of the parts is somebody else's; the ones before it are free as they were."""
    free, taken = Bell(), Bell()
    Cancelable().add_source(taken)
    for kind in (AnyOfSource, AllOfSource):
        with pytest.raises(RuntimeError, match="belongs to an operation already"):
            kind([free, taken])
    Cancelable().add_source(free)


async def test_a_timeout_of_a_combined_operation_names_its_source() -> None:
    """The cause is the source's as much as that of any other source."""
    budget = TimeoutSource(0.01, name="budget")
    error = await stopped_by(Cancelable.with_timeout(60).combine(Cancelable().add_source(budget)))
    assert isinstance(error, TimeoutCancelation)
    assert error.timeout_seconds == 0.01
    assert error.context is not None
    assert error.context.cancel_source == "budget"
    assert budget.triggered


@on_trio  # asyncio ends the loop itself, whichever task it happens in
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_part", [False, True])
async def test_ctrl_c_in_a_condition_leaves_the_block_as_it_came(
    kind: type[BaseException], is_part: bool
) -> None:
    """Not as the cancelation by which the block heard of it, nor in a group."""
    asked = 0

    def condition() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise kind
        return False

    source: CancelationSource = ConditionSource(condition, 0.001)
    operation = Cancelable().add_source(AnyOfSource([source, Bell()]) if is_part else source)
    with anyio.fail_after(5), pytest.raises(kind):
        async with operation:
            await anyio.sleep_forever()
    assert operation.status is OperationStatus.FAILED
    await anyio.lowlevel.checkpoint()
