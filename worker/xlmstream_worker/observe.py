"""What a worker tells of itself: log entries of an event with its figures, as text or JSON.

Entries hold ids, counts, times and reasons; never a text, a token, a secret or a broker's password.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Literal

Figure = str | int | float | bool


def fields(**figures: Figure) -> dict[str, dict[str, Figure]]:
    """The figures of an entry: `log.info("taken", extra=fields(rows=3))`."""
    return {"figures": figures}


def where(error: BaseException) -> str:
    """The kind of an exception and the places it went through; not its message, which may quote a request."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at " + " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(frames))


def set_up(level: Literal["debug", "info", "warning", "error"], form: Literal["text", "json"]) -> None:
    """Send this process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        figures = " ".join(f"{key}={value}" for key, value in getattr(record, "figures", {}).items())
        return f"{_stamp(record)} {record.levelname.lower():7} {record.getMessage()} {figures}".rstrip()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        return json.dumps(entry | getattr(record, "figures", {}), ensure_ascii=False)


def _stamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
