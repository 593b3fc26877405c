"""A block of work that is stopped, and says why."""

import anyio

from cancelable import Cancelable, TimeoutCancelation


async def main() -> None:
    try:
        async with Cancelable.with_timeout(1.5, name="slow work"):
            await anyio.sleep(60)
    except TimeoutCancelation as stopped:
        print(f"stopped: {stopped.reason}, {stopped}")


anyio.run(main)
