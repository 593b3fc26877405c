"""A background task that goes on when its request is over, and is cancelled by its id.

Serve it with ``uvicorn fastapi_background:app``. Under the middleware a cancelled task ends
quietly; without it the server logs the error as that of any background task. ``fastapi_jobs.py`` is
this one grown up: with owners, states, progress, and an end that can be waited for.
"""
# ruff: noqa: F841
# mypy: disable-error-code="no-untyped-def"

import uuid

import anyio
from fastapi import BackgroundTasks, FastAPI

from cancelable import Cancelable, CancelationToken

app = FastAPI()

SECONDS = 20.0  # what the pretended work takes


async def process_large_dataset() -> None:
    print("process_large_dataset has begun")
    try:
        await anyio.sleep(SECONDS)
    except anyio.get_cancelled_exc_class():
        print("process_large_dataset is cancelled")
        raise
    print("process_large_dataset is done")


# Store tokens for background tasks
background_tokens: dict[str, CancelationToken] = {}


@app.post("/start-background-task")
async def start_background_task(background_tasks: BackgroundTasks):
    token = CancelationToken()
    task_id = str(uuid.uuid4())
    background_tokens[task_id] = token

    background_tasks.add_task(background_worker, task_id, token)

    return {"task_id": task_id}


async def background_worker(task_id: str, token: CancelationToken):
    async with Cancelable.with_token(token) as cancel:
        try:
            # Long-running background work
            await process_large_dataset()
        finally:
            # Cleanup
            background_tokens.pop(task_id, None)


@app.post("/cancel-task/{task_id}")
async def cancel_task(task_id: str):
    token = background_tokens.get(task_id)
    if token:
        await token.cancel()
        return {"status": "cancelled"}
    return {"status": "not_found"}
