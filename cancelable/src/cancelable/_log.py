"""The one logger of this package.

Lifecycle goes out at DEBUG and one record per cause at INFO; nothing that is expected of a
cancelation is a warning.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("cancelable")

is_enabled_for = logger.isEnabledFor
"""Bound once: each block asks, and to look up a method of what is imported makes an object."""


def one_line(text: str) -> str:
    """Return a text as a log record may hold it.

    Ids and messages may come from a client: a line break would forge a record, and half a
    surrogate pair cannot be written by most handlers. Such characters are escaped.
    """
    return text if text.isprintable() else repr(text)[1:-1]
