"""Facts that go with an operation, or that it must have, checked where they are given."""

from __future__ import annotations

from collections.abc import Mapping


def checked_metadata(value: Mapping[str, object] | None) -> None:
    """Refuse what is neither a mapping nor None.

    Raises:
        TypeError: If it is something else.
    """
    if value is not None and type(value) is not dict and not isinstance(value, Mapping):
        msg = f"`metadata` must be a mapping such as {{'owner': 'ann'}} or None, not {value!r}"
        raise TypeError(msg)
