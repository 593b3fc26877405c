"""An endpoint whose cancelation is answered with the status of its reason.

Serve it with ``uvicorn fastapi_decorator:app``: a timeout is a 504, a manual cancel a 499, a signal
a 503, anything else a 500. ``with_cancelation`` needs no middleware, and leaves the signature and
the OpenAPI document as they are.
"""
# ruff: noqa: F841
# mypy: disable-error-code="no-untyped-def, type-arg"

import anyio
from fastapi import FastAPI

from cancelable import Cancelable
from cancelable_fastapi import with_cancelation

app = FastAPI()

SECONDS = 20.0  # what the pretended work takes


async def long_operation(data: dict) -> dict:
    print("long_operation has begun")
    try:
        await anyio.sleep(SECONDS)
    except anyio.get_cancelled_exc_class():
        print("long_operation is cancelled")
        raise
    return data


@app.post("/process")
@with_cancelation  # Converts cancelation to proper HTTP status
async def process_data(data: dict):
    async with Cancelable.with_timeout(30.0) as cancel:
        result = await long_operation(data)
        return {"result": result}


# If cancelled: automatically returns HTTP 499 (Client Closed Request)
# If timeout: automatically returns HTTP 504 (Gateway Timeout)
