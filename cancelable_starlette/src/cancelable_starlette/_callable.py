"""A callable of the user's: a function, a partial, an object; async or plain."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import cast

from starlette.concurrency import run_in_threadpool


def is_async(given: object) -> bool:
    """Return whether calling *given* gives a coroutine, for all that can be seen from outside.

    Args:
        given: A function or a method, a partial of one, or an object with ``__call__``.
    """
    while isinstance(given, functools.partial):
        given = cast("functools.partial[object]", given).func
    called = getattr(given, "__call__", None)  # noqa: B004 - to look at it
    return inspect.iscoroutinefunction(given) or inspect.iscoroutinefunction(called)


def made_async(function: Callable[..., object]) -> Callable[..., Awaitable[object]]:
    """Return what calls an async function here and a plain one in a thread.

    A plain decorator around an async function gives its coroutine, which is awaited.

    Args:
        function: The function.
    """
    if is_async(function):
        return cast("Callable[..., Awaitable[object]]", function)

    async def call(*args: object, **kwargs: object) -> object:
        def call_boxed() -> list[object]:
            return [function(*args, **kwargs)]  # Trio lets no bare coroutine out of a thread

        (answer,) = await run_in_threadpool(call_boxed)
        return await cast(Awaitable[object], answer) if inspect.isawaitable(answer) else answer

    return call
