"""The bus of one process: no dependency, no task, nothing to start."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from heapq import nsmallest
from operator import itemgetter

import anyio

from .._ids import checked_id
from .._operation import Operation
from .._outcome import CancelOutcome
from .._reason import CancelationReason
from .._registry import OperationRegistry
from .._seconds import seconds
from .._status import OperationStatus
from ._bus import CancelBus, Selection, checked_limit, checked_listed, unknown
from ._cursor import Cursor
from ._feed import ended_watch
from ._health import BusStatus
from ._here import Here
from ._info import OperationInfo, Page
from ._labels import Labels, checked_filter, labels, matches
from ._request import CancelRequest
from ._result import CancelResult
from ._state import OperationState

MOST_REMEMBERED = 10_000
"""How many requests for operations that have not begun are kept; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Marker:
    """Hold a request for an operation that has not begun."""

    request: CancelRequest
    wanted: Labels
    expires: float
    """Seconds of the monotonic clock."""


class Markers:
    """Keep requests for operations of one registry that have not begun."""

    def __init__(self, registry: OperationRegistry) -> None:
        """Start with none; the registry is followed while there are some."""
        self._registry = registry
        self._kept: dict[str, Marker] = {}
        # Guards the markers where one is added, or goes because of its age. An operation that
        # begins takes its own out in one step.
        self._lock = threading.Lock()

    def keep(self, operation_id: str, marker: Marker) -> None:
        """Keep a request; the first one for an id stands."""
        with self._lock:
            now = time.monotonic()
            for known, old in list(self._kept.items()):
                if old.expires > now and len(self._kept) < MOST_REMEMBERED:
                    break
                self._kept.pop(known, None)
            if not self._kept:
                self._registry.remove_observer(self)
                # No latent operation has an id that was known before it began.
                self._registry.add_observer(self, latent=False)
            present = self._kept.get(operation_id)
            if present is None or present.expires <= now:
                self._kept[operation_id] = marker

    def entered(self, operation: Operation) -> None:
        """Cancel an operation that was to be cancelled before it began."""
        known = operation.known_id
        marker = None if known is None else self._kept.pop(known, None)
        if marker is None or marker.expires <= time.monotonic():
            return
        if matches(labels(operation.metadata), marker.wanted):
            operation._request(marker.request.cause, grace=marker.request.grace)

    def reported(self, operation: Operation) -> None:
        """Take no notice."""

    left = reported


class InMemoryBus(CancelBus):
    """Cancel, list and watch the operations of this process.

    The default wherever a bus can be given. It need not be entered, costs an operation
    nothing until somebody watches, and is safe from any thread and loop.
    """

    def __init__(self, registry: OperationRegistry | None = None) -> None:
        """Make a bus for one registry.

        Args:
            registry: Whose operations to tell of; the one that is the default now if left out.
        """
        self._here = Here(registry or OperationRegistry.current())
        self._markers = Markers(self._here.registry)

    @property
    def registry(self) -> OperationRegistry:
        """The registry whose operations this bus tells of."""
        return self._here.registry

    @property
    def status(self) -> BusStatus:
        """How the bus is doing: always up."""
        return BusStatus(up=True)

    async def announce(self, operation: Operation) -> bool:
        """Let an operation be found, also before it begins; see ``CancelBus.announce``."""
        checked_listed(operation, self.registry)
        if operation.status is OperationStatus.PENDING:
            self._here.accept(operation)
        return True

    async def cancel(
        self,
        operation_id: str,
        reason: CancelationReason | str = CancelationReason.MANUAL,
        message: str | None = None,
        *,
        grace: float | timedelta | None = None,
        metadata: Mapping[str, object] | None = None,
        by: str | None = None,
        remember_for: float | timedelta = 0,
    ) -> CancelResult:
        """Ask an operation to stop; see ``CancelBus.cancel``."""
        checked_id(operation_id, "operation_id")
        request = CancelRequest.checked(reason, message, by, grace)
        wanted = checked_filter(metadata)
        keep = checked_memory(remember_for)
        operation, is_live = self._here.find(operation_id, wanted)
        if operation is not None:
            return self._here.cancel(operation, request)
        ended = None if is_live else self._here.remembered(operation_id, wanted)
        if ended is not None:
            return CancelResult(CancelOutcome.FINISHED, ended)
        if not keep:
            return CancelResult(CancelOutcome.UNKNOWN)
        self._markers.keep(operation_id, Marker(request, wanted, time.monotonic() + keep))
        return CancelResult(CancelOutcome.REMEMBERED)

    async def wait_stopped(
        self,
        operation_id: str,
        timeout: float | timedelta | None = None,
        *,
        metadata: Mapping[str, object] | None = None,
    ) -> OperationInfo | None:
        """Wait until an operation has ended; see ``CancelBus.wait_stopped``."""
        with anyio.move_on_after(seconds(timeout, "timeout")):
            async with self.watch(operation_id, metadata=metadata) as records:
                async for record in records:
                    if not record.state.is_live:
                        return record
        # One that has ended is told of however little time there was.
        known = await self.get(operation_id, metadata=metadata)
        return None if known is None or known.state.is_live else known

    async def get(
        self, operation_id: str, *, metadata: Mapping[str, object] | None = None
    ) -> OperationInfo | None:
        """Return what is known of an operation; see ``CancelBus.get``."""
        checked_id(operation_id, "operation_id")
        wanted = checked_filter(metadata)
        operation, is_live = self._here.find(operation_id, wanted)
        if operation is not None:
            return self._here.info(operation)
        return None if is_live else self._here.remembered(operation_id, wanted)

    async def list_operations(
        self,
        status: OperationStatus | OperationState | str | None = None,
        name_pattern: str | None = None,
        *,
        metadata: Mapping[str, object] | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Return live operations that match; see ``CancelBus.list_operations``."""
        wanted = checked_filter(metadata)
        checked_limit(limit)
        selection = Selection(status, name_pattern)
        begin = Cursor.checked(after)
        found = [
            (place, operation)
            for operation in self._here.live()
            if (place := _place(operation)) > begin and matches(labels(operation.metadata), wanted)
        ]
        page = nsmallest(limit, found, key=itemgetter(0))
        infos = [self._here.info(operation) for _place, operation in page]
        return Page(
            operations=tuple(each for each in infos if selection.shows(each)),
            after=str(page[-1][0]) if len(found) > limit else None,
        )

    def watch(
        self, operation_id: str, *, metadata: Mapping[str, object] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[OperationInfo]]:
        """Follow an operation; see ``CancelBus.watch``."""
        checked_id(operation_id, "operation_id")
        return self._watch(operation_id, checked_filter(metadata))

    @asynccontextmanager
    async def _watch(
        self, operation_id: str, wanted: Labels
    ) -> AsyncGenerator[AsyncIterator[OperationInfo]]:
        operation, is_live = self._here.find(operation_id, wanted)
        if operation is not None:
            with self._here.watch(operation) as records:
                yield records
            return
        ended = None if is_live else self._here.remembered(operation_id, wanted)
        if ended is None:
            raise unknown(operation_id)
        yield ended_watch(ended)


def _place(operation: Operation) -> Cursor:
    return Cursor(int(operation._started_at * 1e9), operation.operation_id)


def checked_memory(remember_for: float | timedelta) -> float:
    """Return for how long a request is kept, in seconds.

    Raises:
        TypeError: If it is no duration.
        ValueError: If it is negative or longer than a day.
    """
    keep = seconds(remember_for, "remember_for")
    if not 0 <= keep <= 86_400:
        msg = f"`remember_for` must be 0 to 86400 seconds, not {remember_for!r}"
        raise ValueError(msg)
    return keep
