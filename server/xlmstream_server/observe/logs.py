"""Logs: one JSON object a line (or plain text), each naming the call and the execution it belongs to.

Texts, ids of tokens, resume tokens and URLs with passwords never go into a log; an execution id does. So an exception
is told by its kind and the way it took, without its message, which may quote a request.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO


@dataclass(slots=True)
class CallScope:
    """The call that the running task serves."""

    method: str
    execution_id: str = ""


# Each call runs in a task of its own, and so in a context of its own.
CURRENT_CALL: ContextVar[CallScope | None] = ContextVar("xlmstream_current_call", default=None)

EXTRA_FIELDS = ("execution_id", "method", "code", "duration_ms", "address", "model", "worker")


class ContextFilter(logging.Filter):
    """Adds method and execution id of the current call to a record that does not name them."""

    def filter(self, record: logging.LogRecord) -> bool:
        scope = CURRENT_CALL.get()
        if scope is not None:
            record.__dict__.setdefault("method", scope.method)
            if scope.execution_id:
                record.__dict__.setdefault("execution_id", scope.execution_id)
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, logger, message, the fields given in `extra`, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: record.__dict__[name] for name in EXTRA_FIELDS if name in record.__dict__}
        if record.exc_info:
            entry["traceback"] = _way(record.exc_info[1])
        return json.dumps(entry, ensure_ascii=True, default=str)


class TextFormatter(logging.Formatter):
    """For people: time, level, message, then the fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {name}={record.__dict__[name]}" for name in EXTRA_FIELDS if name in record.__dict__)
        line = f"{moment} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return f"{line}\n{_way(record.exc_info[1])}" if record.exc_info else line


def _way(error: BaseException | None) -> str:
    """The kind of an exception and the calls it went through; before it, those that it came from."""
    told: list[str] = []
    while error is not None:
        told.append("".join(traceback.format_tb(error.__traceback__)) + type(error).__name__)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(reversed(told))


def configure_logging(level: str, log_format: str, stream: IO[str]) -> None:
    """Send the process's logs to `stream`: ours from `level` on, those of libraries from warnings on.

    For the entry point only: a library leaves logging alone.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(ContextFilter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("xlmstream_server").setLevel(level.upper())
