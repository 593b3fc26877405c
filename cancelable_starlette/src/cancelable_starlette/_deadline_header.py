"""The header in which a client says how long it will wait."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

logger = logging.getLogger("cancelable.starlette")


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
