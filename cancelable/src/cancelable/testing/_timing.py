"""Assertions about when something is cancelled, on anyio's clock."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager

import anyio

from .._cancelable import Cancelable
from ..exceptions import CancelationError
from ._token import MockCancelationToken


@asynccontextmanager
async def assert_cancelation_within(
    min_time: float, max_time: float
) -> AsyncGenerator[MockCancelationToken]:
    """Check that the code inside is cancelled between two times from now.

    A ``CancelationError`` that leaves the code is what is expected, and goes no further. On
    a virtual clock the times are exact.

    Args:
        min_time: Seconds.
        max_time: Seconds.

    Yields:
        A token to run the code with.

    Raises:
        AssertionError: If nothing was cancelled, or not in that time.
    """
    token = MockCancelationToken()
    start = anyio.current_time()
    was_cancelled = False
    try:
        yield token
    except CancelationError:
        was_cancelled = True
    took = anyio.current_time() - start
    if not (was_cancelled or token.is_cancelled):
        msg = f"nothing was cancelled; the code ended by itself after {took:.3f} s"
        raise AssertionError(msg)
    if not min_time <= took <= max_time:
        msg = f"cancelled after {took:.3f} s, not between {min_time:g} and {max_time:g} s"
        raise AssertionError(msg)


async def run_with_timeout_test(
    coro: Awaitable[object], expected_timeout: float, tolerance: float = 0.1
) -> None:
    """Check that something runs until a timeout of its own.

    Args:
        coro: What to await.
        expected_timeout: Seconds after which a ``TimeoutError`` is to leave it.
        tolerance: Seconds that it may be early or late.

    Raises:
        AssertionError: If it ends by itself, or at another time.
    """
    start = anyio.current_time()
    try:
        await coro
    except TimeoutError:
        took = anyio.current_time() - start
        if abs(took - expected_timeout) > tolerance:
            msg = f"timed out after {took:.3f} s, not after {expected_timeout:g} s"
            raise AssertionError(msg) from None
    else:
        msg = f"no timeout; it ended by itself after {anyio.current_time() - start:.3f} s"
        raise AssertionError(msg)


async def sample_async_operation(
    duration: float = 1.0, cancelable: Cancelable | None = None
) -> str:
    """Work for a while in ten steps, reporting progress; something to try cancelation on.

    Args:
        duration: Seconds.
        cancelable: The operation that is told of the progress.

    Returns:
        A text that says how long it took.
    """
    for step in range(1, 11):
        await anyio.sleep(duration / 10)
        if cancelable is not None:
            await cancelable.report_progress(f"step {step} of 10", {"step": step})
    return f"completed in {duration:g} s"
