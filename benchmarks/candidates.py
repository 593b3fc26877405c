"""The middlewares that are measured side by side, each around the same application."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from starlette.types import ASGIApp

NONE = "no middleware"
OURS = "cancelable-starlette"

Wrap = Callable[[ASGIApp], ASGIApp]


def ours(app: ASGIApp) -> ASGIApp:
    from cancelable_starlette import RequestCancelationMiddleware

    return RequestCancelationMiddleware(app)


def middlewares(backend: str = "asyncio") -> dict[str, Wrap]:
    """Return what can be installed here, by name; the first is none at all.

    Two of the peers run on asyncio only.
    """
    found: dict[str, Wrap] = {NONE: lambda app: app, OURS: ours}
    if backend == "asyncio":
        _add(found, "fastapi-disconnect", "fastapi_disconnect", "CancelOnDisconnectMiddleware")
        _add(found, "aiofence", "aiofence.contrib.starlette", "DisconnectMiddleware")
    name = "RequestCancelationMiddleware"
    _add(found, "hother-cancelable", "hother.cancelable.integrations.fastapi", name)
    return found


def _add(found: dict[str, Wrap], package: str, module: str, name: str) -> None:
    try:
        found[package] = getattr(importlib.import_module(module), name)
    except ImportError:
        return
