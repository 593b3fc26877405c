"""Which loop an operation belongs to: with several in a process, and with two in one thread."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

WITHOUT_TRIO = """
import asyncio, sys, threading
from cancelable import Cancelable, CancelationToken, ManualCancelation, current_operation

token = CancelationToken()
begun = threading.Barrier(3)

async def wait(name):
    try:
        async with Cancelable.with_token(token, name=name) as operation:
            assert current_operation() is operation
            await asyncio.to_thread(begun.wait)
            await asyncio.sleep(30)
    except ManualCancelation:
        print(name + "\\n", end="")  # in one piece: the other thread prints as well

async def main():
    for _ in range(2):
        async with Cancelable.with_timeout(30):
            pass

asyncio.run(main())
asyncio.run(main())
threads = [threading.Thread(target=lambda n=n: asyncio.run(wait(n))) for n in ("a", "b")]
for thread in threads:
    thread.start()
begun.wait()
token.cancel_sync()
for thread in threads:
    thread.join()
try:
    token.cancel("manual").send(None)
except Exception as error:
    print(type(error).__name__)
print("trio" in sys.modules)
"""

TRIO_AS_A_GUEST = """
import asyncio
from cancelable import Cancelable, CancelationToken, ManualCancelation, TimeoutCancelation

token = CancelationToken()

async def hear(who, told):
    async with Cancelable.with_timeout(0.01, grace=50) as operation:
        operation.token.on_cancel(lambda _: told.set())
        await told.wait()
    print(who, "has heard of its deadline")

async def guest():
    import trio
    for _ in range(3):
        async with Cancelable.with_timeout(30):
            await trio.sleep(0)
    try:
        async with Cancelable.with_timeout(0.01):
            await trio.sleep(30)
    except TimeoutCancelation:
        print("the guest's time is up")
    await hear("the guest", trio.Event())
    await token.cancel()

async def host():
    async with Cancelable.with_timeout(30):
        await asyncio.sleep(0)
    import trio
    over = asyncio.Event()
    trio.lowlevel.start_guest_run(
        guest,
        run_sync_soon_threadsafe=asyncio.get_running_loop().call_soon_threadsafe,
        done_callback=lambda outcome: (outcome.unwrap(), over.set()),
    )
    try:
        async with Cancelable.with_token(token):
            await asyncio.sleep(30)
    except ManualCancelation:
        print("the guest has cancelled its host")
    await hear("the host", asyncio.Event())
    await over.wait()

asyncio.run(host())
"""


def output(program: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert run.stderr == ""
    return sorted(run.stdout.splitlines())


def test_loops_without_trio(anyio_backend: str) -> None:
    """One after another, side by side in threads, and none at all."""
    assert output(WITHOUT_TRIO) == ["False", "NoEventLoopError", "a", "b"]


def test_trio_as_the_guest_of_an_asyncio_loop(anyio_backend: str) -> None:
    """Two loops run in one thread, and each operation is its own loop's."""
    assert output(TRIO_AS_A_GUEST) == [
        "the guest has cancelled its host",
        "the guest has heard of its deadline",
        "the guest's time is up",
        "the host has heard of its deadline",
    ]
