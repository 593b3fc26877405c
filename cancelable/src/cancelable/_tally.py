"""A count that any thread, and a signal handler, can add to without a lock."""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Callable


class Tally:
    """Count what happens very often, in any thread, and is looked at seldom.

    A step of an iterator that is written in C is one atomic step of the interpreter, where taking
    and leaving a lock are several. One of known length also says how many steps are left
    (PEP 424).
    """

    __slots__ = ("_steps", "add")

    add: Callable[[], None]
    """Count one more."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._steps = itertools.repeat(None, sys.maxsize)
        self.add = self._steps.__next__

    @property
    def total(self) -> int:
        """How many were counted."""
        return sys.maxsize - operator.length_hint(self._steps)
