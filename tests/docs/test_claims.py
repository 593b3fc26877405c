"""What the pages say cannot be done, where no other test is about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack

import anyio
import pytest

from cancelable import Cancelable


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "shield",
    [
        lambda cancel: cancel.shield(),
        lambda cancel: cancel.shield(reasons={"external", "manual", "disconnect"}),
        lambda _cancel: anyio.CancelScope(shield=True),
        lambda _cancel: anyio.move_on_after(5, shield=True),
    ],
    ids=["section", "section for some reasons", "scope", "bounded scope"],
)
async def test_a_task_that_is_cancelled_by_asyncio_leaves_every_shield(
    shield: Callable[
        [Cancelable], AbstractAsyncContextManager[object] | AbstractContextManager[object]
    ],
) -> None:
    """Only asyncio has such a call, and nothing can hold it back."""
    steps: list[str] = []

    async def work() -> None:
        async with Cancelable() as cancel, AsyncExitStack() as section:
            chosen = shield(cancel)
            if isinstance(chosen, AbstractAsyncContextManager):
                await section.enter_async_context(chosen)
            else:
                section.enter_context(chosen)
            steps.append("begun")
            await anyio.sleep(0.01)
            steps.append("finished")

    task = asyncio.create_task(work())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["begun"]
