"""Operations by id: listed while they live, remembered within a bound, cancelled from anywhere.

Holds to: S16.
"""

from __future__ import annotations

import gc
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from cancelable import (
    Cancelable,
    CancelationReason,
    CancelOutcome,
    ManualCancelation,
    OperationRegistry,
    OperationStatus,
    SignalCancelation,
    ThreadSafeRegistry,
)
from cancelable._doorbell import Doorbell
from cancelable._watch import Watch
from tests.support.native import in_thread


@pytest.fixture
def registry() -> OperationRegistry:
    return OperationRegistry()


# -- which registry --------------------------------------------------------------------------


async def test_the_default_registry_is_replaced_for_the_code_inside() -> None:
    """Inside `as_default()`, in its tasks too, `register_globally` means that registry."""
    outside = OperationRegistry.get_instance()
    registry = OperationRegistry()
    seen: list[bool] = []

    async def child() -> None:
        async with Cancelable("child", register_globally=True):
            seen.append(registry.get("child") is not None)

    with registry.as_default() as given:
        assert given is registry
        assert OperationRegistry.current() is registry
        async with Cancelable("mine", register_globally=True), anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            assert outside.get("mine") is None
    assert OperationRegistry.current() is outside
    assert seen == [True]
    assert ThreadSafeRegistry is OperationRegistry


# -- entering and leaving --------------------------------------------------------------------


async def test_an_operation_is_listed_for_the_time_of_its_block(
    registry: OperationRegistry,
) -> None:
    """Not after it; an operation that asks for no registry is in none."""
    operation = registry.register(Cancelable("mine"))
    async with operation, Cancelable("other"):
        assert registry.get_operation("mine") is operation
        assert [each.id for each in registry.list_operations()] == ["mine"]
        assert registry.get("other") is None
    assert registry.get_operation("mine") is None
    assert registry.list_operations() == []
    history = registry.get("mine")
    assert history is not None
    assert history.status is OperationStatus.COMPLETED


async def test_an_operation_is_listed_before_it_begins(registry: OperationRegistry) -> None:
    """It is found, and asked to stop, from the moment that it is registered."""
    running = registry.register(Cancelable("running"))
    waiting = registry.register(Cancelable("waiting", metadata={"owner": "ann"}))
    async with running:
        listed = registry.list_operations()
        assert [each.id for each in listed] == ["running", "waiting"]
        assert [each.id for each in registry.list_operations(OperationStatus.PENDING)] == [
            "waiting"
        ]
        assert [node.context.id for node in registry.tree()] == ["running", "waiting"]
        assert registry.get_statistics()["active_by_status"] == {
            "pending": 1,
            "running": 1,
            "cancelling": 0,
        }
        assert registry.get_operation("waiting") is waiting
        assert registry.get("waiting", metadata={"owner": "bob"}) is None
        assert registry.cancel("waiting", message="not now") is CancelOutcome.REQUESTED
        assert registry.cancel("waiting") is CancelOutcome.ALREADY_REQUESTED
        assert registry.cancel_all(OperationStatus.PENDING) == 0
    with pytest.raises(ManualCancelation, match="not now"):
        async with waiting:
            assert [each.id for each in registry.list_operations()] == ["waiting"]
            await anyio.lowlevel.checkpoint()
            pytest.fail("went on")
    assert registry.list_operations() == []
    assert [each.id for each in registry.get_history()] == ["running", "waiting"]


async def test_an_id_that_is_made_before_the_beginning_is_known(
    registry: OperationRegistry,
) -> None:
    """Before the operation begins, while it runs, and when it has ended."""
    operation = registry.register(Cancelable())
    identity = operation.operation_id
    assert registry.get_operation(identity) is operation
    async with operation:
        assert registry.get_operation(identity) is operation
    assert registry.cancel(identity) is CancelOutcome.FINISHED


async def test_an_operation_that_never_begins_is_forgotten(registry: OperationRegistry) -> None:
    """The registry is not what keeps it."""
    kept = registry.register(Cancelable("kept"))
    for number in range(100):
        registry.register(Cancelable(f"dropped {number}"))
        _ = registry.register(Cancelable()).operation_id
    gc.collect()
    assert [each.id for each in registry.list_operations()] == ["kept"]
    assert registry.get("dropped 7") is None
    assert not registry._pending._by_id.keys() - {"kept"}
    assert kept.is_pending


async def test_of_several_that_wait_with_one_id_the_first_is_found(
    registry: OperationRegistry,
) -> None:
    """They may begin one after the other; whoever comes next is found then."""
    first, second = (registry.register(Cancelable("mine")) for _ in range(2))
    assert registry.get_operation("mine") is first
    async with first:
        assert registry.get_operation("mine") is first
    assert registry.get_operation("mine") is second
    assert registry.cancel("mine") is CancelOutcome.REQUESTED
    assert second.cancel_requested
    assert not first.cancel_requested


async def test_whoever_follows_is_told_before_the_beginning(registry: OperationRegistry) -> None:
    """A watcher of one that is pending sees it begin and end."""
    operation = registry.register(Cancelable("mine"))
    seen: list[OperationStatus] = []

    async def watch() -> None:
        async with registry.watch("mine") as contexts:
            started.set()
            async for context in contexts:
                seen.append(context.status)

    started = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await started.wait()
        await anyio.sleep(1)
        async with operation:
            await anyio.sleep(1)
    assert seen == [OperationStatus.PENDING, OperationStatus.RUNNING, OperationStatus.COMPLETED]


async def test_threads_find_what_begins_meanwhile(registry: OperationRegistry) -> None:
    """An id that is made while its operation begins is that of a live one, or of none."""
    lost: list[str] = []
    operations = [registry.register(Cancelable()) for _ in range(2000)]
    barrier = threading.Barrier(2)

    def ask() -> None:
        barrier.wait()
        for operation in operations:
            identity = operation.operation_id
            found = registry.get_operation(identity) or registry.get(identity)
            if found is None and not operation.status.is_terminal:
                lost.append(identity)

    thread = threading.Thread(target=ask)
    thread.start()
    barrier.wait()
    for operation in operations:
        async with operation:
            pass
    thread.join()
    assert lost == []


async def test_a_running_operation_may_be_registered(registry: OperationRegistry) -> None:
    """Registering inside the block lists it from then on; twice or after the end is refused."""
    async with Cancelable("mine") as operation:
        registry.register(operation)
        assert registry.get_operation("mine") is operation
        with pytest.raises(RuntimeError, match="registered already"):
            OperationRegistry().register(operation)
    async with Cancelable() as operation:
        pass
    with pytest.raises(RuntimeError, match="has ended"):
        registry.register(operation)


async def test_an_id_is_made_and_listed_when_somebody_asks(registry: OperationRegistry) -> None:
    """Ids that nobody has seen cost nothing; one that was seen finds its operation."""
    async with registry.register(Cancelable()) as operation:
        assert operation.known_id is None
        known = operation.operation_id
        assert len(known) == 32
        assert registry.get_operation(known) is operation
    assert registry.get_operation(known) is None
    async with registry.register(Cancelable()):
        (context,) = registry.list_operations()
        assert registry.cancel(context.id) is CancelOutcome.REQUESTED


async def test_ids_are_unguessable_and_differ() -> None:
    """128 random bits, no counter in them."""
    ids = {Cancelable().operation_id for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(each) == 32 for each in ids)
    assert len({each[:8] for each in ids}) > 990
    assert len({each[-8:] for each in ids}) > 990


async def test_a_duplicate_of_a_live_id_is_refused(registry: OperationRegistry) -> None:
    """The second one is told at its entry and may be entered when the first has ended."""
    second = registry.register(Cancelable("mine"))
    async with registry.register(Cancelable("mine")) as first:
        with pytest.raises(ValueError, match="'mine' is live"):
            async with second:
                pytest.fail("entered")
        assert registry.get_operation("mine") is first
    async with second:
        assert registry.get_operation("mine") is second
    async with registry.register(Cancelable("mine")):
        async with Cancelable("mine") as running:
            with pytest.raises(ValueError, match="'mine' is live"):
                registry.register(running)
            OperationRegistry().register(running)


async def test_an_operation_may_be_taken_out(registry: OperationRegistry) -> None:
    """`unregister` forgets a live operation and leaves it running."""
    async with registry.register(Cancelable("mine")) as operation:
        assert registry.unregister("mine") == 1
        assert registry.unregister("mine") == 0
        assert registry.get("mine") is None
        assert operation.is_running
    assert registry.get_history() == []
    pending = registry.register(Cancelable("pending"))
    assert registry.unregister("pending") == 1
    assert registry.unregister("pending") == 0
    async with pending:
        assert registry.list_operations() == []


# -- cancelling ------------------------------------------------------------------------------


async def test_cancel_answers_at_once_and_never_says_stopped(registry: OperationRegistry) -> None:
    """Requested, already requested, finished, unknown: each as it is."""
    operation = Cancelable("mine")
    assert registry.cancel("mine") is CancelOutcome.UNKNOWN
    registry.register(operation)
    with anyio.fail_after(5), pytest.raises(SignalCancelation, match="stop"):
        async with operation:
            assert registry.cancel("mine", "signal", "stop") is CancelOutcome.REQUESTED
            assert operation.status is OperationStatus.CANCELLING
            assert registry.cancel("mine") is CancelOutcome.ALREADY_REQUESTED
            await anyio.sleep_forever()
    assert registry.cancel("mine") is CancelOutcome.FINISHED
    assert registry.cancel("nobody") is CancelOutcome.UNKNOWN
    with pytest.raises(ValueError, match="`reason`"):
        registry.cancel("mine", "because")


def test_an_outcome_is_true_while_the_request_stands() -> None:
    """`if registry.cancel(…)` asks whether somebody will be stopped by it."""
    standing = {outcome.value for outcome in CancelOutcome if outcome}
    assert standing == {"requested", "already_requested", "remembered"}


async def test_metadata_keeps_others_out(registry: OperationRegistry) -> None:
    """With `metadata=` an operation of another owner looks unknown, live and ended."""
    mine = {"owner": "me"}
    other = {"owner": "you"}
    async with registry.register(Cancelable("mine", metadata={**mine, "more": 1})) as operation:
        assert registry.get("mine", metadata=mine) is not None
        assert registry.get("mine", metadata=other) is None
        assert registry.cancel("mine", metadata=other) is CancelOutcome.UNKNOWN
        assert registry.cancel("mine", metadata={"absent": None}) is CancelOutcome.UNKNOWN
        assert registry.list_operations(metadata=other) == []
        assert len(registry.list_operations(metadata=mine)) == 1
        assert registry.cancel_all(metadata=other) == 0
        assert not operation.cancel_requested
    assert registry.cancel("mine", metadata=other) is CancelOutcome.UNKNOWN
    assert registry.cancel("mine", metadata=mine) is CancelOutcome.FINISHED


async def test_filters_choose_by_status_parent_and_name(registry: OperationRegistry) -> None:
    """Also for `cancel_all`, which counts those that it was the first to ask."""
    with registry.as_default(), anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with (
            Cancelable("a", "import users", register_globally=True) as first,
            Cancelable("b", "import orders", register_globally=True),
            Cancelable("c", register_globally=True) as last,
        ):
            assert [each.id for each in registry.list_operations(name_pattern="import")] == [
                "a",
                "b",
            ]
            assert [each.id for each in registry.list_operations(name_pattern="*users")] == ["a"]
            assert registry.list_operations(name_pattern="users*") == []
            assert [each.id for each in registry.list_operations(parent_id="b")] == ["c"]
            assert registry.cancel_all(name_pattern="nothing") == 0
            assert registry.cancel_all(parent_id="b") == 1
            assert last.is_cancelling
            cancelling = registry.list_operations(OperationStatus.CANCELLING)
            assert [each.id for each in cancelling] == ["c"]
            running = registry.list_operations(status=OperationStatus.RUNNING)
            assert [each.id for each in running] == ["a", "b"]
            assert registry.cancel_all() == 1  # the others are below the first
            assert first.is_cancelling
            await anyio.sleep_forever()


async def test_every_call_may_be_awaited(registry: OperationRegistry) -> None:
    """Programs written for a registry of coroutines work as they are."""
    operation = Cancelable("mine")
    assert await registry.register(operation) is operation
    async with operation:
        assert await registry.get_operation("mine") is operation  # type: ignore[misc]
        assert len(await registry.list_operations()) == 1
        assert await registry.cancel_operation("mine") is CancelOutcome.REQUESTED
        assert await registry.cancel_all() == 0
        assert (await registry.get_statistics())["active_operations"] == 1
    assert len(await registry.get_history()) == 1
    assert await registry.cleanup_completed() == 1
    assert await registry.clear_all() == 0
    assert await registry.unregister("mine") == 0
    assert len(registry.list_operations_sync()) == 0
    assert registry.get_history_sync() == []


async def test_waiting_for_the_end_is_a_call_of_its_own(registry: OperationRegistry) -> None:
    """`wait_stopped` gives the end, None when the time is up, and an error for the unknown."""
    release = anyio.Event()

    async def work() -> None:
        async with registry.register(Cancelable("mine")):
            with anyio.CancelScope(shield=True):
                await release.wait()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            assert registry.cancel("mine") is CancelOutcome.REQUESTED
            assert await registry.wait_stopped("mine", timeout=0) is None
            assert await registry.wait_stopped("mine", timeout=0.001) is None
            assert registry.get_statistics()["active_by_status"] == {
                "pending": 0,
                "running": 0,
                "cancelling": 1,
            }
            release.set()
            ended = await registry.wait_stopped("mine")
        assert ended is not None
        assert ended.is_terminal
        assert await registry.wait_stopped("mine", timeout=0) is ended
        with pytest.raises(LookupError, match="nobody"):
            await registry.wait_stopped("nobody")


@pytest.mark.parametrize("timeout", [0, 0.01, None])
@pytest.mark.parametrize("kind", ["heeds it", "is shielded", "swallows it"])
async def test_requested_is_told_from_stopped_whatever_the_block_does(
    registry: OperationRegistry, kind: str, timeout: float | None
) -> None:
    """The wait keeps its limit, and what has not stopped by then is listed."""
    release = anyio.Event()

    async def work() -> None:
        async with registry.register(Cancelable("mine")).move_on():
            if kind == "heeds it":
                await anyio.sleep_forever()
            with anyio.CancelScope(shield=kind == "is shielded"):
                while not release.is_set():
                    with suppress(anyio.get_cancelled_exc_class()):
                        await release.wait()
            if kind == "is shielded":
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            assert registry.cancel("mine") is CancelOutcome.REQUESTED
            if kind != "heeds it":
                if timeout is not None:
                    assert await registry.wait_stopped("mine", timeout=timeout) is None
                cancelling = registry.list_operations(OperationStatus.CANCELLING)
                assert [each.id for each in cancelling] == ["mine"]
                assert registry.cancel("mine") is CancelOutcome.ALREADY_REQUESTED
                release.set()
            ended = await registry.wait_stopped("mine", timeout=timeout and 4)
            # One turn of the loop may be enough to stop, or not.
            ended = ended or await registry.wait_stopped("mine")
    assert ended is not None
    assert ended.is_cancelled is (kind != "swallows it")
    assert ended.cancel_requested
    assert registry.cancel("mine") is CancelOutcome.FINISHED


async def test_a_thread_waits_for_the_end_in_a_loop_of_its_own(
    registry: OperationRegistry,
) -> None:
    """The end of an operation wakes a waiter in another loop."""
    ended: list[object] = []

    async def wait() -> None:
        ended.append(await registry.wait_stopped("mine", timeout=5))

    waiting = threading.Thread(target=lambda: anyio.run(wait))
    async with registry.register(Cancelable("mine")) as operation:
        waiting.start()
        while not operation.__dict__.get("_waiting"):
            await anyio.sleep(0.001)
    await anyio.to_thread.run_sync(waiting.join, 5)
    assert ended == [operation.context]


# -- history ---------------------------------------------------------------------------------


async def end(registry: OperationRegistry, operation_id: str, how: str) -> None:
    try:
        async with registry.register(Cancelable(operation_id)) as operation:
            if how == "cancelled":
                await operation.cancel()
                await anyio.sleep(1)
            if how == "failed":
                raise ValueError("oops")
    except (ManualCancelation, ValueError):
        pass


async def test_the_history_is_bounded_and_filtered() -> None:
    """The newest ones are remembered, oldest first; all of them are counted."""
    registry = OperationRegistry(history=3)
    for number, how in enumerate(["completed", "cancelled", "failed", "completed", "cancelled"]):
        await end(registry, str(number), how)
    assert [each.id for each in registry.get_history()] == ["2", "3", "4"]
    assert [each.id for each in registry.get_history(limit=2)] == ["3", "4"]
    assert registry.get_history(limit=0) == []
    cancelled = registry.get_history(status=OperationStatus.CANCELLED)
    assert [each.id for each in cancelled] == ["4"]
    now = datetime.now(UTC)
    assert len(registry.get_history(since=now - timedelta(minutes=1))) == 3
    assert len(registry.get_history(since=(now - timedelta(minutes=1)).replace(tzinfo=None))) == 3
    assert registry.get_history(since=now + timedelta(minutes=1)) == []
    completed = registry.get("3")
    assert completed is not None
    took = completed.duration_seconds
    assert registry.get_statistics() == {
        "active_operations": 0,
        "active_by_status": {"pending": 0, "running": 0, "cancelling": 0},
        "total_completed": 2,
        "total_cancelled": 2,
        "total_failed": 1,
        "history_size": 3,
        "history_by_status": {"completed": 1, "cancelled": 1, "failed": 1},
        "average_duration_seconds": took,
    }
    failed = registry.get("2")
    assert failed is not None
    assert failed.error == "ValueError: oops"
    assert registry.cleanup_completed(older_than=timedelta(minutes=1)) == 0
    assert registry.cleanup_completed() == 2
    assert [each.id for each in registry.get_history()] == ["2"]
    assert registry.cleanup_completed(keep_failed=False) == 1
    registry.clear_history()
    assert registry.get_statistics()["total_failed"] == 0
    assert registry.get_statistics()["average_duration_seconds"] == 0
    with pytest.raises(ValueError, match="`history`"):
        OperationRegistry(history=-1)


async def test_a_status_may_be_given_as_text(registry: OperationRegistry) -> None:
    """As a reason may; one that does not exist matches nothing silently nowhere."""
    await end(registry, "over", "completed")
    async with registry.register(Cancelable("mine")) as operation:
        assert [each.id for each in registry.list_operations("running")] == ["mine"]
        assert registry.list_operations("cancelling") == []
        assert [each.id for each in registry.get_history(status="completed")] == ["over"]
        assert registry.cancel_all("pending") == 0
        for call in (registry.list_operations, registry.cancel_all):
            with pytest.raises(ValueError, match=r"`status` must be .*'running'.*, not 'bogus'"):
                call("bogus")
        with pytest.raises(ValueError, match=r"`status` must be .*'failed'.*, not 'bogus'"):
            registry.get_history(status="bogus")
        assert not operation.cancel_requested
        assert registry.cancel_all("running") == 1
        assert registry.list_operations("running") == []
        assert [each.id for each in registry.list_operations("cancelling")] == ["mine"]


@pytest.mark.parametrize("given", [5, 2.5, b"mine", ["mine"]], ids=repr)
async def test_a_question_of_the_wrong_kind_is_refused(
    registry: OperationRegistry, given: object
) -> None:
    """It would look like one to which the answer is nothing."""
    text, facts = cast("str", given), cast("dict[str, object]", given)
    async with registry.register(Cancelable("mine")):
        for ask in (registry.list_operations, registry.cancel_all):
            with pytest.raises(TypeError, match="`name_pattern` must be a string or None"):
                ask(name_pattern=text)
            with pytest.raises(TypeError, match="`parent_id` must be a string or None"):
                ask(parent_id=text)
            with pytest.raises(TypeError, match="`metadata` must be a mapping"):
                ask(metadata=facts)
        for look in (
            registry.get,
            registry.get_operation,
            registry.cancel,
            registry.unregister,
        ):
            with pytest.raises(TypeError, match="`operation_id` must be a string"):
                look(text)
        with pytest.raises(TypeError, match="`operation_id` must be a string"):
            await registry.wait_stopped(text)
        for name, watch in (
            ("operation_id", registry.watch(text)),
            ("metadata", registry.watch("mine", metadata=facts)),
        ):
            with pytest.raises(TypeError, match=f"`{name}` must be"):
                async with watch:
                    pass
        for look in (registry.get, registry.cancel):
            with pytest.raises(TypeError, match="`metadata` must be a mapping"):
                look("nobody", metadata=facts)
        with pytest.raises(TypeError, match="`since` must be a datetime"):
            registry.get_history(since=cast("datetime", given))
        with pytest.raises(TypeError, match="`operation` must be a Cancelable"):
            registry.register(cast("Cancelable", given))


@pytest.mark.parametrize("given", ["3", 2.5, True], ids=repr)
def test_a_number_of_operations_is_a_whole_number(given: object) -> None:
    """The bound of the history, and how much of it somebody wants to see."""
    number = cast("int", given)
    with pytest.raises(TypeError, match="`history` must be a whole number of operations"):
        OperationRegistry(history=number)
    with pytest.raises(TypeError, match="`limit` must be a whole number of operations"):
        OperationRegistry().get_history(limit=number)
    with pytest.raises(TypeError, match="`history` must be a whole number of operations"):
        OperationRegistry(history=cast("int", None))
    with pytest.raises(ValueError, match="`limit` must be 0 or more operations"):
        OperationRegistry().get_history(limit=-1)


async def test_completed_operations_need_not_be_remembered() -> None:
    """`keep_completed=False` remembers those alone that did not complete."""
    registry = OperationRegistry()
    async with registry.register(Cancelable("completed"), keep_completed=False):
        pass
    with pytest.raises(ManualCancelation):
        async with registry.register(Cancelable("cancelled"), keep_completed=False) as operation:
            await operation.cancel()
            await anyio.sleep(1)
    assert [each.id for each in registry.get_history()] == ["cancelled"]
    none = OperationRegistry(history=0)
    await end(none, "mine", "cancelled")
    assert none.get_history() == []
    assert none.get_statistics()["total_cancelled"] == 1


async def test_forgetting_everything_stops_nothing(registry: OperationRegistry) -> None:
    """`clear_all` takes live operations out; they run to their own end."""
    await end(registry, "ended", "completed")
    pending = registry.register(Cancelable("pending"))
    async with registry.register(Cancelable("mine")) as operation:
        assert registry.clear_all() == 3
        async with pending:
            assert registry.get("pending") is None
        assert registry.list_operations() == []
        assert operation.is_running
    assert registry.get_history() == []


async def test_a_remembered_context_does_not_change(registry: OperationRegistry) -> None:
    """The facts of an ended operation are final, times and duration with them."""
    await end(registry, "mine", "cancelled")
    context = registry.get("mine")
    assert context is not None
    assert context is registry.get_history()[0]
    assert context.start_time is not None
    assert context.end_time is not None
    assert context.duration == context.end_time - context.start_time
    assert context.cancel_reason is CancelationReason.MANUAL
    assert context.is_cancelled
    assert not context.is_success
    assert context.log_context()["cancel_reason"] == "manual"


# -- threads ---------------------------------------------------------------------------------


async def test_threads_may_use_the_registry_while_operations_come_and_go(
    registry: OperationRegistry,
) -> None:
    """Listing, cancelling and counting from threads meets no half-registered operation."""
    stop = threading.Event()
    failed: list[BaseException] = []
    asked = 0

    def hammer() -> None:
        nonlocal asked
        try:
            while not stop.is_set():
                for context in registry.list_operations():
                    registry.get(context.id)
                    if registry.cancel(context.id) is CancelOutcome.REQUESTED:
                        asked += 1
                registry.get_statistics()
                registry.get_history(limit=5)
                registry.tree()
        except BaseException as error:
            failed.append(error)

    async def work() -> None:
        try:
            async with registry.register(Cancelable()):
                for _ in range(3):
                    await anyio.lowlevel.checkpoint()
        except ManualCancelation:
            pass

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    with anyio.fail_after(20):
        for _ in range(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(work)
    stop.set()
    for thread in threads:
        thread.join(5)
    assert failed == []
    statistics = registry.get_statistics()
    assert statistics["active_operations"] == 0
    total = sum(
        int(str(statistics[key])) for key in ("total_completed", "total_cancelled", "total_failed")
    )
    assert total == 600
    assert not registry._live
    assert not registry._by_id


async def test_a_thread_cancels_by_id(registry: OperationRegistry) -> None:
    """A program in another thread stops an operation that it knows by id alone."""
    with anyio.fail_after(5), pytest.raises(ManualCancelation):
        async with registry.register(Cancelable("mine")):
            in_thread(lambda: registry.cancel_operation_sync("mine"))
            await anyio.sleep_forever()


async def test_two_looks_at_an_operation_agree_on_when_it_began() -> None:
    """Though neither the clock of the machine nor the one that never jumps stood still."""
    async with Cancelable("mine") as operation:
        first = operation.context.start_time
        await anyio.sleep(0.001)
        assert operation.context.start_time == first
    assert operation.context.start_time == first


# -- watching --------------------------------------------------------------------------------


async def test_an_operation_is_watched_to_its_end(registry: OperationRegistry) -> None:
    """Its status, its progress, the request to stop, and how it ended."""
    seen: list[tuple[OperationStatus, object]] = []
    watching = anyio.Event()

    async def watch() -> None:
        async with registry.watch("mine") as contexts:
            async for context in contexts:
                message = None if context.progress is None else context.progress.message
                seen.append((context.status, message))
                watching.set()

    async with anyio.create_task_group() as tasks:
        with pytest.raises(ManualCancelation):
            async with registry.register(Cancelable("mine", grace=5)) as operation:
                tasks.start_soon(watch)
                await watching.wait()
                await operation.report_progress("half")
                await anyio.wait_all_tasks_blocked()
                operation.cancel_sync()
                await anyio.wait_all_tasks_blocked()
                operation.cancel_sync(grace=0)
                await anyio.sleep_forever()
    assert seen == [
        (OperationStatus.RUNNING, None),
        (OperationStatus.RUNNING, "half"),
        (OperationStatus.CANCELLING, "half"),
        (OperationStatus.CANCELLED, "half"),
    ]
    assert not registry._observers


async def test_one_that_has_ended_is_watched_for_one_record(registry: OperationRegistry) -> None:
    """What is remembered, and no more."""
    async with registry.register(Cancelable("mine", metadata={"owner": "ann"})):
        pass
    async with registry.watch("mine", metadata={"owner": "ann"}) as contexts:
        assert [context.status async for context in contexts] == [OperationStatus.COMPLETED]
    for wanted in ({"owner": "bob"}, {"tenant": 1}):
        with pytest.raises(LookupError, match="'mine'"):
            async with registry.watch("mine", metadata=wanted):
                pass
    with pytest.raises(LookupError, match="'other'"):
        async with registry.watch("other"):
            pass


async def test_a_watcher_who_leaves_is_forgotten(registry: OperationRegistry) -> None:
    """The registry tells nobody of anything then."""
    async with registry.register(Cancelable("mine")):
        async with registry.watch("mine") as contexts:
            await anext(contexts)
            assert registry._observers
        assert not registry._observers


async def test_a_watcher_who_has_no_time_loses_no_record(registry: OperationRegistry) -> None:
    """Neither the first one nor the last one, after which nothing would ever come."""
    async with registry.watch(await _ended(registry, "over")) as contexts:
        with anyio.move_on_after(0) as poll:
            await anext(contexts)
        assert poll.cancelled_caught
        with anyio.fail_after(5):
            assert [context.status async for context in contexts] == [OperationStatus.COMPLETED]
    async with registry.register(Cancelable("live")) as operation:
        async with registry.watch("live") as contexts:
            for message in (None, "half"):
                with anyio.move_on_after(0) as poll:
                    await anext(contexts)
                assert poll.cancelled_caught
                with anyio.fail_after(5):
                    context = await anext(contexts)
                assert (context.progress and context.progress.message) == message
                await operation.report_progress("half")


async def _ended(registry: OperationRegistry, operation_id: str) -> str:
    async with registry.register(Cancelable(operation_id)):
        return operation_id


async def test_a_watcher_who_gives_up_in_the_middle_of_a_look_looks_again() -> None:
    """The bell rings once for a change: a look that was cut short must not be the last one."""
    bell = Doorbell()
    standing = "running"

    async def look() -> str:
        if not limit.cancel_called:
            limit.cancel()
            await anyio.sleep_forever()
        return standing

    watch = Watch("running", bell, look, lambda record: record, lambda record: record == "over")
    assert await anext(watch) == "running"
    standing = "over"
    bell.ring()
    with anyio.CancelScope() as limit:
        await anext(watch)
    assert limit.cancelled_caught
    with anyio.fail_after(5):
        assert [record async for record in watch] == ["over"]
