"""Jobs that go on when their request is over: who started one can follow and cancel it.

Serve it with ``uvicorn fastapi_jobs:app``; ``Authorization: Bearer ann`` (or ``bob``) signs in.
``POST /reports`` starts a job and answers with its address below ``/operations``. Nobody sees or
cancels a job of somebody else: it looks as if there were none.
"""

from typing import Annotated

import anyio
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from cancelable import current_operation
from cancelable_fastapi import (
    OperationStarter,
    RequestCancelationMiddleware,
    operations_router,
)

PAGES = 200
USERS = {"ann", "bob"}  # a real program checks a signature here

bearer = HTTPBearer()


async def signed_in(
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)],
) -> str:
    if credentials.credentials not in USERS:
        raise HTTPException(401, "sign in first")
    return credentials.credentials


async def owner(user: Annotated[str, Depends(signed_in)]) -> dict[str, str]:
    return {"owner": user}


operations = operations_router(authorize=signed_in, owner=owner)

app = FastAPI()
app.add_middleware(RequestCancelationMiddleware)
app.include_router(operations)


@app.post("/reports", status_code=202)
async def start_report(
    start: Annotated[OperationStarter, Depends(operations.start)], title: str
) -> JSONResponse:
    return await start(make_report, title, name="report", timeout=60)


async def make_report(title: str) -> None:
    job = current_operation()
    assert job is not None
    for page in range(1, PAGES + 1):
        await anyio.sleep(0.1)  # a page of work
        await job.report_progress(f"{title}: page {page} of {PAGES}", {"page": page})
