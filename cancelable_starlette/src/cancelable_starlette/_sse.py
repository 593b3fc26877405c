"""Server-sent events as text (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import timedelta

from starlette.requests import HTTPConnection

from cancelable import CancelationReason

EVENT_STREAM = "text/event-stream"

LINE_END = re.compile("\r\n|\r|\n")
"""What ends a line of a stream. ``str.splitlines`` knows more, which belong to the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """Hold one event, which a generator may yield among texts and bytes.

    A browser keeps ``id`` and sends it as ``Last-Event-ID`` when it connects again; see
    ``get_last_event_id``.

    Attributes:
        data: A text, of one line or many, or any other value, which goes as JSON. With None, the
            event has no data: browsers take its ``id`` and ``retry`` and call no listener.
        event: The name by which listeners choose; None is a ``message``.
        id: The id of the event. An empty one makes a browser forget the last.
        retry: Milliseconds, or a ``timedelta``, after which a browser connects again.
        comment: A text that browsers ignore.

    Raises:
        TypeError: If a part is of the wrong kind.
        ValueError: If a part cannot be said in an event: a name or an id of more than one line, an
            id with a NUL, a negative ``retry``.
    """

    data: object = None
    event: str | None = None
    id: str | None = None
    retry: int | timedelta | None = None
    comment: str | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be told from something else on the other side."""
        for name, value in (("event", self.event), ("id", self.id), ("comment", self.comment)):
            given: object = value
            if given is not None and not isinstance(given, str):
                msg = f"`{name}` must be a str or None, not {value!r}"
                raise TypeError(msg)
        for name, value in (("event", self.event), ("id", self.id)):
            if value is not None and LINE_END.search(value):
                msg = f"`{name}` must be of one line, not {value!r}"
                raise ValueError(msg)
        if self.id is not None and "\0" in self.id:
            msg = f"`id` must not contain a NUL, for which browsers ignore it: {self.id!r}"
            raise ValueError(msg)
        _milliseconds(self.retry)

    def encode(self) -> bytes:
        """Return the event as it is sent, with the blank line that ends it.

        Raises:
            TypeError: If the data is no text and cannot be said in JSON.
            ValueError: If it has a number that JSON does not know, such as NaN.
        """
        lines: list[str] = []
        if self.comment is not None:
            lines += _field("", self.comment)
        if self.event is not None:
            lines.append(f"event: {self.event}")
        if self.data is not None:
            is_text = isinstance(self.data, str)
            lines += _field("data", str(self.data) if is_text else _as_json(self.data))
        if self.id is not None:
            lines.append(f"id: {self.id}")
        if self.retry is not None:
            lines.append(f"retry: {_milliseconds(self.retry)}")
        return "".join(f"{line}\n" for line in (*lines, "")).encode()


PING = b": ping\n\n"
"""What keeps a stream alive that has nothing to say."""


def get_last_event_id(request: HTTPConnection) -> str | None:
    """Return the id of the last event that the client has seen, if it connects again.

    Hand it on to the generator, which goes on from there::

        return cancelable_streaming_response(events(since=get_last_event_id(request)))

    Args:
        request: The request.

    Returns:
        The ``Last-Event-ID`` of the request, or None without one. It is what the client says, and
        need not be an id that was ever sent.
    """
    value = request.headers.get("last-event-id")
    # Starlette reads headers as Latin-1; browsers send this one in UTF-8.
    return None if value is None else value.encode("latin-1").decode(errors="replace")


def last_event(reason: CancelationReason) -> bytes:
    """Return the event that ends a stream which was cancelled, and says why.

    Args:
        reason: Why it was cancelled.
    """
    return ServerSentEvent(event="cancelled", data={"reason": reason.value}).encode()


def ends_an_event(tail: bytes) -> bool:
    """Return whether a stream that ends with *tail* is between two events.

    Args:
        tail: The last bytes of the stream, four or more if there are so many.
    """
    if not tail:
        return True
    before = tail[:-2] if tail.endswith(b"\r\n") else tail[:-1]
    return tail.endswith((b"\n", b"\r")) and (not before or before.endswith((b"\n", b"\r")))


def _field(name: str, value: str) -> list[str]:
    return [f"{name}: {line}" for line in LINE_END.split(value)]


def _as_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _milliseconds(retry: int | timedelta | None) -> int:
    given: object = retry // timedelta(milliseconds=1) if isinstance(retry, timedelta) else retry
    if given is None:
        return 0
    if isinstance(given, bool) or not isinstance(given, int):
        msg = f"`retry` must be a whole number of milliseconds or a timedelta, not {retry!r}"
        raise TypeError(msg)
    if given < 0:
        msg = f"`retry` must be 0 or more milliseconds, not {retry!r}"
        raise ValueError(msg)
    return given
