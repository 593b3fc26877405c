"""The operations of this process, as a bus tells of them; what lives here is answered here."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from .._context import OperationContext
from .._loop import current_loop
from .._operation import Operation
from .._pending import Pending
from .._registry import OperationRegistry
from .._watch import Watch, Watchers
from ._errors import DuplicateOperation
from ._feed import watching
from ._info import CancelInfo, OperationInfo, ProgressInfo, Worker
from ._labels import Labels, labels, matches, values
from ._payload import cut, plain, plain_mapping
from ._request import CancelRequest
from ._result import CancelResult
from ._state import OperationState


class Here:
    """Find, describe, cancel and watch the operations of one registry.

    Safe from any thread. The registry is followed only while somebody watches.
    """

    def __init__(self, registry: OperationRegistry, worker: Worker | None = None) -> None:
        """Tell of the operations of *registry*.

        Args:
            registry: Where the operations are listed.
            worker: What this process is called on the bus.
        """
        self.registry = registry
        self.worker = worker
        self._watchers = Watchers(registry)
        # Operations that are to be known here before they begin, in no registry until then.
        self._accepted = Pending()

    def find(self, operation_id: str, wanted: Labels) -> tuple[Operation | None, bool]:
        """Look for a live operation.

        Args:
            operation_id: The id.
            wanted: What its metadata must contain.

        Returns:
            The operation if it is live here and matches, and whether the id is live here.
        """
        operation = self.registry.get_operation(operation_id) or self._pending(operation_id)
        if operation is None:
            return None, False
        fits = not wanted or matches(labels(operation.metadata), wanted)
        return (operation if fits else None), True

    def accept(self, operation: Operation) -> None:
        """Let an operation be found that has not begun.

        Raises:
            DuplicateOperation: If another one with this id is known here.
        """
        known, is_live = self.find(operation.operation_id, {})
        if is_live and known is not operation:
            raise DuplicateOperation(operation.operation_id)
        self._accepted.add(operation)

    def reject(self, operation: Operation) -> None:
        """Do not let an operation be found that was accepted: its id is another one's."""
        self._accepted.discard(operation)

    def _pending(self, operation_id: str) -> Operation | None:
        operation = self._accepted.find(operation_id)
        if operation is None or operation.is_pending:
            return operation
        self._accepted.discard(operation)
        return None

    def live(self) -> list[Operation]:
        """Return the operations that are known and have not ended."""
        return list(dict.fromkeys([*self.registry._everybody(), *self._accepted.all()]))

    def remembered(self, operation_id: str, wanted: Labels) -> OperationInfo | None:
        """Return how an operation ended that ran here, if that is remembered and matches."""
        context = self.registry.get(operation_id)
        if context is None or not matches(labels(context.metadata), wanted):
            return None
        return self._describe(context, None)

    def info(self, operation: Operation) -> OperationInfo:
        """Return the record of an operation of this process."""
        update = operation.last_update
        progress = None
        if update is not None:
            progress = ProgressInfo(
                message=plain(update.message),
                metadata=plain_mapping(update.metadata),
                at=round(update.at, 3),
            )
        return self._describe(operation.context, progress)

    def cancel(self, operation: Operation, request: CancelRequest) -> CancelResult:
        """Ask an operation of this process to stop; call it from a task."""
        here = current_loop().native_token
        outcome = operation._request(request.cause, grace=request.grace, here=here)
        return CancelResult(outcome, self.info(operation), delivered=True)

    @contextmanager
    def watch(self, operation: Operation) -> Generator[Watch[OperationInfo]]:
        """Give the watcher of an operation of this process."""

        async def look() -> OperationInfo:
            return self.info(operation)

        with self._watchers.follow(operation) as bell:
            yield watching(self.info(operation), bell, look)

    def _describe(self, context: OperationContext, progress: ProgressInfo | None) -> OperationInfo:
        cancel = None
        if context.cancel_reason is not None:
            at = context.cancelled_at
            cancel = CancelInfo(
                reason=context.cancel_reason,
                message=None if context.cancel_message is None else cut(context.cancel_message),
                by=None if context.cancel_source is None else cut(context.cancel_source),
                at=None if at is None else round(at.timestamp(), 3),
            )
        start, end = context.start_time, context.end_time
        return OperationInfo(
            id=context.id,
            state=OperationState.of(context.status),
            name=None if context.name is None else cut(context.name),
            metadata=values(labels(context.metadata)),
            parent_id=context.parent_id,
            worker=self.worker,
            started_at=None if start is None else round(start.timestamp(), 3),
            ended_at=None if end is None else round(end.timestamp(), 3),
            progress=progress,
            cancel=cancel,
            error=None if context.error is None else cut(context.error),
        )
