"""What may be said to the middleware and to routes, checked where it is given."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Literal, TypeAlias

OnDisconnect: TypeAlias = Literal["cancel", "continue"]
"""What becomes of the work of a client that left."""

Until: TypeAlias = Literal["start", "end"]
"""Whether a timeout counts to the start or to the end of the response."""


def duration(value: float | timedelta | None, name: str) -> float:
    """Return a setting in seconds; infinity for None.

    Args:
        value: Seconds, a ``timedelta``, or None for no limit.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If the value is no duration (a bool and a string are none).
        ValueError: If it is not above zero, or not finite.
    """
    if value is None:
        return math.inf
    number: object = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        msg = f"`{name}` must be a number of seconds, a timedelta or None, not {value!r}"
        raise TypeError(msg)
    if not 0 < number < math.inf:
        msg = f"`{name}` must be a finite number of seconds above 0, not {value!r}"
        raise ValueError(msg)
    return float(number)


def size(value: int, name: str) -> int:
    """Return a setting in bytes.

    Args:
        value: Bytes.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If the value is no whole number.
        ValueError: If it is not above zero.
    """
    given: object = value
    if isinstance(given, bool) or not isinstance(given, int):
        msg = f"`{name}` must be a whole number of bytes, not {value!r}"
        raise TypeError(msg)
    if given <= 0:
        msg = f"`{name}` must be above 0 bytes, not {value!r}"
        raise ValueError(msg)
    return given


def one_of(value: str, name: str, choices: tuple[str, ...]) -> None:
    """Refuse what is not among *choices*.

    Raises:
        ValueError: If the value is another.
    """
    if value not in choices:
        listed = " or ".join(repr(choice) for choice in choices)
        msg = f"`{name}` must be {listed}, not {value!r}"
        raise ValueError(msg)


def function(value: object, name: str) -> None:
    """Refuse what is neither None nor can be called.

    Raises:
        TypeError: If the value cannot be called.
    """
    if value is not None and not callable(value):
        msg = f"`{name}` must be a function or None, not {value!r}"
        raise TypeError(msg)
