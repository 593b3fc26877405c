"""What is sent to the broker: one script with its key and arguments, and who hears the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from .._cursor import Cursor
from .._info import CancelInfo, ProgressInfo
from .._labels import Labels
from .._request import CancelRequest
from . import _scripts as scripts
from ._scripts import Script
from ._settings import DAY, Settings


@dataclass(frozen=True, slots=True)
class Command:
    """Hold one call of a script."""

    script: Script
    key: bytes
    args: tuple[bytes, ...]
    answered: Callable[[object], object]
    """Called in the loop of the bus with the answer, or the error that the broker gave. Not
    called at all if the connection fails first."""


def ignore(answer: object) -> None:
    """Take an answer that nobody needs."""
    del answer


class Commands:
    """Make the commands of one worker in one namespace."""

    def __init__(self, settings: Settings, worker: str) -> None:
        """Make commands in the name of *worker*."""
        self._settings = settings
        self._prefix = settings.prefix
        self._worker = worker

    @property
    def doorbell(self) -> str:
        """The channel on which this worker is rung."""
        return f"{self._prefix}ch:w:{self._worker}"

    def channel(self, operation_id: str) -> str:
        """Return the channel on which changes of an operation are told."""
        return f"{self._prefix}ch:op:{operation_id}"

    def register(
        self,
        operation_id: str,
        *,
        is_pending: bool,
        age: float,
        name: str | None,
        parent: str | None,
        cancel: str,
        labels: Labels,
        answered: Callable[[object], object],
    ) -> Command:
        """Announce a live operation, or announce it again."""
        return self._of(
            scripts.REGISTER,
            f"op:{operation_id}",
            answered,
            operation_id,
            self._worker,
            _ms(DAY),
            str(int(max(age, 0) * 1_000_000)),
            name or "",
            parent or "",
            cancel,
            "pending" if is_pending else "running",
            *_flat(labels),
        )

    def asked(
        self, operation_id: str, cancel: str, answered: Callable[[object], object]
    ) -> Command:
        """Tell that an operation was asked to stop."""
        key = f"op:{operation_id}"
        return self._of(scripts.ASKED, key, answered, operation_id, self._worker, cancel)

    def progress(
        self, operation_id: str, report: str, answered: Callable[[object], object]
    ) -> Command:
        """Tell how far an operation has come."""
        key = f"op:{operation_id}"
        return self._of(scripts.PROGRESS, key, answered, operation_id, self._worker, report)

    def finish(
        self,
        operation_id: str,
        *,
        state: str,
        error: str | None,
        cancel: str,
        answered: Callable[[object], object],
    ) -> Command:
        """Tell how an operation ended; an empty state takes it out."""
        return self._of(
            scripts.FINISH,
            f"op:{operation_id}",
            answered,
            operation_id,
            self._worker,
            _ms(self._settings.retention),
            state,
            error or "",
            cancel,
        )

    def cancel(
        self,
        operation_id: str,
        request: CancelRequest,
        wanted: Labels,
        remember_for: float,
        answered: Callable[[object], object],
    ) -> Command:
        """Ask an operation to stop."""
        return self._of(
            scripts.CANCEL,
            f"op:{operation_id}",
            answered,
            operation_id,
            request_text(request),
            "" if request.grace is None else repr(float(request.grace)),
            _ms(self._settings.lease),
            _ms(remember_for),
            _ms(DAY),
            *_flat(wanted),
        )

    def take(self, answered: Callable[[object], object]) -> Command:
        """Read what this worker's operations were asked."""
        return self._of(scripts.TAKE, f"w:{self._worker}", answered, self._worker)

    def get(
        self, operation_id: str, wanted: Labels, answered: Callable[[object], object]
    ) -> Command:
        """Read the record of an operation."""
        settle = _ms(self._settings.lease)
        return self._of(scripts.GET, f"op:{operation_id}", answered, settle, *_flat(wanted))

    def list(
        self, begin: Cursor, limit: int, wanted: Labels, answered: Callable[[object], object]
    ) -> Command:
        """Read the records of live operations."""
        place = (str(begin.at), begin.id)
        return self._of(scripts.LIST, "ops", answered, *place, str(limit), *_flat(wanted))

    def beat(
        self, number: int, info: str, run: str, answered: Callable[[object], object]
    ) -> Command:
        """Renew the lease, and hear ourselves."""
        return self._of(
            scripts.BEAT,
            f"w:{self._worker}",
            answered,
            self._worker,
            _ms(self._settings.lease),
            info,
            str(number),
            _ms(DAY),
            run,
        )

    def owned(self, answered: Callable[[object], object]) -> Command:
        """Read which operations the broker takes for ours."""
        return self._of(scripts.OWNED, f"wops:{self._worker}", answered)

    def sweep(self, answered: Callable[[object], object]) -> Command:
        """Declare the operations of workers lost that have no lease."""
        lease, kept = _ms(self._settings.lease), _ms(self._settings.lost_retention)
        return self._of(scripts.SWEEP, "ws", answered, lease, kept)

    def leave(self, answered: Callable[[object], object]) -> Command:
        """Give up the lease; what still runs is lost to the others."""
        kept = _ms(self._settings.lost_retention)
        return self._of(scripts.LEAVE, f"w:{self._worker}", answered, self._worker, kept)

    def _of(
        self, script: Script, key: str, answered: Callable[[object], object], *args: str
    ) -> Command:
        prefix = self._prefix
        encoded = (prefix.encode(), *(argument.encode() for argument in args))
        return Command(script, (prefix + key).encode(), encoded, answered)


def request_text(request: CancelRequest) -> str:
    """Return a request as it stands in the record."""
    info = CancelInfo(reason=request.reason, message=request.message, by=request.by)
    return cancel_text(info)


def cancel_text(cancel: CancelInfo | None) -> str:
    """Return the cause of a cancelation as it stands in the record; empty for none."""
    if cancel is None:
        return ""
    return json.dumps(
        {"reason": cancel.reason.value, "message": cancel.message, "by": cancel.by},
        separators=(",", ":"),
    )


def progress_text(progress: ProgressInfo) -> str:
    """Return a report as it stands in the record."""
    return json.dumps(
        {"message": progress.message, "metadata": progress.metadata}, separators=(",", ":")
    )


def _flat(labels: Labels) -> list[str]:
    return [each for pair in labels.items() for each in pair]


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))
