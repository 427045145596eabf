"""A thread that listens for new calls while a worker is busy with work that can wait: a job's rows may be slow, but who
calls is served at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from xlmstream_server.broker import Bell, BrokerDown

WAIT_S = 1.0
RETRY_EVERY_S = 0.5


class Listening:
    """Calls `wake` whenever something is submitted, while it is on. `run` is the thread; any may use the rest."""

    def __init__(self, bell: Bell, wake: Callable[[], None]) -> None:
        self._bell = bell
        self._wake = wake
        self._on = threading.Event()
        self._closed = threading.Event()

    def switch(self, on: bool) -> None:
        """Listen, or do not: what is busy with calls looks for more often enough by itself."""
        if on != self._on.is_set():
            (self._on.set if on else self._on.clear)()

    def close(self) -> None:
        """Let the thread end."""
        self._closed.set()
        self._on.set()

    def run(self) -> None:
        """The thread."""
        while self._on.wait() and not self._closed.is_set():
            try:
                if self._bell.wait(WAIT_S):
                    self._wake()
            except BrokerDown:  # the publisher says so
                self._closed.wait(RETRY_EVERY_S)
        self._bell.close()
