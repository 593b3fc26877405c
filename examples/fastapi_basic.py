"""An endpoint that takes the Cancelable of its request as a dependency.

Serve it with ``uvicorn fastapi_basic:app``. The work stops when the client hangs up, also without
the middleware.
"""
# mypy: disable-error-code="no-untyped-def"

import anyio
from fastapi import Depends, FastAPI

from cancelable import Cancelable
from cancelable_fastapi import cancelable_dependency

app = FastAPI()

SECONDS = 20.0  # what the pretended work takes


async def process_data() -> str:
    print("process_data has begun")
    try:
        await anyio.sleep(SECONDS)
    except anyio.get_cancelled_exc_class():
        print("process_data is cancelled")
        raise
    return "processed"


@app.get("/long-operation")
async def long_operation(cancel: Cancelable = Depends(cancelable_dependency)):
    async with cancel:
        # Your long-running operation here
        result = await process_data()
        return {"result": result}
