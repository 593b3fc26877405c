"""What a program reports, as JSON of a bounded size.

Progress may be any value. What crosses to another process is its JSON text; values without
one are turned to strings, and what is too long is cut, never refused: a report must not fail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

LONGEST_PROGRESS = 8_192
"""The most characters of one report of progress as JSON text."""
LONGEST_REASON = 1_024
"""The most characters of the message of a request to stop, of a name, and of an error."""
CUT = " …"
"""What marks a text that was cut."""


def cut(text: str, longest: int = LONGEST_REASON) -> str:
    """Return a text of at most *longest* characters that every process can read.

    Args:
        text: Any string; half a surrogate pair, which cannot be sent, becomes ``?``.
        longest: The most characters.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= longest else text[: longest - len(CUT)] + CUT


def plain(value: object) -> object:
    """Return a value as another process will read it: plain JSON of a bounded size.

    Args:
        value: Anything.
    """
    if value is None or isinstance(value, (bool, float, int)):
        return _plain_number(value)
    if isinstance(value, str):
        return cut(str(value), LONGEST_PROGRESS // 8)
    try:
        text = json.dumps(value, default=str, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return cut(repr(value), LONGEST_PROGRESS // 8)
    if len(text) > LONGEST_PROGRESS // 2:
        return cut(text, LONGEST_PROGRESS // 8)
    return cast(object, json.loads(text))


def plain_mapping(value: Mapping[str, object] | None) -> Mapping[str, object] | None:
    """Return the figures of a report as another process will read them; see ``plain``."""
    if value is None:
        return None
    read = plain(dict(value))
    return cast("dict[str, object]", read) if isinstance(read, dict) else {"text": read}


def _plain_number(value: object) -> object:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
