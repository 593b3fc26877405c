"""What leaves a block that a cancelation ended.

::

    Exception
    └── CancelationError
        ├── TimeoutCancelation        also a TimeoutError
        ├── ManualCancelation
        ├── SignalCancelation
        ├── ConditionCancelation
        ├── ParentCancelation
        └── DisconnectCancelation

These are ordinary exceptions: they stand *outside* the block, where the cancelation is
over. Inside it, code sees the native cancelation of its event loop, which is none, so that
an ``except Exception`` around a retry does not swallow it.
"""

from __future__ import annotations

from ._cause import Cause
from ._context import OperationContext
from ._reason import CancelationReason


class CancelationError(Exception):
    """Report that an operation was cancelled.

    Attributes:
        reason: The kind of the first cause.
        message: The text that came with the request, if any.
        context: The operation's facts at its end, where it had begun.
        origin_id: The id of the operation that was asked, if that was another one, such as an
            ancestor.
    """

    _request: Cause | None = None
    """What it reports: an operation takes the error of its own token for its own."""

    def __init__(
        self,
        reason: CancelationReason,
        message: str | None = None,
        context: OperationContext | None = None,
    ) -> None:
        """Make the error of one cancelation.

        Args:
            reason: The kind of the cause.
            message: The text that came with the request.
            context: The facts of the operation.
        """
        self.reason: CancelationReason = reason
        self.message: str | None = message
        self.context: OperationContext | None = context
        self.origin_id: str | None = None if context is None else context.origin_id
        super().__init__(message or f"the operation was cancelled: {reason.value}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, self.message, self.context)

    @property
    def operation_id(self) -> str | None:
        """The id of the operation that was cancelled."""
        return None if self.context is None else self.context.id

    @property
    def partial_result(self) -> object:
        """What the operation had done by then, where it kept that."""
        return None if self.context is None else self.context.partial_result


class TimeoutCancelation(CancelationError, TimeoutError):
    """Report that a deadline of the operation passed.

    It is a ``TimeoutError`` and therefore an ``OSError``: code that takes any ``OSError``
    for a lost connection must look for this class first.
    """

    def __init__(
        self,
        timeout_seconds: float | None = None,
        message: str | None = None,
        context: OperationContext | None = None,
    ) -> None:
        """Make the error of a timeout.

        Args:
            timeout_seconds: The time that was allowed, in seconds, where it is known: the
                timeout, or of a deadline that was moved, the time from the entry to it.
            message: The text of the error.
            context: The facts of the operation.
        """
        self.timeout_seconds: float | None = timeout_seconds
        if message is None:
            limit = "" if timeout_seconds is None else f" after {timeout_seconds:g} seconds"
            message = f"the operation timed out{limit}"
        super().__init__(CancelationReason.TIMEOUT, message, context)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.timeout_seconds, self.message, self.context)


class ManualCancelation(CancelationError):
    """Report that somebody asked the operation to stop."""

    def __init__(self, message: str | None = None, context: OperationContext | None = None) -> None:
        """Make the error of a manual cancel.

        Args:
            message: The text that came with the request.
            context: The facts of the operation.
        """
        super().__init__(CancelationReason.MANUAL, message, context)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.context)


class SignalCancelation(CancelationError):
    """Report that a signal ended the operation."""

    def __init__(
        self,
        signal_number: int | None = None,
        message: str | None = None,
        context: OperationContext | None = None,
    ) -> None:
        """Make the error of a signal.

        Args:
            signal_number: The number of the signal, where one was received.
            message: The text that came with the request.
            context: The facts of the operation.
        """
        self.signal_number: int | None = signal_number
        super().__init__(CancelationReason.SIGNAL, message, context)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.signal_number, self.message, self.context)


class ConditionCancelation(CancelationError):
    """Report that a watched condition became true."""

    def __init__(
        self,
        condition_name: str | None = None,
        message: str | None = None,
        context: OperationContext | None = None,
    ) -> None:
        """Make the error of a condition.

        Args:
            condition_name: The name of the condition.
            message: The text that came with the request.
            context: The facts of the operation.
        """
        self.condition_name: str | None = condition_name
        super().__init__(CancelationReason.CONDITION, message, context)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.condition_name, self.message, self.context)


class ParentCancelation(CancelationError):
    """Report that an operation above this one was asked to stop."""

    def __init__(
        self,
        parent_id: str | None = None,
        parent_reason: CancelationReason | None = None,
        message: str | None = None,
        context: OperationContext | None = None,
    ) -> None:
        """Make the error of a cancelled parent.

        Args:
            parent_id: The id of the operation directly above.
            parent_reason: Why the ancestor was asked.
            message: The text that came with the request.
            context: The facts of the operation.
        """
        self.parent_id: str | None = parent_id
        self.parent_reason: CancelationReason | None = parent_reason
        super().__init__(CancelationReason.PARENT, message, context)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.parent_id, self.parent_reason, self.message, self.context)


class DisconnectCancelation(CancelationError):
    """Report that the client that waited for the result has left."""

    def __init__(self, message: str | None = None, context: OperationContext | None = None) -> None:
        """Make the error of a client that left.

        Args:
            message: The text that came with the request.
            context: The facts of the operation.
        """
        super().__init__(CancelationReason.DISCONNECT, message, context)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.context)


def error_for(cause: Cause, context: OperationContext | None = None) -> CancelationError:
    """Return the error that reports *cause*, with the error of a source as its own cause.

    Args:
        cause: The first cause of a cancelation.
        context: The facts of the operation, where there is one.
    """
    message = cause.message
    match cause.reason:
        case CancelationReason.TIMEOUT:
            error: CancelationError = TimeoutCancelation(cause.timeout_seconds, message, context)
        case CancelationReason.MANUAL:
            error = ManualCancelation(message, context)
        case CancelationReason.SIGNAL:
            error = SignalCancelation(cause.signal_number, message, context)
        case CancelationReason.CONDITION:
            error = ConditionCancelation(cause.source, message, context)
        case CancelationReason.DISCONNECT:
            error = DisconnectCancelation(message, context)
        case CancelationReason.PARENT:
            parent_id = None if context is None else context.parent_id
            error = ParentCancelation(
                parent_id or cause.origin_id, cause.origin_reason, message, context
            )
        case CancelationReason.ERROR | CancelationReason.EXTERNAL:
            error = CancelationError(cause.reason, message, context)
    error.origin_id = cause.origin_id
    error._request = cause
    if cause.error is not None:
        error.__cause__ = cause.error
    return error
