"""A source that fires when the machine runs short of something."""

from __future__ import annotations

from datetime import timedelta
from types import ModuleType

from ._condition import ConditionSource


class ResourceConditionSource(ConditionSource):
    """Fire when memory, processor or disk are used beyond a threshold.

    It needs psutil, which ``pip install cancelable-core[resources]`` brings.
    """

    def __init__(
        self,
        memory_threshold: float | None = None,
        cpu_threshold: float | None = None,
        disk_threshold: float | None = None,
        check_interval: float | timedelta = 5.0,
        name: str | None = None,
        *,
        disk_path: str = "/",
    ) -> None:
        """Make a source.

        Args:
            memory_threshold: Percent of the machine's memory in use.
            cpu_threshold: Percent of the processors' time in use since the last question.
            disk_threshold: Percent of the disk in use.
            check_interval: Seconds between two questions.
            name: A name for people.
            disk_path: A path on the disk that is meant.

        Raises:
            ImportError: If psutil is not installed.
            TypeError: If a threshold is no number.
            ValueError: If there is no threshold, or one is not between 0 and 100.
        """
        try:
            import psutil
        except ImportError as error:
            msg = "ResourceConditionSource needs psutil: install `cancelable-core[resources]`"
            raise ImportError(msg) from error
        self.memory_threshold: float | None = _percent(memory_threshold, "memory_threshold")
        self.cpu_threshold: float | None = _percent(cpu_threshold, "cpu_threshold")
        self.disk_threshold: float | None = _percent(disk_threshold, "disk_threshold")
        if memory_threshold is cpu_threshold is disk_threshold is None:
            msg = "give at least one of `memory_threshold`, `cpu_threshold`, `disk_threshold`"
            raise ValueError(msg)
        self.disk_path: str = disk_path
        self._psutil: ModuleType = psutil
        self._exceeded: str = ""
        if cpu_threshold is not None:
            psutil.cpu_percent()  # the first answer of psutil is a meaningless zero
        super().__init__(self._is_exceeded, check_interval, "resources", name, in_thread=True)

    def describe(self) -> str:
        """Return the message of the cancelation: which threshold, and the figure."""
        return self._exceeded

    def _is_exceeded(self) -> bool:
        for what, used, threshold in (
            ("memory", self._memory, self.memory_threshold),
            ("cpu", self._cpu, self.cpu_threshold),
            ("disk", self._disk, self.disk_threshold),
        ):
            if threshold is None:
                continue
            percent = used()
            if percent >= threshold:
                self._exceeded = f"{what} in use: {percent:g} % (threshold {threshold:g} %)"
                return True
        return False

    def _memory(self) -> float:
        return float(self._psutil.virtual_memory().percent)

    def _cpu(self) -> float:
        return float(self._psutil.cpu_percent())

    def _disk(self) -> float:
        return float(self._psutil.disk_usage(self.disk_path).percent)


def _percent(value: float | None, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = f"`{name}` must be a number of percent, not {value!r}"
        raise TypeError(msg)
    if not 0 <= value <= 100:
        msg = f"`{name}` must be between 0 and 100 percent, not {value!r}"
        raise ValueError(msg)
    return float(value)
