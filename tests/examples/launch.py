"""Serve the example programs on a real server; started as a program of its own.

Each example stands under several paths: as it is, and in copies that are sped up, so that a test
sees the end of what takes half a minute.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import anyio
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from cancelable import Cancelable, CancelationReason, current_operation
from cancelable_fastapi import RequestCancelationMiddleware, cancelable_dependency

EXAMPLES = Path(__file__).parents[2] / "examples"

# Which copies of an example the tests ask for.
EXAMPLES_SERVED = {
    "fastapi_background": ["as_it_is", "quick"],
    "fastapi_basic": ["as_it_is", "quick"],
    "fastapi_cpu": ["as_it_is"],
    "fastapi_database": ["as_it_is", "quick"],
    "fastapi_decorator": ["as_it_is", "quick", "hurried", "stopping"],
    "fastapi_errors": ["as_it_is", "quick", "hurried", "stopping"],
    "fastapi_jobs": ["as_it_is", "quick"],
    "fastapi_llm": ["as_it_is", "quick"],
    "fastapi_middleware": ["as_it_is", "quick", "stopping"],
    "fastapi_sse": ["as_it_is", "quick"],
    "fastapi_streaming": ["as_it_is", "quick"],
    "fastapi_timeout": ["as_it_is", "quick", "hurried"],
    "fastapi_upload": ["as_it_is"],
    "fastapi_upload_cleanup": ["as_it_is"],
    "fastapi_upstream": ["as_it_is"],
    "fastapi_websocket": ["as_it_is", "hurried"],
    "starlette_jobs": ["as_it_is", "quick"],
}

ASYNCIO_ONLY = {"fastapi_database"}


# --- The copies --------------------------------------------------------------------------


def as_it_is(module: ModuleType) -> None:
    """Change nothing."""


def quick(module: ModuleType) -> None:
    """Let the pretended work take no time."""
    module.__dict__.update(SECONDS=0.0, anyio=Faster(anyio), asyncio=Faster(asyncio))


class Faster:
    """A module whose ``sleep`` is over a hundred times as soon."""

    def __init__(self, module: Any) -> None:
        self._module = module

    async def sleep(self, seconds: float) -> None:
        await self._module.sleep(seconds / 100)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Hurried(Cancelable):
    """A Cancelable whose minutes are tenths of a second."""

    @classmethod
    def with_timeout(cls, timeout: float | timedelta | None, *args: Any, **kwargs: Any) -> Self:
        assert isinstance(timeout, float)
        return super().with_timeout(timeout / 600, *args, **kwargs)


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


def load(name: str, copy: str, setup: str) -> Starlette:
    spec = importlib.util.spec_from_file_location(f"{copy}_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    COPIES[copy](module)
    app: Starlette = module.app
    if setup == "middleware":
        app.add_middleware(RequestCancelationMiddleware)
    return app


def all_examples(kind: str, setup: str) -> ASGIApp:
    """Return all copies of all examples, below ``/copy/example``."""
    names = EXAMPLES_SERVED.keys() - (ASYNCIO_ONLY if kind.endswith("trio") else ())
    apps = {
        f"/{copy}/{name}": load(name, copy, setup)
        for name in names
        for copy in EXAMPLES_SERVED[name]
    }

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        # A mounted app is not told of the start; these are started one after another.
        async with AsyncExitStack() as started:
            for app in apps.values():
                await started.enter_async_context(app.router.lifespan_context(app))
            yield

    return Starlette(routes=[Mount(path, app) for path, app in apps.items()], lifespan=lifespan)


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
    serve: Callable[..., Awaitable[None]] = importlib.import_module(f"hypercorn.{backend}").serve

    async def main() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:

            async def stop() -> None:
                async for _ in signals:
                    return

            await serve(app, config, shutdown_trigger=stop)

    anyio.run(main, backend=backend)


if __name__ == "__main__":
    kind, setup, descriptor, folder = sys.argv[1:]
    os.chdir(folder)
    # What the tests read: each operation that begins or ends, and what the examples tell.
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    for name, level in (("cancelable", logging.DEBUG), ("uploads", logging.INFO)):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(level)
    listener = socket.socket(fileno=int(descriptor))
    server, _, backend = kind.partition("-")
    if server == "uvicorn":
        run_uvicorn(all_examples(kind, setup), listener)
    else:
        run_hypercorn(all_examples(kind, setup), listener, backend)
