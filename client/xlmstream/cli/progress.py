"""A progress line for long input, on standard error, for a person whose results go elsewhere."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from xlmstream.cli.status_line import bar

# Work that is done sooner needs no line; then one look at the clock for each result is all it costs.
PATIENCE_S = 0.5
EVERY_S = 0.1


def lines_of_stdin() -> int | None:
    """How many lines standard input holds from here on, where it is a file; None where nobody can know.

    What is read from it afterwards is not disturbed.
    """
    try:
        number = sys.stdin.fileno()
        if not stat.S_ISREG(os.fstat(number).st_mode):
            return None
        at = os.lseek(number, 0, os.SEEK_CUR)
    except (OSError, ValueError):  # not a file of the operating system
        return None
    lines, last = 0, b"\n"
    while block := os.pread(number, 1 << 20, at):
        lines, at, last = lines + block.count(b"\n"), at + len(block), block[-1:]
    return lines + (last != b"\n")


class Progress:
    """Counts results; a context manager, so that its line is gone in the end.

    `total` tells how many there will be, or None; it is asked only if the line is shown at all.
    """

    def __init__(self, total: Callable[[], int | None]) -> None:
        # On one terminal a line that is written again and again would tear the results apart.
        self._shown = sys.stderr.isatty() and not sys.stdout.isatty()
        self._total = total() if self._shown else None
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
        print(f"\r\033[K{self._line(now - self._began)}", end="", file=sys.stderr, flush=True)

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        failures = f", {self._failed} failed" if self._failed else ""
        if not self._total:
            return f"{self._done} done, {rate:.0f}/s{failures}"
        part = min(1.0, self._done / self._total)  # lines without text count as lines, not as results
        left_s = max(0, self._total - self._done) / rate
        return f"{bar(part)}  {self._done} of {self._total}, {rate:.0f}/s, {left_s:.0f} s left{failures}"
