"""Background tasks that can be cancelled by an id."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVarTuple, cast

from starlette.background import BackgroundTask

from cancelable import Cancelable, CancelationError, OperationRegistry

from ._settings import duration

Args = TypeVarTuple("Args")


class CancelableBackgroundTask(BackgroundTask):
    """A background task whose operation is listed from now on; see ``cancelable_background``.

    Attributes:
        operation: The operation. It belongs to no request, and ends with the task.
    """

    def __init__(self, func: Callable[..., Any], args: tuple[Any, ...], job: Cancelable) -> None:
        """Make a task that runs once.

        Args:
            func: The function, plain or async.
            args: Its arguments.
            job: The operation, which nobody has entered.
        """
        super().__init__(func, *args)
        self.operation = job

    @property
    def operation_id(self) -> str:
        """The id by which the task can be cancelled, also before it begins."""
        return self.operation.operation_id

    async def __call__(self) -> None:
        """Run the task, unless it was cancelled before; that it was is no error.

        Raises:
            Exception: What the function raised.
        """
        func = cast(Callable[..., object], self.func)
        call = functools.partial(func, *self.args)
        try:
            async with self.operation as job:
                await job.check_cancelation()
                if self.is_async:
                    await cast(Awaitable[object], call())
                else:
                    # A lambda that calls an async function is no async function itself. In a
                    # tuple: Trio lets no coroutine out of a thread.
                    (answer,) = await job.run_in_thread(lambda: (call(),))
                    if inspect.isawaitable(answer):
                        await answer
        except CancelationError as error:
            if error.operation_id != self.operation_id:
                raise


def cancelable_background(
    func: Callable[[*Args], object],
    *args: *Args,
    operation_id: str | None = None,
    name: str | None = None,
    timeout: float | timedelta | None = None,
    metadata: Mapping[str, object] | None = None,
    grace: float | timedelta | None = None,
) -> CancelableBackgroundTask:
    """Make a background task that can be cancelled by its id, also before it begins.

    It goes where a ``BackgroundTask`` goes, and among others::

        job = cancelable_background(render, report)
        return JSONResponse({"id": job.operation_id}, 202, background=job)

        tasks.add_task(cancelable_background(render, report))

    A client that leaves does not touch it. When it is cancelled, nothing is raised and nothing is
    logged above INFO, and tasks behind it still run.

    Args:
        func: The function, plain or async. A plain one runs in a thread, which cannot be
            interrupted: it has to ask ``check_cancelation_sync()`` now and then.
        args: Its arguments; keyword arguments go in with ``functools.partial``.
        operation_id: An id of your own; unguessable by default.
        name: A name for people; the function's own unless it is given.
        timeout: Seconds that the task may run.
        metadata: Facts to go with it, such as its owner.
        grace: Seconds that the task may run on after it was asked to stop.

    Raises:
        TypeError: If the function cannot be called, or a setting is of the wrong kind.
        ValueError: If a setting is not above zero, or not finite.
    """
    task = unlisted_job(
        func,
        *args,
        operation_id=operation_id,
        name=name,
        timeout=timeout,
        metadata=metadata,
        grace=grace,
    )
    OperationRegistry.current().register(task.operation)
    return task


def unlisted_job(
    func: Callable[[*Args], object],
    *args: *Args,
    operation_id: str | None,
    name: str | None,
    timeout: float | timedelta | None,
    metadata: Mapping[str, object] | None,
    grace: float | timedelta | None,
) -> CancelableBackgroundTask:
    """Make a task that is in no registry yet; see ``cancelable_background``."""
    if not callable(func):
        msg = f"`func` must be a function, not {func!r}"
        raise TypeError(msg)
    job = Cancelable.with_timeout(
        None if timeout is None else duration(timeout, "timeout"),
        operation_id,
        name or getattr(func, "__name__", None) or type(func).__name__,
        parent=None,
        metadata=metadata,
        grace=grace,
    )
    return CancelableBackgroundTask(func, args, job)
