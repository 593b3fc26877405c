"""What a timeout may be, when its clock starts, and what its deadline is afterwards. (S7)"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import anyio
import anyio.lowlevel
import pytest

from cancelable import (
    AllOfSource,
    AnyOfSource,
    Cancelable,
    CancelationReason,
    ManualCancelation,
    TimeoutCancelation,
    TimeoutSource,
    cancelable,
)
from cancelable._cause import Cause
from tests.support.clock import advance, in_virtual_time

HUGE = [1e15, 1e300, timedelta.max, Decimal(10) ** 30, 10**18]


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return in_virtual_time(request.param)


@pytest.mark.parametrize(
    "timeout", [0, 0.0, -0.0, -1, -1e300, -math.inf, timedelta(0), timedelta(-1)]
)
async def test_a_used_up_budget_stops_at_the_first_checkpoint(timeout: float | timedelta) -> None:
    """Zero and less are no error: the block runs to its first checkpoint."""
    went_on = False
    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(timeout) as operation:
            went_on = True
            assert operation.is_cancelling
            assert operation.remaining == 0
            await anyio.lowlevel.checkpoint()
            pytest.fail("the checkpoint let the block go on")
    assert went_on


async def test_a_used_up_budget_cuts_no_block_without_a_checkpoint() -> None:
    """A block that awaits nothing completes, and the deadline is known to have passed."""
    async with Cancelable.with_timeout(0) as operation:
        pass
    assert operation.is_completed
    assert operation.cancel_reason is CancelationReason.TIMEOUT


@pytest.mark.parametrize("timeout", [None, math.inf])
async def test_no_limit_is_no_deadline(timeout: float | None) -> None:
    """None and infinity mean that the block may run for ever."""
    async with Cancelable.with_timeout(timeout) as operation:
        assert operation.deadline == math.inf
        assert operation.remaining == math.inf
        await anyio.sleep(1e6)
    assert operation.is_completed


@pytest.mark.parametrize("timeout", HUGE)
async def test_a_huge_timeout_is_a_timeout(timeout: float) -> None:
    """A limit of ages is taken as it is, on both loops."""
    async with Cancelable.with_timeout(timeout) as operation:
        await anyio.sleep(1)
        assert operation.remaining > 1e9
    assert operation.is_completed


@pytest.mark.parametrize(
    "timeout", [2, 2.0, timedelta(seconds=2), Decimal(2), Fraction(2)], ids=repr
)
async def test_a_timeout_is_any_number_of_seconds(timeout: float | timedelta) -> None:
    """Ints, floats, `timedelta`, and what converts to a float, such as `Decimal`."""
    started = anyio.current_time()
    with pytest.raises(TimeoutCancelation) as caught:
        async with Cancelable.with_timeout(timeout):
            await anyio.sleep(3600)
    assert anyio.current_time() == pytest.approx(started + 2)
    assert caught.value.timeout_seconds == 2


@pytest.mark.parametrize("timeout", [math.nan, Decimal("NaN"), Decimal("sNaN"), 10**400], ids=repr)
def test_a_number_that_is_no_duration_is_refused_where_it_is_given(timeout: float) -> None:
    """NaN and what no float holds are a ValueError of the constructor."""
    with pytest.raises(ValueError, match=r"timeout|NaN"):
        Cancelable.with_timeout(timeout)


@pytest.mark.parametrize("timeout", [True, False, "1", b"1", "", [1], 1j, {}], ids=repr)
def test_what_is_no_number_is_refused_where_it_is_given(timeout: object) -> None:
    """A bool, a string and other things are a TypeError that names the parameter."""
    with pytest.raises(TypeError, match="`timeout` must be a number of seconds"):
        Cancelable.with_timeout(timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0, -1, timedelta(0)])
def test_a_setting_must_be_above_zero(limit: float | timedelta) -> None:
    """A setting of zero is a mistake of whoever wrote it, not a used-up budget."""
    with pytest.raises(ValueError, match="`limit` must be greater than 0"):
        Cancelable().set_callback_limit(limit)


@pytest.mark.parametrize("grace", [-1, -0.5, math.nan])
def test_a_grace_is_zero_or_more(grace: float) -> None:
    """A negative grace is refused by the constructor."""
    with pytest.raises(ValueError, match="grace"):
        Cancelable(grace=grace)


# -- the clock -------------------------------------------------------------------------------


async def test_the_clock_starts_on_entry() -> None:
    """Time between construction and entry does not count."""
    operation = Cancelable.with_timeout(3)
    assert operation.remaining == 3
    await anyio.sleep(3)
    async with operation:
        assert operation.remaining == 3
        await anyio.sleep(2)
        assert operation.remaining == pytest.approx(1)
    assert operation.is_completed


MADE: dict[str, Callable[[], Cancelable]] = {
    "alone": lambda: Cancelable.with_timeout(3),
    "combined": lambda: Cancelable().combine(Cancelable.with_timeout(3)),
    "combined twice": lambda: Cancelable().combine(
        Cancelable().combine(Cancelable.with_timeout(3))
    ),
    "the earlier one": lambda: Cancelable.with_timeout(9).combine(Cancelable.with_timeout(3)),
    "source": lambda: Cancelable().add_source(TimeoutSource(3)),
    "any of": lambda: Cancelable().add_source(AnyOfSource([TimeoutSource(9), TimeoutSource(3)])),
    "all of": lambda: Cancelable().add_source(AllOfSource([TimeoutSource(1), TimeoutSource(3)])),
    "combined source": lambda: Cancelable().combine(Cancelable().add_source(TimeoutSource(3))),
}


@pytest.mark.parametrize("made", MADE)
async def test_the_clock_of_a_composition_starts_on_entry(made: str) -> None:
    """Of whatever parts it was made, and however long that is ago."""
    operation = MADE[made]()
    await anyio.sleep(3)
    started = anyio.current_time()
    with pytest.raises(TimeoutCancelation):
        async with operation:
            await anyio.sleep(2)
            await anyio.sleep(3600)
    assert anyio.current_time() == pytest.approx(started + 3)


async def test_the_clock_of_a_decorated_function_starts_with_each_call() -> None:
    """Neither with the decorator nor with the call before."""

    @cancelable(timeout=3)
    async def work(seconds: float) -> str:
        await anyio.sleep(seconds)
        return "done"

    for _ in range(3):
        await anyio.sleep(3)
        assert await work(2) == "done"
    with pytest.raises(TimeoutCancelation):
        await work(4)


async def test_a_deadline_is_a_time_of_anyios_clock() -> None:
    """`deadline` and `anyio.current_time()` are of one clock."""
    async with Cancelable.with_timeout(3) as operation:
        assert operation.deadline == pytest.approx(anyio.current_time() + 3)
        assert anyio.current_effective_deadline() == operation.deadline


async def test_the_deadline_may_be_moved() -> None:
    """A later deadline lets the block run on, an earlier one cuts it, infinity takes it away."""
    async with Cancelable.with_timeout(1) as operation:
        operation.deadline = anyio.current_time() + 5
        await anyio.sleep(4)
        operation.deadline = math.inf
        await anyio.sleep(100)
        assert operation.remaining == math.inf
    assert operation.is_completed
    with pytest.raises(TimeoutCancelation):
        async with Cancelable() as operation:
            operation.deadline = anyio.current_time() + 1
            await anyio.sleep(3600)


async def test_a_deadline_set_before_entry_counts() -> None:
    """A deadline in time may be given before the block is entered."""
    operation = Cancelable()
    operation.deadline = anyio.current_time() + 1
    with pytest.raises(TimeoutCancelation):
        async with operation:
            await anyio.sleep(3600)
    with pytest.raises(ValueError, match="NaN"):
        Cancelable().deadline = math.nan


async def test_a_deadline_set_before_entry_counts_as_remaining() -> None:
    """The earlier one of it and the timeout."""
    operation = Cancelable.with_timeout(3)
    operation.deadline = anyio.current_time() + 5
    assert operation.remaining == 3
    await anyio.sleep(3)
    assert operation.remaining == pytest.approx(2)
    await anyio.sleep(3)
    assert operation.remaining == 0
    operation.deadline = math.inf
    assert operation.remaining == 3


def test_without_a_loop_there_is_no_clock_for_a_deadline() -> None:
    """Only the timeout is known, which needs none."""
    operation = Cancelable.with_timeout(3)
    operation.deadline = 1.0
    assert operation.remaining == 3


async def test_a_deadline_that_has_passed_stands() -> None:
    """A deadline that passed unnoticed is the cause; moving it afterwards changes nothing."""
    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(1) as operation:
            advance(2)
            operation.deadline = anyio.current_time() + 100
            assert operation.is_cancelling
            await anyio.sleep(3600)


@pytest.mark.parametrize("grace", [0, 3])
@pytest.mark.parametrize("moved_by", [1, 100, math.inf])
@pytest.mark.parametrize("looked_at", [False, True])
async def test_the_cut_of_a_deadline_that_has_passed_stands(
    grace: float, moved_by: float, looked_at: bool
) -> None:
    """Moving the deadline moves neither the request nor the end of its grace. (S3, S6, S19)"""
    started = anyio.current_time()
    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(1, grace=grace) as operation:
            advance(2)
            if looked_at:
                assert operation.is_cancelling
            operation.deadline = anyio.current_time() + moved_by
            assert operation.cancel_reason is CancelationReason.TIMEOUT
            assert not operation.extend(9)
            await anyio.sleep(3600)
    assert anyio.current_time() == pytest.approx(started + max(2, 1 + grace))


async def test_a_deadline_that_passed_behind_another_request_cuts_all_the_same() -> None:
    """It has shortened the grace of the request before it, and moving it does not undo that."""
    started = anyio.current_time()
    with pytest.raises(ManualCancelation):
        async with Cancelable.with_timeout(2, grace=3) as operation:
            await operation.cancel(grace=60)
            await anyio.sleep(4)
            operation.deadline = math.inf
            await anyio.sleep(3600)
    assert anyio.current_time() == pytest.approx(started + 5)


async def test_a_deadline_that_is_not_due_moves_behind_a_request() -> None:
    """And then it shortens no grace."""
    started = anyio.current_time()
    with pytest.raises(ManualCancelation):
        async with Cancelable.with_timeout(2, grace=3) as operation:
            await operation.cancel(grace=60)
            operation.deadline = math.inf
            await anyio.sleep(3600)
    assert anyio.current_time() == pytest.approx(started + 60)


async def test_a_deadline_that_passes_as_a_thread_looks_and_the_loop_moves_it_stands() -> None:
    """Whoever of the two is first: what was made the cause has its cut."""
    from tests.support.native import in_thread

    class Moved(Cancelable):
        """Its deadline has been moved when a thread that has seen it pass takes note of that."""

        def _timed_out(self) -> Cause:
            self._deadline = math.inf
            return super()._timed_out()

    started = anyio.current_time()
    with pytest.raises(TimeoutCancelation):
        async with Moved.with_timeout(1, grace=3) as operation:
            advance(2)
            assert operation._scope is not None
            operation._scope.deadline = math.inf  # what the loop does when it is moved
            in_thread(lambda: operation.cause)
            await anyio.sleep(3600)
    assert anyio.current_time() == pytest.approx(started + 4)


async def test_a_deadline_that_passed_before_the_one_around_stands_too() -> None:
    """The request of a parent that comes later lets it be the cause, with its own grace."""
    started = anyio.current_time()
    with pytest.raises(TimeoutCancelation):
        async with Cancelable(grace=60) as parent, Cancelable.with_timeout(1, grace=3) as operation:
            advance(2)
            await parent.cancel()
            operation.deadline = math.inf
            await anyio.sleep(3600)
    assert anyio.current_time() == pytest.approx(started + 4)


async def test_extend_is_an_idle_timeout() -> None:
    """Each extension starts the time anew; the last one runs out."""
    steps = 0
    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(2) as operation:
            for pause in (1, 1, 1, 1, 3):
                assert operation.extend(2)
                await anyio.sleep(pause)
                steps += 1
    assert steps == 4


async def test_extend_after_a_request_says_no() -> None:
    """A request stands: extending returns False and moves nothing."""
    with pytest.raises(ManualCancelation):
        async with Cancelable.with_timeout(2) as operation:
            await operation.cancel()
            assert not operation.extend(100)
            await anyio.sleep(3600)
    with pytest.raises(RuntimeError, match="running block"):
        operation.extend(1)
    with pytest.raises(RuntimeError, match="running block"):
        Cancelable().extend(1)


# -- who set the deadline, and what was allowed ----------------------------------------------


def limit_by_source(operation: Cancelable, seconds: float) -> None:
    operation.add_source(TimeoutSource(seconds, name="mine"))


def limit_by_combining(operation: Cancelable, seconds: float) -> None:
    source = TimeoutSource(seconds, name="mine")
    operation.combine(Cancelable().add_source(source))


late = pytest.mark.parametrize("limit", [limit_by_source, limit_by_combining])


async def timed_out(
    operation: Cancelable, inside: Callable[[Cancelable], object]
) -> tuple[float, float | None, str | None]:
    """Return when a block ended in which *inside* is called after 3 s, and what its error says."""
    started = anyio.current_time()
    with pytest.raises(TimeoutCancelation) as caught:
        async with operation:
            await anyio.sleep(3)
            inside(operation)
            await anyio.sleep(3600)
    error = caught.value
    assert error.context is not None
    allowed = None if error.timeout_seconds is None else round(error.timeout_seconds, 6)
    return round(anyio.current_time() - started, 6), allowed, error.context.cancel_source


@late
async def test_a_late_limit_counts_from_then_if_it_is_earlier(
    limit: Callable[[Cancelable, float], None],
) -> None:
    """Whatever the timeout was from the entry. (S7, S10)"""
    for operation in (Cancelable.with_timeout(5), Cancelable()):
        assert await timed_out(operation, lambda it: limit(it, 1)) == (4, 1, "mine")


@late
async def test_a_late_limit_that_comes_behind_the_deadline_changes_nothing(
    limit: Callable[[Cancelable, float], None],
) -> None:
    """Also if it is the smaller number of seconds; the error names neither it nor them."""
    operation = Cancelable.with_timeout(5)
    assert await timed_out(operation, lambda it: limit(it, 4)) == (5, 5, None)


@late
async def test_a_late_limit_is_compared_with_a_deadline_that_was_moved(
    limit: Callable[[Cancelable, float], None],
) -> None:
    """Not with the timeout that the block was entered with."""

    def extend_and_limit(operation: Cancelable) -> None:
        operation.extend(100)
        limit(operation, 10)
        assert operation.remaining == pytest.approx(10)

    assert await timed_out(Cancelable.with_timeout(5), extend_and_limit) == (13, 10, "mine")


MOVES: dict[str, tuple[Callable[[Cancelable], object], float]] = {
    "extended": (lambda operation: operation.extend(6), 9),
    "put off": (lambda operation: setattr(operation, "deadline", operation.deadline + 2), 7),
    "brought forward": (
        lambda operation: setattr(operation, "deadline", operation.deadline - 1),
        4,
    ),
    "put into the past": (lambda operation: setattr(operation, "deadline", -1.0), 3),
    "twice": (lambda operation: operation.extend(60) and operation.extend(6), 9),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("made", ["by its timeout", "by a source"])
async def test_a_deadline_that_was_moved_is_nobodys_and_told_from_the_entry(
    move: str, made: str
) -> None:
    """The seconds from the entry to it, and no source."""
    operation = Cancelable.with_timeout(5)
    if made == "by a source":
        operation = Cancelable().add_source(TimeoutSource(5, name="mine"))
    moved, seconds = MOVES[move]
    assert await timed_out(operation, moved) == (seconds, seconds, None)


async def test_how_long_it_is_to_a_deadline_may_be_unknown() -> None:
    """Then the error names no seconds rather than wrong ones."""

    def take_away_and_set(operation: Cancelable) -> None:
        operation.deadline = math.inf
        operation.extend(6)

    assert await timed_out(Cancelable.with_timeout(5), take_away_and_set) == (9, None, None)


@pytest.mark.parametrize(("deadline", "seconds"), [(4, 4), (6, 5)])
async def test_of_a_timeout_and_a_deadline_set_before_the_entry_the_earlier_is_told(
    deadline: float, seconds: float
) -> None:
    """As it counts, so it is told."""
    operation = Cancelable().add_source(TimeoutSource(5, name="mine"))
    operation.deadline = anyio.current_time() + deadline
    source = "mine" if seconds == 5 else None
    assert await timed_out(operation, lambda _: None) == (seconds, seconds, source)


async def test_a_deadline_that_passed_before_the_entry_allowed_nothing() -> None:
    """The block stops at its first checkpoint."""
    operation = Cancelable.with_timeout(5)
    operation.deadline = anyio.current_time() - 1
    with pytest.raises(TimeoutCancelation) as caught:
        async with operation:
            await anyio.lowlevel.checkpoint()
            pytest.fail("the checkpoint let the block go on")
    assert caught.value.timeout_seconds == 0


@pytest.mark.parametrize("entered", [False, True])
async def test_combining_with_a_block_that_runs_takes_over_its_deadline(entered: bool) -> None:
    """As it stands by then, not the timeout that it once had."""
    async with anyio.create_task_group() as tasks, Cancelable.with_timeout(1) as other:
        other.extend(6)

        async def combined() -> None:
            operation = Cancelable(parent=None)
            if not entered:
                operation.combine(other)
            assert await timed_out(
                operation, (lambda it: it.combine(other)) if entered else (lambda _: None)
            ) == (6, None if entered else 6, None)

        tasks.start_soon(combined)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(10)
        tasks.cancel_scope.cancel()


async def test_the_earliest_of_combined_deadlines_counts() -> None:
    """`combine` takes over the earlier timeout."""
    for operation in (
        Cancelable.with_timeout(5).combine(Cancelable.with_timeout(1)),
        Cancelable.with_timeout(1).combine(Cancelable.with_timeout(5)),
    ):
        started = anyio.current_time()
        with pytest.raises(TimeoutCancelation) as caught:
            async with operation:
                await anyio.sleep(3600)
        assert anyio.current_time() == pytest.approx(started + 1)
        assert caught.value.operation_id == operation.operation_id


async def test_a_deadline_combined_into_a_running_block_counts() -> None:
    """A deadline may be added at any time, also inside the block."""
    with pytest.raises(TimeoutCancelation):
        async with Cancelable() as operation:
            operation.combine(Cancelable.with_timeout(1))
            await anyio.sleep(3600)


async def test_an_outer_deadline_counts_as_remaining() -> None:
    """`remaining` is the time until the nearest deadline, here or around, in any thread."""
    from tests.support.native import in_thread

    seen: list[float] = []
    async with Cancelable.with_timeout(1), Cancelable.with_timeout(5) as operation:
        assert operation.remaining == pytest.approx(1)
        in_thread(lambda: seen.append(operation.remaining))
    assert seen == [pytest.approx(1)]


async def test_a_blocked_loop_is_late_and_says_so_truly() -> None:
    """In real time as well: a block that slept past its deadline has timed out."""
    with pytest.raises(TimeoutCancelation):
        async with Cancelable.with_timeout(0.01) as operation:
            time.sleep(0.001)
            advance(0.02)
            await operation.cancel()
            await anyio.sleep(3600)
    assert operation.cancel_reason is CancelationReason.TIMEOUT


async def test_an_operation_that_has_ended_has_no_time_left() -> None:
    """However much of it was left when it ended."""
    async with Cancelable.with_timeout(60) as operation:
        assert operation.remaining == 60
    assert operation.remaining == 0
