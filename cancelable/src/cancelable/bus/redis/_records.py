"""What comes from the broker, taken for what it is: the words of strangers.

Whoever can write to the broker can write anything. Everything is checked for shape and size
before it is used; what does not fit is left out, and never raises.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

from ..._reason import CancelationReason
from .._cursor import LARGEST, Cursor
from .._info import CancelInfo, OperationInfo, ProgressInfo, Worker
from .._labels import LONGEST_KEY, LONGEST_TEXT, MOST, Labels, values
from .._payload import LONGEST_PROGRESS, LONGEST_REASON
from .._request import LONGEST_GRACE, CancelRequest
from .._state import OperationState

LONGEST_MESSAGE = 16_384
"""The most bytes of a message or a field that are looked at."""


@dataclass(frozen=True, slots=True)
class Ring:
    """Hold what rang: a request for one operation, or the echo of a heartbeat."""

    number: int = -1
    operation_id: str = ""
    asked: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    """The fields of the record that say what was asked."""


@dataclass(frozen=True, slots=True)
class Found:
    """Hold the answer about one operation."""

    word: str
    info: OperationInfo | None = None
    receivers: int = 0


def ring(data: bytes) -> Ring | None:
    """Return what a message on our doorbell says, or None if it is not one of ours."""
    message = _object(data)
    kind = message.get("t")
    if message.get("v") != 1:
        return None
    operation_id, number = message.get("id"), message.get("n")
    if kind == "beat" and isinstance(number, int):
        return Ring(number)
    cancel, own, cut = (_encoded(message.get(name)) for name in ("cancel", "own", "cut"))
    if kind == "cancel" and isinstance(operation_id, str):
        return Ring(-1, operation_id, (cancel, own, cut))
    return None


def text(value: object) -> str | None:
    """Return an answer that is a text; None for anything else."""
    if not isinstance(value, bytes) or len(value) > LONGEST_MESSAGE:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def items(value: object) -> list[object]:
    """Return an answer that is a list; empty for anything else."""
    return cast("list[object]", value) if isinstance(value, list) else []


def whole(value: object) -> int:
    """Return an answer that is a number, written out or not; 0 for anything else."""
    if isinstance(value, int):
        return value
    digits = text(value)
    return int(digits) if digits is not None and digits.isdecimal() and len(digits) < 20 else 0


def place(parts: list[object]) -> Cursor | None:
    """Return where a page of a listing ended, from its score and its id; None on the last one."""
    at, operation_id = (text(part) for part in parts[:2]) if len(parts) > 1 else (None, None)
    try:
        score = float(at or "")
    except ValueError:
        return None
    return Cursor(int(score), operation_id) if 0 <= score < LARGEST and operation_id else None


def request(cancel: object, own: object, cut: object) -> list[CancelRequest]:
    """Return what an operation was asked, from the fields of its record.

    There may be two: with the operation's own grace, and with a shorter one.
    """
    info = _cancel(cancel, None)
    if info is None:
        return []
    found: list[CancelRequest] = []
    if text(own):
        found.append(CancelRequest(info.reason, info.message, info.by, None))
    grace = _seconds(cut)
    if grace is not None:
        found.append(CancelRequest(info.reason, info.message, info.by, grace))
    return found


def found(answer: object, operation_id: str) -> Found:
    """Return an answer of the form word, receivers, record, lease."""
    parts = items(answer)
    word = (text(parts[0]) if parts else None) or ""
    if len(parts) < 4:
        return Found(word)
    return Found(word, info(operation_id, parts[2], parts[3]), whole(parts[1]))


def info(operation_id: str, record: object, lease: object) -> OperationInfo | None:
    """Return the record of an operation; None if it is no record.

    Args:
        operation_id: The id.
        record: Its fields and values, in turn.
        lease: The lease of its worker; a live operation whose worker has none is lost.
    """
    fields = _fields(record)
    state = _state(fields.get("state"))
    worker_id = text(fields.get("worker"))
    if state is None or worker_id is None:
        return None
    worker = _worker(worker_id, lease)
    if state.is_live and not text(lease):
        state = OperationState.LOST
    return OperationInfo(
        id=operation_id,
        state=state,
        name=_short(fields.get("name")) or None,
        metadata=values(_labels(fields)),
        parent_id=_short(fields.get("parent")) or None,
        worker=worker,
        started_at=None if state is OperationState.PENDING else _time(fields.get("started")),
        ended_at=_time(fields.get("ended")),
        progress=_progress(fields.get("progress"), fields.get("progress_at")),
        cancel=_cancel(fields.get("cancel"), fields.get("cancel_at")),
        error=_short(fields.get("error")) or None,
    )


def _encoded(value: object) -> bytes:
    """Return a text of a message as it would stand in a record; empty for anything else."""
    # Half a surrogate pair, which JSON can write and UTF-8 cannot, is no text of ours.
    return value.encode("utf-8", "replace") if isinstance(value, str) else b""


def _fields(record: object) -> dict[str, object]:
    flat = items(record)
    fields: dict[str, object] = {}
    for name, value in zip(flat[::2], flat[1::2], strict=False):
        known = text(name)
        if known is not None:
            fields[known] = value
    return fields


def _labels(fields: dict[str, object]) -> Labels:
    labels: Labels = {}
    for name, value in fields.items():
        label = text(value) if name.startswith("m:") and len(labels) < MOST else None
        if label is not None and len(name) <= LONGEST_KEY + 2 and len(label) <= LONGEST_TEXT:
            labels[name[2:]] = label
    return labels


def _state(value: object) -> OperationState | None:
    try:
        return OperationState(text(value) or "")
    except ValueError:
        return None


def _worker(worker_id: str, lease: object) -> Worker:
    facts = _object(lease)
    host, pid = facts.get("host"), facts.get("pid")
    return Worker(
        id=worker_id[:64],
        host=host[:256] if isinstance(host, str) else None,
        pid=pid if isinstance(pid, int) else None,
    )


def _progress(value: object, at: object) -> ProgressInfo | None:
    report = _object(value)
    if not report or len(cast("bytes", value)) > 2 * LONGEST_PROGRESS:
        return None
    metadata = report.get("metadata")
    return ProgressInfo(
        message=report.get("message"),
        metadata=cast("dict[str, object]", metadata) if isinstance(metadata, dict) else None,
        at=_time(at),
    )


def _cancel(value: object, at: object) -> CancelInfo | None:
    cause = _object(value)
    reason, message, by = cause.get("reason"), cause.get("message"), cause.get("by")
    if not isinstance(reason, str):
        return None
    try:
        known = CancelationReason(reason)
    except ValueError:
        return None
    return CancelInfo(
        reason=known,
        message=message[:LONGEST_REASON] if isinstance(message, str) else None,
        by=by[:LONGEST_REASON] if isinstance(by, str) else None,
        at=_time(at),
    )


def _short(value: object) -> str | None:
    known = text(value)
    return None if known is None else known[:LONGEST_REASON]


def _time(value: object) -> float | None:
    milliseconds = whole(value)
    return milliseconds / 1000 if 0 < milliseconds < 10**14 else None


def _seconds(value: object) -> float | None:
    written = text(value)
    try:
        number = float(written or "")
    except ValueError:
        return None
    return number if 0 <= number <= LONGEST_GRACE else None


def _object(value: object) -> dict[str, object]:
    """Return an object that was sent as JSON; empty for anything else."""
    written = text(value)
    if not written:
        return {}
    try:
        read: object = json.loads(written)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", read) if isinstance(read, dict) else {}
