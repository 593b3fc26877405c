"""Where a page of a listing ended: a time and an id, which stay true when operations end."""

from __future__ import annotations

from typing import NamedTuple

LARGEST = 2**63


class Cursor(NamedTuple):
    """Name a place in a listing: behind everything that began before, or then with this id."""

    at: int
    """When the last operation on the page began, on a clock of the bus."""
    id: str

    @classmethod
    def checked(cls, after: str | None) -> Cursor:
        """Return the place that a caller names; before everything for None.

        Raises:
            TypeError: If it is no string.
            ValueError: If it is none that a page gave.
        """
        if after is None:
            return cls(-1, "")
        if not isinstance(after, str):
            msg = f"`after` must be the `after` of a page, not {after!r}"
            raise TypeError(msg)
        at, dash, operation_id = after.partition("-")
        if not (dash and operation_id and at.isascii() and at.isdecimal() and len(at) < 20):
            msg = f"`after` must be the `after` of a page, not {after!r}"
            raise ValueError(msg)
        return cls(min(int(at), LARGEST), operation_id)

    def __str__(self) -> str:
        return f"{self.at}-{self.id}"
