"""What a function of the user said, when all of it has run."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Coroutine, Generator


async def whole_answer(function: object, answer: object) -> object:
    """Return what a function that says who asks, or for what, gave as its answer.

    No test of a function finds all that are async: a lambda, a partial and a wrapper only give
    back what is to be awaited. To drop that would be to let everybody in.

    Args:
        function: The function, for the error.
        answer: What it returned; awaited if it can be.

    Raises:
        TypeError: If nothing has been asked: it gave back what would have to be run as well, such
            as a generator, or is a class whose objects are what should have been called.
    """
    if inspect.isawaitable(answer):
        answer = await answer
    if isinstance(answer, (Coroutine, Generator, AsyncGenerator)):
        msg = (
            f"{function!r} must say itself who asks, and returned {answer!r}, of which nothing "
            "has run: make it a function, plain or async, that awaits what it calls and has no "
            "`yield`"
        )
        raise TypeError(msg)
    if inspect.isclass(function) and callable(answer):
        msg = f"{function!r} made an object that nobody has called: give an object of that class"
        raise TypeError(msg)
    return answer
