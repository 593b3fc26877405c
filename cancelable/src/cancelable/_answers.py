"""Answers of which it is open whether they are awaited.

Registry calls are plain functions. Programs written for a registry of coroutine functions
write ``await`` in front of them; these values make that harmless: awaiting one gives the
value itself, without a checkpoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Generic, Self, TypeVar, cast

T = TypeVar("T")


class Awaited:
    """Give a value an ``await`` that returns it unchanged."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, Self]:
        return self
        yield  # the unreachable yield is what makes this a generator


class AwaitedList(list[T], Awaited, Generic[T]):
    """A list that may also be awaited."""

    __slots__ = ()


class AwaitedDict(dict[str, T], Awaited, Generic[T]):
    """A dictionary with string keys that may also be awaited."""

    __slots__ = ()


class AwaitedCount(int, Awaited):
    """A number that may also be awaited."""

    __slots__ = ()


def awaitable(answer: object) -> Awaitable[object] | None:
    """Return what a callback gave back if it has to be awaited, else None.

    Args:
        answer: What a function returned that may be plain or async.
    """
    return cast("Awaitable[object]", answer) if isinstance(answer, Awaitable) else None
