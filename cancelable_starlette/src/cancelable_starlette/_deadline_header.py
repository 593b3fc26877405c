"""The header in which a client says how long it will wait: read from it, and sent on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

from cancelable import Cancelable, current_operation

logger = logging.getLogger("cancelable.starlette")


def deadline_headers(name: str, operation: Cancelable | None = None) -> dict[str, str]:
    """Return the header by which an outgoing call passes the remaining time on.

    The service that is called ends in time to be of use if its middleware reads the header of
    that name (``deadline_header=``)::

        await client.get(url, headers=deadline_headers("X-Request-Timeout"))

    What is passed on is never more than what remains, so along a chain of services the time only
    gets shorter. It may be called in worker threads.

    Args:
        name: The name of the header.
        operation: Whose time it is; the current operation unless it is given. Deadlines of the
            operations around it count too, those of plain scopes do not.

    Returns:
        The header with the remaining seconds, zero if there are none left; nothing if no time
        limit is set.
    """
    operation = operation or current_operation()
    remaining = math.inf if operation is None else operation.remaining
    if remaining == math.inf:
        return {}
    return {name: f"{math.floor(remaining * 1000) / 1000:.3f}"}


def seconds_from(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> float | None:
    """Return the seconds that the header *name* allows, or None if it says nothing usable.

    Args:
        headers: The headers of a request, names in lower case.
        name: The name of the header in lower case.

    Returns:
        Seconds; zero or less says that the time was up before the request arrived.
    """
    for key, value in headers:
        if key == name:
            return _parsed(value)
    return None


def _parsed(value: bytes) -> float | None:
    text = value.decode("latin-1").strip().lower()
    scale = 1.0
    if text.endswith("ms"):
        text, scale = text.removesuffix("ms").rstrip(), 0.001
    try:
        # float() takes more than a header should say: "nan", "inf", "1_0".
        number = float(text) if set(text) <= set("+-.0123456789") else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        logger.debug("ignored a deadline header that is no number: %r", value)
        return None
    return number * scale
