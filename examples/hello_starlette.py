"""A Starlette app whose work stops when nobody waits for it any more.

Serve it with ``uvicorn hello_starlette:app``, call ``/report``, and close the tab.
"""

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cancelable_starlette import RequestCancelationMiddleware


async def report(request: Request) -> JSONResponse:
    try:
        await anyio.sleep(20)  # a query, a model, an upstream call
        return JSONResponse({"report": "done"})
    finally:
        print("the handler has ended")  # at once if the client hangs up


app = Starlette(
    routes=[Route("/report", report)],
    middleware=[Middleware(RequestCancelationMiddleware, default_timeout=30)],
)
