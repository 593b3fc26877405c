"""Streamed responses that ask now and then whether their client is still there.

Serve it with ``uvicorn fastapi_streaming:app``. They need not ask: the block is cancelled when the
client leaves. ``/streaming-response`` sleeps as asyncio programs do; its twin runs on Trio as well.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import asyncio

import anyio
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from starlette.requests import Request

from cancelable import Cancelable
from cancelable_fastapi import cancelable_dependency

app = FastAPI()


@app.get("/streaming-response")
async def streaming_response(request: Request, cancel: Cancelable = Depends(cancelable_dependency)):
    async def generate():
        async with cancel:
            for i in range(100):
                # Check if client disconnected
                if await request.is_disconnected():
                    await cancel.cancel()
                    break

                yield f"data: Item {i}\n\n"
                await asyncio.sleep(0.1)

    return StreamingResponse(generate(), media_type="text/event-stream")


@app.get("/on-any-loop")
async def on_any_loop(request: Request, cancel: Cancelable = Depends(cancelable_dependency)):
    async def generate():
        async with cancel:
            for i in range(100):
                if await request.is_disconnected():
                    await cancel.cancel()
                    break

                yield f"data: Item {i}\n\n"
                await anyio.sleep(0.1)

    return StreamingResponse(generate(), media_type="text/event-stream")
