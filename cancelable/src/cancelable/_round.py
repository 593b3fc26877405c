"""Calls that are all made, whatever one of them raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def call_all(calls: Iterable[Callable[[], object]]) -> None:
    """Make each of some calls; what the first of them raised that did comes at the end.

    For those who have to be told something: an interrupt in the middle of one (Ctrl-C, a
    callback that exits) shall not keep it from the others.

    Args:
        calls: Functions without arguments.
    """
    raised: BaseException | None = None
    for call in calls:
        try:
            call()
        except BaseException as error:
            raised = raised or error
    try:
        if raised is not None:
            raise raised
    finally:
        del raised  # its traceback holds this frame
