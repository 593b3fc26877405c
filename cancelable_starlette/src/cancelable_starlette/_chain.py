"""Closing an async generator together with those that it iterates.

``async for`` does not close what it iterates. A generator that is closed at its ``yield`` leaves
the ones underneath suspended at theirs, until the collector finds them and the event loop closes
them in some other task, one of them with a warning.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections import deque
from collections.abc import AsyncIterator
from types import AsyncGeneratorType
from typing import TypeAlias, TypeGuard

Generator: TypeAlias = AsyncGeneratorType[object, None]


async def close_chain(source: AsyncIterator[object], failure: BaseException | None) -> None:
    """Close *source* and the generators underneath that nobody else holds, outermost first.

    Args:
        source: What was iterated, in this task; anything but a generator is closed by its own
            ``aclose()``, if it has one.
        failure: A native cancelation that the source has not seen, to be thrown into it; None to
            close it plainly.

    Raises:
        BaseException: What the cleanup of a generator raised, except *failure* itself.
    """
    if not _is_generator(source):
        aclose = getattr(source, "aclose", None)
        if aclose is not None:
            await aclose()
        return
    underneath = _generators_under(source)
    try:
        await _close(source, failure)
    finally:
        await _close_the_unheld(underneath, failure)


def is_over(source: AsyncIterator[object]) -> bool:
    """Return whether *source* is a generator that has ended, so that nothing is left to close."""
    return _is_generator(source) and not _is_suspended(source)


async def _close_the_unheld(generators: deque[Generator], failure: BaseException | None) -> None:
    while generators:
        generator = generators.popleft()
        # Two references are ours: the name above and the argument. Who else holds one may go on
        # with it.
        if _is_suspended(generator) and sys.getrefcount(generator) <= 2:
            try:
                await _close(generator, failure)
            finally:
                await _close_the_unheld(generators, failure)


async def _close(generator: Generator, failure: BaseException | None) -> None:
    if failure is not None and _is_suspended(generator):
        traceback = failure.__traceback__
        try:
            await generator.athrow(failure)
        except StopAsyncIteration:
            pass
        except BaseException as exc:
            if exc is not failure:
                raise
        finally:
            # The frames of the generator would keep its variables, and those what is iterated.
            failure.__traceback__ = traceback
    await generator.aclose()


def _generators_under(generator: Generator) -> deque[Generator]:
    """Return the suspended generators that *generator* refers to, nearest first.

    The one that an ``async for`` runs over stands on the stack of the frame and in no variable;
    the collector knows it.
    """
    found: deque[Generator] = deque()
    known = {id(generator)}
    look = [generator]
    while look:
        for referent in gc.get_referents(look.pop(0)):
            if _is_generator(referent) and id(referent) not in known:
                known.add(id(referent))
                found.append(referent)
                look.append(referent)
    return found


def _is_generator(value: object) -> TypeGuard[Generator]:
    return inspect.isasyncgen(value)


def _is_suspended(generator: Generator) -> bool:
    """Return whether *generator* stands at a ``yield``, or has not begun."""
    frame: object = generator.ag_frame  # None when it has ended; typeshed does not say so
    return frame is not None
