"""The Redis bus apart from its broker: settings, entering, forks, and what is imported when."""

from __future__ import annotations

import gc
import os
import ssl
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from cancelable import CancelOutcome, OperationRegistry
from cancelable.bus import BusUnavailable, OperationState, RedisBus
from cancelable.bus._request import CancelRequest
from cancelable.bus.redis._bus import MOST_REQUESTS, Asked
from cancelable.bus.redis._settings import tls_context
from tests.bus.broker import Broker
from tests.bus.work import running, until

NOWHERE = "redis://127.0.0.1:1"


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"server": "http://localhost"}, ValueError, "`server` must be a URL that begins with"),
        ({"server": "localhost"}, ValueError, "`server` must be a URL that begins with"),
        ({"server": 6379}, TypeError, "`server` must be a URL, or a function"),
        ({"namespace": ""}, ValueError, "`namespace` must have"),
        ({"namespace": "a{b}"}, ValueError, "`namespace` must have"),
        ({"namespace": "a:b"}, ValueError, "`namespace` must have"),
        ({"namespace": "x" * 65}, ValueError, "`namespace` must have"),
        ({"namespace": "x\n"}, ValueError, "`namespace` must have"),
        ({"namespace": 7}, ValueError, "`namespace` must have"),
        ({"heartbeat": 0}, ValueError, "`heartbeat` must be"),
        ({"heartbeat": None}, ValueError, "`heartbeat` must be"),
        ({"timeout": -1}, ValueError, "`timeout` must be"),
        ({"retention": float("nan")}, ValueError, "`retention` must be"),
        ({"announce_timeout": "1"}, TypeError, "`announce_timeout` must be"),
        ({"heartbeat": timedelta(days=2)}, ValueError, "`heartbeat` must be at most a day"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_where_they_are_given(
    settings: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        RedisBus(**{"server": NOWHERE, **settings})  # type: ignore[arg-type]


def test_a_password_is_not_part_of_the_complaint() -> None:
    with pytest.raises(ValueError, match="begins with 'http'") as raised:
        RedisBus("http://user:secret@localhost")
    assert "secret" not in str(raised.value)


def test_a_certificate_is_checked_with_its_name() -> None:
    """The client library alone would take any valid certificate for any host."""
    context = tls_context("rediss://localhost")
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    lax = tls_context("rediss://localhost?ssl_check_hostname=false")
    assert lax is not None
    assert not lax.check_hostname
    assert lax.verify_mode is ssl.CERT_REQUIRED
    assert tls_context("redis://localhost") is None


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("ssl_cert_reqs=none", ValueError),
        ("ssl_check_hostname=perhaps", ValueError),
        ("ssl_ca_certs=/nowhere", OSError),
        ("ssl_certfile=/nowhere", OSError),
    ],
)
def test_tls_that_proves_nothing_is_refused(query: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        RedisBus(f"rediss://localhost?{query}")


async def test_a_bus_that_is_not_entered_knows_its_own_process() -> None:
    """What lives here is answered, everything else cannot be asked."""
    bus = RedisBus(NOWHERE, registry=OperationRegistry())
    assert not bus.status.up
    async with running(bus, "job", announce=False) as work:
        assert not await bus.announce(work.operation)
        info = await bus.get("job")
        assert info is not None
        assert info.state is OperationState.RUNNING
        async with bus.watch("job") as records:
            assert (await bus.cancel("job")).outcome is CancelOutcome.REQUESTED
            assert [record.state async for record in records][-1] is OperationState.CANCELLED
    for call in (bus.cancel("other"), bus.get("other"), bus.list_operations()):
        with pytest.raises(BusUnavailable, match="has not been entered"):
            await call
    with pytest.raises(BusUnavailable, match="has not been entered"):
        async with bus.watch("other"):
            pytest.fail("there is nobody to ask")


async def test_a_bus_is_entered_once_at_a_time(broker: Broker, namespace: str) -> None:
    bus = RedisBus(broker.url, namespace=namespace, registry=OperationRegistry())
    workers = set[str | None]()
    for _ in range(2):
        async with bus:
            with pytest.raises(RuntimeError, match="entered already"):
                await bus.__aenter__()
            assert bus.status.up
            workers.add(bus.status.worker)
        assert not bus.status.up
    assert len(workers) == 2


async def test_a_forked_process_is_told_to_enter_its_own(broker: Broker, namespace: str) -> None:
    """A connection that two processes share would be worse than an error."""
    async with RedisBus(broker.url, namespace=namespace, registry=OperationRegistry()) as bus:
        assert bus._member is not None
        bus._member._pid = os.getpid() + 1  # as it looks to a child of this process
        with pytest.raises(RuntimeError, match="before this process was forked"):
            await bus.get("job")
        async with running(bus, announce=False):
            assert bus.status.live == 0
        bus._member._pid = os.getpid()


async def test_an_id_that_cannot_be_sent_is_refused(broker: Broker, namespace: str) -> None:
    """Half a surrogate pair would break the connection of everybody."""
    async with RedisBus(broker.url, namespace=namespace, registry=OperationRegistry()) as bus:
        for call in (
            bus.get("\ud800"),
            bus.cancel("\ud800"),
            bus.list_operations(after="1-\ud800"),
        ):
            with pytest.raises(ValueError, match="must be text that can be written as UTF-8"):
                await call
        async with running(bus, "\ud800", announce=False):
            async with running(bus, "fine"):
                assert len((await bus.list_operations()).operations) == 1
        assert bus.status.sessions == 1


async def test_a_factory_makes_the_client(broker: Broker, namespace: str) -> None:
    """For clusters and sentinels: a new client for each connection."""
    import coredis
    from coredis.retry import NoRetryPolicy

    made: list[object] = []

    def make() -> coredis.Redis[bytes]:
        client = coredis.Redis.from_url(
            broker.url,
            retry_policy=NoRetryPolicy(),
            stream_timeout=1,
            connect_timeout=1,
            pool_timeout=1,
        )
        made.append(client)
        return client

    async with RedisBus(make, namespace=namespace, registry=OperationRegistry()) as bus:
        async with running(bus, "job"):
            assert len((await bus.list_operations()).operations) == 1
    assert len(made) == 1


def test_nothing_is_imported_that_is_not_asked_for() -> None:
    """The core knows no bus, and the bus no client until it is entered."""
    program = (
        "import sys, cancelable\n"
        "assert 'cancelable.bus' not in sys.modules\n"
        "from cancelable.bus import InMemoryBus, RedisBus\n"
        "InMemoryBus(), RedisBus('redis://localhost')\n"
        "assert 'coredis' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=30, cwd=Path(__file__).parent
    )


def test_a_missing_client_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cancelable.bus.redis._bus.find_spec", lambda _name: None)
    with pytest.raises(ImportError, match=r"install `cancelable-core\[redis\]`"):
        RedisBus(NOWHERE)


async def test_a_bus_costs_its_callers_no_task(broker: Broker, namespace: str) -> None:
    """The tasks of a bus are few, and the same whatever runs through it."""
    before = len(anyio.get_running_tasks())
    async with RedisBus(broker.url, namespace=namespace, registry=OperationRegistry()) as bus:
        idle = len(anyio.get_running_tasks())
        for _ in range(20):
            async with running(bus, "job") as work:
                await bus.cancel(work.id)
        await bus.list_operations()
        assert len(anyio.get_running_tasks()) <= idle + 1
        assert idle - before < 20


async def test_what_was_asked_is_known_within_bounds(broker: Broker, namespace: str) -> None:
    """Requests are kept to be repeated, the newest thousand."""
    async with RedisBus(broker.url, namespace=namespace, registry=OperationRegistry()) as there:
        asked = Asked(CancelRequest.checked("manual", None, None, None), {})
        for number in range(MOST_REQUESTS + 5):
            there._keep(f"job-{number}", asked)
        assert len(there._asked) == MOST_REQUESTS
        assert "job-4" not in there._asked


# coredis 6.9 leaves the queues of a connection that could not be made unclosed.
@pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")
async def test_endings_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the broker is away, memory does not grow with what ends."""
    monkeypatch.setattr("cancelable.bus.redis._desk.MOST_ENDINGS", 10)
    async with RedisBus(NOWHERE, registry=OperationRegistry()) as bus:
        for _ in range(30):
            async with running(bus, announce=False):
                pass
        await until(lambda: (bus.status.live, bus.status.backlog) == (0, 10))
    gc.collect()


async def test_live_operations_are_announced_again_now_and_then(
    broker: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of live operations last a day at most, operations may last longer."""
    monkeypatch.setattr("cancelable.bus.redis._member.DAY", 0.4)
    async with RedisBus(
        broker.url, namespace=namespace, registry=OperationRegistry(), heartbeat=0.05
    ) as bus:
        async with running(bus, "job"):
            key = f"cancelable:{{{namespace}}}:op:job"
            broker.command("PERSIST", key)
            await until(lambda: int(str(broker.command("TTL", key))) > 0)
        assert bus.status.sessions == 1
