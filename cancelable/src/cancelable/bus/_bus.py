"""What every bus can do: cancel, list and watch operations by id, wherever they run."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from types import TracebackType
from typing import Self

from .._count import count
from .._operation import Operation
from .._reason import CancelationReason
from .._registry import OperationRegistry, _is_named
from .._status import OperationStatus
from .._text import checked_text
from ._health import BusStatus
from ._info import OperationInfo, Page
from ._result import CancelResult
from ._state import OperationState


class CancelBus(abc.ABC):
    """Cancel, list and watch operations by id, in this process and in others.

    The calls read as those of a registry do, and what lives in this process is answered by
    this process: at once, and also when no other can be reached. All of them may be awaited in
    any task of any loop, and a caller who is cancelled meanwhile harms nobody else.

    ``metadata`` is what an operation's metadata must contain (its owner, its tenant). One that
    differs looks exactly like one that does not exist. Values are compared by their JSON text.
    """

    @property
    @abc.abstractmethod
    def registry(self) -> OperationRegistry:
        """The registry whose operations this bus tells of."""

    @property
    @abc.abstractmethod
    def status(self) -> BusStatus:
        """How the bus is doing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        return None

    @abc.abstractmethod
    async def announce(self, operation: Operation) -> bool:
        """Wait until other processes can find an operation of this one.

        Operations of the registry are announced by themselves when they begin, or when somebody
        has asked for one that is latent; this waits for it, so that an id can be handed out. It
        may be called before the operation begins, which reserves the id: until then it is known
        as pending.

        Args:
            operation: An operation that is listed in the registry of the bus, or will be when
                it begins. If it has ended meanwhile, there is nothing to wait for.

        Returns:
            False if the bus cannot be reached now; the operation is announced when it can.

        Raises:
            DuplicateOperation: If another operation with this id is live.
            RuntimeError: If the operation has begun and is not listed in this registry.
        """

    @abc.abstractmethod
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
        """Ask an operation to stop, and answer at once what became of the request.

        Args:
            operation_id: The id.
            reason: The kind of cause.
            message: A text for the people who read the error.
            grace: Seconds that its block may run on, instead of its own grace.
            metadata: What the operation's metadata must contain.
            by: Who asks; it stands in the record, and as ``cancel_source`` in the context.
            remember_for: Seconds for which the request is kept if there is no such operation
                yet; one of this id that begins meanwhile is cancelled. Use it only with ids
                that are not used twice.

        Returns:
            What became of the request; never that the operation has ended.

        Raises:
            BusUnavailable: If the operation does not live here and the bus cannot be asked.
            TypeError: If an argument is of the wrong kind.
            ValueError: If there is no such reason, or a value is out of bounds.
        """

    @abc.abstractmethod
    async def wait_stopped(
        self,
        operation_id: str,
        timeout: float | timedelta | None = None,
        *,
        metadata: Mapping[str, object] | None = None,
    ) -> OperationInfo | None:
        """Wait until an operation has ended.

        While it waits, a request that was made through this bus is repeated whenever the
        connection to the broker was lost, so that not even a broker that forgets loses it.

        Args:
            operation_id: The id.
            timeout: How long to wait, in seconds; None for as long as it takes.
            metadata: What the operation's metadata must contain.

        Returns:
            How it ended, with the state ``lost`` if its process is gone; None if the time ran
            out first.

        Raises:
            LookupError: If no such operation is known.
            BusUnavailable: If the bus cannot be asked when the wait begins.
            TypeError: If an argument is of the wrong kind.
        """

    @abc.abstractmethod
    async def get(
        self, operation_id: str, *, metadata: Mapping[str, object] | None = None
    ) -> OperationInfo | None:
        """Return what is known of an operation, live or ended not long ago; None if nothing is.

        Args:
            operation_id: The id.
            metadata: What the operation's metadata must contain.

        Raises:
            BusUnavailable: If the operation does not live here and the bus cannot be asked, or
                cannot know the answer yet.
            TypeError: If an argument is of the wrong kind.
        """

    @abc.abstractmethod
    async def list_operations(
        self,
        status: OperationStatus | OperationState | str | None = None,
        name_pattern: str | None = None,
        *,
        metadata: Mapping[str, object] | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Return live operations that match, oldest first.

        Args:
            status: Only those in this state.
            name_pattern: Only those whose name matches this pattern (``*`` and ``?`` stand
                for anything), or contains this text where it has neither.
            metadata: Only those whose metadata contain this.
            after: Where the page before ended: its ``after``.
            limit: How many to look at, 1 to 1,000; a page may hold fewer.

        Raises:
            BusUnavailable: If the bus cannot be asked.
            TypeError: If an argument is of the wrong kind.
            ValueError: If there is no such state, or the limit or ``after`` is out of bounds.
        """

    @abc.abstractmethod
    def watch(
        self, operation_id: str, *, metadata: Mapping[str, object] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[OperationInfo]]:
        """Follow an operation: its progress, a request to stop, its end.

        ::

            async with bus.watch(operation_id) as records:
                async for record in records:
                    print(record.state, record.progress)

        The first record tells how it stands, the last one how it ended, or that it is lost. A
        slow reader misses some in the middle.

        Args:
            operation_id: The id.
            metadata: What the operation's metadata must contain.

        Raises:
            LookupError: On entry, if no such operation is known.
            BusUnavailable: On entry, if the bus cannot be asked.
            TypeError: If an argument is of the wrong kind.
        """


MOST_ON_A_PAGE = 1000
"""The most operations that one call of ``list_operations`` looks at."""


def checked_limit(limit: int) -> int:
    """Return the number of operations that a caller wants on a page.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is out of bounds.
    """
    if count(limit, "limit", "operations") > MOST_ON_A_PAGE:
        msg = f"`limit` must be 1 to {MOST_ON_A_PAGE} operations, not {limit}"
        raise ValueError(msg)
    return limit


class Selection:
    """Tell which operations a listing by state and name shows."""

    def __init__(
        self, status: OperationStatus | OperationState | str | None, name_pattern: str | None
    ) -> None:
        """Take what the caller wants.

        Raises:
            TypeError: If the pattern is no text.
            ValueError: If there is no such state.
        """
        self._state = None if status is None else OperationState.of(status)
        self._pattern = checked_text(name_pattern, "name_pattern")

    def shows(self, info: OperationInfo) -> bool:
        """Return whether the listing shows an operation."""
        return (self._state is None or info.state is self._state) and (
            self._pattern is None or _is_named(info.name, self._pattern)
        )


def unknown(operation_id: str) -> LookupError:
    """Return the error for an id that nobody knows, or whose operation is somebody else's."""
    return LookupError(f"no operation with the id {operation_id!r} is known")


def checked_listed(operation: Operation, registry: OperationRegistry) -> None:
    """Refuse an operation that cannot be announced.

    Raises:
        RuntimeError: If it has begun and is not listed in the registry.
    """
    if operation.status is not OperationStatus.PENDING and operation.keeper is not registry:
        msg = (
            "`operation` must be listed in the registry of the bus: make it with "
            "`register_globally=True`"
        )
        raise RuntimeError(msg)
