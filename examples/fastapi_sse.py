"""Server-sent events that end with their client.

Serve it with ``uvicorn fastapi_sse:app`` and look with ``curl -N``. The generator is cancelled and
closed as soon as the client leaves, also while it sleeps.
"""
# ruff: noqa: F841
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import anyio
from fastapi import FastAPI

from cancelable import Cancelable
from cancelable_fastapi import cancelable_streaming_response

app = FastAPI()


@app.get("/stream/progress/{job_id}")
async def stream_progress(job_id: str):
    async def generate():
        async with Cancelable(name=f"stream_{job_id}") as cancel:
            for i in range(100):
                # Checks cancelation before each event
                yield f"data: Processing {i}/100\n\n"
                await anyio.sleep(0.5)

    return cancelable_streaming_response(generate())
