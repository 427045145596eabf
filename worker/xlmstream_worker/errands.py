"""A thread that runs functions one after another: urgent ones first, and bulk ones when there is nothing else, or now
and then in any case."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Errand = Callable[[], None]

# After so many urgent errands in a row a bulk one has its turn.
URGENT_IN_A_ROW = 8


class Errands:
    """The thread starts with the first errand and ends with `close`. An exception that leaves an errand is a defect and
    ends the thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._urgent: deque[Errand] = deque()
        self._bulk: deque[Errand] = deque()
        self._in_a_row = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, errand: Errand, *, bulk: bool = False) -> None:
        """Have a function run; after `close` it never will."""
        with self._changed:
            (self._bulk if bulk else self._urgent).append(errand)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Drop what has not begun."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while (errand := self._next()) is not None:
            errand()

    def _next(self) -> Errand | None:
        with self._changed:
            self._changed.wait_for(lambda: self._urgent or self._bulk or self._closed)
            if self._closed:
                return None
            if self._urgent and not (self._bulk and self._in_a_row >= URGENT_IN_A_ROW):
                self._in_a_row += 1
                return self._urgent.popleft()
            self._in_a_row = 0
            return self._bulk.popleft()
