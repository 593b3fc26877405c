"""An endpoint whose work may take 30 seconds, and not as long as its client would like.

Serve it with ``uvicorn fastapi_timeout:app``. The timeout is the server's business: a client has
no way to set it. With the middleware a timeout is answered with a 504; without it, it is an error
of the endpoint like any other, a 500, unless the endpoint has a ``with_cancelation`` or answers
itself, as in ``fastapi_errors.py``.
"""
# mypy: disable-error-code="no-untyped-def"

import anyio
from fastapi import Depends, FastAPI

from cancelable import Cancelable
from cancelable_fastapi import cancelable_dependency

app = FastAPI()

SECONDS = 20.0  # what the pretended work takes


async def long_computation() -> dict[str, int]:
    print("long_computation has begun")
    try:
        await anyio.sleep(SECONDS)
    except anyio.get_cancelled_exc_class():
        print("long_computation is cancelled")
        raise
    return {"answer": 42}


# Create a custom dependency with timeout
def get_cancelable_30s():
    return cancelable_dependency(timeout=30.0)


@app.get("/timeout-operation")
async def timeout_operation(cancel: Cancelable = Depends(get_cancelable_30s)):
    async with cancel:
        # This operation will timeout after 30 seconds
        return await long_computation()
