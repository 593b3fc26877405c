"""A language model that stops, and stops costing, when its reader closes the tab.

Serve it with ``uvicorn fastapi_llm:app`` and look with ``curl -N localhost:8000/chat/1``. What the
model has said until then is kept: ask for it with ``curl localhost:8000/conversations/1``.
"""

from collections.abc import AsyncIterator

import anyio
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from cancelable_fastapi import RequestCancelationMiddleware, cancelable_streaming_response

app = FastAPI()
app.add_middleware(RequestCancelationMiddleware)

SECONDS = 0.05  # for a token
WORDS = "it was a bright cold day in april and the clocks were striking thirteen".split() * 20

conversations: dict[str, dict[str, object]] = {}


class Model:
    """A model of somebody else's, which is paid by the token."""

    def __init__(self) -> None:
        self.paid = 0

    async def answer(self) -> AsyncIterator[str]:
        try:
            for word in WORDS:
                await anyio.sleep(SECONDS)
                self.paid += 1
                yield word
        finally:
            print(f"the model has stopped after {self.paid} tokens")


@app.get("/chat/{conversation}")
async def chat(conversation: str) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        model = Model()
        said: list[str] = []
        try:
            async for token in model.answer():
                said.append(token)
                yield f"data: {token}\n\n"
        finally:
            # Nothing here waits, so that a cancelation does not cut it short.
            conversations[conversation] = {"text": " ".join(said), "paid": model.paid}

    # The response closes the generator, and the model's inside it, before the request ends.
    return cancelable_streaming_response(events())


@app.get("/conversations/{conversation}")
async def conversation(conversation: str) -> dict[str, object]:
    return conversations[conversation]
