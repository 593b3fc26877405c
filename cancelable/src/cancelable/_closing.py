"""What is closed where the ``async with`` around it ends."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Self


class SelfClosing(abc.ABC):
    """Be a context manager that closes itself."""

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Close it, in the calling task."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.aclose()
