"""An app whose operations belong to their users."""

from __future__ import annotations

from typing import Annotated

import anyio
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse

from cancelable import OperationRegistry, current_operation
from cancelable.bus import CancelBus, InMemoryBus
from cancelable_fastapi import OperationsRouter, OperationStarter, operations_router
from tests.fastapi.support import LIMIT, Setup, application
from tests.starlette.visited import Visited


async def signed_in(user: Annotated[str | None, Header()] = None) -> str:
    if user is None:
        raise HTTPException(401, "sign in first")
    return user


async def owner(user: Annotated[str, Depends(signed_in)]) -> dict[str, str]:
    return {"owner": user}


class Office(Visited):
    """An app whose operations belong to their users, and one operation that goes on for ever."""

    limit = LIMIT

    def __init__(
        self,
        setup: Setup = "alone",
        bus: CancelBus | None = None,
        router: OperationsRouter | None = None,
    ) -> None:
        self.bus = bus or InMemoryBus(OperationRegistry())
        self.router = router or operations_router(authorize=signed_in, owner=owner, bus=self.bus)
        self.app: FastAPI = application(setup)
        self.app.include_router(self.router)
        self.begun = anyio.Event()
        self.go_on = anyio.Event()
        self.ended = anyio.Event()

        async def start(
            operation_id: str | None = None,
            start: OperationStarter = Depends(self.router.start),
        ) -> JSONResponse:
            return await start(
                self.work, "x", operation_id=operation_id, name="work", metadata={"room": 7}
            )

        self.app.post("/work", status_code=202)(start)

    async def work(self, text: str) -> str:
        operation = current_operation()
        assert operation is not None
        try:
            await operation.report_progress(f"{text} has begun", {"step": 1})
            self.begun.set()
            await self.go_on.wait()
            await operation.report_progress(f"{text} is done", {"step": 2})
            return text
        finally:
            self.ended.set()
