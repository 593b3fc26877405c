"""What a function of the user said, when all of it has run."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Generator


async def whole_answer(function: object, answer: object) -> object:
    """Return what a function that says who asks, or for what, gave as its answer.

    No test of a function finds all that are async: a lambda, a partial and a wrapper only give
    back what is to be awaited. To drop that would be to let everybody in.

    Args:
        function: The function, for the error.
        answer: What it returned; awaited if it can be.

    Raises:
        TypeError: If nothing has been asked: it gave back what would have to be run as well, such
            as a generator, a task, or what should have been called in its turn.
    """
    if inspect.isawaitable(answer):
        answer = await answer
    if isinstance(answer, (Generator, AsyncGenerator)) or inspect.isawaitable(answer):
        msg = (
            f"{function!r} must say itself who asks, and returned {answer!r}, of which nothing "
            "has run: make it a function, plain or async, that awaits what it calls and has no "
            "`yield`"
        )
        raise TypeError(msg)
    if callable(answer):
        msg = (
            f"{function!r} must say itself who asks, and returned {answer!r}, which nobody has "
            "called: give that, or call it"
        )
        raise TypeError(msg)
    return answer
