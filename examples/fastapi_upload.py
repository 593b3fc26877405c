"""An upload that reports its progress.

It needs ``python-multipart``. Serve it with ``uvicorn fastapi_upload:app`` in a folder that has a
folder ``uploads``. A real program checks the name first, as ``fastapi_upload_cleanup.py`` does,
which also takes back the file of an upload that was cancelled.
"""
# The file is opened in the loop, as short programs do.
# ruff: noqa: ASYNC230
# mypy: disable-error-code="no-untyped-def"

import logging

from fastapi import Depends, FastAPI, File, UploadFile

from cancelable import Cancelable
from cancelable_fastapi import cancelable_dependency

logger = logging.getLogger("uploads")

app = FastAPI()


@app.post("/upload")
async def upload_file(
    file: UploadFile = File(...), cancel: Cancelable = Depends(cancelable_dependency)
):
    async with cancel:
        cancel.on_progress(lambda op_id, msg, meta: logger.info(f"Upload progress: {msg}"))

        total_size = 0
        chunk_size = 1024 * 1024  # 1MB chunks

        with open(f"uploads/{file.filename}", "wb") as f:
            while chunk := await file.read(chunk_size):
                f.write(chunk)
                total_size += len(chunk)

                await cancel.report_progress(
                    f"Uploaded {total_size} bytes",
                    {"bytes": total_size, "filename": file.filename},
                )

        return {"filename": file.filename, "size": total_size, "status": "completed"}
