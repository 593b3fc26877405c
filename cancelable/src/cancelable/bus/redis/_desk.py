"""What this process has to tell the broker, and what it has heard from it.

Everything here runs in the loop of the bus. It is written as a state for each operation, not as
a list of things to send: what the broker knows of an operation can be told again at any time,
from the operation itself. So nothing is lost with a connection, reports that came too fast are
one report, and the memory is bounded by the number of operations.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from weakref import WeakKeyDictionary, ref

from ..._cause import Cause
from ..._log import logger
from ..._loop import current_loop
from ..._operation import Operation
from ..._status import OperationStatus
from ..._update import ProgressUpdate
from .._errors import DuplicateOperation
from .._here import Here
from .._info import OperationInfo
from .._labels import labels
from .._payload import cut
from .._state import OperationState
from . import _records as records
from ._commands import Command, Commands, cancel_text, progress_text
from ._reply import Reply

MOST_AT_ONCE = 128
"""The most operations that are told of in one round trip."""

MOST_ENDINGS = 10_000
"""The most endings that are kept while the broker is away; then the oldest are let go, whose
records at the broker are taken out when it is back."""

BETWEEN_REPORTS = 0.1
"""Seconds between two reports of progress of one operation that others see."""


class Entry:
    """Hold what is to be told of one operation, and what has been."""

    __slots__ = (
        "applied",
        "asked",
        "begun",
        "ended",
        "is_queued",
        "is_refused",
        "is_registered",
        "operation_id",
        "reference",
        "told_at",
        "told_update",
        "waiting",
        "was_registered",
    )

    def __init__(self, operation: Operation, gone: Callable[[Entry], object]) -> None:
        """Start with nothing told.

        Args:
            operation: The operation.
            gone: Called if it goes away without having begun, in whatever thread.
        """
        self.operation_id = operation.operation_id
        self.reference = ref(operation, lambda _dead: gone(self))
        self.begun: Operation | None = None
        """The operation, from its beginning to the answer to its ending."""
        self.is_queued = False
        self.is_registered = False
        """Whether the broker has it, as far as this connection knows."""
        self.was_registered = False
        """Whether the broker ever had it."""
        self.is_refused = False
        """Whether the id is another process's."""
        self.asked = False
        """Whether it was asked to stop, which is yet to be told."""
        self.ended = False
        self.applied: tuple[object, ...] = ()
        """The requests from the broker that were passed on to the operation last."""
        self.told_update: ProgressUpdate | None = None
        self.told_at = 0.0
        self.waiting: list[Reply] = []

    @property
    def operation(self) -> Operation | None:
        """The operation; None if it has gone away without having begun."""
        return self.begun or self.reference()


class Desk:
    """Keep the entries of one worker, and turn them into commands."""

    def __init__(
        self,
        commands: Commands,
        here: Here,
        post: Callable[[Callable[[], object]], None],
        ring: Callable[[], None],
    ) -> None:
        """Start with no entries.

        Args:
            commands: Makes the commands.
            here: The operations of this process.
            post: Runs a function in the loop of the bus, from any thread.
            ring: Called when there is something to send.
        """
        self._post = post
        self._commands = commands
        self._here = here
        self._ring = ring
        self._native = current_loop().native_token
        self._by_operation: WeakKeyDictionary[Operation, Entry] = WeakKeyDictionary()
        self._by_id: dict[str, Entry] = {}
        self._ended: dict[Entry, None] = {}
        self._dirty: deque[Entry] = deque()
        self._later: dict[Entry, None] = {}
        self._asks: deque[tuple[Command, Reply | None]] = deque()
        self._again: dict[Entry, None] = {}
        self._is_told_of_errors = False
        self._listed = set[str]()
        self.mail = 0
        """How many requests had come for us when the inbox was read last."""
        self.dropped = 0

    # -- what happens in this process ----------------------------------------------------

    def entered(self, operation: Operation, reply: Reply | None = None) -> None:
        """Announce an operation; settle *reply* when that is done."""
        entry = self._by_operation.get(operation) or self._open(operation)
        if entry is None:
            return
        if entry.begun is None and operation.status is not OperationStatus.PENDING:
            entry.begun = operation
            entry.is_registered = False
            self._queue(entry)
        if reply is None:
            return
        if entry.is_refused:
            reply.settle(DuplicateOperation(entry.operation_id))
        elif entry.is_registered:
            reply.settle(True)
        else:
            entry.waiting.append(reply)

    def _open(self, operation: Operation) -> Entry | None:
        try:
            operation.operation_id.encode()
        except UnicodeEncodeError:
            logger.warning("operation %r is not announced: its id is no text", operation)
            return None
        entry = Entry(operation, self._has_gone)
        self._by_operation[operation] = self._by_id[entry.operation_id] = entry
        operation.token._listen(self, partial(self._was_asked, entry))
        self._queue(entry)
        if operation.status.is_terminal:
            entry.begun = operation
            self.left(operation)
        return entry

    def _has_gone(self, entry: Entry) -> None:
        """Take note that an operation will never begin; any thread may call this."""
        self._post(partial(self._end, entry))

    def _was_asked(self, entry: Entry, cause: Cause, here: object) -> None:
        """Take note of a request; any thread may call this, also in a signal handler."""
        del cause, here
        self._post(partial(self._asked, entry))

    def _asked(self, entry: Entry) -> None:
        """Tell that an operation was asked to stop."""
        if not entry.ended:
            entry.asked = True
            self._queue(entry)

    def reported(self, operation: Operation) -> None:
        """Tell how far an operation has come, now or a little later."""
        entry = self._by_operation.get(operation)
        if entry is None:
            return
        if time.monotonic() - entry.told_at >= BETWEEN_REPORTS:
            self._queue(entry)
        else:
            self._later[entry] = None
            self._ring()

    def left(self, operation: Operation) -> None:
        """Tell how an operation ended."""
        entry = self._by_operation.pop(operation, None)
        if entry is None:
            return
        operation.token._unlisten(self)
        self._end(entry)

    def _end(self, entry: Entry) -> None:
        if entry.ended:
            return
        self._later.pop(entry, None)
        entry.ended = True
        if entry.is_refused:
            self._drop(entry)
            return
        self._ended[entry] = None
        if len(self._ended) > MOST_ENDINGS:
            self._drop(next(iter(self._ended)))
        self._queue(entry)

    def _drop(self, entry: Entry) -> None:
        self._ended.pop(entry, None)
        if self._by_id.get(entry.operation_id) is entry:
            del self._by_id[entry.operation_id]

    def close(self) -> None:
        """Let go of the operations, which run on."""
        for operation in list(self._by_operation):
            operation.token._unlisten(self)

    def _queue(self, entry: Entry) -> None:
        if not entry.is_queued:
            entry.is_queued = True
            self._dirty.append(entry)
        self._ring()

    # -- what is asked of the broker -----------------------------------------------------

    def ask(self, command: Command, reply: Reply | None = None) -> None:
        """Send a command when everything about our own operations has been told.

        Args:
            command: The command.
            reply: Who waits for it; it is not sent if nobody does any more.
        """
        self._asks.append((command, reply))
        self._ring()

    def rung(self, operation_id: str, asked: tuple[bytes, bytes, bytes]) -> None:
        """Pass on what was asked of an operation, if it is ours."""
        entry = self._by_id.get(operation_id)
        if entry is not None:
            self._apply(entry, *asked)

    # -- what goes out -------------------------------------------------------------------

    @property
    def listed(self) -> int:
        """How many operations the broker has of us, by what it answered."""
        return len(self._listed)

    @property
    def live(self) -> int:
        """How many operations are announced, or are to be."""
        return len(self._by_operation)

    @property
    def backlog(self) -> int:
        """How many endings have not been told."""
        return len(self._ended)

    @property
    def has_entries(self) -> bool:
        """Whether something about our own operations is to be told."""
        return bool(self._dirty)

    @property
    def patience(self) -> float:
        """For how many seconds there is nothing to do, unless somebody rings."""
        return BETWEEN_REPORTS if self._later else float("inf")

    def start_over(self) -> None:
        """Tell everything again; endings first, so that an id that is used again is not ended."""
        self._listed.clear()
        self._dirty.clear()
        for entry in (*self._ended, *self._by_operation.values()):
            entry.is_registered = entry.is_refused = False
            entry.is_queued = True
            entry.asked = False
            entry.told_update = None
            self._dirty.append(entry)
        self._ring()

    def stale(self, owned: Iterable[object]) -> None:
        """Take out what the broker takes for ours and is not here any more.

        Args:
            owned: The ids that it has.
        """
        for each in owned:
            operation_id = records.text(each)
            if operation_id is None or operation_id in self._by_id:
                continue
            ended = self._here.remembered(operation_id, {})
            command = self._commands.finish(
                operation_id,
                state="" if ended is None else ended.state.value,
                error=None if ended is None else ended.error,
                cancel=cancel_text(None if ended is None else ended.cancel),
                answered=self._note,
            )
            self.ask(command)

    def batch(self) -> list[tuple[Command, Reply | None]]:
        """Return what is to be sent next, in order."""
        for entry in [*self._later]:
            if time.monotonic() - entry.told_at >= BETWEEN_REPORTS:
                del self._later[entry]
                self._queue(entry)
        sent: list[tuple[Command, Reply | None]] = []
        for _ in range(min(len(self._dirty), MOST_AT_ONCE)):
            entry = self._dirty.popleft()
            entry.is_queued = False
            sent.extend((command, None) for command in self._tell(entry))
        while self._asks and not self._dirty and len(sent) < 4 * MOST_AT_ONCE:
            command, reply = self._asks.popleft()
            if reply is None or reply.is_wanted:
                sent.append((command, reply))
        return sent

    def unanswered(self, sent: list[tuple[Command, Reply | None]]) -> None:
        """Put back what somebody waits for: the connection failed before the answers came.

        Scripts may run twice, so that a short interruption is no concern of the caller.
        """
        self._asks.extendleft(each for each in reversed(sent) if each[1] is not None)

    def _tell(self, entry: Entry) -> list[Command]:
        """Return what the broker does not know yet about an operation, in order."""
        operation_id = entry.operation_id
        told: list[Command] = []
        if entry.is_refused:
            return told
        operation = entry.operation
        if operation is None:
            return [self._finish(entry, None)]
        update = operation.last_update
        info = self._here.info(operation)
        if not (entry.is_registered or (entry.ended and entry.was_registered)):
            entry.asked = False
            told.append(self._register(entry, operation, info))
        elif entry.asked and not entry.ended:
            entry.asked = False
            told.append(self._commands.asked(operation_id, cancel_text(info.cancel), self._note))
        if info.progress is not None and update is not entry.told_update:
            entry.told_update, entry.told_at = update, time.monotonic()
            report = progress_text(info.progress)
            told.append(self._commands.progress(operation_id, report, self._note))
        if entry.ended:
            told.append(self._finish(entry, info))
        return told

    def _register(self, entry: Entry, operation: Operation, info: OperationInfo) -> Command:
        parent = info.parent_id
        return self._commands.register(
            entry.operation_id,
            is_pending=info.state is OperationState.PENDING,
            age=0 if operation._loop is None else time.monotonic() - operation._started_at,
            name=info.name,
            parent=None if parent is None else cut(parent),
            cancel="" if entry.ended else cancel_text(info.cancel),
            labels=labels(operation.metadata),
            answered=partial(self._registered, entry),
        )

    def _finish(self, entry: Entry, info: OperationInfo | None) -> Command:
        # One that was taken out of the registry has not ended, and one that never began is gone.
        ended = info if info is not None and info.is_terminal else None
        return self._commands.finish(
            entry.operation_id,
            state="" if ended is None else ended.state.value,
            error=None if ended is None else ended.error,
            cancel=cancel_text(None if ended is None else ended.cancel),
            answered=partial(self._finished, entry),
        )

    # -- what comes back -----------------------------------------------------------------

    def retry(self) -> None:
        """Tell again what the broker refused to hear."""
        again, self._again = self._again, {}
        for entry in again:
            entry.told_update = None
            self._queue(entry)

    def _note(self, answer: object) -> None:
        """Say once what the broker refuses to hear."""
        if isinstance(answer, Exception) and not self._is_told_of_errors:
            self._is_told_of_errors = True
            logger.warning("the broker refuses to be told of operations: %s", answer)

    def _registered(self, entry: Entry, answer: object) -> None:
        self._note(answer)
        if isinstance(answer, Exception):
            self._again[entry] = None
        parts = records.items(answer)
        word = records.text(parts[0]) if parts else None
        if word == "ok" and len(parts) == 4:
            entry.is_registered = entry.was_registered = True
            self._listed.add(entry.operation_id)
            self._apply(entry, parts[1], parts[2], parts[3])
            self._settle(entry, True)
        elif word == "taken":
            entry.is_refused = True
            logger.warning(
                "operation %r is not announced: its id is live in another process",
                entry.operation_id,
            )
            self._settle(entry, DuplicateOperation(entry.operation_id))

    def _settle(self, entry: Entry, answer: object) -> None:
        for reply in entry.waiting:
            reply.settle(answer)
        entry.waiting.clear()

    def _finished(self, entry: Entry, answer: object) -> None:
        self._note(answer)
        if isinstance(answer, Exception):
            self._again[entry] = None
            return
        if records.text(answer) == "gone" and not entry.is_refused and entry.was_registered:
            # The broker has forgotten the record: it gets one again, for those who ask.
            entry.was_registered = entry.is_registered = False
            entry.told_update = None
            self._queue(entry)
            return
        self._listed.discard(entry.operation_id)
        self._drop(entry)

    def took(self, answer: object) -> None:
        """Pass on everything that was in the inbox."""
        parts = records.items(answer)
        if parts:
            self.mail = records.whole(parts[0])
        for place in range(1, len(parts) - 3, 4):
            entry = self._by_id.get(records.text(parts[place]) or "")
            if entry is not None:
                self._apply(entry, *parts[place + 1 : place + 4])

    def _apply(self, entry: Entry, cancel: object, own: object, shortest: object) -> None:
        """Pass requests on to an operation, once each."""
        asked, operation = (cancel, own, shortest), entry.operation
        if entry.ended or operation is None or entry.applied == asked:
            return
        entry.applied = asked
        requests = records.request(cancel, own, shortest)
        if not requests and (own or shortest):
            self.dropped += 1
        for request in requests:
            operation._request(request.cause, grace=request.grace, here=self._native)
