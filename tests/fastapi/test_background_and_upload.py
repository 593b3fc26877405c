"""Work behind a response, and the way of an upload (F3)."""

from __future__ import annotations

import logging

import anyio
import anyio.lowlevel
import pytest
from fastapi import BackgroundTasks, FastAPI, UploadFile

from cancelable import Cancelable, CancelationToken, ManualCancelation
from cancelable_fastapi import CancelableDep, cancelable_background
from cancelable_starlette.testing import ScriptedConnection
from tests.fastapi.support import LIMIT, Setup, application, run

MIB = 1024 * 1024


class Job:
    """A background task that waits until its token is cancelled."""

    def __init__(self) -> None:
        self.token = CancelationToken()
        self.begun = anyio.Event()
        self.ended = anyio.Event()

    async def __call__(self) -> None:
        async with Cancelable.with_token(self.token):
            self.begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                self.ended.set()


def app_with(setup: Setup, *tasks: object) -> FastAPI:
    app = application(setup)

    async def start(background_tasks: BackgroundTasks) -> str:
        for task in tasks:
            assert callable(task)
            background_tasks.add_task(task)
        return "accepted"

    app.post("/")(start)
    return app


async def cancel_when_begun(job: Job) -> None:
    await job.begun.wait()
    await job.token.cancel()


async def test_a_cancelled_background_task_is_quiet_under_the_middleware(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F3, W11: nothing is raised, and nothing is logged above INFO."""
    job = Job()
    connection = ScriptedConnection("POST")
    with caplog.at_level(logging.DEBUG):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_when_begun, job)
            await run(app_with("middleware", job), connection)
    assert (connection.status, connection.body, connection.starts) == (200, b'"accepted"', 1)
    assert job.ended.is_set()
    assert [each for each in caplog.records if each.levelno > logging.INFO] == []


async def test_a_cancelled_background_task_is_an_error_without_the_middleware() -> None:
    """F3: documented; the server logs it, and the client has had its answer."""
    job = Job()
    connection = ScriptedConnection("POST")
    app = app_with("alone", job)
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_when_begun, job)
            with pytest.raises(ManualCancelation):
                await connection.run(app)
    assert (connection.status, connection.complete, connection.starts) == (200, True, 1)
    assert job.ended.is_set()


async def test_a_client_that_leaves_does_not_cancel_the_task_behind_its_answer(
    setup: Setup,
) -> None:
    """F3, W5: it ends when its token is cancelled."""
    finished: list[str] = []
    left = anyio.Event()

    async def work() -> None:
        await left.wait()
        await anyio.lowlevel.checkpoint()
        finished.append("done")

    connection = ScriptedConnection("POST")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, app_with(setup, work), connection)
        with anyio.fail_after(LIMIT):
            while not connection.complete:
                await anyio.lowlevel.checkpoint()
        connection.leave()
        left.set()
    assert finished == ["done"]


async def test_tasks_behind_a_cancelled_one_run_if_it_is_a_cancelable_one(setup: Setup) -> None:
    """F3: with and without the middleware."""
    ran: list[str] = []
    begun = anyio.Event()

    async def work() -> None:
        begun.set()
        await anyio.sleep_forever()

    async def next_one() -> None:
        ran.append("next")

    job = cancelable_background(work)

    async def stop() -> None:
        await begun.wait()
        await job.operation.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop)
        await run(app_with(setup, job, next_one), ScriptedConnection("POST"))
    assert ran == ["next"]


# --- Uploads ---------------------------------------------------------------------------------


def multipart(size: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the headers and the body of an upload of so many bytes."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    body = head + bytes(size) + b"\r\n--x--\r\n"
    return [(b"content-type", b"multipart/form-data; boundary=x")], body


class Uploads:
    """An endpoint that reads an upload in pieces of a MiB, and tells of each."""

    def __init__(self, setup: Setup) -> None:
        self.app = application(setup)
        self.reports: list[tuple[object, object]] = []
        self.stop_after: int | None = None
        self.status = ""
        self.app.post("/upload")(self.upload)

    async def upload(self, file: UploadFile, cancel: CancelableDep) -> dict[str, int]:
        cancel.on_progress(lambda _id, message, facts: self.reports.append((message, facts)))
        size = 0
        try:
            async with cancel:
                while chunk := await file.read(MIB):
                    size += len(chunk)
                    await cancel.report_progress(f"{size} bytes", {"bytes": size})
                    if self.stop_after is not None and size >= self.stop_after:
                        await cancel.cancel()
                        await cancel.check_cancelation()
        finally:
            self.status = cancel.status
        return {"size": size}


@pytest.mark.parametrize("size", [0, 1, MIB, 3 * MIB + 1])
async def test_an_upload_reports_its_progress(setup: Setup, size: int) -> None:
    """F3: in order, once for each piece, up to the whole."""
    uploads = Uploads(setup)
    headers, body = multipart(size)
    chunks = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    connection = ScriptedConnection("POST", "/upload", headers=headers, body=chunks)
    await run(uploads.app, connection)
    assert connection.status == 200
    sizes = [min(at, size) for at in range(MIB, size + MIB, MIB)]
    assert uploads.reports == [(f"{each} bytes", {"bytes": each}) for each in sizes]
    assert uploads.status == "completed"


async def test_an_upload_that_is_cancelled_reports_no_more() -> None:
    """F3, W7: and is answered with the status of the reason."""
    uploads = Uploads("middleware")
    uploads.stop_after = 2 * MIB
    headers, body = multipart(4 * MIB)
    connection = ScriptedConnection("POST", "/upload", headers=headers, body=body)
    await run(uploads.app, connection)
    assert connection.status == 499
    assert [message for message, _facts in uploads.reports] == [f"{n * MIB} bytes" for n in (1, 2)]
    assert uploads.status == "cancelled"


async def test_an_upload_that_is_broken_off_never_reaches_the_endpoint(setup: Setup) -> None:
    """F3, W11: half a file is none, and nothing is raised under the middleware."""
    uploads = Uploads(setup)
    headers, body = multipart(MIB)
    headers.append((b"content-length", str(len(body)).encode()))
    chunks = [body[:65536], body[65536:]]
    connection = ScriptedConnection(
        "POST", "/upload", headers=headers, body=chunks, leave_after_chunks=1
    )
    await run(uploads.app, connection)
    assert uploads.reports == []
    assert uploads.status == ""


async def test_a_body_that_is_broken_off_is_no_bad_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F3, W11: FastAPI, which takes the body apart, does not answer 400, and logs nothing."""
    reached: list[object] = []
    app = application("middleware")

    @app.post("/")
    async def take(body: dict[str, str]) -> None:
        reached.append(body)

    connection = ScriptedConnection(
        "POST",
        headers=[(b"content-type", b"application/json")],
        body=[b'{"a": ', b'"b"}'],
        pause=0.01,
        leave_after_chunks=1,
    )
    with caplog.at_level(logging.WARNING):
        await run(app, connection)

    assert (reached, connection.sent, caplog.records) == ([], [], [])
    assert {m.get("status", 499) for m in connection.discarded} == {499}
