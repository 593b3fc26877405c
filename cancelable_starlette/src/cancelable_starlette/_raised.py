"""What an application raised, without what task groups and frameworks have put around it."""

from __future__ import annotations

from typing import cast

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from cancelable import CancelationError

HANDLED_TOO_LATE = "Caught handled exception, but response already started."
"""The text of Starlette's error, by which alone it can be told from one of a program."""


def cancelation_in(error: BaseException) -> CancelationError | None:
    """Return the cancelation that *error* is, or that was wrapped; else None.

    Several in a group are one, the first: one press of a button stops all the tasks of a handler.
    What a program raises from a cancelation is an error of its own, and has to arrive as raised; so
    has a group in which there is anything else.

    Args:
        error: What the application raised.
    """
    all_of_it = _raised_in(error)
    cancelations = [each for each in all_of_it if isinstance(each, CancelationError)]
    return cancelations[0] if len(cancelations) == len(all_of_it) else None


def is_of_a_leave(error: BaseException) -> bool:
    """Return whether reads were told that the client has left, and nothing else went wrong.

    Args:
        error: What the application raised.
    """
    ends = (ClientDisconnect, WebSocketDisconnect, CancelationError)
    return all(isinstance(each, ends) for each in _raised_in(error))


def _raised_in(error: BaseException) -> list[BaseException]:
    """Return all that was raised, each by itself.

    A task group puts what its tasks raise into a group, also if that is a lone error. Starlette
    raises an error of its own from one for which the application has a handler, if the response has
    started; and a streamed response of its own takes an OSError, as the error of a timeout is one,
    for a client that left.
    """
    if isinstance(error, BaseExceptionGroup):
        group = cast(BaseExceptionGroup[BaseException], error)
        return [each for inner in group.exceptions for each in _raised_in(inner)]
    if type(error) is RuntimeError and str(error) == HANDLED_TOO_LATE and error.__cause__:
        return _raised_in(error.__cause__)
    if type(error) is ClientDisconnect and isinstance(error.__context__, CancelationError):
        return [error.__context__]
    return [error]
