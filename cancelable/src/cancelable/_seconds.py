"""Durations and times as people write them, checked where they are given."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import SupportsFloat, TypeAlias

Seconds: TypeAlias = float | timedelta
"""A duration: a number of seconds, or a ``timedelta``."""


def seconds(value: SupportsFloat | timedelta | None, name: str) -> float:
    """Return a duration as a float of seconds.

    Args:
        value: Seconds as a number, a ``timedelta``, or None for no limit.
        name: The parameter as its caller spelled it, for the error.

    Returns:
        Seconds; infinity for None. Zero and negative durations are returned as they are.

    Raises:
        TypeError: If the value is no duration (a bool and a string are none).
        ValueError: If the value is NaN.
    """
    if value is None:
        return math.inf
    if type(value) is not float and type(value) is not int:
        if isinstance(value, timedelta):
            return value.total_seconds()
        if not _is_number(value):
            msg = f"`{name}` must be a number of seconds, a timedelta or None, not {value!r}"
            raise TypeError(msg)
    try:
        number = float(value)
    except OverflowError:
        msg = f"`{name}` is too large for a number of seconds; use None for no limit"
        raise ValueError(msg) from None
    if number != number:  # true of NaN alone
        msg = f"`{name}` must be a number of seconds, not NaN"
        raise ValueError(msg)
    return number


def limit(value: SupportsFloat | timedelta | None, name: str) -> float:
    """Return a setting that bounds something, in seconds.

    Unlike a budget that a computation may have used up, a setting of zero or less is a
    mistake of the person who wrote it.

    Args:
        value: Seconds as a number, a ``timedelta``, or None for no limit.
        name: The parameter as its caller spelled it, for the error.

    Returns:
        Seconds; infinity for None.

    Raises:
        TypeError: If the value is no duration.
        ValueError: If the value is NaN, zero or negative.
    """
    number = seconds(value, name)
    if number <= 0:
        msg = f"`{name}` must be greater than 0 seconds, not {value!r}; use None for no limit"
        raise ValueError(msg)
    return number


def zero_or_more(value: SupportsFloat | timedelta | None, name: str) -> float:
    """Return a duration that may be zero, in seconds.

    Args:
        value: Seconds as a number, a ``timedelta``, or None for no limit.
        name: The parameter as its caller spelled it, for the error.

    Returns:
        Seconds; infinity for None.

    Raises:
        TypeError: If the value is no duration.
        ValueError: If the value is NaN or negative.
    """
    number = seconds(value, name)
    if number < 0:
        msg = f"`{name}` must be 0 or more seconds, not {value!r}"
        raise ValueError(msg)
    return number


def grace_of(value: SupportsFloat | timedelta | None) -> float:
    """Return the ``grace`` of an operation, in seconds: zero for None; see ``zero_or_more``."""
    return 0.0 if value is None else zero_or_more(value, "grace")


def moment(value: SupportsFloat, name: str) -> float:
    """Return a time on anyio's clock as a float.

    Args:
        value: The time, as a number.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If the value is no number: a duration and a date are no times on that clock.
        ValueError: If the value is NaN.
    """
    if type(value) is not float and not _is_number(value):
        msg = (
            f"`{name}` must be a time on anyio's clock, such as `anyio.current_time() + 5`, or "
            f"infinity, not {value!r}"
        )
        raise TypeError(msg)
    try:
        when = float(value)
    except OverflowError:
        msg = f"`{name}` is too large for a time on anyio's clock; use infinity for none"
        raise ValueError(msg) from None
    if when != when:  # true of NaN alone
        msg = f"`{name}` must be a time on anyio's clock or infinity, not NaN"
        raise ValueError(msg)
    return when


def _is_number(value: object) -> bool:
    is_other = isinstance(value, (bool, str, bytes, bytearray))
    return not is_other and hasattr(value, "__float__")
