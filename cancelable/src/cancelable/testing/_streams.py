"""Sources that take their time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import TypeVar

import anyio

from .._cancelable import Cancelable

T = TypeVar("T")


async def create_slow_stream(
    items: Iterable[T], delay: float = 0.1, cancelable: Cancelable | None = None
) -> AsyncGenerator[T]:
    """Yield items with a pause before each.

    Args:
        items: What to yield.
        delay: Seconds before each item.
        cancelable: An operation whose cancelation is checked before each item.
    """
    for item in items:
        if cancelable is not None:
            await cancelable.check_cancelation()
        await anyio.sleep(delay)
        yield item
