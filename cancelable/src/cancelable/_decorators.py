"""Async functions and async generators that run inside an operation of their own."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from functools import partial, wraps
from typing import ParamSpec, TypeVar, cast, overload

from ._cancelable import Cancelable, current_operation
from ._ids import checked_id
from ._seconds import limit
from ._steps import Steps
from ._text import checked_text
from ._token import CancelationToken, checked_token
from .sources import Condition, ConditionSource, SignalSource

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
FunctionT = TypeVar("FunctionT", bound=Callable[..., object])

INJECTED = "cancelable"
"""The parameter that takes the operation, where a function has it."""

NO_CONDITION = (
    "the decorator needs a condition, which is asked without arguments: write "
    "`@cancelable_with_condition(condition)` above the function"
)


@overload
def cancelable(function: FunctionT, /) -> FunctionT: ...
@overload
def cancelable(
    timeout: float | timedelta | None = None,
    operation_id: str | None = None,
    name: str | None = None,
    register_globally: bool = False,
    inject_param: str | None = INJECTED,
) -> Callable[[FunctionT], FunctionT]: ...
def cancelable(
    timeout: FunctionT | float | timedelta | None = None,
    operation_id: str | None = None,
    name: str | None = None,
    register_globally: bool = False,
    inject_param: str | None = INJECTED,
) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Run each call of an async function inside an operation of its own.

    With or without parentheses; on functions, methods, classmethods (below ``@classmethod``)
    and async generators. The signature stays; a parameter called *inject_param* gets the
    operation unless the caller gives it.

    The operation of a generator lasts from its first step to its end, with one clock. It is cut
    in a step, or at the next one, where the generator is closed. An operation around stops it
    in a step only, so that a consumer may give each item a block of its own. An error that is
    thrown into a generator, as a context manager does, reaches it outside any step.

    Args:
        timeout: Seconds for one call.
        operation_id: The id of each call; leave it out where calls overlap.
        name: A name for people; the function's name if left out.
        register_globally: Whether the current registry lists the calls.
        inject_param: The parameter that takes the operation; None for none.

    Raises:
        TypeError: If the function is not async, or an argument is of the wrong kind.
        ValueError: If the timeout is not above zero.
    """
    _refuse_wrapped(timeout)
    if callable(timeout):
        return cancelable()(timeout)
    allowed = None if timeout is None else limit(timeout, "timeout")
    _check_names(operation_id, name, inject_param)

    def make(name: str) -> Cancelable:
        return Cancelable.with_timeout(
            allowed, operation_id, name, register_globally=register_globally
        )

    return _decorator(make, name, inject_param)


@overload
def cancelable_method(function: FunctionT, /) -> FunctionT: ...
@overload
def cancelable_method(
    timeout: float | timedelta | None = None,
    name: str | None = None,
    register_globally: bool = False,
) -> Callable[[FunctionT], FunctionT]: ...
def cancelable_method(
    timeout: FunctionT | float | timedelta | None = None,
    name: str | None = None,
    register_globally: bool = False,
) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Run each call of an async method inside an operation of its own; see ``cancelable``.

    With or without parentheses. The operation has the qualified name of the method
    (``Class.method``) unless one is given.

    Args:
        timeout: Seconds for one call.
        name: A name for people.
        register_globally: Whether the current registry lists the calls.

    Raises:
        TypeError: If the method is not async, or an argument is of the wrong kind.
        ValueError: If the timeout is not above zero.
    """
    _refuse_wrapped(timeout)
    if callable(timeout):
        return cancelable_method()(timeout)
    allowed = None if timeout is None else limit(timeout, "timeout")
    _check_names(None, name, None)

    def decorate(function: FunctionT) -> FunctionT:
        _refuse_plain(function)
        # What is no function, such as a partial, has the name of its class.
        qualified = str(getattr(function, "__qualname__", type(function).__name__))
        named = name or qualified.rpartition("<locals>.")[2]
        return cancelable(allowed, name=named, register_globally=register_globally)(function)

    return decorate


def cancelable_with_token(
    token: CancelationToken,
    operation_id: str | None = None,
    name: str | None = None,
    register_globally: bool = False,
    inject_param: str | None = INJECTED,
) -> Callable[[FunctionT], FunctionT]:
    """Run each call inside an operation that a token stops; see ``cancelable``.

    Args:
        token: The token.
        operation_id: The id of each call.
        name: A name for people.
        register_globally: Whether the current registry lists the calls.
        inject_param: The parameter that takes the operation; None for none.

    Raises:
        TypeError: If it is no token, or the function is not async.
    """
    _refuse_bare(token, "cancelable_with_token(token)")
    checked_token(token, "token")
    _check_names(operation_id, name, inject_param)

    def make(name: str) -> Cancelable:
        return Cancelable.with_token(token, operation_id, name, register_globally=register_globally)

    return _decorator(make, name, inject_param)


@overload
def cancelable_with_signal(function: FunctionT, /) -> FunctionT: ...
@overload
def cancelable_with_signal(
    *signals: int,
    operation_id: str | None = None,
    name: str | None = None,
    register_globally: bool = False,
    inject_param: str | None = INJECTED,
) -> Callable[[FunctionT], FunctionT]: ...
def cancelable_with_signal(
    *signals: int | FunctionT,
    operation_id: str | None = None,
    name: str | None = None,
    register_globally: bool = False,
    inject_param: str | None = INJECTED,
) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Run each call inside an operation that signals stop; see ``cancelable``.

    With or without parentheses.

    Args:
        signals: Signals; SIGINT and SIGTERM if none is given.
        operation_id: The id of each call.
        name: A name for people.
        register_globally: Whether the current registry lists the calls.
        inject_param: The parameter that takes the operation; None for none.

    Raises:
        TypeError: If a signal is no number, or the function is not async.
        ValueError: If this platform knows no such signal.
    """
    if len(signals) == 1:
        _refuse_wrapped(signals[0])
        if callable(signals[0]):
            return cancelable_with_signal()(signals[0])
    known = SignalSource(*cast("tuple[int, ...]", signals)).signals
    _check_names(operation_id, name, inject_param)

    def make(name: str) -> Cancelable:
        return Cancelable.with_signal(
            *known, operation_id=operation_id, name=name, register_globally=register_globally
        )

    return _decorator(make, name, inject_param)


def cancelable_with_condition(
    condition: Condition,
    check_interval: float | timedelta = 0.1,
    condition_name: str | None = None,
    operation_id: str | None = None,
    name: str | None = None,
    register_globally: bool = False,
    inject_param: str | None = INJECTED,
) -> Callable[[FunctionT], FunctionT]:
    """Run each call inside an operation that a condition stops; see ``cancelable``.

    Args:
        condition: A function, plain or async, that is asked again and again.
        check_interval: Seconds between two questions.
        condition_name: The name of the condition in errors.
        operation_id: The id of each call.
        name: A name for people.
        register_globally: Whether the current registry lists the calls.
        inject_param: The parameter that takes the operation; None for none.

    Raises:
        TypeError: If the condition is no function, or the function is not async.
        ValueError: If the interval is not above zero.
    """
    # Bad arguments are refused here, not at a call.
    _refuse_bare_condition(condition)
    ConditionSource(condition, check_interval, condition_name)
    _check_names(operation_id, name, inject_param)

    def make(name: str) -> Cancelable:
        return Cancelable.with_condition(
            condition,
            check_interval,
            condition_name,
            operation_id,
            name,
            register_globally=register_globally,
        )

    decorator = _decorator(make, name, inject_param)

    def decorate(*functions: FunctionT) -> FunctionT:
        # An async function without parameters may be a condition, or one to be decorated: the
        # call without a function to decorate tells.
        if len(functions) != 1 or not callable(functions[0]):
            raise TypeError(NO_CONDITION)
        return decorator(functions[0])

    return decorate


def cancelable_combine(
    *cancelables: Cancelable,
    operation_id: str | None = None,
    name: str | None = None,
    register_globally: bool = False,
    inject_param: str | None = INJECTED,
) -> Callable[[FunctionT], FunctionT]:
    """Run each call inside an operation that stops for whatever the given ones stop for.

    Timeouts count anew for each call. A token or a source that has fired has fired for all
    calls that follow. Calls may overlap unless one of the operations has a source.

    Args:
        cancelables: Operations that are not entered themselves.
        operation_id: The id of each call.
        name: A name for people.
        register_globally: Whether the current registry lists the calls.
        inject_param: The parameter that takes the operation; None for none.

    Raises:
        TypeError: If one of them is no Cancelable, or the function is not async.
    """
    if len(cancelables) == 1:
        _refuse_bare(cancelables[0], "cancelable_combine(operation, another)")
    Cancelable.check_combinable(cancelables)
    _check_names(operation_id, name, inject_param)

    def make(name: str) -> Cancelable:
        operation = Cancelable(operation_id, name, register_globally=register_globally)
        return operation.combine(*cancelables)

    return _decorator(make, name, inject_param)


def with_cancelable(
    cancel: Cancelable, inject: bool = False, inject_param: str = INJECTED
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Run an async function as part of an operation that is at hand.

    Called inside its block, the function runs in it. If the block has not been entered, the call
    enters it, which can be done once. If it runs and the caller is elsewhere (another task, a
    second call beside the first), the function runs in an operation of its own underneath, which
    stops with the one at hand and leaves as ``ParentCancelation``.

    Args:
        cancel: The operation.
        inject: Whether the function gets it, also where it runs in one underneath.
        inject_param: The parameter that takes it.

    Raises:
        TypeError: If it is no Cancelable, or the function is not async.
    """
    _refuse_bare(cancel, "with_cancelable(operation)")
    Cancelable.check_combinable((cancel,))
    _check_names(None, None, inject_param)

    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        _refuse_plain(function)
        _refuse_generator(function)
        place = _place_of(function, inject_param if inject else None)
        name = _name_of(function)

        @wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            _inject(kwargs, args, place, cancel)
            if not cancel.is_running:
                async with cancel:
                    return await function(*args, **kwargs)
            if cancel._is_around_here():
                await cancel.check_cancelation()
                return await function(*args, **kwargs)
            async with Cancelable(name=name, parent=cancel) as part:
                await part.check_cancelation()
                return await function(*args, **kwargs)

        return call

    return decorate


@overload
def with_current_operation(function: Callable[P, Awaitable[R]], /) -> Callable[P, Awaitable[R]]: ...
@overload
def with_current_operation(
    inject_param: str = "operation",
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]: ...
def with_current_operation(
    inject_param: Callable[P, Awaitable[R]] | str = "operation",
) -> Callable[P, Awaitable[R]] | Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Give an async function the operation in whose block it is called, or None.

    With or without parentheses.

    Args:
        inject_param: The parameter that takes it.

    Raises:
        TypeError: If the function is not async, or the parameter is no text.
    """
    _refuse_wrapped(inject_param)
    if callable(inject_param):
        return with_current_operation()(inject_param)
    _check_names(None, None, inject_param)

    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        _refuse_plain(function)
        _refuse_generator(function)
        place = _place_of(function, inject_param)

        @wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            _inject(kwargs, args, place, current_operation())
            return await function(*args, **kwargs)

        return call

    return decorate


async def with_timeout(
    timeout: float | timedelta | None,
    coro: Awaitable[T],
    operation_id: str | None = None,
    name: str | None = None,
) -> T:
    """Await something for a limited time.

    Args:
        timeout: Seconds; zero or less stops at the first checkpoint.
        coro: What to await.
        operation_id: An id for the operation.
        name: A name for people.

    Raises:
        TimeoutCancelation: If the time ran out.
        TypeError: If it cannot be awaited, or the timeout is no duration.
        ValueError: If the timeout is NaN.
    """
    if not isinstance(coro, Awaitable):
        msg = f"`coro` must be something to await, as `work()` is, not {coro!r}"
        raise TypeError(msg)
    try:
        operation = Cancelable.with_timeout(timeout, operation_id, name)
    except BaseException:
        if inspect.iscoroutine(coro):
            coro.close()
        raise
    async with operation:
        return await coro


def ensure_cancelable(cancelable: Cancelable | None) -> Cancelable:
    """Return the operation that was given, or a new one that nothing stops.

    Args:
        cancelable: An operation or None.

    Raises:
        TypeError: If it is neither.
    """
    if cancelable is None:
        return Cancelable()
    if not isinstance(cancelable, Cancelable):
        msg = f"`cancelable` must be a Cancelable or None, not {cancelable!r}"
        raise TypeError(msg)
    return cancelable


def _decorator(
    make: Callable[[str], Cancelable], name: str | None, inject_param: str | None
) -> Callable[[FunctionT], FunctionT]:
    """Return a decorator whose calls run inside the operations that *make* makes."""

    def decorate(function: FunctionT) -> FunctionT:
        _refuse_plain(function)
        named = name or _name_of(function)
        place = _place_of(function, inject_param)
        if inspect.isasyncgenfunction(function):
            wrapped: object = _wrap_generator(function, make, named, place)
        else:
            run = cast("Callable[..., Awaitable[object]]", function)
            wrapped = _wrap_function(run, make, named, place)
        return cast("FunctionT", wrapped)

    return decorate


def _name_of(function: Callable[..., object]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _check_names(operation_id: str | None, name: str | None, inject_param: str | None) -> None:
    """Refuse what is no text where it is given, not at the first call."""
    if operation_id is not None:
        checked_id(operation_id, "operation_id")
    checked_text(name, "name")
    checked_text(inject_param, "inject_param")


def _wrap_function(
    function: Callable[P, Awaitable[R]],
    make: Callable[[str], Cancelable],
    name: str,
    place: tuple[str, int] | None,
) -> Callable[P, Awaitable[R]]:
    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        operation = make(name)
        _inject(kwargs, args, place, operation)
        async with operation:
            return await function(*args, **kwargs)

    return call


def _wrap_generator(
    function: Callable[P, AsyncGenerator[T, object]],
    make: Callable[[str], Cancelable],
    name: str,
    place: tuple[str, int] | None,
) -> Callable[P, AsyncGenerator[T, object]]:
    @wraps(function)
    async def iterate(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, object]:
        whole = make(name)
        _inject(kwargs, args, place, whole)
        source = function(*args, **kwargs)
        steps = Steps(whole, source)
        fetch_next = fetch = partial(steps.step, source.__anext__)
        try:
            while True:
                try:
                    item = await fetch()
                except StopAsyncIteration:
                    return
                try:
                    sent = yield item
                except GeneratorExit:
                    raise
                except BaseException as error:
                    fetch = partial(steps.throw, error)
                else:
                    fetch = fetch_next
                    if sent is not None:
                        fetch = partial(steps.step, partial(source.asend, sent))
        except BaseException as error:
            await steps.end(error)
            raise
        finally:
            del fetch  # which may hold an error that holds this frame

    return iterate


def _refuse_generator(function: Callable[..., object]) -> None:
    if inspect.isasyncgenfunction(function):
        msg = (
            f"{function.__qualname__!r} is an async generator, which nobody awaits; iterate over "
            "it with `cancel.stream()`, or decorate it with `cancelable`"
        )
        raise TypeError(msg)


def _refuse_wrapped(function: object) -> None:
    if isinstance(function, (classmethod, staticmethod)):
        msg = "put the decorator below @classmethod or @staticmethod"
        raise TypeError(msg)


def _refuse_bare(argument: object, usage: str) -> None:
    """Refuse a function in the place of the argument that a decorator needs."""
    if inspect.isroutine(argument) or isinstance(argument, (classmethod, staticmethod)):
        msg = f"the decorator needs an argument: write `@{usage}` above the function"
        raise TypeError(msg)


def _refuse_bare_condition(condition: object) -> None:
    """Refuse a function that is to be decorated, where it can be told from a condition."""
    if not inspect.isfunction(condition):
        return
    needed = [
        parameter
        for parameter in inspect.signature(condition).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed or inspect.isasyncgenfunction(condition):
        raise TypeError(NO_CONDITION)


def _refuse_plain(function: Callable[..., object]) -> None:
    _refuse_wrapped(function)
    if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
        msg = (
            f"{getattr(function, '__qualname__', function)!r} is not async, so nothing can "
            "cancel it; make it `async def`, or run it with `Cancelable.run_in_thread` and "
            "call `check_cancelation_sync()` inside"
        )
        raise TypeError(msg)


def _place_of(function: Callable[..., object], parameter: str | None) -> tuple[str, int] | None:
    """Return name and position of the parameter that takes the operation, if there is one."""
    if parameter is None:
        return None
    parameters = inspect.signature(function).parameters
    found = parameters.get(parameter)
    if found is not None and found.kind is inspect.Parameter.KEYWORD_ONLY:
        return parameter, sys.maxsize  # no number of arguments by position reaches it
    if found is not None and found.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return parameter, list(parameters).index(parameter)
    return None


def _inject(
    kwargs: dict[str, object],
    args: tuple[object, ...],
    place: tuple[str, int] | None,
    operation: Cancelable | None,
) -> None:
    if place is not None and place[0] not in kwargs and len(args) <= place[1]:
        kwargs[place[0]] = operation
