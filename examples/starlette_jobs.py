"""Jobs that go on when their request is over, for Starlette: followed and cancelled by id.

Serve it with ``uvicorn starlette_jobs:app``; ``Authorization: Bearer ann`` (or ``bob``) signs in.
``POST /reports?title=2026`` starts a job and answers with its address below ``/operations``. Nobody
sees or cancels a job of somebody else: it looks as if there were none.
"""

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cancelable import current_operation
from cancelable_starlette import RequestCancelationMiddleware, operations_routes

PAGES = 200
USERS = {"ann", "bob"}  # a real program checks a signature here


async def signed_in(request: Request) -> str:
    scheme, _, user = request.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or user not in USERS:
        raise HTTPException(401, "sign in first", {"WWW-Authenticate": "Bearer"})
    return user


async def owner(request: Request) -> dict[str, str]:
    return {"owner": await signed_in(request)}


operations = operations_routes(authorize=signed_in, owner=owner)


async def start_report(request: Request) -> Response:
    title = request.query_params.get("title", "untitled")
    return await operations.start(request, make_report, title, name="report", timeout=60)


async def make_report(title: str) -> None:
    job = current_operation()
    assert job is not None
    for page in range(1, PAGES + 1):
        await anyio.sleep(0.1)  # a page of work
        await job.report_progress(f"{title}: page {page} of {PAGES}", {"page": page})


app = Starlette(
    routes=[Route("/reports", start_report, methods=["POST"]), *operations],
    middleware=[Middleware(RequestCancelationMiddleware)],
)
