"""What may be said to the middleware and to routes, checked where it is given."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Literal, TypeAlias, cast

from cancelable import CancelationReason

OnDisconnect: TypeAlias = Literal["cancel", "continue"]
"""What becomes of the work of a client that left."""

Until: TypeAlias = Literal["start", "end"]
"""Whether a timeout counts to the start or to the end of the response."""


def duration(value: float | timedelta | None, name: str) -> float:
    """Return a setting in seconds; infinity for None.

    Args:
        value: Seconds, a ``timedelta``, or None for no limit.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If the value is no duration (a bool and a string are none).
        ValueError: If it is not above zero, or not finite.
    """
    if value is None:
        return math.inf
    number: object = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        msg = f"`{name}` must be a number of seconds, a timedelta or None, not {value!r}"
        raise TypeError(msg)
    if not 0 < number < math.inf:
        msg = f"`{name}` must be a finite number of seconds above 0, not {value!r}"
        raise ValueError(msg)
    return float(number)


def size(value: int, name: str) -> int:
    """Return a setting in bytes.

    Args:
        value: Bytes.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If the value is no whole number.
        ValueError: If it is not above zero.
    """
    given: object = value
    if isinstance(given, bool) or not isinstance(given, int):
        msg = f"`{name}` must be a whole number of bytes, not {value!r}"
        raise TypeError(msg)
    if given <= 0:
        msg = f"`{name}` must be above 0 bytes, not {value!r}"
        raise ValueError(msg)
    return given


def one_of(value: str, name: str, choices: tuple[str, ...]) -> None:
    """Refuse what is not among *choices*.

    Raises:
        ValueError: If the value is another.
    """
    if value not in choices:
        listed = " or ".join(repr(choice) for choice in choices)
        msg = f"`{name}` must be {listed}, not {value!r}"
        raise ValueError(msg)


def function(value: object, name: str) -> None:
    """Refuse what is neither None nor can be called.

    Raises:
        TypeError: If the value cannot be called.
    """
    if value is not None and not callable(value):
        msg = f"`{name}` must be a function or None, not {value!r}"
        raise TypeError(msg)


def plain_function(value: object, name: str) -> None:
    """Refuse what is neither None nor a function whose answer is there at once.

    Raises:
        TypeError: If the value cannot be called, or is async.
    """
    function(value, name)
    called: tuple[object, ...] = (value, getattr(value, "__call__", None))  # noqa: B004
    if any(map(inspect.iscoroutinefunction, called)):
        msg = f"`{name}` must be a plain function: nobody awaits what {value!r} returns"
        raise TypeError(msg)


def methods_of(value: Iterable[str] | None, name: str) -> frozenset[str] | None:
    """Return names of HTTP methods in upper case; None for all.

    Args:
        value: The names.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If it is one text, whose letters would be the names, or holds what is no text.
        ValueError: If there is none, or one is no name.
    """
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(cast(object, value), Iterable):
        msg = f"`{name}` must be the names of methods, such as {{'GET', 'HEAD'}}, not {value!r}"
        raise TypeError(msg)
    methods = frozenset(token(each, name).upper() for each in value)
    if not methods:
        msg = f"`{name}` must name a method: without one, no request would be watched"
        raise ValueError(msg)
    return methods


def token(value: str, name: str) -> str:
    """Return a text that HTTP takes for a name, of a method or of a header.

    Args:
        value: The text.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If the value is no text.
        ValueError: If it is empty, or HTTP has no such names.
    """
    given: object = value
    if not isinstance(given, str):
        msg = f"`{name}` must be a text, not {value!r}"
        raise TypeError(msg)
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", given):  # RFC 9110, section 5.6.2
        msg = f"`{name}` must be a name of letters, digits, '-' and '_', not {value!r}"
        raise ValueError(msg)
    return given


def statuses_of(
    value: Mapping[CancelationReason, int], name: str
) -> Mapping[CancelationReason, int]:
    """Return the HTTP status of each reason.

    Args:
        value: The statuses.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If it is no mapping, or holds what is no whole number.
        ValueError: If there is no such reason, or a number is no status of an answer with a body.
    """
    wanted = "a status from 200 to 599 of an answer that has a body"
    return _by_reason(
        value, name, wanted, lambda it: 200 <= it <= 599 and it not in (204, 205, 304)
    )


def close_codes_of(
    value: Mapping[CancelationReason, int], name: str
) -> Mapping[CancelationReason, int]:
    """Return the close code of a WebSocket for each reason.

    Args:
        value: The close codes.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If it is no mapping, or holds what is no whole number.
        ValueError: If there is no such reason, or a number is no code that may be sent.
    """
    wanted = "a close code that may be sent: 1000 to 1014 without 1004 to 1006, or 3000 to 4999"
    return _by_reason(value, name, wanted, _may_be_sent)


def _may_be_sent(code: int) -> bool:
    return (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999


def _by_reason(
    value: Mapping[CancelationReason, int], name: str, wanted: str, is_right: Callable[[int], bool]
) -> Mapping[CancelationReason, int]:
    given: object = value
    if not isinstance(given, Mapping):
        msg = f"`{name}` must be a mapping from reasons to numbers, not {value!r}"
        raise TypeError(msg)
    checked: dict[CancelationReason, int] = {}
    for reason, number in cast(Mapping[CancelationReason, object], given).items():
        if isinstance(number, bool) or not isinstance(number, int):
            msg = f"`{name}` must have whole numbers, not {number!r} for {reason!r}"
            raise TypeError(msg)
        if reason not in set(CancelationReason):
            known = ", ".join(CancelationReason)
            msg = f"`{name}` must be for the reasons {known}, not {reason!r}"
            raise ValueError(msg)
        if not is_right(number):
            msg = f"`{name}` must have {wanted}, not {number!r} for {reason!r}"
            raise ValueError(msg)
        checked[CancelationReason(reason)] = number
    return MappingProxyType(checked)
