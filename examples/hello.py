"""A FastAPI app whose work stops when nobody waits for it any more.

Serve it with ``uvicorn hello:app``, call ``/report``, and close the tab.
"""

import anyio
from fastapi import FastAPI

from cancelable_fastapi import RequestCancelationMiddleware

app = FastAPI()
app.add_middleware(RequestCancelationMiddleware, default_timeout=30)


@app.get("/report")
async def report() -> dict[str, str]:
    try:
        await anyio.sleep(20)  # a query, a model, an upstream call
        return {"report": "done"}
    finally:
        print("the handler has ended")  # at once if the client hangs up
