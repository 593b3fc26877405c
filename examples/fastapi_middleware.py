"""An app whose requests can all be cancelled, because of one line.

Serve it with ``uvicorn fastapi_middleware:app``. The middleware watches the client, and the block
in the endpoint becomes part of the request.
"""
# ruff: noqa: F841
# mypy: disable-error-code="no-untyped-def, type-arg"

import anyio
from fastapi import FastAPI

from cancelable import Cancelable
from cancelable_fastapi import RequestCancelationMiddleware

app = FastAPI()

# Add middleware
app.add_middleware(RequestCancelationMiddleware)

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
async def process_data(data: dict):
    # Automatically cancels if client disconnects
    # No need for manual cancelable_dependency
    async with Cancelable(name="process") as cancel:
        result = await long_operation(data)
        return {"result": result}
