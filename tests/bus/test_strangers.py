"""What comes from those who may write to the broker, and what the bus itself may do there."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator

import anyio
import pytest

from cancelable import CancelOutcome, OperationRegistry
from cancelable.bus import BusUnavailable, OperationState, RedisBus
from tests.bus.broker import Broker
from tests.bus.work import PATIENCE, running, until
from tests.conftest import BACKENDS

# What is written into a broker does not depend on the loop: once for each of its libraries.
pytestmark = pytest.mark.parametrize(
    "anyio_backend",
    [pytest.param(BACKENDS[name], id=name) for name in ("asyncio", "trio") if name in BACKENDS],
    indirect=True,
)

S = OperationState
O = CancelOutcome  # noqa: E741

HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello",
    "pickle": pickle.dumps({"t": "cancel"}),
    "no utf-8": b"\xff\xfe\x00",
    "a number": b"7",
    "a list": b"[1, 2, 3]",
    "null": b"null",
    "no version": b'{"t":"cancel","id":"job"}',
    "another version": b'{"v":2,"t":"cancel","id":"job"}',
    "no id": b'{"v":1,"t":"cancel"}',
    "an id that is none": b'{"v":1,"t":"cancel","id":{"a":1},"cancel":"","own":"1","cut":""}',
    "an id of nobody": b'{"v":1,"t":"cancel","id":"x","cancel":"{}","own":"1","cut":""}',
    "a request that is none": b'{"v":1,"t":"cancel","id":"job","cancel":"{}","own":"1","cut":""}',
    "half a letter": b'{"v":1,"t":"cancel","id":"\\ud800","cancel":"\\ud800","own":"1"}',
    "a beat that is none": b'{"v":1,"t":"beat","n":"x"}',
    "a beat of another time": b'{"v":1,"t":"beat","n":99999999}',
    "deep": b"[" * 8000 + b"]" * 8000,
    "nan": b'{"v":NaN,"t":Infinity}',
    "long": b'{"v":1,"t":"cancel","id":"' + b"x" * 1_000_000 + b'"}',
    "a long number": b'{"v":1,"t":"beat","n":' + b"9" * 10_000 + b"}",
}


async def test_hostile_messages_are_dropped(broker: Broker, namespace: str) -> None:
    """Pickles, wrong shapes, a megabyte: nothing happens, and the connection stays."""
    prefix = f"cancelable:{{{namespace}}}:"
    registry = OperationRegistry()
    async with (
        RedisBus(broker.url, namespace=namespace, registry=registry) as here,
        RedisBus(broker.url, namespace=namespace, registry=OperationRegistry()) as there,
    ):
        async with running(here, "job") as work, there.watch("job") as records:
            assert (await anext(records)).state is S.RUNNING
            for message in HOSTILE.values():
                for channel in (f"ch:w:{here.status.worker}", "ch:op:job", "ch:op:\udcff"):
                    name = (prefix + channel).encode("utf-8", "surrogateescape")
                    broker.command("PUBLISH", name, message)
            await until(lambda: here.status.dropped >= 12)
            assert not work.operation.cancel_requested
            assert (await there.cancel("job")).outcome is O.REQUESTED
            with anyio.fail_after(PATIENCE):
                await work.ended.wait()
                assert [record.state async for record in records][-1] is S.CANCELLED
        assert (here.status.sessions, there.status.sessions) == (1, 1)


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_records_are_read_for_what_they_are(
    broker: Broker, namespace: str, message: bytes
) -> None:
    """Each field in turn: what fits is shown, the rest is left out, and nobody falls over."""
    prefix = f"cancelable:{{{namespace}}}:"
    async with RedisBus(broker.url, namespace=namespace, registry=OperationRegistry()) as bus:
        fields = ("name", "parent", "started", "progress", "cancel", "own", "cut", "error", "m:a")
        for field in (*fields, "state", "worker"):
            record = {"state": b"running", "worker": b"w", "started": b"1700000000000"}
            record[field] = message
            flat = [each for pair in record.items() for each in pair]
            broker.command("DEL", prefix + "op:job")
            broker.command("HSET", prefix + "op:job", *flat)
            broker.command("ZADD", prefix + "ops", "1700000000000", "job")
            broker.command("SET", prefix + "w:w", '{"host":"h","pid":1}')
            info = await bus.get("job")
            assert info is None or info.id == "job"
            if field == "state":
                assert info is None
            elif info is not None:
                assert len(json.dumps(info.to_json())) < 40_000
            await bus.list_operations()
            await bus.cancel("job")
        for score in ("inf", "-inf", "-1", "1e300"):
            broker.command("ZADD", prefix + "ops", score, "job", score, "other")
            await bus.list_operations(limit=1)
        broker.command("SET", prefix + "w:w", message)
        await bus.get("job")
        assert bus.status.sessions == 1


async def test_keys_of_the_wrong_type_harm_one_operation(broker: Broker, namespace: str) -> None:
    """The caller is told; the next call is answered."""
    prefix = f"cancelable:{{{namespace}}}:"
    async with RedisBus(broker.url, namespace=namespace, registry=OperationRegistry()) as bus:
        broker.command("SET", prefix + "op:odd", "text")
        for call in (bus.get("odd"), bus.cancel("odd")):
            with pytest.raises(BusUnavailable, match="the broker refused"):
                await call
        async with running(bus, "odd", announce=False) as work:
            assert not await bus.announce(work.operation)
            async with running(bus, "fine"):
                page = await bus.list_operations()
                assert [info.id for info in page.operations] == ["fine"]
        assert bus.status.sessions == 1


async def test_what_was_refused_is_told_again(broker: Broker, namespace: str) -> None:
    """An operation that the broker would not take, and an ending: at the next heartbeat."""
    prefix = f"cancelable:{{{namespace}}}:"
    async with RedisBus(
        broker.url, namespace=namespace, registry=OperationRegistry(), heartbeat=0.1
    ) as bus:
        broker.command("SET", prefix + "op:job", "text")
        async with running(bus, "job", announce=False) as work:
            assert not await bus.announce(work.operation)
            broker.command("DEL", prefix + "op:job")
            await until(lambda: bus.announce(work.operation))
            broker.command("RENAME", prefix + "op:job", prefix + "aside")
            broker.command("SET", prefix + "op:job", "text")
        await until(lambda: bus.status.backlog == 1)
        broker.command("RENAME", prefix + "aside", prefix + "op:job")
        await until(lambda: bus.status.backlog == 0)
        assert broker.command("HGET", prefix + "op:job", "state") == "completed"
        assert bus.status.sessions == 1


async def test_what_the_broker_takes_for_ours_and_is_not_is_taken_out(
    broker: Broker, namespace: str
) -> None:
    """Endings that were let go during a long outage, or written by somebody else."""
    prefix = f"cancelable:{{{namespace}}}:"
    async with RedisBus(
        broker.url, namespace=namespace, registry=OperationRegistry(), heartbeat=0.1
    ) as bus:
        async with running(bus, "known"):
            pass
        await until(lambda: bus.status.backlog == 0)
        worker = bus.status.worker
        for operation_id in ("known", "never heard of"):
            key = prefix + "op:" + operation_id
            broker.command("HSET", key, "state", "running", "worker", str(worker))
            broker.command("SADD", f"{prefix}wops:{worker}", operation_id)
        await until(lambda: broker.command("SCARD", f"{prefix}wops:{worker}") == 0)
        assert broker.command("HGET", prefix + "op:known", "state") == "completed"
        assert broker.command("EXISTS", prefix + "op:never heard of") == 0
        assert bus.status.sessions == 1


async def test_a_broker_that_refuses_heartbeats_is_none(
    broker: Broker, guarded: str, namespace: str
) -> None:
    """Read-only, full, about to be replaced: the session ends, and is tried again."""
    async with RedisBus(
        guarded, namespace=namespace, registry=OperationRegistry(), heartbeat=0.1
    ) as bus:
        assert bus.status.up
        broker.command("ACL", "SETUSER", "bus", "-zadd")
        await until(lambda: "SessionEnded" in str(bus.status.last_error))
        assert not bus.status.up
        broker.command("ACL", "SETUSER", "bus", "+zadd")
        await until(lambda: bus.status.up)


async def test_hostile_requests_in_the_inbox_are_dropped(broker: Broker, namespace: str) -> None:
    """A request that is none stops nobody; a good one afterwards does."""
    prefix = f"cancelable:{{{namespace}}}:"
    registry = OperationRegistry()
    async with RedisBus(broker.url, namespace=namespace, registry=registry, heartbeat=0.05) as bus:
        async with running(bus, "job") as work:
            worker = bus.status.worker
            dropped = 0
            for cancel in (b"\xff", b"{}", b'{"reason":"because"}', b'{"reason":7}', b"[]"):
                broker.command("HSET", prefix + "op:job", "cancel", cancel, "own", "1")
                broker.command("SADD", f"{prefix}inbox:{worker}", "job")
                broker.command("INCR", f"{prefix}mail:{worker}")
                dropped += 1
                await until(lambda: bus.status.dropped == dropped)  # noqa: B023
            assert not work.operation.cancel_requested
            broker.command("HSET", prefix + "op:job", "cancel", '{"reason":"signal"}')
            broker.command("INCR", f"{prefix}mail:{worker}")
            with anyio.fail_after(PATIENCE):
                await work.ended.wait()


async def test_what_is_sent_has_bounds(broker: Broker, namespace: str) -> None:
    """Long texts are cut, long metadata stays at home."""
    prefix = f"cancelable:{{{namespace}}}:"
    metadata: dict[str, object] = {f"k{number}": "v" * 400 for number in range(100)}
    async with RedisBus(broker.url, namespace=namespace, registry=OperationRegistry()) as bus:
        async with running(bus, "job", name="n" * 10_000, metadata=metadata) as work:
            for number in range(3):
                await work.operation.report_progress("p" * 1_000_000, {"n": number})
            work.operation.cancel_sync(message="m" * 100_000)
            with anyio.fail_after(PATIENCE):
                await work.ended.wait()

            async def is_told() -> bool:
                return broker.command("HGET", prefix + "op:job", "state") == "cancelled"

            await until(is_told)
            record = broker.command("HGETALL", prefix + "op:job")
            assert isinstance(record, list)
            assert sum(len(each) for each in record) < 40_000


# -- what the bus may do ---------------------------------------------------------------------

LEAST = (
    "resetchannels ~cancelable:{NAMESPACE}:* &cancelable:{NAMESPACE}:* -@all"
    " +hello +auth +ping +info +client|setname +client|id"
    " +evalsha +script|load +subscribe +unsubscribe +punsubscribe +publish +time"
    " +get +set +del +exists +incr +pexpire"
    " +hget +hset +hsetnx +hdel +hmget +hgetall +hexists"
    " +sadd +srem +scard +smembers +spop"
    " +zadd +zrem +zcount +zcard +zrank +zscore +zrange +zrangebyscore"
)
"""What docs/bus.md says that the bus needs."""


@pytest.fixture
def guarded(broker: Broker, namespace: str) -> Iterator[str]:
    """The URL of a user who may do what the documentation says, and nothing else."""
    rules = LEAST.replace("NAMESPACE", namespace).split()
    broker.command("ACL", "SETUSER", "bus", "on", ">secret", *rules)
    yield broker.url.replace("//", "//bus:secret@")
    broker.command("ACL", "DELUSER", "bus")


async def test_the_documented_rights_are_enough(guarded: str, namespace: str) -> None:
    """Announce, list, watch, cancel, progress, the end, heartbeats and sweeps: no refusal."""
    async with (
        RedisBus(guarded, namespace=namespace, registry=OperationRegistry(), heartbeat=0.3) as here,
        RedisBus(
            guarded, namespace=namespace, registry=OperationRegistry(), heartbeat=0.3
        ) as there,
    ):
        async with running(here, "job", metadata={"owner": "ann"}, grace=5) as work:
            async with there.watch("job") as records:
                await work.operation.report_progress("half")
                assert (await anext(records)).state is S.RUNNING
                await anyio.sleep(1.1)  # heartbeats and a sweep, the third of them
                assert (await there.list_operations(metadata={"owner": "ann"})).operations
                assert await there.cancel("job")
                assert await there.cancel("job", grace=0)
                with anyio.fail_after(PATIENCE):
                    assert [record.state async for record in records][-1] is S.CANCELLED
        assert (await there.cancel("later", remember_for=5)).outcome is O.REMEMBERED
        assert (here.status.sessions, there.status.sessions) == (1, 1)


async def test_the_documented_rights_are_no_more(
    broker: Broker, guarded: str, namespace: str
) -> None:
    """Other keys, other channels, other commands: refused."""
    prefix = f"cancelable:{{{namespace}}}:"
    for words in (
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("GET", "other"),
        ("SET", "cancelable:{other}:run", "1"),
        ("PUBLISH", "other", "1"),
        ("CONFIG", "GET", "*"),
        ("EVAL", "return 1", "0"),
        ("ACL", "LIST"),
    ):
        answer = broker.command("ACL", "DRYRUN", "bus", *words)
        assert "no permissions" in str(answer), (words, answer)
    assert broker.command("ACL", "DRYRUN", "bus", "GET", prefix + "run") == "OK"


async def test_without_the_right_to_publish_the_heartbeat_brings_requests(
    broker: Broker, guarded: str, namespace: str
) -> None:
    """The bell is a short cut: what was asked is carried out without it, too."""
    broker.command("ACL", "SETUSER", "bus", "-publish")
    async with (
        RedisBus(guarded, namespace=namespace, registry=OperationRegistry(), heartbeat=0.2) as here,
        RedisBus(
            guarded, namespace=namespace, registry=OperationRegistry(), heartbeat=0.2
        ) as there,
    ):
        async with running(here, "job") as work:
            result = await there.cancel("job")
            assert (result.outcome, result.delivered) == (O.REQUESTED, False)
            with anyio.fail_after(PATIENCE):
                await work.ended.wait()
            end = await there.wait_stopped("job", PATIENCE)
            assert end is not None
            assert end.state is S.CANCELLED


async def test_a_wrong_password_is_an_outage_that_says_why(
    broker: Broker, guarded: str, namespace: str
) -> None:
    url = guarded.replace("secret", "wrong")
    async with RedisBus(url, namespace=namespace, registry=OperationRegistry()) as bus:
        assert not bus.status.up
        with pytest.raises(BusUnavailable, match=r"WRONGPASS|invalid username-password"):
            await bus.get("job")
        assert "wrong@" not in str(bus.status.last_error)
