"""Blocks whose operation is made when somebody asks: nobody can tell that it was not there.

Holds to: S16.
"""

from __future__ import annotations

import gc
import logging
import math
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from cancelable import (
    Cancelable,
    CancelationError,
    CancelationReason,
    CancelOutcome,
    LatentOperation,
    ManualCancelation,
    OperationRegistry,
    TimeoutCancelation,
    current_operation,
)
from cancelable._block import innermost
from tests.core.test_interrupted import AtLine
from tests.support.clock import advance, in_virtual_time
from tests.support.native import in_thread


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Deadlines pass at once; what needs threads waits for them by itself."""
    return in_virtual_time(request.param)


@pytest.fixture
async def registry(anyio_backend: object) -> AsyncGenerator[OperationRegistry]:
    """The registry that is the default while a test runs."""
    with OperationRegistry().as_default() as registry:
        yield registry


class Visit(LatentOperation):
    """A latent operation as the tests need it."""

    made = 0

    def make_operation(self) -> Cancelable:
        self.made += 1
        return Cancelable.with_timeout(
            self.timeout, name="visit", metadata={"owner": "me"}, grace=self.grace
        )


class Follower:
    """Write down what a registry tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def entered(self, operation: object) -> None:
        self.told.append(("entered", operation))

    def left(self, operation: object) -> None:
        self.told.append(("left", operation))

    def reported(self, operation: object) -> None:
        self.told.append(("reported", operation))


def ended(registry: OperationRegistry) -> tuple[int, int, int]:
    """Return how many completed, were cancelled, failed; none is live."""
    counts = cast("dict[str, int]", registry.get_statistics())
    assert counts["active_operations"] == 0
    return counts["total_completed"], counts["total_cancelled"], counts["total_failed"]


# -- nobody asks -----------------------------------------------------------------------------


async def test_a_block_that_nobody_asks_about_is_counted_and_forgotten(
    registry: OperationRegistry,
) -> None:
    """It never had an operation, and the totals have it all the same."""
    async with Visit() as visit:
        await checkpoint()
        assert visit.is_untouched
        assert not visit.cancel_requested
        assert visit.known_operation is None
    assert visit.made == 0
    assert current_operation() is None
    assert ended(registry) == (1, 0, 0)
    assert registry.get_history() == []
    # Whoever comes too late finds that it has completed.
    assert visit.make() is None
    assert visit.operation.is_completed
    assert not visit.token.is_cancelled
    assert not visit.token.cancel_sync()
    assert visit.operation is visit.operation
    assert ended(registry) == (1, 0, 0)


async def test_a_block_leaves_nothing_for_the_collector(registry: OperationRegistry) -> None:
    """What served a request is gone with it, whether anybody asked or not."""

    async def visit(asks: bool) -> weakref.ref[Visit]:
        async with Visit(timeout=5) as each:
            if asks:
                assert current_operation() is not None
                assert not each.token.is_cancelled
        return weakref.ref(each)

    await visit(True)
    await visit(False)
    gc.collect()
    gc.disable()
    try:
        gone = [await visit(False), await visit(True)]
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


# -- somebody asks ---------------------------------------------------------------------------


def by_current_operation(_visit: Visit, _registry: OperationRegistry) -> Cancelable | None:
    return current_operation()


def by_the_block(visit: Visit, _registry: OperationRegistry) -> Cancelable | None:
    return visit.operation


def by_its_token(visit: Visit, _registry: OperationRegistry) -> Cancelable | None:
    assert not visit.token.is_cancelled
    return visit.known_operation


def by_listing(visit: Visit, registry: OperationRegistry) -> Cancelable | None:
    assert [each.name for each in registry.list_operations()] == ["visit"]
    return visit.known_operation


def by_the_tree(visit: Visit, registry: OperationRegistry) -> Cancelable | None:
    assert [node.context.name for node in registry.tree()] == ["visit"]
    return visit.known_operation


def by_counting(visit: Visit, registry: OperationRegistry) -> Cancelable | None:
    assert registry.get_statistics()["active_operations"] == 1
    return visit.known_operation


WAYS = [by_current_operation, by_the_block, by_its_token, by_listing, by_the_tree, by_counting]


@pytest.mark.parametrize("ask", WAYS)
async def test_whoever_asks_finds_an_operation_that_has_been_there_all_the_time(
    registry: OperationRegistry, ask: Callable[[Visit, OperationRegistry], Cancelable | None]
) -> None:
    """However it is asked for, it is one, with all its facts, and can be cancelled by id."""
    with pytest.raises(ManualCancelation, match="enough") as raised:
        async with Visit(timeout=30) as visit:
            advance(1)
            operation = ask(visit, registry)
            assert operation is not None
            assert operation is current_operation()
            assert operation.is_running
            assert operation.metadata == {"owner": "me"}
            assert operation.token is visit.token
            assert operation.remaining == 29
            assert registry.get_operation(operation.operation_id) is operation
            assert visit.made == 1
            assert not visit.is_untouched
            assert registry.cancel(operation.operation_id, message="enough") is (
                CancelOutcome.REQUESTED
            )
            assert visit.cancel_requested
            assert visit.token.reason is CancelationReason.MANUAL
            await anyio.sleep_forever()
    assert raised.value.context is not None
    assert raised.value.context.name == "visit"
    assert ended(registry) == (0, 1, 0)
    (remembered,) = registry.get_history()
    assert remembered.id == visit.operation.operation_id
    assert registry.get(remembered.id) is not None
    assert current_operation() is None


async def test_one_that_was_asked_for_and_completes_is_not_remembered(
    registry: OperationRegistry,
) -> None:
    """As if nobody had asked."""
    async with Visit():
        operation = current_operation()
        assert operation is not None
        known = operation.operation_id
    assert operation.is_completed
    async with Visit() as another:
        assert another.known_operation is None
    assert ended(registry) == (2, 0, 0)
    assert registry.get(known) is None


async def test_an_operation_inside_is_its_child(registry: OperationRegistry) -> None:
    """A cancel of the one cuts the other."""
    with pytest.raises(ManualCancelation):
        async with Visit() as visit, Cancelable(name="inside") as inside:
            assert inside.parent is visit.known_operation
            await visit.operation.cancel()
            await anyio.sleep_forever()
    assert inside.cancel_reason is CancelationReason.PARENT
    assert ended(registry) == (0, 1, 0)


async def test_tasks_and_threads_that_it_starts_know_it(registry: OperationRegistry) -> None:
    """While it runs; after its end they have none."""
    found: list[Cancelable | None] = []
    left = anyio.Event()

    async def child() -> None:
        found.append(current_operation())
        await left.wait()
        found.append(current_operation())

    async with anyio.create_task_group() as tasks:
        async with Visit() as visit:
            tasks.start_soon(child)
            found.append(await anyio.to_thread.run_sync(current_operation))
            assert found == [visit.known_operation] * 2
        left.set()
    assert found[2] is None


async def test_listed_ones_are_in_the_order_in_which_they_began(
    registry: OperationRegistry,
) -> None:
    """Whenever their operations were made."""
    async with anyio.create_task_group() as tasks:

        async def visit(name: str, *, task_status: anyio.abc.TaskStatus[LatentOperation]) -> None:
            class Named(LatentOperation):
                def make_operation(self) -> Cancelable:
                    return Cancelable(name=name)

            async with Named() as named:
                task_status.started(named)
                await anyio.sleep_forever()

        async def full(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            async with Cancelable(name="second", register_globally=True):
                task_status.started()
                await anyio.sleep_forever()

        await tasks.start(visit, "first")
        await tasks.start(full)
        third = await tasks.start(visit, "third")
        assert isinstance(third, LatentOperation)
        assert third.operation.is_running
        assert [each.name for each in registry.list_operations()] == ["first", "second", "third"]
        assert [each.name for each in registry.list_operations()] == ["first", "second", "third"]
        tasks.cancel_scope.cancel()
    assert ended(registry) == (0, 3, 0)


async def test_all_can_be_cancelled_and_all_can_be_forgotten(registry: OperationRegistry) -> None:
    """Those too that nobody had asked for."""
    async with Visit() as forgotten:
        assert registry.clear_all() == 1
        assert registry.list_operations() == []
        assert forgotten.operation.is_running
        assert registry.list_operations() == []
    assert ended(registry) == (0, 0, 0)
    with pytest.raises(ManualCancelation):
        async with Visit():
            assert registry.cancel_all(metadata={"owner": "me"}) == 1
            await anyio.sleep_forever()


# -- how it ends -----------------------------------------------------------------------------


async def test_its_deadline_ends_it(registry: OperationRegistry) -> None:
    """With the error, the facts and the place in the history that an operation has."""
    with pytest.raises(TimeoutCancelation) as raised:
        async with Visit(timeout=3) as visit:
            await anyio.sleep_forever()
    assert raised.value.timeout_seconds == 3
    assert visit.operation.is_cancelled
    assert ended(registry) == (0, 1, 0)
    assert [each.cancel_reason for each in registry.get_history()] == [CancelationReason.TIMEOUT]


@pytest.mark.parametrize("limit", ["timeout", "grace"])
async def test_what_is_no_duration_is_refused_where_it_is_given(
    registry: OperationRegistry, limit: str
) -> None:
    """As by a `Cancelable`; what is one is taken. (S7)"""
    for value in ("3", b"3", True, [3], 3j):
        with pytest.raises(TypeError, match=f"`{limit}` must be a number of seconds"):
            Visit(**{limit: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"`{limit}` must be a number of seconds, not NaN"):
        Visit(**{limit: math.nan})
    for taken in (2, 2.0, timedelta(seconds=2), Decimal(2)):
        assert getattr(Visit(**{limit: taken}), limit) == 2  # type: ignore[arg-type]
    none = Visit(**{limit: None})  # type: ignore[arg-type]
    assert (none.timeout, none.grace) == (math.inf, 0)


async def test_its_timeout_may_be_used_up_and_its_grace_not_negative(
    registry: OperationRegistry,
) -> None:
    """Zero and less is a budget that is used up; a negative grace is a mistake."""
    with pytest.raises(TimeoutCancelation):
        async with Visit(timeout=-5):
            await anyio.sleep_forever()
    with pytest.raises(ValueError, match="`grace` must be 0 or more seconds, not -1"):
        Visit(timeout=1.0, grace=-1.0)


@pytest.mark.parametrize("timeout", [3, math.inf])
async def test_the_error_of_a_deadline_that_was_moved_tells_the_time_from_the_entry(
    registry: OperationRegistry, timeout: float
) -> None:
    """As with every operation, and also if it had none at first."""
    with pytest.raises(TimeoutCancelation) as raised:
        async with Visit(timeout=timeout) as visit:
            await anyio.sleep(2)
            visit.deadline = visit.began_at + 5
            await anyio.sleep_forever()
    assert raised.value.timeout_seconds == pytest.approx(5)


async def test_who_listens_to_its_token_hears_of_its_deadline_as_it_passes(
    registry: OperationRegistry,
) -> None:
    """And not only when the block is cut. (S6, S19)"""
    heard_at: list[float] = []
    with pytest.raises(TimeoutCancelation):
        async with Visit(timeout=3, grace=2) as visit:
            visit.token.on_cancel(lambda _: heard_at.append(anyio.current_time()))
            await anyio.sleep_forever()
    assert heard_at == [visit.began_at + 3]


async def test_its_deadline_is_known_before_the_loop_has_noticed(
    registry: OperationRegistry,
) -> None:
    """And in a time of grace, in which the block runs on."""
    with pytest.raises(TimeoutCancelation):
        async with Visit(timeout=3, grace=2) as visit:
            assert not visit.cancel_requested
            await anyio.sleep(2)
            advance(1)
            assert visit.cancel_requested
            await anyio.sleep(1)
            assert visit.token.is_cancelled
            await anyio.sleep_forever()
    assert anyio.current_time() == visit.began_at + 5


@pytest.mark.parametrize("grace", [0, 5])
async def test_one_that_completes_behind_its_deadline_was_asked_to_stop(
    registry: OperationRegistry, grace: float
) -> None:
    """Although nobody had noticed by then, as with every operation."""
    async with Visit(timeout=1, grace=grace) as visit:
        advance(2)
    operation = visit.known_operation
    assert operation is not None
    assert operation.is_completed
    assert operation.cancel_reason is CancelationReason.TIMEOUT
    assert visit.cancel_requested
    assert visit.token.is_cancelled
    assert ended(registry) == (1, 0, 0)


async def test_a_deadline_that_has_passed_cannot_be_moved(registry: OperationRegistry) -> None:
    """It is the cause, noticed or not."""
    async with Visit(timeout=1, grace=5) as visit:
        advance(2)
        visit.deadline = math.inf
        assert visit.cancel_requested
        assert visit.operation.cancel_reason is CancelationReason.TIMEOUT
    assert ended(registry) == (1, 0, 0)


@pytest.mark.parametrize("grace", [0, 5])
async def test_the_cut_of_a_deadline_that_has_passed_cannot_be_moved_either(
    registry: OperationRegistry, grace: float
) -> None:
    """The block ends at the time at which it would have ended."""
    with pytest.raises(TimeoutCancelation):
        async with Visit(timeout=1, grace=grace) as visit:
            advance(2)
            visit.deadline = math.inf
            await anyio.sleep_forever()
    assert anyio.current_time() == visit.began_at + max(2, 1 + grace)


async def test_its_deadline_can_be_moved(registry: OperationRegistry) -> None:
    """Before and after the operation was made, on either of the two."""
    began = anyio.current_time()
    visit = Visit(timeout=3)
    assert visit.began_at == math.inf
    async with visit:
        assert (visit.began_at, visit.deadline) == (began, began + 3)
        visit.deadline = began + 10
        await anyio.sleep(5)
        operation = visit.operation
        assert (visit.deadline, operation.deadline) == (began + 10, began + 10)
        visit.deadline = began + 20
        assert operation.deadline == began + 20
        operation.deadline = began + 7
        assert visit.deadline == began + 7
        visit.deadline = math.inf
        await anyio.sleep(5)
    with pytest.raises(ValueError, match="not NaN"):
        visit.deadline = math.nan
    assert ended(registry) == (1, 0, 0)

    later = Visit()
    later.deadline = anyio.current_time() + 1
    with pytest.raises(TimeoutCancelation):
        async with later:
            await anyio.sleep_forever()


async def test_a_deadline_before_the_entry_counts_for_a_full_one_too(
    registry: OperationRegistry,
) -> None:
    """One that stands inside another is full from the beginning."""
    later = Visit()
    later.deadline = anyio.current_time() + 1
    async with Cancelable():
        with pytest.raises(TimeoutCancelation):
            async with later:
                await anyio.sleep_forever()
    assert anyio.current_time() == later.began_at + 1


async def test_a_cancelation_from_around_passes_through(registry: OperationRegistry) -> None:
    """And the operation says that it came from elsewhere."""
    with anyio.move_on_after(1) as scope:
        async with Visit() as visit:
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert visit.operation.cancel_reason is CancelationReason.EXTERNAL
    assert ended(registry) == (0, 1, 0)


async def test_an_error_is_a_failure_that_is_remembered(registry: OperationRegistry) -> None:
    """It leaves as it was raised."""
    error = LookupError("gone")
    with pytest.raises(LookupError) as raised:
        async with Visit():
            raise error
    assert raised.value is error
    assert ended(registry) == (0, 0, 1)
    assert [each.error for each in registry.get_history()] == ["LookupError: gone"]


async def test_a_scope_that_is_left_open_inside_is_a_failure(registry: OperationRegistry) -> None:
    """What anyio says of it leaves the block, and the history has it."""
    scope = anyio.CancelScope()
    try:
        with pytest.raises(RuntimeError, match="scope"):
            async with Visit() as visit:
                scope.__enter__()
        assert ended(registry) == (0, 0, 1)
        (failed,) = registry.get_history()
        assert failed.error is not None
        assert "scope" in failed.error
        assert registry.get(failed.id) is not None
        assert visit.operation.operation_id == failed.id
    finally:
        with suppress(RuntimeError):
            scope.__exit__(None, None, None)


async def test_one_that_is_left_in_another_task_says_so_and_harms_nobody(
    registry: OperationRegistry,
) -> None:
    """The task that entered it is not cancelled by it afterwards."""
    visit = Visit(timeout=1)
    entered, left = anyio.Event(), anyio.Event()
    went_on: list[float] = []

    async def first() -> None:
        await visit.__aenter__()
        entered.set()
        await left.wait()
        await anyio.sleep(5)
        went_on.append(anyio.current_time() - visit.began_at)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await entered.wait()
            with pytest.raises(RuntimeError, match="left in another task"):
                await visit.__aexit__(None, None, None)
            left.set()
    except* RuntimeError:
        pass  # a loop may say that the scopes of the first task are mixed up
    assert went_on == [5]
    assert ended(registry) == (0, 0, 1)


class Told(Visit):
    """A latent operation that asks its token something when its block has failed."""

    def make_operation(self) -> Cancelable:
        operation = super().make_operation()
        return operation.on_error(lambda _context, _error: self.token.is_cancelled)


@pytest.mark.parametrize("when", ["never", "inside", "at the end"])
async def test_nothing_can_be_asked_of_the_token_of_one_that_has_ended(
    when: str, registry: OperationRegistry
) -> None:
    """Also when the operation is gone; first asked before, never, or by a callback of the end."""
    visit = Told()
    with suppress(ValueError):
        async with visit:
            if when == "inside":
                assert not visit.token.is_cancelled
            if when == "at the end":
                raise ValueError("the block failed")
    token = visit.token
    registry.clear_history()
    del visit
    gc.collect()
    assert not token.cancel_sync()
    assert not token.is_cancelled


async def test_it_is_entered_once(registry: OperationRegistry) -> None:
    """Like every block here."""
    visit = Visit()
    async with visit:
        with pytest.raises(RuntimeError, match="entered once"):
            await visit.__aenter__()
    with pytest.raises(RuntimeError, match="entered once"):
        await visit.__aenter__()


async def test_an_adapter_may_enter_and_leave_it_without_a_coroutine(
    registry: OperationRegistry,
) -> None:
    """It is the block of ``async with``, also one behind another in one task."""
    for _ in range(2):
        visit = Visit()
        assert visit.enter_at_once()
        with pytest.raises(RuntimeError, match="entered once"):
            visit.enter_at_once()
        assert visit.leave_at_once()
        assert visit.made == 0
        assert current_operation() is None
    assert ended(registry) == (2, 0, 0)


async def test_one_that_was_asked_for_is_left_in_full(registry: OperationRegistry) -> None:
    """Its operation has to be ended."""
    visit = Visit()
    assert visit.enter_at_once()
    assert current_operation() is visit.operation
    assert not visit.leave_at_once()
    await visit.__aexit__(None, None, None)
    assert current_operation() is None
    assert ended(registry) == (1, 0, 0)


async def test_one_that_needs_its_operation_is_entered_in_full(
    registry: OperationRegistry,
) -> None:
    """It says so, and is as it was."""
    async with Cancelable() as around:
        visit = Visit()
        assert not visit.enter_at_once()
        assert not visit.enter_at_once()
        async with visit:
            assert visit.operation.parent is around
        assert current_operation() is around
    assert ended(registry) == (1, 0, 0)


async def test_code_in_it_can_ask_whether_its_scope_is_cancelled(
    registry: OperationRegistry,
) -> None:
    """Whoever cancelled it, and not behind a shield."""
    async with Visit() as visit:
        assert not visit.is_cut_here()
        with anyio.CancelScope() as scope:
            scope.cancel()
            assert visit.is_cut_here()
            with anyio.CancelScope(shield=True):
                assert not visit.is_cut_here()
        assert not visit.is_cut_here()
    assert visit.made == 0


# -- full from the beginning -----------------------------------------------------------------


async def test_inside_another_operation_it_is_full_from_the_beginning(
    registry: OperationRegistry,
) -> None:
    """It is listed under that one, and stops with it."""
    async with Cancelable(name="around", register_globally=True) as around:
        with pytest.raises(CancelationError):
            async with Visit() as visit:
                assert visit.operation.parent is around
                assert [each.name for each in registry.list_operations()] == ["around", "visit"]
                await visit.operation.cancel()
                await checkpoint()
        assert current_operation() is around
    assert visit.operation.is_cancelled
    assert ended(registry) == (1, 1, 0)


async def test_followers_of_a_registry_are_told_of_each(registry: OperationRegistry) -> None:
    """Of those too that began before somebody followed."""
    follower = Follower()
    async with Visit() as before:
        listed = registry.add_observer(follower)
        assert listed == [before.known_operation]
        async with anyio.create_task_group() as tasks:

            async def another() -> None:
                async with Visit() as visit:
                    operations.append(visit.known_operation)

            operations: list[Cancelable | None] = []
            tasks.start_soon(another)
    registry.remove_observer(follower)
    (inside,) = operations
    assert inside is not None
    assert follower.told == [
        ("entered", before.known_operation),
        ("entered", inside),
        ("left", inside),
        ("left", before.known_operation),
    ]


async def test_a_follower_that_comes_at_the_entry_is_told(registry: OperationRegistry) -> None:
    """Between the look at the followers and the entry in the list there is room for one."""
    follower = Follower()

    class Late(dict[object, None]):
        def __setitem__(self, latent: object, value: None) -> None:
            registry.add_observer(follower)
            super().__setitem__(latent, value)

    registry._latent = Late()  # type: ignore[assignment]
    async with Visit() as visit:
        pass
    assert follower.told == [("entered", visit.operation), ("left", visit.operation)]


@asynccontextmanager
async def beside(operation: Cancelable) -> AsyncGenerator[Cancelable]:
    """Run an operation in a task of its own, so that no block is inside it."""
    entered, leave = anyio.Event(), anyio.Event()

    async def run() -> None:
        async with operation:
            entered.set()
            await leave.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await entered.wait()
        yield operation
        leave.set()


async def test_followers_who_do_not_want_latent_ones_are_told_when_somebody_asks(
    registry: OperationRegistry,
) -> None:
    """A block that nobody asks about has no operation for their sake, not even when they come."""
    follower = Follower()
    async with beside(Cancelable(register_globally=True)) as full:
        async with Visit() as quick:
            assert registry.add_observer(follower, latent=False) == [full]
            assert quick.known_operation is None
        async with Visit() as another:
            await checkpoint()
        assert (quick.make(), another.make()) == (None, None)
        assert follower.told == []
        async with Visit():
            operation = current_operation()
            assert follower.told == [("entered", operation)]
            assert registry.add_observer(Follower(), latent=False) == [full, operation]
        assert follower.told[1:] == [("left", operation)]
    assert follower.told[2:] == [("left", full)]


async def test_as_long_as_one_follower_wants_all_each_is_full_from_the_beginning(
    registry: OperationRegistry,
) -> None:
    """The others are told of each, too."""
    modest, eager = Follower(), Follower()
    registry.add_observer(modest, latent=False)
    registry.add_observer(eager)
    async with Visit() as full:
        operation = full.known_operation
        assert operation is not None
    assert modest.told == eager.told == [("entered", operation), ("left", operation)]
    registry.remove_observer(eager)
    async with Visit() as latent:
        assert latent.known_operation is None
    assert len(modest.told) == 2


async def test_who_watches_one_operation_does_not_ask_for_the_others(
    registry: OperationRegistry,
) -> None:
    """What is watched is there already."""
    async with beside(registry.register(Cancelable("mine"))), registry.watch("mine"):
        assert registry._observers
        async with Visit() as visit:
            assert visit.known_operation is None


async def test_a_deadline_that_is_set_at_any_line_of_the_entry_counts(
    registry: OperationRegistry,
) -> None:
    """A signal handler may set it, in the thread of the loop."""
    has_entered: list[bool] = []

    def interrupt(visit: Visit, deadline: float) -> None:
        has_entered.append(innermost.get() is visit.token)
        visit.deadline = deadline

    line, came = 0, True
    while came:
        line += 1
        visit, deadline = Visit(), anyio.current_time() + 1
        at_line = AtLine(line, partial(interrupt, visit, deadline))
        with pytest.raises(TimeoutCancelation):
            with at_line:
                assert visit.enter_at_once()
            assert visit.deadline == (deadline if at_line.came else math.inf)
            if not at_line.came:
                visit.deadline = deadline
            try:
                await anyio.sleep(2)
            except BaseException as exc:
                await visit.__aexit__(type(exc), exc, exc.__traceback__)
                raise
        came = at_line.came
    assert not has_entered[0]
    assert has_entered[-1], "the last line is behind all that an entry does"


async def test_those_that_nobody_asks_about_are_found_by_their_age(
    registry: OperationRegistry,
) -> None:
    """Until somebody asks, or they end."""
    async with Visit() as visit:
        assert registry.latent_older_than(0) == [visit]
        assert registry.latent_older_than(60) == []
        visit._started_at -= 60
        assert registry.latent_older_than(60) == [visit]
        assert visit.known_operation is None
        assert visit.operation.is_running
        assert registry.latent_older_than(0) == []
    async with Visit():
        pass
    assert registry.latent_older_than(0) == []


async def test_one_that_is_logged_is_full_from_the_beginning(
    registry: OperationRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """At DEBUG each entry and each end has a record."""
    caplog.set_level(logging.DEBUG, logger="cancelable")
    async with Visit():
        pass
    assert [record.getMessage().split()[2:4] for record in caplog.records] == [
        ["(visit)", "entered"],
        ["(visit)", "completed"],
    ]


# -- from other threads ----------------------------------------------------------------------


async def test_a_cancel_from_a_thread_reaches_it(registry: OperationRegistry) -> None:
    """By its token, which nobody has asked anything before."""
    with pytest.raises(ManualCancelation):
        async with Visit() as visit:
            in_thread(visit.token.cancel_sync)
            await anyio.sleep_forever()
    assert not visit.token.cancel_sync()


# The operation may be made by a thread while the loop does something else. What follows puts that
# something between any two steps of the maker.


class Interrupted(Cancelable):
    """An operation in the middle of whose making something else happens."""

    __slots__ = ()
    between: Callable[[], object] = staticmethod(lambda: None)

    def adopt(self, *args: Any) -> None:
        super().adopt(*args)
        between, type(self).between = type(self).between, staticmethod(lambda: None)
        between()


class InterruptedVisit(Visit):
    def make_operation(self) -> Cancelable:
        return Interrupted(name="visit", grace=self.grace)


class InterruptedRegistry(OperationRegistry):
    """Let something happen before an operation is listed."""

    between: Callable[[Cancelable], object] | None = None

    def entered(self, operation: Any) -> None:
        between, self.between = self.between, None
        if between is not None:
            between(operation)
        super().entered(operation)


def end(visit: Visit) -> None:
    """Leave a block now, in the middle of something."""
    leaving = visit.__aexit__(None, None, None)
    with pytest.raises(StopIteration):
        leaving.send(None)


def while_a_thread_makes(visit: Visit, step: Callable[[], object]) -> None:
    """Do something in this thread while another one is in the middle of making an operation."""
    reached, go_on = threading.Event(), threading.Event()

    def between() -> None:
        reached.set()
        assert go_on.wait(5)

    Interrupted.between = staticmethod(between)
    thread = threading.Thread(target=visit.make)
    thread.start()
    assert reached.wait(5)
    step()
    go_on.set()
    thread.join(5)


async def test_a_deadline_that_is_set_while_a_thread_makes_it_counts(
    registry: OperationRegistry,
) -> None:
    """The maker has seen the old one; the new one was set before its operation was there."""
    with pytest.raises(TimeoutCancelation):
        async with InterruptedVisit() as visit:
            soon = anyio.current_time() + 1
            while_a_thread_makes(visit, lambda: setattr(visit, "deadline", soon))
            await anyio.sleep(0.5)
            assert visit.operation.deadline == soon
            await anyio.sleep_forever()
    assert anyio.current_time() == soon


async def test_a_deadline_that_was_set_on_the_operation_stands(registry: OperationRegistry) -> None:
    """What the maker hands over later is older."""
    async with InterruptedVisit() as visit:
        now = anyio.current_time()
        while_a_thread_makes(visit, lambda: setattr(visit, "deadline", now + 1))
        visit.operation.deadline = now + 9
        await anyio.sleep(5)
        assert visit.deadline == now + 9


async def test_two_who_ask_at_once_get_the_same(registry: OperationRegistry) -> None:
    """The second one to finish throws its own away."""
    found: list[Cancelable | None] = []
    async with InterruptedVisit() as visit:
        Interrupted.between = staticmethod(lambda: in_thread(lambda: found.append(visit.make())))
        found.append(visit.make())
        assert found == [current_operation()] * 2
        assert len(registry.list_operations()) == 1
        assert not visit.token.is_cancelled
        assert registry.cancel_all() == 1
        with suppress(anyio.get_cancelled_exc_class()):
            await anyio.sleep(1)
        assert visit.token.is_cancelled
    assert ended(registry) == (1, 0, 0)


async def test_one_that_ends_while_it_is_made_has_ended_without_it(
    registry: OperationRegistry,
) -> None:
    """Who was making it is told that there is none."""
    visit = InterruptedVisit()
    await visit.__aenter__()
    Interrupted.between = staticmethod(lambda: end(visit))
    assert visit.make() is None
    assert registry.list_operations() == []
    assert ended(registry) == (1, 0, 0)


async def test_one_that_is_made_at_its_very_end_ends_with_it(registry: OperationRegistry) -> None:
    """The end has looked for an operation, found none, and is overtaken by the maker."""

    class Overtaken(list[Cancelable | None]):
        def append(self, last: Cancelable | None) -> None:
            if last is None:
                in_thread(visit.make)
            super().append(last)

    async with Visit() as visit:
        visit._made = Overtaken()
    operation = visit.known_operation
    assert operation is not None
    assert operation.is_completed
    assert ended(registry) == (1, 0, 0)


async def test_one_that_ends_before_it_is_listed_is_counted_once() -> None:
    """And stays in no list."""
    registry, follower = InterruptedRegistry(), Follower()
    with registry.as_default():
        visit = Visit()
        await visit.__aenter__()
        registry.between = lambda _operation: end(visit)
        operation = visit.make()
        assert operation is not None
        assert operation.is_completed
        assert registry.list_operations() == []
        assert registry.add_observer(follower) == []
        assert ended(registry) == (1, 0, 0)


async def test_its_id_is_known_before_it_is_listed() -> None:
    """Somebody else has asked for it meanwhile, lists it, and cancels it by that id."""
    registry = InterruptedRegistry()
    outcomes: list[object] = []

    def meanwhile(operation: Cancelable) -> None:
        (listed,) = registry.list_operations()
        assert listed.id == operation.operation_id
        outcomes.append(registry.cancel(listed.id))

    with registry.as_default(), pytest.raises(ManualCancelation):
        async with Visit() as visit:
            registry.between = meanwhile
            in_thread(visit.make)
            assert registry.get_operation(visit.operation.operation_id) is visit.operation
            await anyio.sleep_forever()
    assert outcomes == [CancelOutcome.REQUESTED]
    assert ended(registry) == (0, 1, 0)


def by_listing_all(registry: OperationRegistry, _visit: Visit) -> object:
    return registry.list_operations()


def by_cancelling_all(registry: OperationRegistry, _visit: Visit) -> object:
    return registry.cancel_all()


def by_forgetting_all(registry: OperationRegistry, _visit: Visit) -> object:
    return registry.clear_all()


def by_taking_all_out(registry: OperationRegistry, _visit: Visit) -> object:
    return [registry.unregister(each.id) for each in registry.list_operations()]


def by_following(registry: OperationRegistry, _visit: Visit) -> object:
    return registry.add_observer(Follower())


def by_asking_its_token(_registry: OperationRegistry, visit: Visit) -> object:
    return visit.token.is_cancelled


def by_cancelling_its_token(_registry: OperationRegistry, visit: Visit) -> object:
    return visit.token.cancel_sync()


INTERRUPTS = [
    by_listing_all,
    by_cancelling_all,
    by_forgetting_all,
    by_taking_all_out,
    by_following,
    by_asking_its_token,
    by_cancelling_its_token,
]


@pytest.mark.parametrize("part", ["enter", "make", "leave"])
@pytest.mark.parametrize("interrupt", INTERRUPTS)
async def test_it_may_be_asked_and_cancelled_at_each_line(
    interrupt: Callable[[OperationRegistry, Visit], object], part: str
) -> None:
    """Of entering, making and leaving: it is counted once, and nothing of it stays listed.

    A cancel that says that it was the first one is never lost.
    """
    line, came = 0, True
    while came:
        line += 1
        registry, visit = OperationRegistry(), Visit(timeout=50)
        answers: list[object] = []
        at_line = AtLine(line, lambda: answers.append(interrupt(registry, visit)))  # noqa: B023
        cancelled = False
        with registry.as_default():
            try:
                with at_line if part == "enter" else nullcontext():
                    await visit.__aenter__()
                try:
                    with at_line if part == "make" else nullcontext():
                        visit.make() if part == "make" else None
                    if part != "leave":
                        await anyio.sleep(1)
                except BaseException as error:
                    await visit.__aexit__(type(error), error, error.__traceback__)
                    raise
                with at_line if part == "leave" else nullcontext():
                    await visit.__aexit__(None, None, None)
            except ManualCancelation:
                cancelled = True
        came = at_line.came
        if part != "leave" and interrupt in (by_cancelling_all, by_cancelling_its_token):
            assert answers == [cancelled] * came
        is_counted = interrupt not in (by_forgetting_all, by_taking_all_out) or not came
        assert (sum(ended(registry)) == 1) or not is_counted
        assert registry.add_observer(Follower()) == []
        assert registry.list_operations() == []
        assert not registry._latent
        assert not registry._by_id
        assert current_operation() is None
    assert line > 15


ROUNDS = 300
LOOPS = 2


def test_threads_ask_and_cancel_while_blocks_begin_and_end(
    anyio_backend: tuple[str, dict[str, object]],
) -> None:
    """None is lost, none is counted twice, and nothing stays in a list."""
    name, options = anyio_backend
    registry = OperationRegistry()
    over = threading.Event()
    failed: list[BaseException] = []
    tokens: list[Callable[[], object]] = [lambda: None]
    begun: list[int] = []

    def is_enough(number: int) -> bool:
        # However the machine lets the threads run, some blocks have to have been cancelled.
        return number >= ROUNDS and bool(registry.get_statistics()["total_cancelled"])

    async def visits() -> None:
        number = 0
        while not is_enough(number):
            number += 1
            with suppress(ManualCancelation, LookupError):
                async with Visit(timeout=1000) as visit:
                    tokens[0] = visit.token.cancel_sync
                    await checkpoint()
                    visit.deadline = math.inf
                    if number % 7 == 0:
                        raise LookupError
                    await checkpoint()
        begun.append(number)

    def loop() -> None:
        with registry.as_default():
            anyio.run(visits, backend=name, backend_options=fresh(options))

    def ask(number: int) -> None:
        while not over.is_set():
            for context in registry.list_operations():
                if number == 0 and hash(context.id) % 3 == 0:
                    registry.cancel(context.id)
            if number == 1:
                tokens[0]()
            registry.get_statistics()

    def guarded(run: Callable[[], object]) -> Callable[[], None]:
        def target() -> None:
            try:
                run()
            except BaseException as error:
                failed.append(error)

        return target

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        loops = [threading.Thread(target=guarded(loop)) for _ in range(LOOPS)]
        askers = [threading.Thread(target=guarded(partial(ask, n))) for n in range(3)]
        for thread in [*loops, *askers]:
            thread.start()
        for thread in loops:
            thread.join(60)
        over.set()
        for thread in askers:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert failed == []
    completed, cancelled, errors = ended(registry)
    assert len(begun) == LOOPS
    assert completed + cancelled + errors == sum(begun)
    assert errors
    assert registry.list_operations() == []
    assert registry.tree() == []


def fresh(options: dict[str, object]) -> dict[str, object]:
    """Return options with a clock of their own, since a Trio clock belongs to one run."""
    if "clock" not in options:
        return options
    from trio.testing import MockClock

    return {**options, "clock": MockClock(autojump_threshold=0)}
