"""A program that runs operations, to be frozen and killed: `worker.py URL NAMESPACE BACKEND ID...`.

It prints what happens, a line each, and ends when its input does.
"""

from __future__ import annotations

import sys

import anyio
import anyio.to_thread

from cancelable import Cancelable, CancelationError
from cancelable.bus import RedisBus

HEARTBEAT = 0.2


async def work(bus: RedisBus, operation_id: str, finish: anyio.Event) -> None:
    try:
        async with Cancelable(operation_id, register_globally=True) as operation:
            await bus.announce(operation)
            print("running", operation_id, flush=True)
            await finish.wait()
        print("completed", operation_id, flush=True)
    except CancelationError as error:
        print("cancelled", operation_id, error.message, flush=True)


async def main(url: str, namespace: str, ids: list[str]) -> None:
    bus = RedisBus(url, namespace=namespace, heartbeat=HEARTBEAT, timeout=0.5)
    finish = anyio.Event()
    async with bus, anyio.create_task_group() as tasks:
        for operation_id in ids:
            tasks.start_soon(work, bus, operation_id, finish)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        finish.set()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[4:], backend=sys.argv[3])
