"""Sources made of sources: any of them, or all of them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from functools import partial

import anyio

from .._cause import Cause
from .._reason import CancelationReason
from ._base import CancelationSource, stop_all


class CompositeSource(CancelationSource):
    """Keep several sources, and run each as itself."""

    def __init__(self, sources: Sequence[CancelationSource], name: str | None = None) -> None:
        """Make a source of sources.

        Args:
            sources: One or more sources; they belong to this one from now on.
            name: A name for people.

        Raises:
            TypeError: If one of them is no source, or they come one by one and not as a list.
            ValueError: If there is none.
            RuntimeError: If one of them belongs to somebody else.
        """
        if isinstance(sources, CancelationSource) or not isinstance(sources, Iterable):
            msg = (
                f"`sources` must be one list of sources, as in {type(self).__name__}([first, "
                f"second]), not {sources!r}"
            )
            raise TypeError(msg)
        super().__init__(CancelationReason.MANUAL, name)
        self.sources: list[CancelationSource] = list(sources)
        if not self.sources:
            msg = "`sources` must have at least one source"
            raise ValueError(msg)
        for source in self.sources:
            if not isinstance(source, CancelationSource):
                msg = f"`sources` must be CancelationSources, not {source!r}"
                raise TypeError(msg)
        taken: list[CancelationSource] = []
        try:
            for source in self.sources:
                source.set_cancel_callback(partial(_tell, weakref.ref(self), weakref.ref(source)))
                taken.append(source)
        except RuntimeError:  # one is somebody else's; those before it are free again
            for source in taken:
                source.set_cancel_callback(None)
            raise

    def one_fired(self, source: CancelationSource, cause: Cause) -> None:
        """Take note that one of the sources has fired."""
        raise NotImplementedError

    @property
    def needs_task(self) -> bool:
        """Whether one of the sources needs a task."""
        return any(source.needs_task for source in self.sources)

    async def start_monitoring(self, scope: anyio.CancelScope) -> None:
        """Begin with each source; those that have begun are ended again if one fails."""
        begun: list[CancelationSource] = []
        try:
            for source in self.sources:
                await source.start_monitoring(scope)
                begun.append(source)
        except BaseException:
            await stop_all(begun)
            raise

    async def stop_monitoring(self) -> None:
        """End each source, the last first."""
        await stop_all(self.sources)

    async def run(self) -> None:
        """Run each source that needs a task in one of its own."""
        async with anyio.create_task_group() as tasks:
            for source in self.sources:
                if source.needs_task:
                    tasks.start_soon(source.run)


class AnyOfSource(CompositeSource):
    """Fire as soon as one of several sources fires; its cause is kept."""

    def __init__(self, sources: Sequence[CancelationSource], name: str | None = None) -> None:
        """Make a source of sources; see ``CompositeSource``."""
        self._fired: list[tuple[CancelationSource, Cause]] = []
        super().__init__(sources, name)

    @property
    def triggered_source(self) -> CancelationSource | None:
        """The source that fired first."""
        # Looked up by the cause that counts: threads that fire two sources at once come in here
        # and into `fire` in any order.
        causes = self._causes
        return next((source for source, cause in self._fired if cause in causes[:1]), None)

    def one_fired(self, source: CancelationSource, cause: Cause) -> None:
        """Fire with the cause of the first source."""
        self._fired.append((source, cause))
        self.fire(cause)


class AllOfSource(CompositeSource):
    """Fire when all of several sources have fired; the cause of the last one is kept.

    One that fails fires it at once, with its error as the cause.
    """

    def __init__(self, sources: Sequence[CancelationSource], name: str | None = None) -> None:
        """Make a source of sources; see ``CompositeSource``."""
        self.triggered_sources: set[CancelationSource] = set()
        super().__init__(sources, name)

    def one_fired(self, source: CancelationSource, cause: Cause) -> None:
        """Fire with this cause if it was the last one missing, or if the source has failed.

        One that has failed will never say what it was to say, so nothing is left to wait for.
        Two threads that fire the last two sources at once may both find the set complete;
        the source fires once all the same.
        """
        self.triggered_sources.add(source)
        is_complete = len(self.triggered_sources) == len(self.sources)
        if is_complete or cause.reason is CancelationReason.ERROR:
            self.fire(cause)


def _tell(
    known: weakref.ref[CompositeSource], part: weakref.ref[CancelationSource], cause: Cause
) -> None:
    """Tell a composite, which keeps its parts alive and not the other way round."""
    whole, source = known(), part()
    if whole is not None and source is not None:
        whole.one_fired(source, cause)
