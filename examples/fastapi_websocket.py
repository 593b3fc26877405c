"""A conversation over a WebSocket that may last five minutes.

It needs ``websockets``, without which uvicorn serves none. Serve it with ``uvicorn
fastapi_websocket:app``. When its time is up, the socket is closed with the code 3008. A client that
leaves ends the handler; the middleware sees to it that the server logs no error then.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import anyio
from fastapi import FastAPI, WebSocket

from cancelable import Cancelable
from cancelable_fastapi import CancelableWebSocket, RequestCancelationMiddleware

app = FastAPI()
app.add_middleware(RequestCancelationMiddleware)

SECONDS = 0.01  # what the pretended work takes


async def process(data: Any) -> dict[str, Any]:
    print("process has begun")
    try:
        await anyio.sleep(SECONDS)
    except anyio.get_cancelled_exc_class():
        print("process is cancelled")
        raise
    return {"processed": data}


@app.websocket("/ws/{client_id}")
async def websocket_endpoint(websocket: WebSocket, client_id: str):
    await websocket.accept()

    async with Cancelable.with_timeout(300.0) as cancel:
        ws = CancelableWebSocket(websocket, cancel)

        # Send with cancelation checking
        await ws.send_json({"status": "connected"})

        # Receive with cancelation checking
        while True:
            data = await ws.receive_json()

            # Report progress
            await cancel.report_progress(f"Received from {client_id}")

            response = await process(data)
            await ws.send_json(response)
