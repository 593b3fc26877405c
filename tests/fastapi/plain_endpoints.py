"""Endpoints of every shape, as their module knows them: annotations are text here."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
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


class Greeter:
    """Greet, as an object."""

    async def __call__(self, number: int, request: Request) -> str:
        return f"{number} {request.method}"


class PlainGreeter:
    """Greet, as an object without coroutines."""

    def __call__(self, number: int, request: Request) -> str:
        return f"{number} {request.method}"


def noting(function: Callable[..., object]) -> Callable[..., object]:
    """Decorate as one does who need not know what is async."""

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        return function(*args, **kwargs)

    return call


greeter = Greeter()
plain_greeter = PlainGreeter()
part = functools.partial(own_request, number=7)
noted = noting(own_request)
noted_greeter = noting(Greeter())
part_of_noted = functools.partial(noted, number=7)


async def stream() -> AsyncIterator[Item]:
    yield Item("a")
    yield Item("b")


def plain_stream() -> Iterator[Item]:
    yield Item("a")
    yield Item("b")


class Streamer:
    """Stream, as an object."""

    async def __call__(self) -> AsyncIterator[Item]:
        yield Item("a")
        yield Item("b")


streamer = Streamer()
noted_stream = noting(stream)


async def stops_itself(why: CancelationReason) -> str:
    """Be cancelled for any reason."""
    async with Cancelable() as cancel:
        await cancel.cancel(why)
        await cancel.check_cancelation()
    return "not reached"


def stops_itself_plainly(why: CancelationReason) -> str:
    raise CancelationError(why)
