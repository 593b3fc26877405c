"""What a watcher takes of an operation, record by record, and who is told of changes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Generic, Protocol, Self, TypeVar

import anyio

from ._cause import Cause
from ._doorbell import Doorbell
from ._operation import Operation

RecordT = TypeVar("RecordT")


class Watch(AsyncIterator[RecordT], Generic[RecordT]):
    """Iterate over what becomes of one operation, at the watcher's own pace.

    The first record tells how it stands; each later one that something has changed. A watcher
    that is slower than the changes misses some in the middle and always gets the last one,
    which tells how the operation ended.
    """

    __slots__ = ("_bell", "_ended", "_has_rung", "_is_last", "_last", "_look", "_marks", "_next")

    def __init__(
        self,
        first: RecordT,
        bell: Doorbell,
        look: Callable[[], Awaitable[RecordT]],
        marks: Callable[[RecordT], object],
        is_last: Callable[[RecordT], bool],
    ) -> None:
        """Make the iterator of one watcher.

        Args:
            first: How the operation stands.
            bell: What rings when something may have changed.
            look: Tells how the operation stands by then.
            marks: Returns what of a record makes it another than the one before.
            is_last: Tells whether no record will follow a record.
        """
        self._next: RecordT | None = first
        self._last: RecordT | None = None
        self._bell = bell
        self._look = look
        self._marks = marks
        self._is_last = is_last
        self._has_rung = False
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RecordT:
        # A reader may give up at any await here and ask again later: a record is taken, and a
        # ring forgotten, behind the last of them.
        await anyio.lowlevel.checkpoint()
        if self._ended:
            raise StopAsyncIteration
        while self._next is None or self._is_known(self._next):
            if not self._has_rung:
                await self._bell.wait()
                self._has_rung = True
            self._next = await self._look()
            self._has_rung = False
        found, self._next = self._next, None
        self._last = found
        self._ended = self._is_last(found)
        return found

    def _is_known(self, found: RecordT) -> bool:
        last = self._last
        return last is not None and self._marks(found) == self._marks(last)


class Observable(Protocol):
    """What tells of operations: a registry."""

    def add_observer(self, observer: Watchers, /, *, latent: bool) -> object: ...
    def remove_observer(self, observer: Watchers, /) -> None: ...


class Watchers:
    """Ring for those who watch operations of one registry; safe from any thread.

    The registry is followed only while somebody watches.
    """

    def __init__(self, registry: Observable) -> None:
        """Start with nobody watching."""
        self._registry = registry
        self._bells: dict[Operation, dict[Doorbell, None]] = {}
        # Guards the table where a watcher comes or goes, never where an operation is cancelled,
        # reports or ends: those only read it.
        self._lock = threading.Lock()

    @contextmanager
    def follow(self, operation: Operation) -> Generator[Doorbell]:
        """Give a bell that rings whenever something of an operation has changed."""
        bell = Doorbell()
        self._add(operation, bell)
        try:
            yield bell
        finally:
            self._remove(operation, bell)

    def reported(self, operation: Operation) -> None:
        """Ring for those who watch an operation; safe from any thread."""
        bells = self._bells.get(operation)
        if bells:
            for bell in list(bells):
                bell.ring()

    entered = left = reported

    def _add(self, operation: Operation, bell: Doorbell) -> None:
        with self._lock:
            if not self._bells:
                self._registry.add_observer(self, latent=False)  # what is watched is there
            self._bells.setdefault(operation, {})[bell] = None
        operation.token._listen(bell, partial(_ring, bell))
        # The operation may have ended between the look that found it and the line above that
        # follows it; then nobody else would ring.
        if operation.status.is_terminal:
            bell.ring()

    def _remove(self, operation: Operation, bell: Doorbell) -> None:
        operation.token._unlisten(bell)
        with self._lock:
            bells = self._bells[operation]
            del bells[bell]
            if not bells:
                del self._bells[operation]
            if not self._bells:
                self._registry.remove_observer(self)


def _ring(bell: Doorbell, _cause: Cause, _here: object) -> None:
    bell.ring()
