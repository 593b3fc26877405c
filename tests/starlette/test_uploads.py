"""Uploads arrive whole, and one that ends early is no error of ours (W2, W3, W11)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cancelable import CancelationReason, OperationContext
from cancelable_starlette import RequestCancelationMiddleware
from cancelable_starlette.testing import (
    GRANIAN,
    HYPERCORN,
    UVICORN,
    ScriptedConnection,
    ServerBehaviour,
)
from tests.starlette.support import Watch, run

USES_THREADS = True  # Starlette writes the files of a form in threads

SERVERS = pytest.mark.parametrize(
    "server", [UVICORN, HYPERCORN, GRANIAN], ids=["uvicorn", "hypercorn", "granian"]
)

BOUNDARY = b"frontier"
FORM_TYPE = (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)


def form_of(size: int) -> bytes:
    """Make a form with one field and one file."""
    content = b"0123456789abcdef" * (size // 16)
    head = b'--%s\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n'
    return b"".join(
        (
            head % (BOUNDARY, b"title", b""),
            b"hello\r\n",
            head % (BOUNDARY, b"file", b'; filename="a.bin"'),
            content,
            b"\r\n--%s--\r\n" % BOUNDARY,
        )
    )


def in_chunks(body: bytes, count: int) -> list[bytes]:
    size = len(body) // count + 1
    return [body[start : start + size] for start in range(0, len(body), size)]


class ReadFormFirst(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        await request.body()
        async with request.form() as form:
            assert form["title"] == "hello"
        return await call_next(request)


async def facts_of_form(request: Request) -> Response:
    await anyio.sleep(0.02)
    async with request.form() as form:
        upload = form["file"]
        assert isinstance(upload, UploadFile)
        content = await upload.read()
        return JSONResponse([form["title"], len(content), hashlib.sha256(content).hexdigest()])


@SERVERS
@pytest.mark.parametrize("layers", [[], [Middleware(ReadFormFirst)]], ids=["once", "twice"])
@pytest.mark.parametrize("pause", [0.0, 0.002])
async def test_a_form_arrives_whole(
    anyio_backend: object,
    watch: Watch,
    server: ServerBehaviour,
    layers: list[Middleware],
    pause: float,
) -> None:
    """W2: bigger than what is read ahead; read by a middleware, and again by the handler."""
    body = form_of(1_000_000)
    connection = ScriptedConnection(
        "POST", headers=[FORM_TYPE], body=in_chunks(body, 20), pause=pause, server=server
    )
    app: ASGIApp = Starlette(
        routes=[Route("/", facts_of_form, methods=["POST"])], middleware=layers
    )
    await run(RequestCancelationMiddleware(app), connection, watch)

    assert connection.status == 200
    content = body.partition(b"\r\n\r\n0123")[2]
    content = b"0123" + content.rpartition(b"\r\n--frontier--")[0]
    digest = hashlib.sha256(content).hexdigest()
    assert connection.body.decode() == f'["hello",{len(content)},"{digest}"]'
    assert connection.overlapping_reads == 0


@SERVERS
@pytest.mark.parametrize("size", [0, 10_000_000])
async def test_a_body_of_any_size_arrives(
    anyio_backend: object, watch: Watch, server: ServerBehaviour, size: int
) -> None:
    """W2, W3: nothing, and much more than the bound, after a while in which it was watched."""

    async def endpoint(request: Request) -> Response:
        await anyio.sleep(0.02)
        body = await request.body()
        return PlainTextResponse(f"{len(body)} {hashlib.sha256(body).hexdigest()}")

    body = b"0123456789" * (size // 10)
    connection = ScriptedConnection("POST", body=in_chunks(body, 160) or b"", server=server)
    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    await run(RequestCancelationMiddleware(app), connection, watch)

    assert connection.body.decode() == f"{size} {hashlib.sha256(body).hexdigest()}"


async def read_body(request: Request) -> None:
    await request.body()


async def read_stream(request: Request) -> None:
    async for _ in request.stream():
        pass


async def read_form(request: Request) -> None:
    async with request.form():
        pass


async def read_json(request: Request) -> None:
    await request.json()


Read = Callable[[Request], Awaitable[None]]
READS = pytest.mark.parametrize("read", [read_body, read_stream, read_form, read_json])


@READS
@SERVERS
async def test_a_client_that_leaves_during_its_upload_is_a_disconnect(
    anyio_backend: object,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    server: ServerBehaviour,
    read: Read,
) -> None:
    """W11: nobody is answered, nothing is logged as an error, the handler cleans up."""
    facts: list[OperationContext] = []
    partial = tmp_path / "partial"

    async def endpoint(request: Request) -> Response:
        partial.touch()
        try:
            await read(request)
        finally:
            partial.unlink()
        return PlainTextResponse("never")

    connection = ScriptedConnection(
        "POST",
        headers=[FORM_TYPE],
        body=in_chunks(form_of(10_000), 10),
        pause=0.002,
        leave_after_chunks=3,
        server=server,
    )
    app = RequestCancelationMiddleware(
        Starlette(routes=[Route("/", endpoint, methods=["POST"])]), on_cancel=facts.append
    )
    await run(app, connection, watch)

    assert connection.sent == []
    assert [each.cancel_reason for each in facts] == [CancelationReason.DISCONNECT]
    assert not partial.exists()
    assert [each for each in caplog.records if each.levelno > logging.INFO] == []


@READS
async def test_a_timeout_during_an_upload_is_a_504(
    anyio_backend: object, watch: Watch, read: Read
) -> None:
    """W7: the client is still there, and is told."""
    stopped: list[bool] = []

    async def endpoint(request: Request) -> Response:
        try:
            await read(request)
        finally:
            stopped.append(True)
        return PlainTextResponse("never")

    connection = ScriptedConnection(
        "POST", headers=[FORM_TYPE], body=in_chunks(form_of(10_000), 10), pause=0.05
    )
    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    await run(RequestCancelationMiddleware(app, default_timeout=0.12), connection, watch)

    assert stopped == [True]
    assert connection.status == 504
    assert connection.starts == 1


async def test_a_timeout_of_a_handler_in_a_thread_is_a_504(
    anyio_backend: object, watch: Watch
) -> None:
    """W7: when its thread has ended; what the handler returned is not sent."""

    def endpoint(request: Request) -> Response:
        anyio.from_thread.run(anyio.sleep, 0.1)
        return PlainTextResponse("too late")

    async def shielded(seconds: float) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(seconds)

    def stuck(request: Request) -> Response:
        anyio.from_thread.run(shielded, 0.1)
        return PlainTextResponse("too late")

    for handler in (endpoint, stuck):
        connection = ScriptedConnection()
        app = Starlette(routes=[Route("/", handler)])
        await run(RequestCancelationMiddleware(app, default_timeout=0.03), connection, watch)

        assert connection.status == 504
        assert connection.starts == 1
