"""The bus of many processes; coredis is imported when the bus is entered."""

from ._bus import RedisBus

__all__ = ["RedisBus"]
