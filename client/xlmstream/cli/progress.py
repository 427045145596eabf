"""A progress line for long input, on standard error, for a person whose results go elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

# Work that is done sooner needs no line; then one look at the clock for each result is all it costs.
PATIENCE_S = 0.5
EVERY_S = 0.1


class Progress:
    """Counts results; a context manager, so that its line is gone in the end."""

    def __init__(self) -> None:
        # On one terminal a line that is written again and again would tear the results apart.
        self._shown = sys.stderr.isatty() and not sys.stdout.isatty()
        self._began = time.monotonic()
        self._next = self._began + PATIENCE_S
        self._done = self._failed = 0
        self._written = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._written:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def count(self, *, failed: bool) -> None:
        """One more result."""
        self._done += 1
        self._failed += failed
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + EVERY_S
        self._written = True
        rate = self._done / (now - self._began)
        failures = f", {self._failed} failed" if self._failed else ""
        print(f"\r\033[K{self._done} done, {rate:.0f}/s{failures}", end="", file=sys.stderr, flush=True)
