"""The metadata of an operation as the texts that other processes see and filter by.

A value is compared by its JSON text. That makes ``1``, ``"1"`` and ``true`` three values in
every language, and keeps numbers exact: two owners whose 64-bit numbers differ in the last
digit are not the same owner, which they would be as the floating-point numbers of a script.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TypeAlias

from .._metadata import checked_metadata

Labels: TypeAlias = dict[str, str]
"""Metadata: each key with the JSON text of its value."""

LONGEST_KEY = 64
"""The most characters of a key."""
LONGEST_TEXT = 512
"""The most characters of a value as JSON text."""
MOST = 32
"""The most entries that other processes see; the first ones in the order of the metadata."""


def labels(metadata: Mapping[str, object]) -> Labels:
    """Return what other processes may see of an operation's metadata.

    That is what is short and plain: strings, numbers, true, false and None. Everything else
    stays in this process, and a filter that asks for it does not find the operation.

    Args:
        metadata: The metadata; another thread may be changing it.
    """
    found: Labels = {}
    # dict() copies in one step, so that a change from another thread cannot break the loop.
    for key, value in dict(metadata).items():
        text = _text(key, value)
        if text is not None:
            found[key] = text
            if len(found) == MOST:
                break
    return found


def checked_filter(metadata: Mapping[str, object] | None) -> Labels:
    """Return what a caller wants the metadata of an operation to contain.

    Args:
        metadata: Keys and values, or None for any operation.

    Raises:
        TypeError: If a key is no string, or a value is not plain.
        ValueError: If a key or value is too long, or there are too many.
    """
    checked_metadata(metadata)
    if metadata is None:
        return {}
    if len(metadata) > MOST:
        msg = f"`metadata` may ask for at most {MOST} values, not {len(metadata)}"
        raise ValueError(msg)
    wanted: Labels = {}
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float, bool, type(None))):
            msg = (
                "`metadata` is compared by strings, numbers, true, false and None; "
                f"not by {key!r}: {value!r}. Store what identifies it as text"
            )
            raise TypeError(msg)
        text = _text(key, value)
        if text is None:
            msg = (
                f"the value of `metadata[{key!r}]` cannot be asked for: keys have at most "
                f"{LONGEST_KEY} characters, values {LONGEST_TEXT} as JSON, numbers are finite"
            )
            raise ValueError(msg)
        wanted[key] = text
    return wanted


def matches(found: Labels, wanted: Labels) -> bool:
    """Return whether an operation with the labels *found* is one that is *wanted*."""
    return all(found.get(key) == text for key, text in wanted.items())


def values(found: Labels) -> dict[str, object]:
    """Return the values that labels stand for; texts that are no JSON are left out."""
    read: dict[str, object] = {}
    for key, text in found.items():
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, (str, int, float, bool, type(None))):
            read[key] = value
    return read


def _text(key: object, value: object) -> str | None:
    """Return the JSON text of a value, or None if other processes cannot see it."""
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        return None
    if not isinstance(value, (str, int, float, bool, type(None))):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    # What is much too long is not even written out.
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return None
    if isinstance(value, int) and value.bit_length() > LONGEST_TEXT:
        return None
    text = json.dumps(value)
    return text if len(text) <= LONGEST_TEXT else None
