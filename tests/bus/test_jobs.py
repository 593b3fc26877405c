"""Jobs of one worker, looked at and cancelled through the routes of another (S16)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from cancelable import OperationRegistry
from cancelable.bus import RedisBus
from tests.bus.broker import Broker
from tests.fastapi.office import Office
from tests.fastapi.support import LIMIT


@asynccontextmanager
async def two_workers(url: str, namespace: str) -> AsyncIterator[tuple[Office, Office]]:
    """Make two workers of one app, as two processes would have them."""
    async with (
        RedisBus(url, namespace=namespace, registry=OperationRegistry()) as here,
        RedisBus(url, namespace=namespace, registry=OperationRegistry()) as there,
    ):
        yield Office(bus=here), Office(bus=there)


async def test_a_job_is_found_and_cancelled_through_another_worker(
    broker: Broker, namespace: str
) -> None:
    """From the answer 202 on; and nobody but its owner finds it anywhere."""
    async with two_workers(broker.url, namespace) as (here, there):
        async with anyio.create_task_group() as tasks:
            job = await here.start(tasks)
            status, listed = await there.ask("GET", "/operations")
            assert (status, [each["id"] for each in listed["operations"]]) == (200, [job])
            for method in ("GET", "DELETE"):
                assert (await there.ask(method, f"/operations/{job}", user="bob"))[0] == 404

            watching = there.connection("GET", f"/operations/{job}/events")
            tasks.start_soon(watching.run, there.app)
            with anyio.fail_after(LIMIT):
                await watching.wait_for_chunks(1)
            status, answer = await there.ask("DELETE", f"/operations/{job}", query="wait=5")
            assert (status, answer["state"]) == (200, "cancelled")
        assert here.ended.is_set()
        assert watching.body.decode().count("event: end") == 1
        status, found = await there.ask("GET", f"/operations/{job}")
        assert (status, found["cancel"]["reason"]) == (200, "manual")


async def test_an_id_is_taken_for_all_workers(broker: Broker, namespace: str) -> None:
    """The second start is a 409, whichever worker it comes to."""
    async with two_workers(broker.url, namespace) as (here, there):
        async with anyio.create_task_group() as tasks:
            assert await here.start(tasks, "operation_id=mine") == "mine"
            assert (await there.ask("POST", "/work", query="operation_id=mine"))[0] == 409
            assert not there.begun.is_set()
            assert (await there.ask("GET", "/operations/mine"))[1]["state"] == "running"
            here.go_on.set()
