"""A request to another server that is closed when its own client leaves.

It needs ``httpx``. Serve it with ``UPSTREAM=https://example.org uvicorn fastapi_upstream:app``.
httpx is cancelled like any other code: it closes its connection, so that the other server can stop
as well.
"""

import os

import httpx
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from cancelable_fastapi import RequestCancelationMiddleware

UPSTREAM = os.environ.get("UPSTREAM", "http://127.0.0.1:9000")

app = FastAPI()
app.add_middleware(RequestCancelationMiddleware, default_timeout=60)


@app.get("/weather")
async def weather() -> PlainTextResponse:
    async with httpx.AsyncClient(timeout=None) as client:
        answer = await client.get(f"{UPSTREAM}/weather")
    return PlainTextResponse(answer.text, answer.status_code)
