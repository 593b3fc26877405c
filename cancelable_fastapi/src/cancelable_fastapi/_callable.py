"""What an endpoint is to FastAPI, which looks through wrappers: async, a generator, or plain."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import cast


def is_async(endpoint: Callable[..., object]) -> bool:
    """Return whether FastAPI awaits what a call of *endpoint* gives.

    Args:
        endpoint: A function or a method, a partial of one, or an object with ``__call__``;
            with decorators around it that keep what they wrap.
    """
    return any(map(inspect.iscoroutinefunction, _layers(endpoint)))


def is_generator(endpoint: Callable[..., object]) -> bool:
    """Return whether FastAPI streams what a call of *endpoint* gives.

    Args:
        endpoint: As for ``is_async``.
    """
    layers = list(_layers(endpoint))
    return any(map(inspect.isgeneratorfunction, layers)) or any(
        map(inspect.isasyncgenfunction, layers)
    )


def _layers(endpoint: Callable[..., object]) -> Iterator[Callable[..., object]]:
    """Yield what a call goes through, from the outside in."""
    seen = endpoint
    while True:
        yield seen
        if isinstance(seen, functools.partial):
            seen = cast("functools.partial[object]", seen).func
        elif (wrapped := getattr(seen, "__wrapped__", None)) is not None:
            seen = wrapped
        elif not inspect.isroutine(seen) and not isinstance(seen, type):
            seen = seen.__call__  # type: ignore[operator]
        else:
            return
