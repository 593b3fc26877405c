"""A text for people or for filters, checked where it is given.

One that is no text would be found later, by everybody who lists, logs or sends it.
"""

from __future__ import annotations


def checked_text(value: str | None, name: str) -> str | None:
    """Return a text that a caller gave, or None.

    Args:
        value: The text.
        name: The parameter as its caller spelled it, for the error.

    Raises:
        TypeError: If it is neither a string nor None.
    """
    if value is not None and not isinstance(value, str):
        msg = f"`{name}` must be a string or None, not {value!r}"
        raise TypeError(msg)
    return value
