"""Serve the example programs on a real server; started as a program of its own.

Each example stands under several paths: as it is, and in copies that are sped up, so that a test
sees the end of what takes half a minute.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import anyio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from cancelable import Cancelable, CancelationReason, current_operation
from cancelable_fastapi import RequestCancelationMiddleware, cancelable_dependency

EXAMPLES = Path(__file__).parents[2] / "examples"

NAMES = [
    "fastapi_background",
    "fastapi_basic",
    "fastapi_decorator",
    "fastapi_errors",
    "fastapi_middleware",
    "fastapi_sse",
    "fastapi_streaming",
    "fastapi_timeout",
    "fastapi_upload",
    "fastapi_websocket",
]


# --- The copies --------------------------------------------------------------------------


def as_it_is(module: ModuleType) -> None:
    """Change nothing."""


def quick(module: ModuleType) -> None:
    """Let the pretended work take no time."""
    module.__dict__.update(SECONDS=0.0, anyio=faster(anyio), asyncio=faster(asyncio))


def faster(module: Any) -> object:
    """Return a module whose ``sleep`` is over a hundred times as soon."""

    async def sleep(seconds: float) -> None:
        await module.sleep(seconds / 100)

    return SimpleNamespace(**{**vars(module), "sleep": sleep})


class Hurried(Cancelable):
    """A Cancelable whose minutes are fifths of a second."""

    @classmethod
    def with_timeout(cls, timeout: float | timedelta | None, *args: Any, **kwargs: Any) -> Self:
        assert isinstance(timeout, float)
        return super().with_timeout(timeout / 300, *args, **kwargs)


def hurried(module: ModuleType) -> None:
    """Let the time that the work may take be up soon."""
    module.__dict__.update(LIMIT=0.1, Cancelable=Hurried)
    if hasattr(module, "get_cancelable_30s"):
        module.app.dependency_overrides[module.get_cancelable_30s] = soon_over


def soon_over() -> Cancelable:
    return cancelable_dependency(timeout=0.1)


def stopping(module: ModuleType) -> None:
    """Let the work be cancelled for the reason that the client names, or fail."""

    async def long_operation(data: dict[str, str]) -> None:
        operation = current_operation()
        assert operation is not None
        await operation.cancel(CancelationReason(data["reason"]))
        await anyio.sleep_forever()

    async def some_operation() -> None:
        msg = "out of paper"
        raise RuntimeError(msg)

    module.__dict__.update(long_operation=long_operation, some_operation=some_operation)


COPIES: dict[str, Callable[[ModuleType], None]] = {
    "as_it_is": as_it_is,
    "quick": quick,
    "hurried": hurried,
    "stopping": stopping,
}


def load(name: str, copy: str, setup: str) -> ASGIApp:
    spec = importlib.util.spec_from_file_location(f"{copy}_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    COPIES[copy](module)
    app: FastAPI = module.app
    if setup == "middleware":
        app.add_middleware(RequestCancelationMiddleware)
    return app


def all_examples(setup: str) -> ASGIApp:
    """Return all copies of all examples, below ``/copy/example``."""
    pairs = itertools.product(COPIES, NAMES)
    mounts = [Mount(f"/{copy}/{name}", load(name, copy, setup)) for copy, name in pairs]
    return Starlette(routes=mounts)


# --- The servers -------------------------------------------------------------------------


def run_uvicorn(app: ASGIApp, listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(app, lifespan="on", loop="asyncio")
    uvicorn.Server(config).run(sockets=[listener])


def run_hypercorn(app: ASGIApp, listener: socket.socket, backend: str) -> None:
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.errorlog = "-"
    serve: Callable[..., Awaitable[None]]
    if backend == "trio":
        import hypercorn.trio

        serve = hypercorn.trio.serve
    else:
        import hypercorn.asyncio

        serve = hypercorn.asyncio.serve

    async def main() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:

            async def stop() -> None:
                async for _ in signals:
                    return

            await serve(app, config, shutdown_trigger=stop)  # type: ignore[arg-type]

    anyio.run(main, backend=backend)


if __name__ == "__main__":
    kind, setup, descriptor, folder = sys.argv[1:]
    os.chdir(folder)
    # What the tests read: each operation that begins or ends, and what the examples print.
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
    logging.getLogger("cancelable").setLevel(logging.DEBUG)
    listener = socket.socket(fileno=int(descriptor))
    server, _, backend = kind.partition("-")
    if server == "uvicorn":
        run_uvicorn(all_examples(setup), listener)
    else:
        run_hypercorn(all_examples(setup), listener, backend)
