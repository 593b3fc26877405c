"""What the routes for operations answer: a record as JSON, with the status of the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from cancelable import Cancelable, CancelOutcome
from cancelable.bus import OperationInfo, OperationState

RETRY_AFTER = "1"
"""Seconds after which a client may ask again what the bus could not answer."""


@dataclass(frozen=True, slots=True)
class OperationRecord:
    """The body of an answer about one operation, as the OpenAPI document describes it.

    Attributes:
        id: The id.
        state: pending, running, cancelling, completed, cancelled, failed, or lost.
        name: A name for people.
        metadata: What goes with it, such as its owner.
        parent_id: The id of the operation above.
        started_at: When it began, in seconds since the epoch.
        ended_at: When it ended, in seconds since the epoch.
        progress: The last report: message, metadata, and when it came.
        cancel: The first request to stop: reason, message, by whom, and when.
        error: The error that ended a failed operation.
    """

    id: str
    state: str
    name: str | None
    metadata: dict[str, object]
    parent_id: str | None
    started_at: float | None
    ended_at: float | None
    progress: dict[str, object] | None
    cancel: dict[str, object] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class CancelRecord(OperationRecord):
    """The body of an answer to a request to stop, as the OpenAPI document describes it.

    Attributes:
        outcome: What became of the request: requested, already_requested, finished, or lost.
    """

    outcome: str


@dataclass(frozen=True, slots=True)
class OperationPage:
    """The body of an answer about many operations, as the OpenAPI document describes it.

    Attributes:
        operations: The records, oldest first.
        after: What to pass as ``after`` for the next page; null on the last one.
    """

    operations: list[OperationRecord]
    after: str | None


STATUSES_OF_OUTCOMES: Final[Mapping[CancelOutcome, HTTPStatus]] = {
    CancelOutcome.REQUESTED: HTTPStatus.ACCEPTED,
    CancelOutcome.ALREADY_REQUESTED: HTTPStatus.ACCEPTED,
    CancelOutcome.REMEMBERED: HTTPStatus.ACCEPTED,
    CancelOutcome.FINISHED: HTTPStatus.OK,
    CancelOutcome.UNKNOWN: HTTPStatus.NOT_FOUND,
    CancelOutcome.LOST: HTTPStatus.CONFLICT,
    CancelOutcome.UNSETTLED: HTTPStatus.SERVICE_UNAVAILABLE,
}


def answer_for(outcome: CancelOutcome, info: OperationInfo | None) -> JSONResponse:
    """Answer a request to stop.

    Args:
        outcome: What became of it.
        info: How the operation stands by now, if that is known.

    Raises:
        HTTPException: If there is no such operation, or nobody can say so now.
    """
    if outcome is CancelOutcome.UNKNOWN:
        raise unknown()
    if outcome is CancelOutcome.UNSETTLED:
        raise unavailable()
    status = STATUSES_OF_OUTCOMES[outcome]
    if info is not None and info.is_terminal:
        status = HTTPStatus.OK
    elif info is not None and info.state is OperationState.LOST:
        status = HTTPStatus.CONFLICT
    record = {} if info is None else info.to_json()
    return JSONResponse({"outcome": outcome.value, **record}, status)


def unknown() -> HTTPException:
    """Return the answer for an id that nobody knows, or whose operation is somebody else's."""
    return HTTPException(HTTPStatus.NOT_FOUND, "no such operation")


def unavailable() -> HTTPException:
    """Return the answer where the bus cannot say."""
    return HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "it is not known now how the operation stands; ask again",
        {"Retry-After": RETRY_AFTER},
    )


def pending_info(operation: Cancelable) -> OperationInfo:
    """Return the record of an operation that has not begun."""
    return OperationInfo(
        id=operation.operation_id,
        state=OperationState.PENDING,
        name=operation.name,
        metadata=operation.metadata,
    )
