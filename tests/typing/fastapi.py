"""What type checkers see of the FastAPI adapter; never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, assert_type

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse

from cancelable import Cancelable, CancelationToken
from cancelable.bus import CancelBus, InMemoryBus
from cancelable_fastapi import (
    CANCELATION_RESPONSES,
    CancelableAPIRoute,
    CancelableBackgroundTask,
    CancelableDep,
    CancelableStreamingResponse,
    CancelableWebSocket,
    OperationsRouter,
    OperationStarter,
    RequestCancelationMiddleware,
    TokenDep,
    cancelable_background,
    cancelable_dependency,
    cancelable_streaming_response,
    get_request_operation,
    get_request_token,
    operations_router,
    with_cancelation,
)

app = FastAPI()
app.add_middleware(RequestCancelationMiddleware, default_timeout=30)
router = APIRouter(route_class=CancelableAPIRoute, responses=CANCELATION_RESPONSES)

# --- Dependencies ----------------------------------------------------------------------------

assert_type(cancelable_dependency(), Cancelable)
assert_type(cancelable_dependency(timeout=30.0), Cancelable)


def get_cancelable_30s() -> Cancelable:
    return cancelable_dependency(timeout=30.0)


async def by_default(cancel: Cancelable = Depends(cancelable_dependency)) -> int:
    async with cancel as entered:
        assert_type(entered, Cancelable)
        return 1  # the block swallows nothing, so that no other return is asked for


async def by_annotation(cancel: CancelableDep, token: TokenDep, request: Request) -> None:
    assert_type(cancel, Cancelable)
    assert_type(token, CancelationToken)
    assert_type(get_request_token(request), CancelationToken)
    assert_type(get_request_operation(request), Cancelable | None)


# --- The decorator ---------------------------------------------------------------------------


@with_cancelation
async def bare(number: int, name: str = "x") -> list[int]:
    return [number]


@with_cancelation(timeout=5, on_disconnect="continue")
async def with_arguments(number: int) -> list[int]:
    return [number]


@with_cancelation
def plain(number: int) -> str:
    return str(number)


async def calls() -> None:
    assert_type(await bare(1, name="y"), list[int])
    assert_type(await with_arguments(1), list[int])
    assert_type(plain(1), str)
    as_it_was: Callable[[int], Awaitable[list[int]]] = with_arguments
    await as_it_was(1)


# --- Responses, sockets and jobs -------------------------------------------------------------


async def words() -> AsyncIterator[str]:
    yield "data: x\n\n"


assert_type(cancelable_streaming_response(words()), CancelableStreamingResponse)


async def talk(websocket: WebSocket) -> None:
    async with Cancelable.with_timeout(300.0) as cancel:
        socket = CancelableWebSocket(websocket, cancel)
        assert_type(await socket.receive_text(), str)


async def render(pages: int, title: str) -> bytes:
    return title.encode() * pages


def add(tasks: BackgroundTasks) -> None:
    task = cancelable_background(render, 3, "x", timeout=10)
    assert_type(task, CancelableBackgroundTask)
    assert_type(task.operation_id, str)
    tasks.add_task(task)


async def owner() -> dict[str, str]:
    return {"owner": "ann"}


operations = operations_router(authorize=owner, owner=owner, bus=InMemoryBus())
assert_type(operations, OperationsRouter)
assert_type(operations.desk.bus, CancelBus)


async def start_report(
    start: Annotated[OperationStarter, Depends(operations.start)],
) -> JSONResponse:
    answer = await start(render, 3, "x", name="report")
    assert_type(answer, JSONResponse)
    return answer


async def mistakes(start: OperationStarter) -> None:
    # Each of these is an error, and a checker that does not say so says that the comment is idle.
    await start(render, "3", "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await start(render, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cancelable_dependency(timeout="30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with_cancelation(until="never")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
