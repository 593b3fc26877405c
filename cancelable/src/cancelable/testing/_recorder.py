"""A recorder of what happens to operations, with assertions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._cancelable import Cancelable
from .._context import OperationContext
from .._status import OperationStatus


@dataclass(frozen=True, slots=True)
class OperationEvent:
    """One thing that happened to an operation."""

    operation_id: str
    event_type: str
    """``start``, ``progress``, ``complete``, ``cancel``, ``error``, or a name of the test's."""
    data: Mapping[str, object] = field(default_factory=dict[str, object])
    context: OperationContext | None = None


class OperationRecorder:
    """Record the events of the operations that it is attached to, in order.

    Attributes:
        events: All events.
        operations: The operations, by id.
    """

    def __init__(self) -> None:
        """Start with no events."""
        self.events: list[OperationEvent] = []
        self.operations: dict[str, Cancelable] = {}

    def attach(self, cancelable: Cancelable) -> Cancelable:
        """Record what happens to an operation from now on.

        Args:
            cancelable: The operation, not entered yet if its start shall be recorded.

        Returns:
            The operation.
        """
        self.operations[cancelable.operation_id] = cancelable
        cancelable.on_start(lambda context: self._keep("start", context))
        cancelable.on_complete(lambda context: self._keep("complete", context))
        cancelable.on_cancel(lambda context: self._keep("cancel", context))
        cancelable.on_error(lambda context, error: self._keep("error", context, error=error))
        cancelable.on_progress(self._keep_progress)
        return cancelable

    def attach_to_cancellable(self, cancelable: Cancelable) -> Cancelable:
        """Record what happens to an operation; see ``attach``."""
        return self.attach(cancelable)

    def record(self, operation_id: str, event_type: str, **data: object) -> None:
        """Add an event of the test's own.

        Args:
            operation_id: The id of an operation.
            event_type: A name.
            data: Whatever belongs to it.
        """
        self.events.append(OperationEvent(operation_id, event_type, data))

    async def record_event(
        self, operation_id: str, event_type: str, data: Mapping[str, object] | None = None
    ) -> None:
        """Add an event of the test's own; see ``record``."""
        self.record(operation_id, event_type, **(data or {}))

    def events_of(self, cancelable: Cancelable) -> list[str]:
        """Return the types of the events of one operation, in order."""
        return [
            event.event_type for event in self.get_events_for_operation(cancelable.operation_id)
        ]

    def get_events_for_operation(self, operation_id: str) -> list[OperationEvent]:
        """Return the events of one operation, in order."""
        return [event for event in self.events if event.operation_id == operation_id]

    def get_events_by_type(self, event_type: str) -> list[OperationEvent]:
        """Return the events of one type, in order."""
        return [event for event in self.events if event.event_type == event_type]

    def assert_event_occurred(
        self, operation_id: str, event_type: str, timeout: float = 1.0
    ) -> OperationEvent:
        """Return the first such event of an operation.

        Args:
            operation_id: The id of an operation.
            event_type: The type of the event.
            timeout: Kept for callers who pass it. A plain call cannot wait: what has happened
                has been recorded.

        Raises:
            AssertionError: If there is none; the message lists those there are.
        """
        del timeout
        events = self.get_events_for_operation(operation_id)
        for event in events:
            if event.event_type == event_type:
                return event
        seen = ", ".join(event.event_type for event in events) or "none"
        msg = f"no event {event_type!r} of operation {operation_id}; its events: {seen}"
        raise AssertionError(msg)

    def assert_final_status(
        self, operation_id: str, expected_status: OperationStatus | str
    ) -> None:
        """Check how an operation ended, and that it ended once.

        Raises:
            AssertionError: If it ended otherwise, more than once, or not at all.
            ValueError: If there is no such status.
        """
        expected = OperationStatus.of(expected_status)
        endings = [
            event
            for event in self.get_events_for_operation(operation_id)
            if event.event_type in {"complete", "cancel", "error"}
        ]
        statuses = [event.context.status.value for event in endings if event.context is not None]
        if statuses != [expected.value]:
            msg = (
                f"operation {operation_id} was to end once, {expected.value}; "
                f"its endings: {', '.join(statuses) or 'none'}"
            )
            raise AssertionError(msg)

    def _keep(self, event_type: str, context: OperationContext, **data: object) -> None:
        self.events.append(OperationEvent(context.id, event_type, data, context))

    def _keep_progress(
        self, operation_id: str, message: object, metadata: Mapping[str, object] | None
    ) -> None:
        self.record(operation_id, "progress", message=message, metadata=metadata)
