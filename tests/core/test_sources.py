"""What can stop an operation: sources alone, composed, and written by users. (S10)"""

from __future__ import annotations

import subprocess
import sys
import threading

import anyio
import pytest

from cancelable import (
    AllOfSource,
    AnyOfSource,
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelationSource,
    CancelationToken,
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
