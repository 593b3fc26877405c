"""An endpoint that answers a timeout with a status of its own.

Serve it with ``uvicorn fastapi_errors:app``. A client that leaves reaches the last ``except`` only
without the middleware; nobody is there to read that answer.
"""
# mypy: disable-error-code="no-untyped-def"

import anyio
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse

from cancelable import Cancelable, TimeoutCancelation
from cancelable_fastapi import cancelable_dependency

app = FastAPI()

SECONDS = 20.0  # what the pretended work takes
LIMIT = 10.0  # what it may take


async def some_operation() -> str:
    print("some_operation has begun")
    try:
        async with Cancelable.with_timeout(LIMIT):
            await anyio.sleep(SECONDS)
    except anyio.get_cancelled_exc_class():
        print("some_operation is cancelled")
        raise
    return "done"


@app.get("/with-error-handling")
async def with_error_handling(cancel: Cancelable = Depends(cancelable_dependency)):
    try:
        async with cancel:
            result = await some_operation()
            return {"result": result}
    except TimeoutCancelation:
        return JSONResponse(status_code=408, content={"error": "Operation timed out"})
    except Exception as e:
        return JSONResponse(status_code=500, content={"error": str(e)})
