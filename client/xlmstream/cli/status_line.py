"""One line on standard error that tells how far something is: written over itself on a terminal, rarely in a log."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

# On a terminal a line is written at most so often.
EVERY_S = 0.1
# In a log: the first after this, then ever more rarely, so that a day of work is some hundred lines.
LOG_FIRST_S = 10.0
LOG_GROWTH = 1.1
LOG_RAREST_S = 600.0
BAR_CHARS = 24


class StatusLine:
    """Shows texts; a context manager, so that nothing of it is left on the terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._pause_s = 0.0 if self._terminal else LOG_FIRST_S
        self._next = time.monotonic() + self._pause_s
        self._written = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, text: Callable[[], str]) -> None:
        """Show what `text` gives, if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        if self._terminal:
            self._next = now + EVERY_S
            self._written = True
            print(f"\r\033[K{_fitted(text())}", end="", file=sys.stderr, flush=True)
        else:
            self._pause_s = min(self._pause_s * LOG_GROWTH, LOG_RAREST_S)
            self._next = now + self._pause_s
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text()}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays, above the one that is written over."""
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line off a terminal."""
        if self._written:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._written = False


def _fitted(text: str) -> str:
    """As much of a list of figures as the terminal has room for: a line that wraps could not be written over."""
    width = shutil.get_terminal_size().columns - 1
    if len(text) <= width:
        return text
    cut = text[:width]
    return cut.rpartition(", ")[0] or cut


def bar(part: float, chars: int = BAR_CHARS) -> str:
    """A bar for 0 to 1, and the part in percent, which is 100 only when nothing is left."""
    part = min(1.0, max(0.0, part))
    filled, percent = int(part * chars), int(part * 100)
    return f"[{'#' * filled}{'.' * (chars - filled)}] {percent:3d}%"


def duration(seconds: float) -> str:
    """About how long, as a person says it: "45 s", "3 min 10 s", "2 h 05 min", "3 d 4 h"."""
    whole = max(0, round(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"
