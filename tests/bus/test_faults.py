"""What happens to a bus when its broker, its workers and the wires between them break."""

from __future__ import annotations

import gc
import logging
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest

from cancelable import Cancelable, CancelOutcome, ManualCancelation, OperationRegistry
from cancelable.bus import (
    BusUnavailable,
    DuplicateOperation,
    OperationInfo,
    OperationState,
    RedisBus,
)
from tests.bus.broker import Broker
from tests.bus.relay import Relay
from tests.bus.work import PATIENCE, Work, running, until
from tests.conftest import BACKENDS
from tests.fastapi.office import Office

# Real servers are killed and real seconds pass: once for each library of event loops.
pytestmark = [
    pytest.mark.parametrize(
        "anyio_backend",
        [pytest.param(BACKENDS[name], id=name) for name in ("asyncio", "trio") if name in BACKENDS],
        indirect=True,
    ),
    # coredis 6.9 leaves the queues of a connection that could not be made unclosed.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
]

S = OperationState
O = CancelOutcome  # noqa: E741

HEARTBEAT = 0.2
LEASE = 3 * HEARTBEAT
TIMEOUT = 0.5
NAMESPACE = "faults"


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Have that garbage of coredis found here, where it is not an error."""
    yield
    gc.collect()


@pytest.fixture
def fragile() -> Iterator[Broker]:
    """A server for one test alone, which has known the namespace for long."""
    server = Broker()
    server.start()
    server.settle(NAMESPACE)
    yield server
    server.close()


@pytest.fixture
def durable() -> Iterator[Broker]:
    """The same, with a log on the disk that it reads when it comes back."""
    server = Broker("--appendfsync", "everysec", durable=True)
    server.start()
    server.settle(NAMESPACE)
    yield server
    server.close()


@contextmanager
def relayed(broker: Broker) -> Iterator[Relay]:
    relay = Relay(broker.port)
    try:
        yield relay
    finally:
        relay.close()


def make_bus(url: str, **settings: float) -> RedisBus:
    return RedisBus(
        url,
        namespace=NAMESPACE,
        registry=OperationRegistry(),
        **{"heartbeat": HEARTBEAT, "timeout": TIMEOUT, **settings},
    )


@asynccontextmanager
async def two(broker: Broker, **settings: float) -> AsyncIterator[tuple[RedisBus, RedisBus]]:
    here, there = make_bus(broker.url, **settings), make_bus(broker.url, **settings)
    async with here, there:
        yield here, there


async def state_of(bus: RedisBus, operation_id: str) -> OperationState | None:
    try:
        info = await bus.get(operation_id)
    except BusUnavailable:
        return None
    return None if info is None else info.state


async def until_state(bus: RedisBus, operation_id: str, state: OperationState) -> None:
    async def is_so() -> bool:
        return await state_of(bus, operation_id) is state

    await until(is_so)


async def stopped(work: Work) -> None:
    with anyio.fail_after(PATIENCE):
        await work.ended.wait()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("cancelable") and record.levelno >= logging.WARNING
    ]


# -- the broker ------------------------------------------------------------------------------


async def test_a_broker_that_is_down_at_the_start_stops_nobody(
    fragile: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """The program starts, operations run, one warning; announced when the broker is there."""
    fragile.kill()
    here = make_bus(fragile.url)
    async with here, running(here, "job", announce=False) as work:
        assert not here.status.up
        assert not await here.announce(work.operation)
        with pytest.raises(BusUnavailable, match="cannot be reached"):
            await here.cancel("elsewhere")
        with pytest.raises(BusUnavailable):
            await here.get("elsewhere")
        with pytest.raises(BusUnavailable):
            await here.list_operations()
        assert await state_of(here, "job") is S.RUNNING
        await anyio.sleep(0.2)  # several attempts to connect
        assert len(warnings_of(caplog)) == 1
        fragile.start()
        await until(lambda: here.status.up)
        async with make_bus(fragile.url) as there:
            await until_state(there, "job", S.RUNNING)
            assert (await there.cancel("job")).outcome is O.REQUESTED
            await stopped(work)
    assert len(warnings_of(caplog)) == 1


async def test_operations_outlive_their_broker(fragile: Broker) -> None:
    """Killed and back with nothing: cancelled here meanwhile, announced again afterwards."""
    async with two(fragile) as (here, there):
        async with running(here, "a"), running(here, "b") as b, running(here, "c") as c:
            fragile.kill()
            await until(lambda: not (here.status.up or there.status.up))
            assert (await here.cancel("b")).outcome is O.REQUESTED
            await stopped(b)
            with anyio.fail_after(2 * TIMEOUT + 1):
                with pytest.raises(BusUnavailable):
                    await there.cancel("a")
                    await there.cancel("a")
            fragile.start()
            began = time.monotonic()
            await until_state(there, "a", S.RUNNING)
            await until_state(there, "c", S.RUNNING)
            assert time.monotonic() - began < 5
            # The end that the first broker never heard of is known to the second.
            await until_state(there, "b", S.CANCELLED)
            assert (await there.cancel("c")).outcome is O.REQUESTED
            await stopped(c)
            assert here.status.sessions == 2


async def test_a_broker_that_has_forgotten_makes_nobody_unknown(fragile: Broker) -> None:
    """Between its return and the announcements an answer is `unsettled`, never `unknown`."""
    async with two(fragile) as (here, there), running(here, "job"):
        fragile.kill()
        fragile.start()
        await until(lambda: there.status.up)
        fragile.command("FLUSHALL")
        outcomes = set[CancelOutcome]()
        while O.REQUESTED not in outcomes:
            try:
                outcomes.add((await there.cancel("job")).outcome)
            except BusUnavailable:
                continue
            with pytest.raises(BusUnavailable, match="a moment ago"):
                await there.get("nobody")
        assert outcomes <= {O.UNSETTLED, O.REQUESTED, O.ALREADY_REQUESTED}


async def test_after_a_while_unknown_is_unknown_again(fragile: Broker) -> None:
    """A broker that has been heard by all for the time of a lease knows everybody."""
    fragile.command("FLUSHALL")
    async with make_bus(fragile.url) as bus:
        assert (await bus.cancel("nobody")).outcome is O.UNSETTLED

        async def is_known() -> bool:
            return (await bus.cancel("nobody")).outcome is O.UNKNOWN

        await until(is_known)


async def test_an_outage_does_not_tell_whose_ids_exist(fragile: Broker) -> None:
    """Somebody else's operation in this very process looks like none, also while nobody can ask."""
    bobs = {"owner": "bob"}
    async with make_bus(fragile.url) as here:
        async with running(here, "job", metadata={"owner": "ann"}):
            fragile.command("FLUSHALL")
            for operation_id in ("job", "nobody"):
                result = await here.cancel(operation_id, metadata=bobs)
                assert result.outcome is O.UNSETTLED
            fragile.kill()
            await until(lambda: not here.status.up)
            await until(lambda: here.status.last_error and "Unable" in here.status.last_error)
            for operation_id in ("job", "nobody"):
                with pytest.raises(BusUnavailable):
                    await here.cancel(operation_id, metadata=bobs)
                with pytest.raises(BusUnavailable):
                    await here.get(operation_id, metadata=bobs)
            assert await here.get("job", metadata={"owner": "ann"}) is not None


async def test_a_flush_is_noticed(fragile: Broker) -> None:
    """The broker lives on and knows nothing: everything is announced again."""
    async with two(fragile) as (here, there), running(here, "job", metadata={"owner": "ann"}):
        async with there.watch("job") as records:
            assert (await anext(records)).state is S.RUNNING
            fragile.command("FLUSHALL")
            await until_state(there, "job", S.RUNNING)
            page = await there.list_operations(metadata={"owner": "ann"})
            assert [info.id for info in page.operations] == ["job"]
            assert here.status.sessions == 1
            await there.cancel("job")
            with anyio.fail_after(PATIENCE):
                assert [record.state async for record in records][-1] is S.CANCELLED


async def test_an_end_after_a_flush_is_not_lost(fragile: Broker) -> None:
    """The operation ends before the flush is noticed: who asks later still learns how."""
    async with two(fragile, heartbeat=30) as (here, there):
        async with running(here, "job", metadata={"owner": "ann"}):
            fragile.command("FLUSHALL")
        await until_state(there, "job", S.COMPLETED)
        assert await there.get("job", metadata={"owner": "ann"}) is not None


async def test_forgotten_scripts_are_no_error(fragile: Broker) -> None:
    async with two(fragile) as (here, there):
        for _ in range(5):
            fragile.command("SCRIPT", "FLUSH")
            async with running(here) as work:
                fragile.command("SCRIPT", "FLUSH")
                assert (await there.cancel(work.id)).outcome is O.REQUESTED
                await stopped(work)
        assert (here.status.sessions, there.status.sessions) == (1, 1), (here.status, there.status)


async def test_a_frozen_broker_is_noticed(fragile: Broker) -> None:
    """No error comes from the wire: time limits and our own heartbeats tell."""
    async with two(fragile) as (here, there), running(here, "job") as work:
        fragile.freeze()
        try:
            with anyio.fail_after(2 * TIMEOUT + 1):
                assert not await there.cancel("elsewhere")
            await until(lambda: not here.status.up)
            with anyio.fail_after(TIMEOUT + 1), pytest.raises(BusUnavailable):
                while True:
                    assert (await there.cancel("elsewhere")).outcome is O.UNSETTLED
            assert (await here.get("job")) is not None
        finally:
            fragile.thaw()
        await until_state(there, "job", S.RUNNING)
        await there.cancel("job")
        await stopped(work)


@pytest.mark.parametrize("condition", ["up", "killed", "frozen"])
async def test_leaving_takes_no_longer_than_a_moment(fragile: Broker, condition: str) -> None:
    """Whatever the broker does, and with operations that run on."""
    here = make_bus(fragile.url, timeout=30)
    async with running(here, "job", announce=False) as work:
        async with here:
            assert await here.announce(work.operation)
            match condition:
                case "killed":
                    fragile.kill()
                case "frozen":
                    fragile.freeze()
                case _:
                    pass
            began = time.monotonic()
        assert time.monotonic() - began < 2
        assert not here.status.up
        assert not work.operation.cancel_requested
    if condition == "frozen":
        fragile.thaw()


async def test_leaving_while_everything_is_cancelled_takes_no_longer(fragile: Broker) -> None:
    """The last endings are told also when the program is being cancelled."""
    with anyio.CancelScope() as scope:
        async with make_bus(fragile.url) as here, running(here, "job"):
            scope.cancel()
            await anyio.sleep_forever()
    async with make_bus(fragile.url) as there:
        assert await state_of(there, "job") is S.CANCELLED


async def test_an_exception_leaves_the_bus_as_it_is(fragile: Broker) -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as raised:
        async with make_bus(fragile.url):
            raise error
    assert raised.value is error


# -- accepted requests -----------------------------------------------------------------------


async def test_a_cancel_while_the_owner_is_cut_off_is_found_when_it_is_back(
    fragile: Broker,
) -> None:
    """The bell rings for nobody; the inbox has it. Again and again, none is lost."""
    async with two(fragile) as (here, there):
        for number in range(12):
            async with running(here, f"job-{number}") as work:
                fragile.command("CLIENT", "KILL", "TYPE", "pubsub")
                fragile.command("CLIENT", "KILL", "TYPE", "normal")
                while True:
                    try:
                        result = await there.cancel(work.id)
                    except BusUnavailable:
                        continue
                    if result.outcome is not O.UNSETTLED:
                        break
                assert result, result
                await stopped(work)
        assert here.status.sessions > 6


@pytest.mark.parametrize("kind", ["durable", "forgetful"])
async def test_an_accepted_cancel_is_as_durable_as_the_broker(
    request: pytest.FixtureRequest, kind: str
) -> None:
    """The owner is cut off, the request accepted, the broker killed before the owner is back."""
    broker: Broker = request.getfixturevalue("durable" if kind == "durable" else "fragile")
    with relayed(broker) as relay:
        async with (
            make_bus(relay.url, heartbeat=2) as here,
            make_bus(broker.url, heartbeat=2) as there,
        ):
            async with running(here, "job") as work:
                relay.go_dead()
                relay.cut()
                await until(lambda: not here.status.up)
                assert (await there.cancel("job")).outcome is O.REQUESTED
                broker.kill()
                broker.start()
                relay.heal()
                await until_state(there, "job", S.CANCELLED if kind == "durable" else S.RUNNING)
                assert work.ended.is_set() is (kind == "durable")


async def test_waiting_for_the_stop_repeats_a_request_that_was_forgotten(
    fragile: Broker,
) -> None:
    """As long as somebody waits, not even a broker without memory loses the request."""
    with relayed(fragile) as relay:
        async with (
            make_bus(relay.url, heartbeat=2) as here,
            make_bus(fragile.url, heartbeat=2) as there,
        ):
            async with running(here, "job") as work, anyio.create_task_group() as tasks:
                relay.go_dead()
                relay.cut()
                await until(lambda: not here.status.up)
                ends: list[OperationInfo | None] = []
                assert (await there.cancel("job", message="please")).outcome is O.REQUESTED

                async def wait() -> None:
                    ends.append(await there.wait_stopped("job", PATIENCE))

                tasks.start_soon(wait)
                await anyio.sleep(0.05)  # the wait is on its way
                fragile.kill()
                fragile.start()
                relay.heal()
                await stopped(work)
            assert isinstance(work.error, ManualCancelation)
            assert work.error.message == "please"
            assert [end is not None and end.state for end in ends] == [S.CANCELLED]


async def test_without_a_bell_the_heartbeat_brings_the_request(fragile: Broker) -> None:
    """Nothing is published to the worker, as with a broken proxy: the inbox is read anyway."""
    async with two(fragile) as (here, there), running(here, "job") as work:
        # A request as the script makes it, but for the bell.
        prefix = f"cancelable:{{{NAMESPACE}}}:"
        worker = here.status.worker
        fragile.command("HSET", f"{prefix}op:job", "cancel", '{"reason":"manual"}', "own", "1")
        fragile.command("SADD", f"{prefix}inbox:{worker}", "job")
        fragile.command("INCR", f"{prefix}mail:{worker}")
        began = time.monotonic()
        await stopped(work)
        assert time.monotonic() - began < 3 * HEARTBEAT + 1
        assert there.status.up


# -- wires -----------------------------------------------------------------------------------


async def test_an_owner_behind_a_dead_wire_is_lost_and_found(fragile: Broker) -> None:
    """Both ends learn of it by time; what was asked meanwhile reaches the owner when it heals."""
    with relayed(fragile) as relay:
        async with make_bus(relay.url) as here, make_bus(fragile.url) as there:
            async with running(here, "a") as a, running(here, "b") as b:
                async with there.watch("b") as records:
                    assert (await anext(records)).state is S.RUNNING
                    relay.go_dead()
                    with anyio.fail_after(PATIENCE):
                        assert [record.state async for record in records] == [S.LOST]
                await until(lambda: not here.status.up)
                result = await there.cancel("a")
                assert result.outcome is O.LOST
                assert not result
                with anyio.fail_after(PATIENCE):
                    lost = await there.wait_stopped("a")
                assert lost is not None
                assert lost.state is S.LOST
                assert not a.operation.cancel_requested
                relay.heal()
                await stopped(a)
                await until_state(there, "a", S.CANCELLED)
                await until_state(there, "b", S.RUNNING)
                assert [i.id for i in (await there.list_operations()).operations] == ["b"]
                await there.cancel("b")
                await stopped(b)


async def test_a_caller_behind_a_dead_wire_is_told_so(fragile: Broker) -> None:
    """Within the time limit, and never as a success."""
    with relayed(fragile) as relay:
        async with make_bus(fragile.url) as here, make_bus(relay.url) as there:
            async with running(here, "job") as work:
                relay.go_dead()
                with anyio.fail_after(TIMEOUT + 1):
                    assert (await there.cancel("job")).outcome is O.UNSETTLED
                await until(lambda: not there.status.up)
                with anyio.fail_after(TIMEOUT + 1), pytest.raises(BusUnavailable):
                    while True:
                        assert (await there.cancel("job")).outcome is O.UNSETTLED
                assert not work.operation.cancel_requested
                relay.heal()
                await until(lambda: there.status.up)


async def test_jobs_start_and_end_while_the_broker_is_away(fragile: Broker) -> None:
    """What another worker cannot say is a 503; what lives here is answered here."""
    async with two(fragile) as (mine, other):
        here, there = Office(bus=mine), Office(bus=other)
        async with anyio.create_task_group() as tasks:
            fragile.kill()
            await until(lambda: not mine.status.up and not other.status.up)
            job = await here.start(tasks)
            assert (await there.ask("GET", f"/operations/{job}"))[0] == 503
            assert (await there.ask("GET", "/operations"))[0] == 503
            assert (await there.ask("POST", "/work", query="operation_id=mine"))[0] == 503
            assert (await here.ask("GET", f"/operations/{job}"))[1]["state"] == "running"

            fragile.start()

            async def is_found() -> bool:
                status, _record = await there.ask("GET", f"/operations/{job}")
                assert status in (200, 503)
                return status == 200

            await until(is_found)
            status, answer = await there.ask("DELETE", f"/operations/{job}", query="wait=5")
            assert (status, answer["state"]) == (200, "cancelled")
        assert answer["cancel"]["reason"] == "manual"


# -- workers ---------------------------------------------------------------------------------


class Program:
    """One `worker.py` in a process of its own."""

    def __init__(self, url: str, backend: str, *ids: str) -> None:
        self._output = tempfile.NamedTemporaryFile()
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("worker.py")),
                *(url, NAMESPACE, backend, *ids),
            ],
            stdin=subprocess.PIPE,
            stdout=self._output,
        )

    @property
    def said(self) -> str:
        return Path(self._output.name).read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._output.close()


@contextmanager
def program(broker: Broker, backend: str, *ids: str) -> Iterator[Program]:
    worker = Program(broker.url, backend, *ids)
    try:
        yield worker
    finally:
        worker.close()


async def test_the_operations_of_a_killed_worker_are_lost(
    fragile: Broker, anyio_backend_name: str
) -> None:
    """After a lease watchers are told, the list empties, and a cancel says `lost`."""
    with program(fragile, anyio_backend_name, "job", "other") as worker:
        async with make_bus(fragile.url) as there:
            await until_state(there, "job", S.RUNNING)
            async with there.watch("job") as records:
                assert (await anext(records)).state is S.RUNNING
                worker.process.kill()
                with anyio.fail_after(PATIENCE):
                    assert [record.state async for record in records] == [S.LOST]
            assert (await there.cancel("job")).outcome is O.LOST

            async def is_swept() -> bool:
                return not (await there.list_operations()).operations

            await until(is_swept)
            await until_state(there, "other", S.LOST)
            # Its id is free again.
            async with running(there, "job"):
                assert await state_of(there, "job") is S.RUNNING


async def test_a_worker_that_was_frozen_is_lost_and_comes_back(
    fragile: Broker, anyio_backend_name: str
) -> None:
    """What was asked meanwhile is done, the others run on, and their end counts."""
    with program(fragile, anyio_backend_name, "a", "b") as worker:
        async with make_bus(fragile.url) as there:
            await until_state(there, "a", S.RUNNING)
            await until_state(there, "b", S.RUNNING)
            worker.process.send_signal(signal.SIGSTOP)
            await until_state(there, "a", S.LOST)
            assert (await there.cancel("a", message="meanwhile")).outcome is O.LOST
            await until_state(there, "b", S.LOST)
            worker.process.send_signal(signal.SIGCONT)
            await until(lambda: "cancelled a meanwhile" in worker.said)
            await until_state(there, "b", S.RUNNING)
            assert worker.process.stdin is not None
            worker.process.stdin.write(b"\n")
            worker.process.stdin.flush()
            await until_state(there, "b", S.COMPLETED)
            worker.process.wait(5)


async def test_a_worker_that_leaves_is_missed_at_once(fragile: Broker) -> None:
    """Nobody waits for its lease: what it leaves running is lost to the others."""
    here, there = make_bus(fragile.url, heartbeat=30), make_bus(fragile.url, heartbeat=30)
    async with there, running(here, "job", announce=False) as work:
        async with here:
            assert await here.announce(work.operation)
            worker = here.status.worker
            assert worker is not None
        assert await state_of(there, "job") is S.LOST
        assert (await there.list_operations()).operations == ()
        assert [key for key in fragile.keys(NAMESPACE) if worker in key] == []
        assert (await there.cancel("job")).outcome is O.LOST


async def test_one_id_is_not_live_twice(fragile: Broker) -> None:
    """The second is refused where it is announced; its cancel stops the first one only."""
    async with two(fragile) as (here, there):
        async with running(here, "job") as first:
            async with running(there, "job", announce=False) as second:
                with pytest.raises(DuplicateOperation, match="'job'"):
                    await there.announce(second.operation)
                with pytest.raises(DuplicateOperation):
                    await there.announce(second.operation)
                assert second.operation.is_running
            await stopped(second)
            assert await state_of(there, "job") is S.RUNNING
            await there.cancel("job")
            await stopped(first)
            assert second.operation.is_completed
        await there.wait_stopped("job", PATIENCE)
        async with running(there, "job"):
            assert await state_of(here, "job") is S.RUNNING


async def test_after_a_flush_the_first_to_announce_an_id_has_it(
    fragile: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker without memory lets an id in twice: the other runs on, unlisted, uncancelled."""
    async with two(fragile) as (here, there), running(here, "job") as first:
        async with running(there, "job", announce=False) as second:
            await until(lambda: len(warnings_of(caplog)) == 1)
            fragile.command("FLUSHALL")
            async with make_bus(fragile.url) as third:
                await until_state(third, "job", S.RUNNING)
                assert (await third.cancel("job")).outcome is O.REQUESTED
                await until(lambda: first.ended.is_set() or second.ended.is_set())
                await anyio.sleep(3 * HEARTBEAT)  # nothing more is to happen
                assert first.ended.is_set() is not second.ended.is_set()


# -- many ------------------------------------------------------------------------------------


async def test_many_operations_are_announced_again_quickly(fragile: Broker) -> None:
    """A thousand, to a broker that is empty."""
    async with two(fragile) as (here, there), anyio.create_task_group() as tasks:
        finish = anyio.Event()

        async def work(number: int) -> None:
            operation = Cancelable(f"job-{number}")
            here.registry.register(operation)
            async with operation:
                await finish.wait()

        for number in range(1000):
            tasks.start_soon(work, number)
        await until(lambda: here.status.live == 1000)
        fragile.kill()
        fragile.start()

        async def are_listed() -> bool:
            try:
                return len((await there.list_operations(limit=1000)).operations) == 1000
            except BusUnavailable:
                return False

        await until(are_listed)
        finish.set()


async def test_callers_cancelled_at_random_moments_harm_nobody(fragile: Broker) -> None:
    """Two hundred tasks that register, cancel and watch, each cut somewhere in the middle."""
    rng = random.Random(7)
    async with two(fragile, heartbeat=5) as (here, there):

        async def life(number: int) -> None:
            with anyio.move_on_after(rng.random() * 0.05):
                async with running(here, f"job-{number}") as work:
                    async with there.watch(work.id) as records:
                        await anext(records)
                        await there.cancel(work.id)
                        await there.wait_stopped(work.id)

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(life, number)
        await until(lambda: (here.status.live, here.status.backlog) == (0, 0))
        assert (here.status.sessions, there.status.sessions) == (1, 1), (here.status, there.status)
        assert (await there.list_operations()).operations == ()
        left = [key for key in fragile.keys(NAMESPACE) if ":op:" not in key and ":w" not in key]
        prefix = f"cancelable:{{{NAMESPACE}}}:"
        assert [key for key in left if "inbox" in key or "by:" in key] == []
        assert fragile.command("EXISTS", f"{prefix}wops:{here.status.worker}") == 0


async def test_no_accepted_cancel_is_lost_in_a_storm(durable: Broker) -> None:
    """The broker is killed again and again under load; every accepted cancel is carried out."""
    async with two(durable, heartbeat=0.5) as (here, there):
        accepted = 0
        false_answers: list[object] = []
        is_over = False

        async def lives() -> None:
            nonlocal accepted
            while not is_over:
                async with running(here, announce=False) as work:
                    while not work.ended.is_set():
                        try:
                            if not await here.announce(work.operation):
                                await anyio.sleep(0.01)
                                continue
                            result = await there.cancel(work.id)
                        except BusUnavailable:
                            await anyio.sleep(0.01)
                            continue
                        if result.outcome is O.UNKNOWN:
                            false_answers.append(result)
                        if result:
                            accepted += 1
                            await stopped(work)

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(lives)
            for _ in range(3):
                await anyio.sleep(0.4)
                durable.kill()
                await anyio.sleep(0.05)
                durable.start()
                await until(lambda: here.status.up and there.status.up)
            is_over = True
        assert accepted > 50
        assert false_answers == []
        await until(lambda: (here.status.live, here.status.backlog) == (0, 0))
