"""Whole numbers of things, checked where they are given."""

from __future__ import annotations


def count(value: int, name: str, unit: str, *, least: int = 1) -> int:
    """Return a number of things that a caller wants.

    Args:
        value: The number.
        name: The parameter as its caller spelled it, for the error.
        unit: What is counted, for the error.
        least: The smallest number that makes sense.

    Raises:
        TypeError: If it is no whole number (a bool is none).
        ValueError: If it is smaller.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"`{name}` must be a whole number of {unit}, not {value!r}"
        raise TypeError(msg)
    if value < least:
        msg = f"`{name}` must be {least} or more {unit}, not {value!r}"
        raise ValueError(msg)
    return value
