"""Endpoints of every shape, as their module knows them: annotations are text here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Body, Cookie, Depends, File, Form, Header, Path, Query, Request, UploadFile
from starlette.requests import HTTPConnection

from cancelable import Cancelable, CancelationError, CancelationReason


@dataclass
class Item:
    name: str
    price: float = 1.0


async def reason() -> str:
    """Give a sub-dependency something to depend on."""
    return "manual"


async def settings(limit: int = 10, reason: str = Depends(reason)) -> str:
    return f"{limit} {reason}"


async def nothing() -> str:
    return "ok"


async def parameters(number: int, wanted: bool = False, names: list[str] = Query([])) -> str:
    """Take path and query parameters."""
    return f"{number} {wanted} {names}"


async def everything(
    number: Annotated[int, Path(ge=1)],
    item: Item,
    extra: Annotated[str, Body()],
    agent: Annotated[str | None, Header(alias="user-agent")] = None,
    cookie: Annotated[str | None, Cookie()] = None,
    found: str = Depends(settings),
) -> Item:
    return item


async def own_request(request: Request, number: int) -> str:
    return f"{request.method} {number}"


async def request_under_another_name(r: Request) -> str:
    return r.method


async def connection(connection: HTTPConnection) -> str:
    return connection.url.path


async def form(name: Annotated[str, Form()], file: Annotated[UploadFile, File()]) -> str:
    return name


def plain(number: int, request: Request) -> str:
    return f"{number} {request.method}"


async def stream() -> AsyncIterator[Item]:
    yield Item("a")
    yield Item("b")


def plain_stream() -> Iterator[Item]:
    yield Item("a")
    yield Item("b")


async def stops_itself(why: CancelationReason) -> str:
    """Be cancelled for any reason."""
    async with Cancelable() as cancel:
        await cancel.cancel(why)
        await cancel.check_cancelation()
    return "not reached"


def stops_itself_plainly(why: CancelationReason) -> str:
    raise CancelationError(why)
