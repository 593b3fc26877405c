"""What every bus promises, whatever is behind it."""

from __future__ import annotations

import gc
import threading
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from cancelable import (
    Cancelable,
    CancelationReason,
    CancelOutcome,
    ManualCancelation,
    OperationStatus,
    SignalCancelation,
)
from cancelable.bus import CancelBus, DuplicateOperation, OperationInfo, OperationState
from tests.bus.conftest import Buses
from tests.bus.work import PATIENCE, running, until

S = OperationState
O = CancelOutcome  # noqa: E741 - as in the table of outcomes


# -- cancelling ------------------------------------------------------------------------------


async def test_a_cancel_reaches_the_operation_with_its_reason(buses: Buses) -> None:
    """Reason, message and who asked are what the operation ends with."""
    async with buses() as (here, there):
        async with running(here) as work:
            result = await there.cancel(work.id, "signal", "enough", by="ann")
            assert result.outcome is O.REQUESTED
            assert result
            assert result.operation is not None
            assert result.operation.id == work.id
            assert result.operation.state is S.CANCELLING
            assert result.delivered is not False
            with anyio.fail_after(PATIENCE):
                await work.ended.wait()
        assert isinstance(work.error, SignalCancelation)
        assert work.error.message == "enough"
        assert work.operation.context.cancel_source == "ann"


async def test_a_second_cancel_says_that_there_was_one(buses: Buses) -> None:
    """The first cause stands; the second caller learns that."""
    async with buses() as (here, there):
        async with running(here, grace=PATIENCE) as work:
            assert (await there.cancel(work.id, message="first")).outcome is O.REQUESTED
            second = await there.cancel(work.id, "signal", "second")
            assert second.outcome is O.ALREADY_REQUESTED
            assert second.operation is not None
            assert second.operation.cancel is not None
            assert second.operation.cancel.message == "first"
            await until(lambda: work.operation.cancel_requested)
            assert work.operation.cancel_message == "first"


async def test_a_later_cancel_can_shorten_the_grace(buses: Buses) -> None:
    """First gently, then at once: the cause is the first one's, the time is the second's."""
    async with buses() as (here, there):
        async with running(here, grace=3600) as work:
            await there.cancel(work.id, message="gently")
            await until(lambda: work.operation.is_cancelling)
            assert not work.ended.is_set()
            await there.cancel(work.id, message="now", grace=0)
            with anyio.fail_after(PATIENCE):
                await work.ended.wait()
        assert isinstance(work.error, ManualCancelation)
        assert work.error.message == "gently"


async def test_a_cancel_after_the_end_says_how_it_ended(buses: Buses) -> None:
    """The work was done before the request came: finished, with the end state."""
    async with buses() as (here, there):
        async with running(here) as work:
            pass
        assert (await there.wait_stopped(work.id, PATIENCE)) is not None
        result = await there.cancel(work.id)
        assert result.outcome is O.FINISHED
        assert not result
        assert result.operation is not None
        assert result.operation.state is S.COMPLETED


async def test_an_id_that_nobody_knows_is_unknown(buses: Buses) -> None:
    """Never a false success."""
    async with buses() as (_here, there):
        result = await there.cancel("nobody")
        assert result.outcome is O.UNKNOWN
        assert not result
        assert result.operation is None
        assert await there.get("nobody") is None
        with pytest.raises(LookupError, match="'nobody'"):
            await there.wait_stopped("nobody", 1)
        with pytest.raises(LookupError, match="'nobody'"):
            async with there.watch("nobody"):
                pytest.fail("there is nothing to watch")


async def test_a_cancel_is_told_to_the_operation_once(buses: Buses) -> None:
    """Of many requests at once one is the first, and the callbacks run once."""
    async with buses() as (here, there):
        told: list[str] = []
        outcomes: list[CancelOutcome] = []

        async def ask(number: int) -> None:
            outcomes.append((await there.cancel(work.id, message=str(number))).outcome)

        async with running(here) as work:
            work.operation.on_cancel(lambda context: told.append(context.id))
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(ask, number)
            with anyio.fail_after(PATIENCE):
                await work.ended.wait()
        assert told == [work.id]
        assert outcomes.count(O.REQUESTED) == 1
        assert set(outcomes) <= {O.REQUESTED, O.ALREADY_REQUESTED, O.FINISHED}


async def test_a_remembered_cancel_meets_an_operation_that_starts_later(buses: Buses) -> None:
    """Only who says so is remembered, and the cause is kept."""
    async with buses() as (here, there):
        assert (await there.cancel("early", message="too late", remember_for=60)).outcome is (
            O.REMEMBERED
        )
        assert (await there.cancel("early", message="even later", remember_for=60)).outcome is (
            O.REMEMBERED
        )
        async with running(here, "early", announce=False) as work:
            with anyio.fail_after(PATIENCE):
                await work.ended.wait()
        assert isinstance(work.error, ManualCancelation)
        assert work.error.message == "too late"
        async with running(here, "early") as again:
            assert not again.operation.cancel_requested


async def test_a_remembered_cancel_is_only_for_whom_it_was_meant(buses: Buses) -> None:
    """Somebody who guesses an id cannot stop another's operation before it begins."""
    async with buses() as (here, there):
        mine = {"owner": "bob"}
        assert (await there.cancel("job", metadata=mine, remember_for=60)).outcome is O.REMEMBERED
        async with running(here, "job", metadata={"owner": "ann"}) as work:
            assert not work.operation.cancel_requested
        async with running(here, "other", metadata={"owner": "ann"}) as work:
            foreign = await there.cancel(work.id, metadata=mine, remember_for=60)
            assert foreign.outcome is O.REMEMBERED  # as for an id that does not exist
            assert not work.operation.cancel_requested


async def test_what_is_not_asked_to_be_remembered_is_not(buses: Buses) -> None:
    """A request for an unknown id must not kill a later operation of that id."""
    async with buses() as (here, there):
        assert (await there.cancel("later")).outcome is O.UNKNOWN
        async with running(here, "later") as work:
            assert not work.operation.cancel_requested


# -- whose it is -----------------------------------------------------------------------------


async def test_somebody_elses_operation_looks_like_none(buses: Buses) -> None:
    """Cancel, get, list, watch and wait: the same answer as for an id that does not exist."""
    async with buses() as (here, there):
        bobs = {"owner": "bob"}
        async with running(here, "job", metadata={"owner": "ann", "tenant": 7}) as work:
            for metadata in (bobs, {"owner": "ann", "tenant": "7"}, {"tenant": True}, {"x": None}):
                assert (await there.cancel("job", metadata=metadata)) == (
                    await there.cancel("nobody", metadata=metadata)
                )
                assert await there.get("job", metadata=metadata) is None
                assert (await there.list_operations(metadata=metadata)).operations == ()
            with pytest.raises(LookupError):
                await there.wait_stopped("job", 1, metadata=bobs)
            with pytest.raises(LookupError):
                async with there.watch("job", metadata=bobs):
                    pytest.fail("it is not bob's")
            assert not work.operation.cancel_requested
            assert await there.get("job", metadata={"owner": "ann", "tenant": 7}) is not None
            assert await there.cancel("job", metadata={"owner": "ann"})
        await there.wait_stopped("job", PATIENCE)
        assert await there.get("job", metadata=bobs) is None
        assert (await there.cancel("job", metadata=bobs)).outcome is O.UNKNOWN
        assert (await there.cancel("job", metadata={"owner": "ann"})).outcome is O.FINISHED


async def test_owners_that_differ_in_the_last_digit_are_two(buses: Buses) -> None:
    """Numbers are compared exactly, not as floating-point numbers."""
    async with buses() as (here, there):
        async with running(here, metadata={"owner": 2**63 - 1}) as work:
            assert await there.get(work.id, metadata={"owner": 2**63 - 2}) is None
            assert await there.get(work.id, metadata={"owner": 2**63 - 1}) is not None


async def test_an_operation_without_an_owner_is_nobodys(buses: Buses) -> None:
    """Whoever asks as an owner does not see it."""
    async with buses() as (here, there):
        async with running(here) as work:
            assert await there.get(work.id, metadata={"owner": "ann"}) is None
            assert await there.get(work.id, metadata={"owner": None}) is None
            assert await there.get(work.id) is not None


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"owner": ["ann"]}, TypeError),
        ({1: "ann"}, TypeError),
        ({"owner": float("nan")}, ValueError),
        ({"owner": "x" * 600}, ValueError),
        ({"k" * 65: 1}, ValueError),
        ({str(number): number for number in range(40)}, ValueError),
        ({"owner": 10**400}, ValueError),
    ],
    ids=["list", "number as key", "nan", "long", "long key", "many", "large"],
)
async def test_a_filter_that_cannot_be_compared_is_refused(
    buses: Buses, metadata: dict[str, object], error: type[Exception]
) -> None:
    """A filter that quietly matched nothing, or everything, would be worse."""
    async with buses() as (_here, there):
        for call in (
            there.cancel("job", metadata=metadata),
            there.get("job", metadata=metadata),
            there.list_operations(metadata=metadata),
            there.wait_stopped("job", 1, metadata=metadata),
        ):
            with pytest.raises(error, match="metadata"):
                await call
        with pytest.raises(error, match="metadata"):
            there.watch("job", metadata=metadata)


# -- looking ---------------------------------------------------------------------------------


async def test_the_record_tells_what_the_operation_is(buses: Buses) -> None:
    """Id, name, state, times, plain metadata, progress, the request and the end."""
    async with buses() as (here, there):
        before = datetime.now(UTC) - timedelta(seconds=1)
        metadata = {"owner": "ann", "n": 1, "ok": True, "none": None, "secret": object(), "l": []}
        async with running(here, name="report", metadata=metadata) as work:
            await work.operation.report_progress("half", {"done": 50})
            await until(lambda: has_progress(there, work.id))
            info = await there.get(work.id)
            assert info is not None
            assert (info.id, info.name, info.state) == (work.id, "report", S.RUNNING)
            assert info.state.value == OperationStatus.RUNNING.value
            assert info.metadata == {"owner": "ann", "n": 1, "ok": True, "none": None}
            assert info.start_time is not None
            assert before < info.start_time < datetime.now(UTC) + timedelta(seconds=1)
            assert info.end_time is None
            assert info.progress is not None
            assert (info.progress.message, info.progress.metadata) == ("half", {"done": 50})
            assert not info.is_terminal
            work.failure = KeyError("missing")
        ended = await there.wait_stopped(work.id, PATIENCE)
        assert ended is not None
        assert (ended.state, ended.error) == (S.FAILED, "KeyError: 'missing'")
        assert ended.is_terminal
        assert ended.end_time is not None
        assert ended.cancel is None


async def has_progress(bus: CancelBus, operation_id: str) -> bool:
    info = await bus.get(operation_id)
    return info is not None and info.progress is not None


async def test_a_record_can_be_written_as_json(buses: Buses) -> None:
    """What an HTTP answer needs, without what is the operator's alone."""
    async with buses() as (here, there):
        async with running(here, "job", metadata={"owner": "ann"}) as work:
            assert await there.cancel(work.id, message="enough", by="ann", grace=0)
            with anyio.fail_after(PATIENCE):
                await work.ended.wait()
        info = await there.wait_stopped(work.id, PATIENCE)
        assert info is not None
        written = info.to_json()
        cancel = written["cancel"]
        assert isinstance(cancel, dict)
        assert cancel.pop("at") is not None
        assert cancel == {"reason": "manual", "message": "enough", "by": "ann"}
        assert written["state"] == "cancelled"
        assert written["metadata"] == {"owner": "ann"}
        assert "worker" not in written


async def test_a_request_of_its_own_process_is_seen_elsewhere(buses: Buses) -> None:
    """Local first: the operation is cancelled at once, and the record follows."""
    async with buses() as (here, there):
        async with running(here, grace=PATIENCE) as work:
            work.operation.cancel_sync("signal", "local")

            async def is_seen() -> bool:
                info = await there.get(work.id)
                return info is not None and info.state is S.CANCELLING

            await until(is_seen)
            info = await there.get(work.id)
            assert info is not None
            assert info.cancel is not None
            assert (info.cancel.reason, info.cancel.message) == (
                CancelationReason.SIGNAL,
                "local",
            )
            assert (await there.cancel(work.id, grace=0)).outcome is O.ALREADY_REQUESTED
            with anyio.fail_after(PATIENCE):
                await work.ended.wait()


async def test_an_operation_in_another_thread_is_cancelled_and_seen(buses: Buses) -> None:
    """An event loop of its own in a thread of its own, one registry."""
    async with buses() as (here, there):
        began = threading.Event()
        ended: list[str | None] = []

        async def work() -> None:
            operation = Cancelable("threaded")
            here.registry.register(operation)
            try:
                async with operation:
                    assert await here.announce(operation)
                    began.set()
                    await anyio.sleep_forever()
            except ManualCancelation as error:
                ended.append(error.message)

        thread = threading.Thread(target=anyio.run, args=(work,))
        thread.start()
        try:
            await until(began.is_set)
            assert await there.cancel("threaded", message="across")
            await until(lambda: not thread.is_alive())
        finally:
            here.registry.cancel("threaded")
            thread.join(5)
        assert ended == ["across"]


async def test_progress_may_be_anything(buses: Buses) -> None:
    """What JSON does not know becomes text, and what is long is cut; a report never fails."""
    circle: list[object] = []
    circle.append(circle)
    async with buses() as (here, there):
        seen_as: tuple[tuple[object, object], ...] = (
            (None, None),
            (0.5, 0.5),
            (float("inf"), "inf"),
            ({"a": [1, "x"]}, {"a": [1, "x"]}),
            ({"at": {"x": datetime(2026, 1, 1)}}, {"at": {"x": "2026-01-01 00:00:00"}}),
            ("\ud800", "?"),
        )
        for message, seen in seen_as:
            async with running(here) as work:
                await work.operation.report_progress(message)
                await until(lambda: has_progress(there, work.id))
                info = await there.get(work.id)
                assert info is not None
                assert info.progress is not None
                assert info.progress.message == seen
        large: tuple[object, ...] = ("x" * 100_000, list(range(10_000)), circle)
        for message in large:
            async with running(here) as work:
                await work.operation.report_progress(message, {"a": "b" * 100_000})
                await until(lambda: has_progress(there, work.id))
                info = await there.get(work.id)
                assert info is not None
                assert info.progress is not None
                assert len(repr(info.progress)) < 20_000


# -- listing ---------------------------------------------------------------------------------


async def test_a_listing_goes_page_by_page_and_misses_nobody(buses: Buses) -> None:
    """Oldest first, also when operations end between two pages."""
    async with buses() as (here, there), anyio.create_task_group() as tasks:
        works = []
        for number in range(25):
            operation = Cancelable(f"job-{number:02}")
            here.registry.register(operation)
            works.append(hold(operation, tasks))
            await works[-1].entered.wait()
            assert await here.announce(operation)
        seen: list[str] = []
        after: str | None = None
        for page_number in range(10):
            page = await there.list_operations(after=after, limit=10)
            seen.extend(info.id for info in page.operations)
            if page_number == 0:
                # The one at the end of the page goes away, and one that was seen.
                for number in (3, 9):
                    works[number].finish.set()
                    await there.wait_stopped(f"job-{number:02}", PATIENCE)
            after = page.after
            if after is None:
                break
        assert seen == [f"job-{number:02}" for number in range(25)]
        for work in works:
            work.finish.set()


class Held:
    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.finish = anyio.Event()


def hold(operation: Cancelable, tasks: anyio.abc.TaskGroup) -> Held:
    held = Held()

    async def run() -> None:
        async with operation:
            held.entered.set()
            await held.finish.wait()

    tasks.start_soon(run)
    return held


async def test_a_listing_shows_what_was_asked_for(buses: Buses) -> None:
    """By owner and tenant, by any other metadata, by state and by name."""
    async with buses() as (here, there):
        async with (
            running(here, "a", name="import", metadata={"owner": "ann", "tenant": 1}),
            running(here, "b", name="export", metadata={"owner": "ann", "tenant": 2}),
            running(here, "c", name="export", metadata={"owner": "bob", "x": 1}, grace=5) as work,
        ):
            await there.cancel(work.id)

            async def ids(
                status: OperationStatus | OperationState | None = None,
                name_pattern: str | None = None,
                **metadata: object,
            ) -> str:
                page = await there.list_operations(status, name_pattern, metadata=metadata)
                return "".join(info.id for info in page.operations)

            assert await ids() == "abc"
            assert await ids(owner="ann") == "ab"
            assert await ids(owner="ann", tenant=2) == "b"
            assert await ids(tenant=1) == "a"
            assert await ids(x=1) == "c"
            assert await ids(owner="ann", x=1) == ""
            assert await ids(OperationStatus.CANCELLING) == "c"
            assert await ids(S.RUNNING) == "ab"
            assert await ids(None, "port") == "abc"
            assert await ids(None, "ex*") == "bc"
            assert await ids(S.RUNNING, "ex*", owner="bob") == ""


async def test_what_has_ended_is_not_listed(buses: Buses) -> None:
    """A listing is of the live ones."""
    async with buses() as (here, there):
        async with running(here, metadata={"owner": "ann"}) as work:
            assert len((await there.list_operations()).operations) == 1
        await there.wait_stopped(work.id, PATIENCE)
        assert (await there.list_operations()).operations == ()
        assert (await there.list_operations(metadata={"owner": "ann"})).operations == ()


@pytest.mark.parametrize("limit", [0, -1, 1001, True, "3", 2.5])
async def test_a_limit_out_of_bounds_is_refused(buses: Buses, limit: int) -> None:
    async with buses() as (_here, there):
        with pytest.raises((TypeError, ValueError), match="`limit` must be"):
            await there.list_operations(limit=limit)


async def test_a_state_may_be_given_as_text_and_must_exist(buses: Buses) -> None:
    """As a member of either enumeration; none that does not exist matches nothing silently."""
    async with buses() as (here, there), running(here) as work:
        await here.announce(work.operation)
        for state in ("running", S.RUNNING, OperationStatus.RUNNING):
            page = await there.list_operations(state)
            assert [each.id for each in page.operations] == [work.id]
        with pytest.raises(ValueError, match=r"`status` must be .*'lost', not 'bogus'"):
            await there.list_operations("bogus")
        with pytest.raises(TypeError, match="`name_pattern` must be a string or None"):
            await there.list_operations(name_pattern=5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="`metadata` must be a mapping"):
            await there.list_operations(metadata="owner")  # type: ignore[arg-type]


@pytest.mark.parametrize("after", ["", "x", "1", "-x", "1-", 5, "9" * 30 + "-x", "\uff11-x"])
async def test_a_place_that_no_page_gave_is_refused(buses: Buses, after: str) -> None:
    async with buses() as (_here, there):
        with pytest.raises((TypeError, ValueError), match="`after` must be"):
            await there.list_operations(after=after)


# -- watching --------------------------------------------------------------------------------


async def test_a_watcher_sees_the_beginning_changes_and_the_end(buses: Buses) -> None:
    """First how it stands, last how it ended; progress in order, the last report never missed."""
    async with buses() as (here, there):
        seen: list[OperationInfo] = []
        async with running(here) as work:
            async with there.watch(work.id) as records, anyio.create_task_group() as tasks:
                seen.append(await anext(records))

                async def report() -> None:
                    for number in range(50):
                        await work.operation.report_progress("step", {"number": number})
                        await anyio.sleep(0.002)
                    await there.cancel(work.id, message="enough")

                tasks.start_soon(report)
                with anyio.fail_after(PATIENCE):
                    async for record in records:
                        seen.append(record)
                with pytest.raises(StopAsyncIteration):
                    await anext(records)
        assert (seen[0].state, seen[0].progress) == (S.RUNNING, None)
        assert seen[-1].state is S.CANCELLED
        assert seen[-1].cancel is not None
        assert seen[-1].cancel.message == "enough"
        numbers = [number for info in seen if (number := number_of(info)) is not None]
        assert numbers == sorted(numbers)
        assert numbers[-1] == 49
        assert len(numbers) >= 2


def number_of(info: OperationInfo) -> int | None:
    if info.progress is None or info.progress.metadata is None:
        return None
    number = info.progress.metadata["number"]
    assert isinstance(number, int)
    return number


async def test_watchers_do_not_mind_each_other(buses: Buses) -> None:
    """One leaves early, one stops reading, two see the end."""
    async with buses() as (here, there):
        ends: list[OperationState] = []
        ready = [anyio.Event() for _ in range(2)]

        async def follow(is_ready: anyio.Event) -> None:
            async with there.watch(work.id) as records:
                async for record in records:
                    is_ready.set()
                    last = record.state
            ends.append(last)

        async with running(here) as work, anyio.create_task_group() as tasks:
            for event in ready:
                tasks.start_soon(follow, event)
            with anyio.fail_after(PATIENCE):
                for event in ready:
                    await event.wait()
            async with there.watch(work.id) as records:
                assert (await anext(records)).state is S.RUNNING
            async with there.watch(work.id) as unread:
                work.finish.set()
                with anyio.fail_after(PATIENCE):
                    await work.ended.wait()
                await there.wait_stopped(work.id, PATIENCE)
                assert (await anext(unread)).state is S.RUNNING
                with anyio.fail_after(PATIENCE):
                    assert [record.state async for record in unread] == [S.COMPLETED]
        assert ends == [S.COMPLETED, S.COMPLETED]


async def test_what_has_ended_can_be_watched_to_its_end(buses: Buses) -> None:
    async with buses() as (here, there):
        async with running(here) as work:
            pass
        await there.wait_stopped(work.id, PATIENCE)
        async with there.watch(work.id) as records:
            with anyio.fail_after(PATIENCE):
                assert [record.state async for record in records] == [S.COMPLETED]


async def test_a_wait_ends_with_its_time_and_says_so(buses: Buses) -> None:
    """`cancel` says requested, `wait_stopped` says whether it has stopped."""
    async with buses() as (here, there):
        async with running(here, grace=3600) as work:
            assert await there.cancel(work.id)
            assert await there.wait_stopped(work.id, 0.05) is None
            info = await there.get(work.id)
            assert info is not None
            assert info.state is S.CANCELLING


async def test_a_caller_may_go_away_at_any_moment(buses: Buses) -> None:
    """Cancelled calls harm nobody: everything works afterwards."""
    async with buses() as (here, there):
        async with running(here) as work:
            for turns in range(30):
                for call in (
                    lambda: there.get(work.id),
                    lambda: there.cancel("nobody"),
                    there.list_operations,
                    lambda: there.wait_stopped(work.id),
                ):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(call)
                        for _ in range(turns):
                            await anyio.lowlevel.checkpoint()
                        tasks.cancel_scope.cancel()
            assert not work.operation.cancel_requested
            assert (await there.cancel(work.id)).outcome is O.REQUESTED
        assert there.status.up


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("operation_id", ["", "x" * 257, 7, None])
async def test_an_id_that_cannot_be_is_refused(buses: Buses, operation_id: str) -> None:
    async with buses() as (_here, there):
        for call in (
            there.cancel(operation_id),
            there.get(operation_id),
            there.wait_stopped(operation_id),
        ):
            with pytest.raises((TypeError, ValueError), match="`operation_id` must"):
                await call
        with pytest.raises((TypeError, ValueError), match="`operation_id` must"):
            there.watch(operation_id)


@pytest.mark.parametrize(
    "arguments",
    [
        {"reason": "because"},
        {"grace": -1},
        {"grace": float("nan")},
        {"grace": float("inf")},
        {"message": 5},
        {"by": b"ann"},
        {"remember_for": -1},
        {"remember_for": 1e9},
        {"remember_for": "long"},
    ],
    ids=str,
)
async def test_a_request_that_makes_no_sense_is_refused(
    buses: Buses, arguments: dict[str, object]
) -> None:
    async with buses() as (_here, there):
        (name,) = arguments
        with pytest.raises((TypeError, ValueError), match=f"`{name}` must be"):
            await there.cancel("job", **arguments)  # type: ignore[arg-type]


async def test_odd_ids_are_ids_like_others(buses: Buses) -> None:
    """Braces, colons, quotes, newlines and any script: none can name another operation."""
    odd = ["a:b", "{x}", "op:{default}:y", 'q"\\', "a\nb\r\n", "名前", "*", "a b", "\x00", "🚀"]
    async with buses() as (here, there):
        for operation_id in odd:
            async with running(here, operation_id) as work:
                page = await there.list_operations()
                assert [info.id for info in page.operations] == [operation_id]
                assert await there.cancel(operation_id)
                with anyio.fail_after(PATIENCE):
                    await work.ended.wait()
                info = await there.wait_stopped(operation_id, PATIENCE)
                assert info is not None
                assert info.state is S.CANCELLED


async def test_only_an_operation_of_the_registry_can_be_announced(buses: Buses) -> None:
    async with buses() as (here, _there):
        async with Cancelable() as outside:
            with pytest.raises(RuntimeError, match="must be listed in the registry"):
                await here.announce(outside)


async def test_an_operation_can_be_known_before_it_begins(buses: Buses) -> None:
    """Its id can be handed out: it is pending until it begins, and may be cancelled by then."""
    async with buses() as (here, there):
        operation = Cancelable("job", metadata={"owner": "ann"})
        assert await here.announce(operation)
        info = await there.get("job", metadata={"owner": "ann"})
        assert info is not None
        assert (info.state, info.started_at) == (S.PENDING, None)
        assert await there.get("job", metadata={"owner": "bob"}) is None
        assert [i.id for i in (await there.list_operations(S.PENDING)).operations] == ["job"]
        async with there.watch("job") as records:
            assert (await anext(records)).state is S.PENDING
            here.registry.register(operation)
            async with operation:
                assert await here.announce(operation)
                info = await there.get("job")
                assert info is not None
                assert info.state is S.RUNNING
                assert info.started_at is not None
            with anyio.fail_after(PATIENCE):
                assert [record.state async for record in records][-1] is S.COMPLETED


async def test_a_cancel_before_the_beginning_stops_it_there(buses: Buses) -> None:
    async with buses() as (here, there):
        operation = Cancelable("job")
        assert await here.announce(operation)
        assert (await there.cancel("job", message="early")).outcome is O.REQUESTED
        assert (await there.cancel("job")).outcome is O.ALREADY_REQUESTED
        await until(lambda: operation.cancel_requested)
        here.registry.register(operation)
        with pytest.raises(ManualCancelation, match="early"):
            async with operation:
                await anyio.lowlevel.checkpoint()
                pytest.fail("it was cancelled before")
        end = await there.wait_stopped("job", PATIENCE)
        assert end is not None
        assert end.state is S.CANCELLED


async def test_what_is_registered_is_known_before_it_begins(buses: Buses) -> None:
    """Everywhere, without an announcement of its own: it may be asked to stop."""
    async with buses() as (here, there):
        operation = here.registry.register(Cancelable("job"))

        async def is_seen() -> bool:
            info = await there.get("job")
            return info is not None and info.state is S.PENDING

        await until(is_seen)
        assert [each.id for each in (await here.list_operations()).operations] == ["job"]
        assert (await there.cancel("job", message="early")).outcome is O.REQUESTED
        await until(lambda: operation.cancel_requested)
        with pytest.raises(ManualCancelation, match="early"):
            async with operation:
                await anyio.lowlevel.checkpoint()
                pytest.fail("it was cancelled before")
        end = await there.wait_stopped("job", PATIENCE)
        assert end is not None
        assert end.state is S.CANCELLED


async def test_an_operation_that_never_begins_goes_away(buses: Buses) -> None:
    """Nobody has to take it back: it is gone when whoever was to begin it is."""
    async with buses() as (here, there):
        operation = Cancelable("job")
        assert await here.announce(operation)
        assert await there.get("job") is not None
        del operation
        gc.collect()

        async def is_gone() -> bool:
            return await there.get("job") is None

        await until(is_gone)
        assert (await there.list_operations()).operations == ()
        assert (here.status.live, here.status.backlog) == (0, 0)


async def test_an_id_is_announced_for_one_operation_at_a_time(buses: Buses) -> None:
    """Pending or running, here or elsewhere: the second is refused."""
    async with buses() as (here, there):
        pending = Cancelable("pending")
        assert await here.announce(pending)
        assert await here.announce(pending)
        async with running(here, "running"):
            for operation_id in ("pending", "running"):
                for bus in (here, there):
                    with pytest.raises(DuplicateOperation, match=f"'{operation_id}'"):
                        await bus.announce(Cancelable(operation_id))
        await here.wait_stopped("running", PATIENCE)
        again = Cancelable("running")
        assert await there.announce(again)


async def test_an_operation_that_leaves_the_registry_is_not_told_of(buses: Buses) -> None:
    """It runs on, unlisted."""
    async with buses() as (here, there):
        async with running(here, "job") as work:
            here.registry.unregister("job")

            async def is_gone() -> bool:
                return await there.get("job") is None

            await until(is_gone)
            assert work.operation.is_running
            assert (await there.list_operations()).operations == ()


async def test_an_id_can_be_used_again_after_the_end(buses: Buses) -> None:
    async with buses() as (here, there):
        for number in range(3):
            async with running(here, "job", metadata={"owner": number}) as work:
                assert await there.get("job", metadata={"owner": number}) is not None
                assert not work.operation.cancel_requested
                await there.cancel("job")
            assert (await there.wait_stopped("job", PATIENCE)) is not None


async def test_many_operations_leave_nothing_behind(buses: Buses) -> None:
    """Short ones, with progress, some cancelled, as fast as they go."""
    async with buses() as (here, there):
        for number in range(300):
            operation = Cancelable()
            here.registry.register(operation)
            try:
                async with operation:
                    await operation.report_progress(number)
                    if number % 3 == 0:
                        await operation.cancel()
                        await anyio.lowlevel.checkpoint()
            except ManualCancelation:
                pass
        await until(lambda: (here.status.live, here.status.backlog) == (0, 0))
        assert (await there.list_operations()).operations == ()
