"""An upload that leaves nothing behind when it is broken off.

Serve it with ``uvicorn fastapi_upload_cleanup:app`` and send with ``curl -T``. The file gets its
name when it is complete; until then, and never after, there is a partial one beside it.
"""

import uuid
from pathlib import Path as FilePath
from typing import Annotated

import anyio.to_thread
from fastapi import FastAPI, Path, Request

from cancelable_fastapi import CancelableDep

UPLOADS = FilePath("uploads")

app = FastAPI()

Name = Annotated[str, Path(pattern=r"^\w[\w-]*(\.\w+)*$", max_length=100)]


@app.put("/files/{name}", status_code=201)
async def put_file(name: Name, request: Request, cancel: CancelableDep) -> dict[str, int]:
    partial = UPLOADS / f"{uuid.uuid4()}.part"
    size = 0
    async with cancel:
        try:
            # Opened and closed here, since closing must not be something that can be cancelled.
            with partial.open("wb") as file:
                async for chunk in request.stream():
                    await anyio.to_thread.run_sync(file.write, chunk)
                    size += len(chunk)
                    await cancel.report_progress(f"{size} bytes", {"bytes": size})
            partial.replace(UPLOADS / name)
        finally:
            partial.unlink(missing_ok=True)
    return {"size": size}
