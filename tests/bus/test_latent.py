"""Operations that nobody asks about: on the bus when somebody does, or when they run on.

Most requests of a server are over within milliseconds. Of these a broker hears nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.to_thread
import pytest

from cancelable import (
    Cancelable,
    CancelOutcome,
    LatentOperation,
    ManualCancelation,
    OperationRegistry,
    current_operation,
)
from cancelable.bus import CancelBus, InMemoryBus, OperationState, RedisBus
from tests.bus.broker import Broker
from tests.bus.work import PATIENCE, running, until

NEVER = 86_400.0

SomeBuses = Callable[[], RedisBus]


class Visit(LatentOperation):
    """One of very many short pieces of work."""

    def make_operation(self) -> Cancelable:
        return Cancelable(name="visit", metadata={"owner": "ann"})


@pytest.fixture
def age(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """After how many seconds one is announced that nobody has asked for."""
    age: float = request.param
    monkeypatch.setattr("cancelable.bus.redis._member.UNASKED", age)
    return age


@pytest.fixture
def make_bus(broker: Broker, namespace: str) -> SomeBuses:
    """Makes buses that say nothing by themselves while a test runs."""

    def make() -> RedisBus:
        return RedisBus(
            broker.url,
            namespace=namespace,
            registry=OperationRegistry(),
            heartbeat=NEVER,
            timeout=PATIENCE,
            announce_timeout=PATIENCE,
        )

    return make


@asynccontextmanager
async def visited(bus: CancelBus) -> AsyncIterator[Visit]:
    """Run a block in the registry of a bus; it may be cancelled."""
    with bus.registry.as_default(), suppress(ManualCancelation):
        async with Visit() as visit:
            yield visit


@asynccontextmanager
async def visited_beside(bus: RedisBus) -> AsyncIterator[Visit]:
    """Run a block in a task of its own."""
    async with anyio.create_task_group() as tasks:
        finish = anyio.Event()

        async def visit(*, task_status: anyio.abc.TaskStatus[Visit]) -> None:
            async with visited(bus) as visit:
                task_status.started(visit)
                await finish.wait()

        # A task that is started inside a block would be inside that.
        yield await tasks.start(visit)
        finish.set()


def scripts_run(broker: Broker) -> int:
    info = broker.command("INFO", "commandstats")
    assert isinstance(info, str)
    return sum(map(int, re.findall(r"cmdstat_evalsha:calls=(\d+)", info)))


async def names(bus: RedisBus) -> list[str | None]:
    return [each.name for each in (await bus.list_operations(limit=1000)).operations]


async def test_short_ones_cost_the_broker_nothing(broker: Broker, make_bus: SomeBuses) -> None:
    """The only script that runs is that of the question at the end."""
    async with make_bus() as bus:
        before = scripts_run(broker)
        for _ in range(50):
            async with visited(bus) as visit:
                await anyio.lowlevel.checkpoint()
                assert visit.is_untouched
            assert visit.make() is None
        # A question goes out behind everything that there is to tell.
        assert await bus.get("nobody") is None
        assert scripts_run(broker) - before == 1
        assert bus.registry.get_statistics()["total_completed"] == 50


@pytest.mark.parametrize("age", [0.05], indirect=True)
async def test_one_that_runs_on_is_found_and_cancelled_elsewhere(
    make_bus: SomeBuses, age: float
) -> None:
    """Nobody has asked for it where it runs."""
    async with make_bus() as here, make_bus() as there:
        found: list[CancelOutcome] = []

        async def cancel() -> None:
            await until(lambda: names(there))
            (info,) = (await there.list_operations(metadata={"owner": "ann"})).operations
            assert info.state is OperationState.RUNNING
            assert info.started_at is not None
            # It began when its block did, not when it was announced.
            assert time.time() - info.started_at > age / 2
            found.append((await there.cancel(info.id)).outcome)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            with anyio.fail_after(PATIENCE):
                async with visited(here) as visit:
                    await anyio.sleep_forever()
        assert found == [CancelOutcome.REQUESTED]
        assert visit.operation.is_cancelled


@pytest.mark.parametrize("age", [0.05], indirect=True)
async def test_one_in_another_loop_than_the_bus_is_found(make_bus: SomeBuses, age: float) -> None:
    """Who looks for old ones is the loop of the bus, wherever they run."""
    async with make_bus() as here, make_bus() as there:

        async def elsewhere() -> None:
            with anyio.fail_after(PATIENCE):
                async with visited(here):
                    await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, anyio.run, elsewhere)
            await until(lambda: names(there))
            (info,) = (await there.list_operations()).operations
            assert (await there.cancel(info.id)).outcome is CancelOutcome.REQUESTED


@pytest.mark.parametrize("age", [0.2], indirect=True)
async def test_many_that_run_on_are_all_found(make_bus: SomeBuses, age: float) -> None:
    """More than are made at a time."""
    async with make_bus() as here, make_bus() as there:
        finish = anyio.Event()

        async def visit() -> None:
            async with visited(here):
                await finish.wait()

        async with anyio.create_task_group() as tasks:
            for _ in range(300):
                tasks.start_soon(visit)

            async def are_listed() -> bool:
                return len(await names(there)) == 300

            await until(are_listed)
            finish.set()
        await until(lambda: (here.status.live, here.status.backlog) == (0, 0))


@pytest.mark.parametrize("age", [NEVER], indirect=True)
async def test_one_that_is_asked_for_is_announced_at_once(make_bus: SomeBuses, age: float) -> None:
    """However short it has been running: its id may be known to somebody by now."""
    async with make_bus() as here, make_bus() as there:
        async with visited(here) as visit:
            assert await names(there) == []
            operation = current_operation()
            assert operation is not None
            assert await here.announce(operation)
            assert await names(there) == ["visit"]
            assert (await there.cancel(operation.operation_id)).delivered
            await anyio.sleep_forever()
        assert visit.operation.is_cancelled


@pytest.mark.parametrize("age", [NEVER], indirect=True)
async def test_one_that_was_asked_for_before_the_bus_was_entered_is_announced(
    make_bus: SomeBuses, age: float
) -> None:
    """And one that nobody has asked for is not."""
    here = make_bus()
    async with visited_beside(here) as unasked, visited(here) as asked:
        assert asked.operation.is_running
        async with here, make_bus() as there:
            assert await names(there) == ["visit"]
            assert unasked.known_operation is None


@pytest.mark.parametrize("age", [NEVER], indirect=True)
async def test_a_listing_where_they_run_has_them(make_bus: SomeBuses, age: float) -> None:
    """A listing is one who asks; what it has found others find, too."""
    async with make_bus() as here, make_bus() as there:
        async with visited(here) as visit:
            assert await names(there) == []
            assert visit.known_operation is None
            assert await names(here) == ["visit"]
            assert await names(there) == ["visit"]


@pytest.mark.parametrize("age", [NEVER], indirect=True)
async def test_a_new_connection_asks_for_none(
    broker: Broker, make_bus: SomeBuses, age: float
) -> None:
    """Everything is told again, and what has not been told is not."""
    async with make_bus() as bus:
        async with visited(bus) as visit:
            for kind in ("pubsub", "normal"):
                broker.command("CLIENT", "KILL", "TYPE", kind)
            await until(lambda: bus.status.up and bus.status.sessions == 2)
            assert await bus.get("nobody") is None
            assert visit.known_operation is None
            assert bus.status.live == 0


@pytest.mark.parametrize("age", [0.02], indirect=True)
async def test_one_that_cannot_be_made_harms_nobody(
    make_bus: SomeBuses, age: float, caplog: pytest.LogCaptureFixture
) -> None:
    """`make_operation` must not raise; if it does, the bus says so and goes on."""

    class Broken(Visit):
        is_broken = True

        def make_operation(self) -> Cancelable:
            if self.is_broken:
                raise LookupError("no such visit")
            return super().make_operation()

    async with make_bus() as here, make_bus() as there:
        with here.registry.as_default():
            async with visited_beside(here), Broken() as broken:
                await until(lambda: names(there))
                broken.is_broken = False
        assert here.status.sessions == 1
    records = [each for each in caplog.records if "cannot be made" in each.getMessage()]
    assert records
    assert records[0].exc_info is not None
    assert isinstance(records[0].exc_info[1], LookupError)


async def test_the_bus_of_one_process_leaves_them_alone() -> None:
    """Who watches one operation, or cancels an id in advance, does not ask for the others."""
    bus = InMemoryBus(OperationRegistry())
    assert (await bus.cancel("later", remember_for=60)).outcome is CancelOutcome.REMEMBERED
    async with running(bus, "mine"), bus.watch("mine"):
        assert len(bus.registry._observers) == 2
        async with visited(bus) as visit:
            assert visit.known_operation is None
        assert visit.make() is None
