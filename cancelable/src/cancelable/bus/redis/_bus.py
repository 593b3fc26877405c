"""The bus of many processes, through a server that speaks the Redis protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.util import find_spec
from types import TracebackType
from typing import Self

import anyio

from ..._doorbell import Doorbell
from ..._ids import checked_id
from ..._operation import Operation
from ..._outcome import CancelOutcome
from ..._reason import CancelationReason
from ..._registry import OperationRegistry
from ..._seconds import seconds
from ..._status import OperationStatus
from .._bus import CancelBus, Selection, checked_limit, checked_listed, unknown
from .._cursor import Cursor
from .._errors import BusUnavailable, DuplicateOperation
from .._feed import watching
from .._health import BusStatus
from .._here import Here
from .._info import OperationInfo, Page
from .._labels import Labels, checked_filter
from .._memory import checked_memory
from .._request import CancelRequest
from .._result import CancelResult
from .._state import OperationState
from . import _records as records
from ._commands import Command
from ._member import Member
from ._settings import Factory, Settings

MOST_REQUESTS = 1000
"""How many requests made through this bus are known, to be repeated by ``wait_stopped``."""

_OUTCOMES = {
    outcome.value: outcome for outcome in CancelOutcome if outcome is not CancelOutcome.UNSETTLED
}


@dataclass(frozen=True, slots=True)
class Asked:
    """Hold a request that the broker accepted."""

    request: CancelRequest
    wanted: Labels


class RedisBus(CancelBus):
    """Cancel, list and watch operations in many processes, on many hosts.

    ::

        bus = RedisBus("redis://localhost")
        async with bus:
            ...

    Enter it once in each process, in the lifespan of the server or around the program's main
    function. Entering never fails because the broker is away: operations run all the same,
    and are announced when it is there. While it is away, what lives in this process is still
    answered; everything else raises ``BusUnavailable``.

    The operations of the registry are announced: those made with ``register_globally=True``. A
    request, or any ``LatentOperation``, is announced when somebody has asked for its operation,
    and else when it has run for a second or two.
    Others see an operation's id, name, plain metadata as it was at the start, progress, and the
    text of the error that ended it. Whoever can write to the broker can cancel operations.
    """

    def __init__(
        self,
        server: str | Factory,
        *,
        namespace: str = "default",
        registry: OperationRegistry | None = None,
        heartbeat: float = 5.0,
        timeout: float = 2.0,
        retention: float = 300.0,
        announce_timeout: float = 0.5,
    ) -> None:
        """Make a bus; nothing is connected before it is entered.

        Args:
            server: A URL (``redis://user:password@host:port/db``, ``rediss://`` for TLS,
                ``unix://``), or a function that makes a new coredis client each time, with
                all its time limits set and without retries, for a cluster or sentinels.
            namespace: Who shares the bus: processes with the same one see each other.
            registry: Whose operations are announced; the one that is the default now if left
                out.
            heartbeat: Seconds between two signs of life. A process of which nothing was heard
                for three of them is lost to the others. The same in all processes.
            timeout: Seconds that connecting, and any answer of the broker, may take.
            retention: Seconds for which the broker remembers how an operation ended.
            announce_timeout: Seconds that ``announce`` waits at most.

        Raises:
            ImportError: If coredis is not installed.
            TypeError: If a setting is of the wrong kind.
            ValueError: If a setting is out of bounds.
        """
        self._settings = Settings.checked(
            server, namespace, heartbeat, timeout, retention, announce_timeout
        )
        if find_spec("coredis") is None:
            msg = "the Redis bus needs coredis: install `cancelable-core[redis]`"
            raise ImportError(msg)
        self._registry = registry or OperationRegistry.current()
        self._away = Here(self._registry)
        self._member: Member | None = None
        self._asked: dict[str, Asked] = {}

    @property
    def registry(self) -> OperationRegistry:
        """The registry whose operations are announced."""
        return self._registry

    @property
    def status(self) -> BusStatus:
        """How the bus is doing."""
        return BusStatus(up=False) if self._member is None else self._member.status

    async def __aenter__(self) -> Self:
        if self._member is not None:
            msg = "the bus is entered already; leave it first, or make another one"
            raise RuntimeError(msg)
        self._member = member = Member(self._settings, self._registry)
        try:
            await member.join()
        except BaseException:
            self._member = None
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        member, self._member = self._member, None
        if member is not None:
            await member.leave()

    async def announce(self, operation: Operation) -> bool:
        """Wait until other processes can find an operation; see ``CancelBus.announce``."""
        checked_listed(operation, self._registry)
        if operation.status is OperationStatus.PENDING:
            self._here.accept(operation)
        member = self._member
        if member is None or operation.status.is_terminal:
            return member is not None
        try:
            return await member.announce(operation)
        except DuplicateOperation:
            self._here.reject(operation)
            raise

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
        """Ask an operation to stop; see ``CancelBus.cancel``.

        The outcome ``unsettled`` means that it cannot be told: the answer did not arrive, or
        the broker knows no such operation but has forgotten some a moment ago.
        """
        _checked_id(operation_id)
        asked = Asked(CancelRequest.checked(reason, message, by, grace), checked_filter(metadata))
        keep = checked_memory(remember_for)
        operation = self._find_here(operation_id, asked.wanted)
        if operation is not None:
            return self._here.cancel(operation, asked.request)
        return await self._cancel_elsewhere(operation_id, asked, keep)

    async def wait_stopped(
        self,
        operation_id: str,
        timeout: float | timedelta | None = None,
        *,
        metadata: Mapping[str, object] | None = None,
    ) -> OperationInfo | None:
        """Wait until an operation has ended; see ``CancelBus.wait_stopped``."""
        with anyio.move_on_after(seconds(timeout, "timeout")):
            async with self.watch(operation_id, metadata=metadata) as watch:
                async for record in watch:
                    if not record.state.is_live:
                        self._asked.pop(operation_id, None)
                        return record
        return None

    async def get(
        self, operation_id: str, *, metadata: Mapping[str, object] | None = None
    ) -> OperationInfo | None:
        """Return what is known of an operation; see ``CancelBus.get``."""
        _checked_id(operation_id)
        wanted = checked_filter(metadata)
        operation = self._find_here(operation_id, wanted)
        if operation is not None:
            return self._here.info(operation)
        return await self._get_elsewhere(operation_id, wanted)

    async def list_operations(
        self,
        status: OperationStatus | OperationState | str | None = None,
        name_pattern: str | None = None,
        *,
        metadata: Mapping[str, object] | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Return live operations that match; see ``CancelBus.list_operations``.

        Those of processes that are gone are among them, as lost, until that is written down.
        Requests and other ``LatentOperation``s of other processes are among them when somebody
        there has asked for their operation, or when they have run for a second or two.
        """
        wanted = checked_filter(metadata)
        selection = Selection(status, name_pattern)
        begin, most = Cursor.checked(after), checked_limit(limit)
        _checked_text(begin.id, "after")
        member = self._entered()
        # The question goes out behind what they announce.
        member.ask_for_all()
        answer = await _answer(
            member, lambda answered: member.commands.list(begin, most, wanted, answered)
        )
        parts = records.items(answer)
        place = records.place(parts)
        infos = [_listed(part) for part in parts[2:]]
        return Page(
            operations=tuple(info for info in infos if info is not None and selection.shows(info)),
            after=None if place is None else str(place),
        )

    def watch(
        self, operation_id: str, *, metadata: Mapping[str, object] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[OperationInfo]]:
        """Follow an operation; see ``CancelBus.watch``."""
        _checked_id(operation_id)
        return self._watch(operation_id, checked_filter(metadata))

    # -- here and elsewhere --------------------------------------------------------------

    @property
    def _here(self) -> Here:
        return self._away if self._member is None else self._member.here

    def _find_here(self, operation_id: str, wanted: Labels) -> Operation | None:
        """Return an operation that lives here and matches.

        One that lives here and does not match is asked for elsewhere, as if it were unknown here:
        an answer of our own would be another one than for an id that does not exist wherever the
        broker is away, and would tell that it does.
        """
        return self._here.find(operation_id, wanted)[0]

    def _entered(self) -> Member:
        if self._member is None:
            msg = "the bus has not been entered: `async with bus:` connects it to the broker"
            raise BusUnavailable(msg)
        return self._member

    async def _cancel_elsewhere(
        self, operation_id: str, asked: Asked, remember_for: float
    ) -> CancelResult:
        member = self._entered()
        answer, is_answered = await member.ask(
            lambda answered: member.commands.cancel(
                operation_id, asked.request, asked.wanted, remember_for, answered
            )
        )
        if not is_answered:
            return CancelResult(CancelOutcome.UNSETTLED)
        found = records.found(answer, operation_id)
        outcome = _OUTCOMES.get(found.word, CancelOutcome.UNSETTLED)
        if outcome is CancelOutcome.UNKNOWN:
            ended = self._here.remembered(operation_id, asked.wanted)
            if ended is not None:
                return CancelResult(CancelOutcome.FINISHED, ended)
        if found.info is None:
            return CancelResult(outcome)
        if outcome is not CancelOutcome.FINISHED:
            self._keep(operation_id, asked)
        # In a cluster the broker counts those who listen at one of its nodes.
        nobody = False if self._settings.factory is None else None
        delivered = None if outcome is CancelOutcome.FINISHED else found.receivers > 0 or nobody
        return CancelResult(outcome, found.info, delivered)

    def _keep(self, operation_id: str, asked: Asked) -> None:
        self._asked.pop(operation_id, None)
        self._asked[operation_id] = asked
        while len(self._asked) > MOST_REQUESTS:
            self._asked.pop(next(iter(self._asked)), None)

    async def _get_elsewhere(self, operation_id: str, wanted: Labels) -> OperationInfo | None:
        member = self._entered()
        answer = await _answer(
            member, lambda answered: member.commands.get(operation_id, wanted, answered)
        )
        found = records.found(answer, operation_id)
        if found.word == "found":
            return found.info
        ended = self._here.remembered(operation_id, wanted)
        if ended is None and found.word != "unknown":
            msg = (
                "the broker has been restarted or emptied a moment ago and may not know all "
                "operations yet"
            )
            raise BusUnavailable(msg)
        return ended

    @asynccontextmanager
    async def _watch(
        self, operation_id: str, wanted: Labels
    ) -> AsyncGenerator[AsyncIterator[OperationInfo]]:
        operation = self._find_here(operation_id, wanted)
        if operation is not None:
            with self._here.watch(operation) as watch:
                yield watch
            return
        first = await self._get_elsewhere(operation_id, wanted)
        if first is None:
            raise unknown(operation_id)
        member = self._entered()
        bell = Doorbell()
        look = Look(self, member, operation_id, wanted, first)
        member.follow(operation_id, bell)
        try:
            yield watching(first, bell, look)
        finally:
            member.unfollow(operation_id, bell)

    async def _look(self, look: Look) -> OperationInfo:
        """Return how a watched operation stands; the last that was known if nobody can say."""
        member = look.member
        sessions, asked = member.sessions, self._asked.get(look.operation_id)
        if asked is not None and sessions != look.sessions:
            # The broker may be one that has forgotten the request, and even the operation, until
            # that is announced again and rings.
            repeated = await self._cancel_elsewhere(look.operation_id, asked, 0)
            if repeated.operation is not None:
                look.sessions = sessions
        found = await self._get_elsewhere(look.operation_id, look.wanted)
        return replace(look.last, state=OperationState.LOST) if found is None else found


class Look:
    """Look at one operation that is watched, whenever its bell rings."""

    __slots__ = ("_bus", "last", "member", "operation_id", "sessions", "wanted")

    def __init__(
        self, bus: RedisBus, member: Member, operation_id: str, wanted: Labels, first: OperationInfo
    ) -> None:
        """Look for one watcher."""
        self._bus = bus
        self.member = member
        self.operation_id = operation_id
        self.wanted = wanted
        self.last = first
        self.sessions = member.sessions

    async def __call__(self) -> OperationInfo:
        try:
            self.last = await self._bus._look(self)
        except BusUnavailable:
            # The bell rings again when the broker is back, or knows enough.
            pass
        return self.last


async def _answer(member: Member, make: Callable[[Callable[[object], object]], Command]) -> object:
    """Return the answer to a question that changes nothing.

    Raises:
        BusUnavailable: If none arrived.
    """
    answer, is_answered = await member.ask(make)
    if not is_answered:
        msg = "the broker did not answer in time"
        raise BusUnavailable(msg)
    return answer


def _listed(part: object) -> OperationInfo | None:
    """Return one line of a listing."""
    line = records.items(part)
    operation_id = records.text(line[0]) if len(line) == 3 else None
    return None if operation_id is None else records.info(operation_id, line[1], line[2])


def _checked_id(operation_id: str) -> None:
    _checked_text(checked_id(operation_id, "operation_id"), "operation_id")


def _checked_text(value: str, name: str) -> None:
    """Refuse what cannot be sent.

    Raises:
        ValueError: If it has half a surrogate pair in it.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        msg = f"`{name}` must be text that can be written as UTF-8, not {value!r}"
        raise ValueError(msg) from None
