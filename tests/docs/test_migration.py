"""The page for people who come from hother-cancelable treats each name, and truthfully."""

from __future__ import annotations

import inspect
import re

import pytest

import cancelable
import cancelable.testing
import cancelable_fastapi
from tests.core.test_migration_names import CALLS, NAMES
from tests.docs.pages import text_of

PAGE = "docs/migrating/hother-cancelable.md"
WEB = """
    cancelable_dependency RequestCancelationMiddleware with_cancelation
    cancelable_streaming_response CancelableWebSocket get_request_token
"""
GONE = """
    AnyioBridge call_soon_threadsafe ContextBridge StreamConfig simulate_stream
    get_random_chunk_size get_logger LinkState LinkedCancelationToken
"""


def mentioned() -> set[str]:
    """Return the words in code on the page."""
    return set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", text_of(PAGE)))))


def rows(word: str) -> list[str]:
    """Return the names of the rows whose second column is *word*."""
    found = re.findall(rf"^\| (`[^|]+) \| {word} \|", text_of(PAGE), re.MULTILINE)
    return [name for cell in found for name in re.findall(r"`([^`]+)`", cell)]


def test_each_name_is_treated() -> None:
    """Nobody has to find out by trying."""
    called = {call[0].__name__ for call in CALLS}
    wanted = {*NAMES.split(), *WEB.split(), *GONE.split(), *called}
    assert wanted - mentioned() == set()


def has(owner: object, name: str) -> bool:
    try:
        inspect.getattr_static(owner, name)
    except AttributeError:
        return name in getattr(owner, "__slots__", ())
    return True


@pytest.mark.parametrize("name", rows("same"))
def test_what_is_called_the_same_is_there(name: str) -> None:
    """Under the root that the page says, or in a class that the row names."""
    roots = (cancelable, cancelable.testing, cancelable_fastapi)
    classes = [getattr(root, each) for root in roots for each in root.__all__]
    owner, _, attribute = name.rpartition(".")
    places = [*roots, *(each for each in classes if inspect.isclass(each))]
    if owner:
        places = [each for each in places if getattr(each, "__name__", "") == owner]
    assert any(has(place, attribute) for place in places)


@pytest.mark.parametrize("name", sorted({*rows("dropped"), *rows("renamed"), *GONE.split()}))
def test_what_is_gone_is_gone(name: str) -> None:
    """A name that came back deserves another line."""
    owner, _, attribute = name.rpartition(".")
    place = getattr(cancelable, owner) if owner else cancelable
    assert not has(place, attribute)
