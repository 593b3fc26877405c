"""Why an operation was asked to stop: a closed set of reasons."""

from __future__ import annotations

from enum import StrEnum


class CancelationReason(StrEnum):
    """Name the kind of cause behind a cancelation.

    A reason tells *what kind* of cause came first; the message, the source and the
    time of that cause stand beside it in the operation's context.
    """

    TIMEOUT = "timeout"
    """A deadline of the operation itself passed."""

    MANUAL = "manual"
    """Somebody asked for it: a call of ``cancel()`` on the operation or on its token."""

    SIGNAL = "signal"
    """The process received a signal, or the server that hosts the work is stopping."""

    CONDITION = "condition"
    """A watched condition became true."""

    PARENT = "parent"
    """An operation around this one was asked to stop."""

    ERROR = "error"
    """A source failed while it was watching; its exception is the cause."""

    DISCONNECT = "disconnect"
    """The client that waited for the result has left."""

    EXTERNAL = "external"
    """Something outside this library cancelled the task: ``task.cancel()``, a foreign
    scope, a nursery, the end of the event loop."""

    @classmethod
    def of(cls, reason: CancelationReason | str) -> CancelationReason:
        """Return the reason that *reason* names.

        Args:
            reason: A member, or the value of one (``"timeout"``).

        Raises:
            ValueError: If there is no such reason.
        """
        try:
            return cls(reason)
        except ValueError:
            known = ", ".join(repr(member.value) for member in cls)
            msg = f"`reason` must be a CancelationReason or one of {known}, not {reason!r}"
            raise ValueError(msg) from None
