"""Ids that nobody can guess."""

from __future__ import annotations

import os

LONGEST = 256
"""The most characters that an id chosen by a caller may have."""


def new_id() -> str:
    """Return a new id: 128 random bits from the operating system, as 32 hex digits."""
    return os.urandom(16).hex()


def checked_id(value: str, name: str) -> str:
    """Return an id that a caller chose.

    Args:
        value: The id.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If it is no string.
        ValueError: If it is empty or too long.
    """
    text_id(value, name)
    if not value or len(value) > LONGEST:
        msg = f"`{name}` must have 1 to {LONGEST} characters, not {len(value)}"
        raise ValueError(msg)
    return value


def text_id(value: str, name: str) -> str:
    """Return an id that a caller asks about, which may be of any length.

    Args:
        value: The id.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If it is no string: as such it would look unknown.
    """
    if not isinstance(value, str):
        msg = f"`{name}` must be a string, not {value!r}"
        raise TypeError(msg)
    return value
