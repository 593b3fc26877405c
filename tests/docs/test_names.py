"""What the pages name in their prose is there, and takes the arguments that stand beside it."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.docs.pages import FENCE, PAGES, text_of
from tests.docs.reference import PACKAGES

MODULES = {name: importlib.import_module(name) for name in [*PACKAGES, "cancelable.sources"]}
OURS: dict[str, Any] = {
    name: getattr(module, name) for module in MODULES.values() for name in module.__all__
}
CLASSES = [each for each in OURS.values() if inspect.isclass(each)]

# What the pages call the things that they speak of.
VARIABLES = {
    "bus": "RedisBus",
    "cancel": "Cancelable",
    "job": "Cancelable",
    "operation": "Cancelable",
    "registry": "OperationRegistry",
    "stopping": "CancelationToken",
    "token": "CancelationToken",
    "visit": "LatentOperation",
}
# Of others, or a logger.
FOREIGN_CALLS = {
    *("APIRouter", "Depends", "Starlette", "is_disconnected", "main", "receive", "send"),
    *dir(builtins),
}
FOREIGN_KEYWORDS = {"middleware", "responses", "shield", "ssl_check_hostname"}
LOGGERS = {"cancelable.starlette", "cancelable.fastapi"}


def spans(page: str) -> Iterator[str]:
    """Return what stands in backticks in the prose of a page.

    In the tables of a page about other libraries the first column is theirs.
    """
    for line in FENCE.sub("", text_of(page)).splitlines():
        is_theirs = page.startswith("docs/migrating/") and line.startswith("|")
        yield from re.findall(r"`([^`]+)`", line.split("|", 2)[-1] if is_theirs else line)


def parsed(span: str) -> ast.expr | None:
    """Return a span as an expression; None if it is none."""
    code = re.sub(r"^(@|await |async with )", "", span.replace("…", "..."))
    try:
        return ast.parse(code, mode="eval").body
    except SyntaxError:
        return None


def has(owner: object, name: str) -> bool:
    """Return whether a module or the instances of a class have an attribute."""
    if hasattr(owner, name):
        return True
    bases = owner.__mro__ if inspect.isclass(owner) else ()
    return any(name in inspect.get_annotations(base) for base in bases)


def found(node: ast.expr) -> Any:
    """Return what an expression of ours names; None for what is of others.

    Raises:
        LookupError: If it should be ours and is not there.
    """
    if isinstance(node, ast.Name):
        known = VARIABLES.get(node.id, node.id)
        return OURS.get(known) or MODULES.get(known)
    if not isinstance(node, ast.Attribute) or ast.unparse(node) in LOGGERS:
        return None
    if ast.unparse(node) in MODULES:
        return MODULES[ast.unparse(node)]
    # The package, and not the decorator that is called the same.
    owner = MODULES.get(ast.unparse(node.value)) or found(node.value)
    if owner is None or not (inspect.isclass(owner) or isinstance(owner, ModuleType)):
        return None
    if not has(owner, node.attr):
        raise LookupError(ast.unparse(node))
    return getattr(owner, node.attr, None)


def candidates(call: ast.Call) -> list[Callable[..., Any]] | None:
    """Return what a call may mean, where a method may be called without its owner; None: another's.

    Raises:
        LookupError: If nothing of ours is called so.
    """
    if not isinstance(call.func, ast.Name) or call.func.id in OURS:
        known = found(call.func)
        return None if known is None else [known]
    name = call.func.id
    methods = [getattr(owner, name) for owner in CLASSES if hasattr(owner, name)]
    if not methods and name not in FOREIGN_CALLS:
        raise LookupError(f"{name}()")
    return methods or None


def takes(called: Callable[..., Any], keyword: str) -> bool:
    # As it is called, and as it is shown: a decorator may hide either.
    ways = (inspect.signature(called, follow_wrapped=wrapped) for wrapped in (False, True))
    return any(keyword in way.parameters for way in ways)


def everything_called() -> Iterator[Callable[..., Any]]:
    """Return all functions, classes and methods of ours."""
    for each in OURS.values():
        if inspect.isclass(each):
            yield from (method for _, method in inspect.getmembers(each, callable))
        if inspect.isroutine(each) or inspect.isclass(each):
            yield each


def keywords() -> set[str]:
    """Return the names of all arguments of ours."""
    names = set(FOREIGN_KEYWORDS)
    for called in everything_called():
        try:
            names.update(inspect.signature(called).parameters)
        except (TypeError, ValueError):  # one of the interpreter's, without a signature
            continue
    return names


KEYWORDS = keywords()


def faults(span: str) -> Iterator[str]:
    """Return what is wrong with a piece of code in the prose."""
    if keyword := re.match(r"([a-z_]+)=(?!=)", span):
        if keyword[1] not in KEYWORDS:
            yield f"{span}: nothing takes it"
        return
    expression = parsed(span)
    for node in () if expression is None else ast.walk(expression):
        try:
            if isinstance(node, ast.Attribute):
                found(node)
            if isinstance(node, ast.Call) and (called := candidates(node)):
                for given in node.keywords:
                    if given.arg and not any(takes(each, given.arg) for each in called):
                        yield f"{span}: no argument {given.arg}"
        except LookupError as error:
            yield f"{span}: there is no {error.args[0]}"


@pytest.mark.parametrize("page", PAGES)
def test_what_the_prose_of_a_page_names_is_there(page: str) -> None:
    """Calls, attributes and arguments: blocks of code are run, and prose is not."""
    assert [fault for span in spans(page) for fault in faults(span)] == []


@pytest.mark.parametrize(
    "span",
    [
        "cancelable.nothing",
        "cancelable_starlette.testing.nothing()",
        "cancel.nothing",
        "Cancelable.nothing(5)",
        "nothing()",
        "nothing=5",
        "await cancel.cancel(nothing=5)",
        "RequestCancelationMiddleware(app, nothing=…)",
    ],
)
def test_a_name_that_is_not_there_is_noticed(span: str) -> None:
    """In each form in which pages name things."""
    assert list(faults(span)) != []
